"""Opus: one packet a message. A packet that is lost or damaged is taken from the next one where that has it (FEC), else
made up for by libopus's own concealment."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import numpy as np

from shared.errors import naming_libopus

with naming_libopus():
    import opuslib

from opuslib.api import ctl as libopus_ctl
from opuslib.api import decoder as libopus_decoder
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
_FRAME_MS = 3 * (10, 20, 40, 60) + 2 * (10, 20) + 4 * (2.5, 5, 10, 20)  # by configuration: SILK, hybrid, CELT
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
        lengths = [round(ms * LINK_RATE / 1000) for _, ms in packets]
        sound = np.zeros(sum(lengths), np.int16)
        following = [*(payload for payload, _ in packets[1:]), None]
        at = sound.ctypes.data
        for (payload, _), samples, then in zip(packets, lengths, following, strict=False):
            self._decode(payload, at, samples, then)
            at += 2 * samples
        return sound

    def drain(self) -> Pcm:
        return self.decode(last=False)

    def _decode(self, payload: bytes | None, at: int, samples: int, following: bytes | None) -> None:
        """Exactly `samples` samples to the address `at`, so that time stays right. What is lost is taken from the
        packet `following` it, where the encoder put it in once more (in-band FEC, RFC 6716, 2.1.7), else made up."""
        made = 0
        if payload is not None:
            try:
                made = self._libopus(payload, at, samples)
                self._bad_run = 0
            except opuslib.OpusError as error:
                self._count_bad(f"Opus packet of {len(payload)} bytes: {error}")
                payload = None
        if payload is None:
            made = self._conceal(at, samples, following)
        if made < samples:
            ctypes.memset(at + 2 * made, 0, 2 * (samples - made))

    def _conceal(self, at: int, samples: int, following: bytes | None) -> int:
        if following is not None:
            with suppress(opuslib.OpusError):
                return self._libopus(following, at, samples, restore=True)
        return self._libopus(None, at, samples)

    def _libopus(self, packet: bytes | None, at: int, samples: int, *, restore: bool = False) -> int:
        """How many samples were written; opuslib's own `decode` makes a Python number of each."""
        length = 0 if packet is None else len(packet)
        pcm = ctypes.c_int16.from_address(at)
        made: int = libopus_decoder.libopus_decode(self._decoder.decoder_state, packet, length, pcm, samples, restore)
        if made < 0:
            raise opuslib.OpusError(made)
        return made

    def _count_bad(self, reason: str) -> None:
        self.concealed += 1
        self._bad_run += 1
        if self._bad_run >= MAX_BAD_RUN:
            raise CodecError(f"{MAX_BAD_RUN} damaged packets one after another; the latest: {reason}")


def packet_ms(packet: bytes) -> float:
    """Duration of an Opus packet from its first bytes (RFC 6716, 3.1 and 3.2). Raises `CodecError`."""
    if not packet:
        raise CodecError("empty Opus packet")
    frame_ms, code = _FRAME_MS[packet[0] >> 3], packet[0] & 3
    if code == 0:  # the usual case
        return frame_ms
    if code == 3 and len(packet) < 2:
        raise CodecError("Opus packet ends before its frame count")
    count = 2 if code < 3 else packet[1] & 0x3F
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
        self._packet = ctypes.create_string_buffer(2 * self._frame)  # no packet may be longer than its samples
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
        frames = np.ascontiguousarray(wave[:whole], np.int16)
        begin = frames.ctypes.data
        return [self._libopus(begin + 2 * start) for start in range(0, whole, self._frame)]

    def _libopus(self, at: int) -> bytes:
        """The packet of the frame at an address."""
        size = len(self._packet)
        pcm = ctypes.c_int16.from_address(at)
        length = libopus_encoder.libopus_encode(self._encoder.encoder_state, pcm, self._frame, self._packet, size)
        if length < 0:
            raise opuslib.OpusError(length)
        return self._packet.raw[:length]


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
