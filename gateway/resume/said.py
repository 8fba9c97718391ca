"""What was said to a caller lately, by position in samples, so that what was not heard can be said again."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import NamedTuple

from gateway.audio.codec import AudioFormat
from gateway.audio.pcm import PCM

MAX_KEPT_BYTES = 1 << 20  # of one call: 32 s at 16 kHz
ENOUGH_AT_ONCE_BYTES = 1 << 15  # several blocks of packets
_PCM_BYTES = 2  # of a sample that is sent


class Piece(NamedTuple):
    """One message of sound; positions in samples at the caller's rate."""

    start: int
    end: int
    payload: bytes

    def after(self, position: int) -> bytes:
        """What lies beyond `position`, where messages can be cut; else all of it."""
        whole = len(self.payload) == _PCM_BYTES * (self.end - self.start)
        return self.payload[_PCM_BYTES * max(0, position - self.start) :] if whole else self.payload


class Said:
    """The latest messages of one call."""

    def __init__(self, audio: AudioFormat, start: int = 0) -> None:
        """start: the position of the first sample."""
        packet = round(audio.rate * audio.frame_ms / 1000)
        self._packet = None if audio.encoding == PCM.name else packet  # samples of a message, if all have as many
        self._pieces: deque[Piece] = deque()
        self._bytes = 0
        self.end = start
        self.acknowledged: int | None = None

    @property
    def begin(self) -> int:
        """Position of the oldest sample that is kept."""
        return self._pieces[0].start if self._pieces else self.end

    def add(self, payload: bytes) -> None:
        """The next message."""
        start = self.end
        self.end += self._packet or len(payload) // _PCM_BYTES
        self._pieces.append(Piece(start, self.end, payload))
        self._bytes += len(payload)
        while self._bytes > MAX_KEPT_BYTES and len(self._pieces) > 1:
            self._drop()

    def acknowledge(self, position: int) -> None:
        """The caller has everything before `position`."""
        position = min(position, self.end)
        if self.acknowledged is None or position > self.acknowledged:
            self.acknowledged = position
        while self._pieces and self._pieces[0].end <= position:
            self._drop()

    def after(self, position: int) -> list[Piece]:
        """The first messages with something beyond `position`, not many at once; none where there is none yet."""
        newer = list(takewhile(lambda piece: piece.end > position, reversed(self._pieces)))
        pieces: list[Piece] = []
        room = ENOUGH_AT_ONCE_BYTES
        while newer and room > 0:
            pieces.append(newer.pop())
            room -= len(pieces[-1].payload)
        return pieces

    def _drop(self) -> None:
        self._bytes -= len(self._pieces.popleft().payload)
