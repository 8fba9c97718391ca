"""FLAC (RFC 9639) for files that only grow: what was written before a crash can be heard.

The encoder learns the length at the end and would write it into the head. Where a sink cannot go back, or nobody came
to the end, `complete` finds the length in the frames.
"""

from __future__ import annotations

import io
from typing import Any, Protocol

import numpy as np
import soundfile

Pcm = np.ndarray[Any, np.dtype[np.int16]]

_SYNC = b"\xff\xf8"  # frames of one block size
_TOTAL_AT = 21  # byte of STREAMINFO whose lower half begins the 36 bits of the length
_LONGEST_HEADER_BYTES = 16


class Sink(Protocol):
    """A file that grows."""

    def append(self, data: bytes) -> None: ...

    def patch(self, offset: int, data: bytes) -> None:
        """Replace bytes near the file's head, or do nothing."""


class FlacWriter:
    """int16 in, frames out, each as soon as it is full. One thread at a time."""

    def __init__(self, sink: Sink, rate: int) -> None:
        self._growing = _Growing(sink)
        self._file = soundfile.SoundFile(self._growing, "w", rate, 1, "PCM_16", format="FLAC")

    def write(self, samples: Pcm) -> None:
        """Raises `OSError` as the sink does."""
        self._file.write(samples)
        self._growing.check()

    def close(self) -> None:
        self._file.close()
        self._growing.check()


class _Growing:
    """The file that libsndfile sees: it writes at the end, and at its close into the head."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._size = self._at = 0
        self._error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        return b""

    def write(self, data: Any) -> int:
        data = bytes(data)
        try:
            if self._at == self._size:
                self._sink.append(data)
                self._size += len(data)
            else:
                self._sink.patch(self._at, data)
        except OSError as error:  # nothing passes through libsndfile
            self._error = error
        self._at += len(data)
        return len(data)

    def check(self) -> None:
        if self._error is not None:
            raise self._error


def complete(data: bytes) -> bytes:
    """A whole file, whose head says how long it is. Where the last frame is cut short, it is left out."""
    if _stated_samples(data):
        return data
    end = len(data)
    while (frame := _last_frame(data, end)) is not None:
        at, samples = frame
        whole = _with_samples(data[:end], samples)
        if _decodes(whole, samples):
            return whole
        end = at
    return data


def _stated_samples(data: bytes) -> int:
    return int.from_bytes(data[_TOTAL_AT : _TOTAL_AT + 5], "big") & (1 << 36) - 1


def _with_samples(data: bytes, samples: int) -> bytes:
    stated = (data[_TOTAL_AT] & 0xF0) << 32 | samples
    return data[:_TOTAL_AT] + stated.to_bytes(5, "big") + data[_TOTAL_AT + 5 :]


def _decodes(data: bytes, samples: int) -> bool:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            file.seek(max(0, samples - 1))
            return len(file.read(1, "int16")) == 1
    except (soundfile.SoundFileError, RuntimeError):
        return False


def _last_frame(data: bytes, end: int) -> tuple[int, int] | None:
    """Where the last frame before `end` begins, and the samples up to its end."""
    at = end
    while (at := data.rfind(_SYNC, 0, at)) >= 0:
        samples = _samples_after(data[at : min(end, at + _LONGEST_HEADER_BYTES)])
        if samples is not None:
            return at, samples
    return None


def _samples_after(header: bytes) -> int | None:
    """The stream's samples up to the end of the frame with this header; None where it is no header."""
    if len(header) < 6:
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # of UTF-8's first byte
    width = max(1, ones)
    if ones == 1 or width > 7:
        return None
    number = header[4] & (0x7F >> ones)
    for byte in header[5 : 4 + width]:
        number = number << 6 | byte & 0x3F
    rest = header[4 + width :]
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc_at = 4 + width + size_bytes + rate_bytes
    if size_code == 0 or crc_at >= len(header) or _crc8(header[:crc_at]) != header[crc_at]:
        return None
    if size_bytes:
        size = int.from_bytes(rest[:size_bytes], "big") + 1
    else:
        size = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    return number * _BLOCK_SAMPLES + size


_BLOCK_SAMPLES = 4096  # of libFLAC at the level that libsndfile uses; all but the last frame have them


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x107 if crc & 0x80 else 0)) & 0xFF
    return crc
