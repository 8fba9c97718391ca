"""Sound files as they are, whatever their headers say: read piece by piece, mono, at 16 kHz."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from worker.geometry import INPUT_RATE, UNITS_A_SECOND

READ_S = 5.0
_PIPE_BYTES = 65_536

Wave = npt.NDArray[np.float32]


class SourceError(ValueError):
    """A recording cannot be used; the message names it."""


@contextmanager
def opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """A sound file to be read from its beginning to its end, once.

    libsndfile believes an MP3's header, or guesses from its first frame, how long it is, and reads no more and no less.
    Through a pipe it cannot look ahead and reads what is there. Raises ``OSError`` or ``RuntimeError``.
    """
    with soundfile.SoundFile(path) as file:
        if file.format != "MP3":
            yield file
            return
    reader, writer = os.pipe()
    thread = threading.Thread(target=_feed, args=(path, writer), name="mp3", daemon=True)
    thread.start()
    try:
        with soundfile.SoundFile(reader) as file:  # which closes the pipe, and so ends the thread
            yield file
    finally:
        thread.join()


def _feed(path: Path, writer: int) -> None:
    with suppress(OSError), open(writer, "wb", buffering=0) as pipe, path.open("rb") as file:
        while piece := file.read(_PIPE_BYTES):
            view = memoryview(piece)
            while view:
                view = view[pipe.write(view) :]


class Recording:
    """One file."""

    def __init__(self, path: Path) -> None:
        """Reads it once, so that what cannot be converted is known before anything is. Raises ``SourceError``."""
        self.path = path
        if not path.exists():
            raise SourceError(f"{path}: no such file")
        self.rate, self.samples = 0, 0
        for piece in self._raw():
            self.samples += len(piece)
        if not self.samples:
            raise SourceError(f"{path}: holds no sound")

    @property
    def units(self) -> int:
        return math.ceil(self.samples / self.rate * UNITS_A_SECOND)

    def pieces(self) -> Iterator[Wave]:
        """Mono at 16 kHz, end to end. Raises ``SourceError``."""
        resample = soxr.ResampleStream(self.rate, INPUT_RATE, 1, dtype="float32") if self.rate != INPUT_RATE else None
        for piece in self._raw():
            last = len(piece) < int(READ_S * self.rate)
            yield piece if resample is None else resample.resample_chunk(piece, last=last)

    def _raw(self) -> Iterator[Wave]:
        """Mono at its own rate; the last piece is shorter than the others."""
        try:
            with opened(self.path) as file:
                self.rate = file.samplerate
                frames = int(READ_S * self.rate)
                while True:
                    piece = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
                    if not np.isfinite(piece).all():
                        raise SourceError(f"{self.path}: holds values that are not finite")
                    yield piece
                    if len(piece) < frames:
                        return
        except (OSError, RuntimeError) as error:  # libsndfile's own error is a RuntimeError
            raise SourceError(f"{self.path}: cannot be read ({error})") from error
