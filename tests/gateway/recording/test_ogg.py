"""Opus that a caller sent, as a file: every player reads it, and time is kept through losses and crashes."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import opuslib
import pytest
import soundfile

from gateway.recording.ogg import PRE_SKIP, OggOpusWriter, Packet

RATE = 16_000


class Growing:
    def __init__(self) -> None:
        self.data = b""

    def append(self, data: bytes) -> None:
        self.data += data

    def patch(self, offset: int, data: bytes) -> None:
        raise AssertionError("a file that is sealed cannot be changed")


def tone(seconds: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    return (8000 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * RATE)) / RATE)).astype(np.int16)


def packets(seconds: float, frame_ms: float = 20, channels: int = 1) -> list[Packet]:
    encoder = opuslib.Encoder(RATE, channels, opuslib.APPLICATION_VOIP)
    size = int(RATE * frame_ms / 1000)
    frames = np.repeat(tone(seconds)[:, None], channels, axis=1).reshape(-1, size * channels)
    return [(encoder.encode(frame.tobytes(), size), None) for frame in frames]


def file_of(some: list[Packet], at_once: int = 25, *, ended: bool = True) -> bytes:
    sink = Growing()
    writer = OggOpusWriter(sink)
    for start in range(0, len(some), at_once):
        writer.write(some[start : start + at_once])
    if ended:
        writer.close()
    return sink.data


@pytest.mark.parametrize(("frame_ms", "channels"), [(20, 1), (2.5, 1), (60, 1), (120, 1), (20, 2)])
@pytest.mark.parametrize("ended", [True, False])
def test_it_is_heard_as_it_was_sent(frame_ms: float, channels: int, ended: bool) -> None:
    heard, rate = soundfile.read(io.BytesIO(file_of(packets(2.4, frame_ms, channels), ended=ended)))
    assert rate == 48_000
    assert (1 if heard.ndim == 1 else heard.shape[1]) == channels
    held = 0 if ended else frame_ms  # the latest packet waits for the one after it
    assert len(heard) == pytest.approx((2.4 - held / 1000) * rate - PRE_SKIP, abs=1)
    mono = heard if heard.ndim == 1 else heard[:, 0]
    spectrum = np.abs(np.fft.rfft(mono))
    assert spectrum.argmax() * rate / len(mono) == pytest.approx(300, abs=1)


def test_a_packet_that_is_lost_or_damaged_keeps_its_time() -> None:
    some = packets(2.0)
    some[10:15] = [(None, 20.0)] * 5
    some[20] = (b"\x03", 20.0)
    some[30:33] = [(None, 60.0)]
    heard, rate = soundfile.read(io.BytesIO(file_of(some)))
    assert len(heard) == 2 * rate - PRE_SKIP
    assert np.abs(heard).max() < 1


def test_a_page_of_many_and_of_large_packets() -> None:
    large = opuslib.Encoder(48_000, 2, opuslib.APPLICATION_AUDIO)
    large.bitrate = 510_000
    noise = np.random.default_rng(1).integers(-9000, 9000, (50, 960 * 2)).astype(np.int16)
    some: list[Packet] = [(large.encode(frame.tobytes(), 960), None) for frame in noise]
    assert max(len(packet or b"") for packet, _ in some) > 1000
    heard, rate = soundfile.read(io.BytesIO(file_of(some, at_once=50)))
    assert len(heard) == rate - PRE_SKIP


@pytest.mark.skipif(shutil.which("opusinfo") is None, reason="opusinfo is not installed")
def test_opusinfo_finds_nothing_to_complain_of(tmp_path: Path) -> None:
    (tmp_path / "call.opus").write_bytes(file_of(packets(2.0)))
    done = subprocess.run(["opusinfo", tmp_path / "call.opus"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, "WARNING" in done.stdout + done.stderr) == (0, False), done.stdout + done.stderr
