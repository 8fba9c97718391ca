"""Opus: one packet a message. A packet that is lost or damaged is taken from the next one where that has it (FEC), else
made up for by libopus's own concealment."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import opuslib
from opuslib.api import ctl as libopus_ctl
from opuslib.api import decoder as libopus
from opuslib.api import encoder as libopus_encoder

from gateway.audio.codec import AudioFormat, Codec, CodecError
from gateway.audio.containers import Recogniser
from gateway.audio.resample import Pcm, StreamResampler
from shared.messages import LINK_RATE

RATES = (8000, 12_000, 16_000, 24_000, 48_000)
FRAMES_MS = (2.5, 5, 10, 20, 40, 60, 80, 100, 120)
MAX_PACKET_MS = 120  # RFC 6716, 3.4
MAX_DTX_BYTES = 2  # of a packet after which an encoder may send nothing: libopus, opus_encode's documentation
MAX_BAD_RUN = 50  # damaged packets one after another: then it is no Opus
_EXPECTED_LOSS_PERCENT = 10  # where packets may get lost; it decides how much room the redundancy gets
_COMPLEXITY = 5  # half the cost of libopus's default on speech


class OpusDecoder:
    """libopus itself decodes to 16 kHz mono, whatever was encoded."""

    lag_ms = 0
    is_slow = True

    def __init__(self, audio: AudioFormat) -> None:
        self._decoder = opuslib.Decoder(LINK_RATE, 1)
        self._recogniser = Recogniser(packets=True)
        self._packets: list[tuple[bytes | None, float]] = []
        self._latest_ms = audio.frame_ms
        self._is_paused = False  # the caller's encoder: it hears silence
        self._bad_run = 0
        self.concealed = 0

    def push(self, payload: bytes | None) -> float:
        if payload is None:
            self.concealed += 1
        else:
            self._recogniser.check(payload)
            self._is_paused = len(payload) <= MAX_DTX_BYTES
            try:
                self._latest_ms = packet_ms(payload)
            except CodecError as error:
                self._count_bad(str(error))
                payload = None
        self._packets.append((payload, self._latest_ms))
        return self._latest_ms

    def realign(self) -> None:
        pass  # a packet is whole, or did not come

    def make_up(self, ms: float) -> float:
        count = int(ms / self._latest_ms) if self._is_paused else 0
        self._packets += [(None, self._latest_ms)] * count
        return count * self._latest_ms

    def decode(self, *, last: bool) -> Pcm:
        packets, self._packets = self._packets, []
        following = [*(payload for payload, _ in packets[1:]), None][: len(packets)]
        parts = [
            self._decode(payload, round(ms * LINK_RATE / 1000), then)
            for (payload, ms), then in zip(packets, following, strict=True)
        ]
        return np.frombuffer(b"".join(parts), "<i2")

    def drain(self) -> Pcm:
        return self.decode(last=False)

    def _decode(self, payload: bytes | None, samples: int, following: bytes | None) -> bytes:
        """Exactly `samples` samples, so that time stays right. What is lost is taken from the packet `following` it,
        where the encoder put it in once more (in-band FEC, RFC 6716, 2.1.7), else made up."""
        sound = b""
        if payload is not None:
            try:
                sound = self._decoder.decode(payload, samples)
                self._bad_run = 0
            except opuslib.OpusError as error:
                self._count_bad(f"Opus packet of {len(payload)} bytes: {error}")
                payload = None
        if payload is None:
            sound = self._conceal(samples, following)
        return sound if len(sound) == 2 * samples else sound[: 2 * samples].ljust(2 * samples, b"\0")

    def _conceal(self, samples: int, following: bytes | None) -> bytes:
        state = self._decoder.decoder_state
        if following is not None:
            with suppress(opuslib.OpusError):
                restored: bytes = libopus.decode(state, following, len(following), samples, True, 1)
                return restored
        concealed: bytes = libopus.decode(state, None, 0, samples, False, 1)
        return concealed

    def _count_bad(self, reason: str) -> None:
        self.concealed += 1
        self._bad_run += 1
        if self._bad_run >= MAX_BAD_RUN:
            raise CodecError(f"{MAX_BAD_RUN} damaged packets one after another; the latest: {reason}")


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


class OpusEncoder:
    """One packet of the format's `frame_ms` a message; the last is filled up with silence."""

    is_slow = True

    def __init__(self, audio: AudioFormat, model_rate: int) -> None:
        self._resampler = StreamResampler(model_rate, audio.rate)
        self._encoder = opuslib.Encoder(audio.rate, 1, opuslib.APPLICATION_VOIP)
        self._encoder.complexity = _COMPLEXITY
        if audio.redundant:
            state = self._encoder.encoder_state
            libopus_encoder.encoder_ctl(state, libopus_ctl.set_inband_fec, 1)
            libopus_encoder.encoder_ctl(state, libopus_ctl.set_packet_loss_perc, _EXPECTED_LOSS_PERCENT)
        self._frame = round(audio.rate * audio.frame_ms / 1000)
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


OPUS = Codec(
    name="OPUS",
    aliases=(),
    rates=RATES,
    rates_text=f"one of {', '.join(map(str, RATES))}",
    decoder=OpusDecoder,
    encoder=OpusEncoder,
    frames_ms=FRAMES_MS,
    frames_text=f"one of {', '.join(map(str, FRAMES_MS))}",
)

CODECS = (OPUS,)
