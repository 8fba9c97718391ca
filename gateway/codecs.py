"""What callers send and hear, PCM s16le or Opus, to and from int16 samples.

Checking a payload (`duration`) is cheap and done at once; `decode` and `encode` belong on a codec thread.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import opuslib

from shared.audio import LINK_RATE, Pcm, StreamResampler

OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)
OPUS_FRAME_MS = (2.5, 5, 10, 20, 40, 60)
MAX_PACKET_MS = 120  # RFC 6716, 3.4
_OPUS_COMPLEXITY = 5  # half the cost of libopus's default on speech


class CodecError(ValueError):
    """A payload that is not what the session announced."""


class Decoder(Protocol):
    """A caller's payloads to samples at 16 kHz."""

    def duration_ms(self, payload: bytes) -> float:
        """How long `payload` sounds. Raises `CodecError`."""
        ...

    def decode(self, payloads: list[bytes], last: bool) -> Pcm:
        """Samples at 16 kHz; `last` flushes what the filters hold. Raises `CodecError`."""
        ...


class Encoder(Protocol):
    """Samples at the worker's rate to messages for the caller."""

    def encode(self, samples: Pcm, last: bool) -> list[bytes]: ...


class PcmDecoder:
    """PCM s16le, `channels` interleaved, any rate."""

    def __init__(self, rate: int, channels: int) -> None:
        self._rate, self._channels = rate, channels
        self._resampler = StreamResampler(rate, LINK_RATE)

    def duration_ms(self, payload: bytes) -> float:
        frame = 2 * self._channels
        if len(payload) % frame:
            raise CodecError(f"audio of {len(payload)} bytes is not a whole number of {frame}-byte samples")
        return len(payload) / frame / self._rate * 1000

    def decode(self, payloads: list[bytes], last: bool) -> Pcm:
        samples = np.frombuffer(b"".join(payloads), "<i2")
        if self._channels > 1:
            mixed = samples.reshape(-1, self._channels).mean(axis=1)
            samples = np.rint(mixed).astype(np.int16)
        made = self._resampler.push(samples)
        return np.concatenate([made, self._resampler.flush()]) if last else made


class OpusDecoder:
    """One Opus packet a message; libopus itself decodes to 16 kHz mono, whatever was encoded."""

    def __init__(self) -> None:
        self._decoder = opuslib.Decoder(LINK_RATE, 1)

    def duration_ms(self, payload: bytes) -> float:
        return packet_ms(payload)

    def decode(self, payloads: list[bytes], last: bool) -> Pcm:
        parts = []
        for payload in payloads:
            samples = round(packet_ms(payload) * LINK_RATE / 1000)
            try:
                parts.append(self._decoder.decode(payload, samples))
            except opuslib.OpusError as error:
                raise CodecError(f"Opus packet of {len(payload)} bytes: {error}") from None
        return np.frombuffer(b"".join(parts), "<i2")


def packet_ms(packet: bytes) -> float:
    """Duration of an Opus packet from its first bytes (RFC 6716, 3.1 and 3.2). Raises `CodecError`."""
    if not packet:
        raise CodecError("empty Opus packet")
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:  # SILK
        frame_ms: float = (10, 20, 40, 60)[config % 4]
    elif config < 16:  # hybrid
        frame_ms = (10, 20)[config % 2]
    else:  # CELT
        frame_ms = (2.5, 5, 10, 20)[config % 4]
    if code == 3 and len(packet) < 2:
        raise CodecError("Opus packet ends before its frame count")
    count = 1 if code == 0 else 2 if code < 3 else packet[1] & 0x3F
    if not 0 < count * frame_ms <= MAX_PACKET_MS:
        raise CodecError(f"Opus packet of {count} frames of {frame_ms} ms: at most {MAX_PACKET_MS} ms are allowed")
    return count * frame_ms


class PcmEncoder:
    """One message of s16le a block, at `rate`."""

    def __init__(self, model_rate: int, rate: int) -> None:
        self._resampler = StreamResampler(model_rate, rate)

    def encode(self, samples: Pcm, last: bool) -> list[bytes]:
        made = self._resampler.push(samples)
        if last:
            made = np.concatenate([made, self._resampler.flush()])
        return [made.astype("<i2", copy=False).tobytes()] if len(made) else []


class OpusEncoder:
    """One packet of `frame_ms` a message; the last is filled up with silence."""

    def __init__(self, model_rate: int, rate: int, frame_ms: float) -> None:
        self._resampler = StreamResampler(model_rate, rate)
        self._encoder = opuslib.Encoder(rate, 1, opuslib.APPLICATION_VOIP)
        self._encoder.complexity = _OPUS_COMPLEXITY
        self._frame = round(rate * frame_ms / 1000)
        self._rest = np.zeros(0, np.int16)

    def encode(self, samples: Pcm, last: bool) -> list[bytes]:
        parts = [self._rest, self._resampler.push(samples)]
        if last:
            parts.append(self._resampler.flush())
        wave = np.concatenate(parts)
        if last and len(wave) % self._frame:
            wave = np.pad(wave, (0, -len(wave) % self._frame))
        whole = len(wave) - len(wave) % self._frame
        self._rest = wave[whole:]
        frames = wave[:whole].astype("<i2", copy=False).reshape(-1, self._frame)
        return [self._encoder.encode(frame.tobytes(), self._frame) for frame in frames]
