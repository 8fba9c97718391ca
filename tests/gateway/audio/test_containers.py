"""Files and framings that are sent in place of bare samples or packets are named."""

from __future__ import annotations

import io
import struct

import numpy as np
import opuslib
import pytest
import soundfile

from gateway.audio.codec import AudioFormat, CodecError
from gateway.audio.opus import OpusDecoder
from gateway.audio.pcm import PcmDecoder
from shared.config import ROOT

DATA = ROOT / "tests" / "data"


def packets(count: int = 4) -> list[bytes]:
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    noise = np.random.default_rng(0).integers(-9000, 9000, 320 * count).astype(np.int16)
    return [encoder.encode(frame.tobytes(), 320) for frame in noise.reshape(-1, 320)]


def file_of(format_: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1600, np.int16), 16_000, format=format_, subtype=subtype)
    return file.getvalue()


def rtp(number: int, packet: bytes) -> bytes:
    return struct.pack(">BBHII", 0x80, 111, 65_535 + number & 0xFFFF, 960 * number, 0x1234) + packet


def push_all(decoder: OpusDecoder, messages: list[bytes]) -> None:
    for message in messages:
        decoder.push(message)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("WebM", [(DATA / "mediarecorder.webm").read_bytes()]),
        ("Ogg", [file_of("OGG", "OPUS")]),
        ("WAV", [file_of("WAV", "PCM_16")]),
        ("RTP", [rtp(i, p) for i, p in enumerate(packets())]),
        ("length of 2 bytes", [len(p).to_bytes(2, "big") + p for p in packets()]),
        ("length of 2 bytes", [len(p).to_bytes(2, "little") + p for p in packets()]),
        ("length of 4 bytes", [len(p).to_bytes(4, "big") + p for p in packets()]),
    ],
)
def test_what_is_no_bare_packet_is_named_with_what_to_send_instead(name: str, messages: list[bytes]) -> None:
    with pytest.raises(CodecError, match=f"{name}.*one bare Opus packet a message"):
        push_all(OpusDecoder(AudioFormat("OPUS")), messages)


@pytest.mark.parametrize(
    ("name", "message"),
    [("WAV", file_of("WAV", "PCM_16")), ("FLAC", file_of("FLAC", "PCM_16")), ("Ogg", file_of("OGG", "VORBIS"))],
)
def test_what_is_no_bare_sample_is_named_with_what_to_send_instead(name: str, message: bytes) -> None:
    with pytest.raises(CodecError, match=f"{name}.*bare samples"):
        PcmDecoder(AudioFormat()).push(message)


def test_only_a_calls_beginning_is_looked_at() -> None:
    decoder = PcmDecoder(AudioFormat())
    for message in (b"\0\0" * 160, b"\0\0" * 160, b"OggS" * 80):
        decoder.push(message)
    assert len(decoder.decode(last=True)) == 480


def test_bare_packets_are_not_taken_for_anything_else() -> None:
    decoder = OpusDecoder(AudioFormat("OPUS"))
    assert sum(decoder.push(packet) for packet in packets(50)) == 1000
