"""Sound whose every sample has its own bytes: a row of `_SAMPLES` says how one lies there.

Half a sample at a message's end is completed by the next message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gateway.audio.codec import AudioFormat, BitDepth, Codec, CodecError
from gateway.audio.containers import Recogniser
from gateway.audio.resample import LAG_MS, Pcm, StreamResampler, to_pcm
from shared.messages import LINK_RATE

RATES = range(8000, 48_001)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample's bytes, and how many of them become int16."""

    size: int
    to_int16: Callable[[bytes], Pcm]


def _from_s16(sound: bytes) -> Pcm:
    return np.frombuffer(sound, "<i2")


def _from_s24(sound: bytes) -> Pcm:
    parts = np.frombuffer(sound, np.uint8).reshape(-1, 3)
    high = parts[:, 1:].copy().view("<i2")[:, 0].astype(np.int32)
    return np.minimum(high + (parts[:, 0] >= 128), 32767).astype(np.int16)


def _from_s32(sound: bytes) -> Pcm:
    wave = np.frombuffer(sound, "<i4").astype(np.int64)
    return np.minimum((wave + (1 << 15)) >> 16, 32767).astype(np.int16)


def _from_float32(sound: bytes) -> Pcm:
    wave = np.frombuffer(sound, "<f4")
    if not np.isfinite(wave).all():
        raise CodecError("float32 samples that are not finite")
    return to_pcm(wave.astype(np.float64) * 32768)


_SAMPLES: dict[BitDepth, Sample] = {
    16: Sample(2, _from_s16),
    24: Sample(3, _from_s24),
    32: Sample(4, _from_s32),
    "float32": Sample(4, _from_float32),
}


class PcmDecoder:
    """Interleaved little-endian samples of any rate; channels are mixed."""

    def __init__(self, audio: AudioFormat, sample: Sample | None = None) -> None:
        """`sample` where the encoding, not the bit depth, decides it."""
        self._sample = sample or _SAMPLES[audio.bit_depth]
        self._rate, self._channels = audio.rate, audio.channels
        self._frame = self._sample.size * self._channels
        self._resampler = StreamResampler(audio.rate, LINK_RATE)
        self._recogniser = Recogniser(packets=False)
        self._payloads: list[bytes] = []
        self._odd = 0  # bytes of a sample that is not complete
        self._latest = 0  # bytes of the latest message
        resamples = audio.rate != LINK_RATE
        self.lag_ms = LAG_MS if resamples else 0
        self.is_slow = resamples or audio.channels > 1 or audio.bit_depth != 16
        self.concealed = 0

    def push(self, payload: bytes | None) -> float:
        if payload is None:
            payload = bytes(self._latest // self._frame * self._frame)
            self.concealed += 1
        else:
            self._recogniser.check(payload)
            self._latest = len(payload)
        self._payloads.append(payload)
        frames, self._odd = divmod(self._odd + len(payload), self._frame)
        return frames / self._rate * 1000

    def realign(self) -> None:
        if self._odd:
            sound = b"".join(self._payloads)
            self._payloads, self._odd = [sound[: -self._odd]], 0

    def make_up(self, ms: float) -> float:
        return 0.0

    def decode(self, *, last: bool) -> Pcm:
        sound = b"".join(self._payloads)
        rest = len(sound) - len(sound) % self._frame
        self._payloads = [sound[rest:]] if rest < len(sound) else []
        samples = self._sample.to_int16(sound[:rest])
        if self._channels > 1:
            mixed = samples.reshape(-1, self._channels).mean(axis=1)
            samples = np.rint(mixed).astype(np.int16)
        made = self._resampler.push(samples)
        return np.concatenate([made, self._resampler.flush()]) if last else made

    def drain(self) -> Pcm:
        made = self.decode(last=False)
        return np.concatenate([made, self._resampler.push(np.zeros(self.lag_ms * self._rate // 1000, np.int16))])


class PcmEncoder:
    """One message of s16le a block."""

    def __init__(self, audio: AudioFormat, model_rate: int) -> None:
        self._resampler = StreamResampler(model_rate, audio.rate)
        self.is_slow = audio.rate != model_rate

    def encode(self, samples: Pcm, last: bool) -> list[bytes]:
        made = self._resampler.push(samples)
        if last:
            made = np.concatenate([made, self._resampler.flush()])
        return [made.astype("<i2", copy=False).tobytes()] if len(made) else []


PCM = Codec(
    name="PCM",
    aliases=("WAV",),
    rates=RATES,
    rates_text="from 8000 to 48000",
    decoder=PcmDecoder,
    encoder=PcmEncoder,
)

CODECS = (PCM,)  # another code of single samples, as A-law, is one more row here
