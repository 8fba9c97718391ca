"""FLAC that only grows: every whole frame can be heard, whether or not anybody came to the end."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway.recording.flac import FlacWriter, complete


class Tape:
    """A sink that cannot go back, as an encrypted file."""

    def __init__(self) -> None:
        self.data = bytearray()

    def append(self, data: bytes) -> None:
        self.data += data

    def patch(self, offset: int, data: bytes) -> None:
        pass


def noise(samples: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.random.default_rng(0).normal(0, 3000, samples).astype("<i2")


def written(samples: int, *, close: bool) -> bytes:
    tape = Tape()
    writer = FlacWriter(tape, 16_000)
    for at in range(0, samples, 1600):
        writer.write(noise(samples)[at : at + 1600])
    if close:
        writer.close()
    return bytes(tape.data)


def heard(data: bytes) -> np.ndarray[Any, Any]:
    samples, rate = soundfile.read(io.BytesIO(complete(data)), dtype="int16")
    assert rate == 16_000
    return np.asarray(samples)


@pytest.mark.parametrize("samples", [1, 200, 4095, 4096, 4097, 50_000])
def test_a_file_that_was_ended_is_whole(samples: int) -> None:
    np.testing.assert_array_equal(heard(written(samples, close=True)), noise(samples))


def test_a_crash_costs_less_than_a_frame() -> None:
    got = heard(written(50_000, close=False))
    assert 50_000 - 4096 < len(got) <= 50_000
    np.testing.assert_array_equal(got, noise(50_000)[: len(got)])


@pytest.mark.parametrize("cut", [1, 10, 300, 5000])
def test_a_torn_frame_is_left_out(cut: int) -> None:
    got = heard(written(50_000, close=True)[:-cut])
    assert len(got) >= 4096 * 9
    np.testing.assert_array_equal(got, noise(50_000)[: len(got)])


def test_a_sink_that_fails_is_heard_of() -> None:
    class Full(Tape):
        def append(self, data: bytes) -> None:
            if len(self.data) > 5000:
                raise OSError(28, "No space left on device")
            super().append(data)

    writer = FlacWriter(Full(), 16_000)
    with pytest.raises(OSError, match="No space left"):
        writer.write(noise(4096 * 20))
