"""What was said to a caller lately, by position in samples, so that what was not heard can be said again."""

from __future__ import annotations

from collections import deque

from gateway.audio.codec import AudioFormat
from gateway.audio.pcm import PCM

MAX_KEPT_BYTES = 1 << 20  # of one call: 32 s at 16 kHz
ENOUGH_AT_ONCE_BYTES = 1 << 15  # several blocks of packets
_PCM_BYTES = 2  # of a sample that is sent


class Said:
    """The latest messages of one call. No object but the message itself is kept of each: there are thousands a call,
    and the garbage collector would look at them all."""

    def __init__(self, audio: AudioFormat, start: int = 0) -> None:
        """start: the position of the first sample."""
        packet = round(audio.rate * audio.frame_ms / 1000)
        self._packet = None if audio.encoding == PCM.name else packet  # samples of a message, if all have as many
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self.begin = start  # position of the oldest sample that is kept
        self.end = start
        self.acknowledged: int | None = None

    def add(self, message: bytes) -> None:
        """The next message."""
        self._messages.append(message)
        self._bytes += len(message)
        self.end += self._samples(message)
        while self._bytes > MAX_KEPT_BYTES and len(self._messages) > 1:
            self._drop()

    def acknowledge(self, position: int) -> None:
        """The caller has everything before `position`."""
        position = min(position, self.end)
        if self.acknowledged is None or position > self.acknowledged:
            self.acknowledged = position
        while self._messages and self.begin + self._samples(self._messages[0]) <= position:
            self._drop()

    def after(self, position: int) -> tuple[list[bytes], int]:
        """What lies beyond `position`: the first messages of it, not many at once, the first without what lies before
        where messages can be cut; and the position behind them."""
        newer: list[bytes] = []
        start = self.end
        for message in reversed(self._messages):
            if start <= position:
                break
            newer.append(message)
            start -= self._samples(message)
        before = position - start
        messages: list[bytes] = []
        room = ENOUGH_AT_ONCE_BYTES
        while newer and room > 0:
            messages.append(newer.pop())
            start += self._samples(messages[-1])
            room -= len(messages[-1])
        if messages and self._packet is None and before > 0:
            messages[0] = messages[0][_PCM_BYTES * before :]
        return messages, start

    def _samples(self, message: bytes) -> int:
        return self._packet or len(message) // _PCM_BYTES

    def _drop(self) -> None:
        message = self._messages.popleft()
        self._bytes -= len(message)
        self.begin += self._samples(message)
