"""When the packets of an answer are sent: one every 20 ms, though a worker answers many of them at once.

A browser plays what comes as it comes, and takes a burst for jitter. So packets wait here for their slots. A slot that
passes with nothing to send is left out, in the timestamps too: the listener hears it as a pause, and what follows is in
time with the clock again. What came late has so made room for more that comes late; room that was not needed for a
while is given back, by sending a little faster.
"""

from __future__ import annotations

import math
from collections import deque

from gateway.rtp.jitter import CLOCK_RATE

FRAME_MS = 20
FRAME_S = FRAME_MS / 1000
FRAME_TICKS = FRAME_MS * CLOCK_RATE // 1000
SPARE = 1  # packets that stay in hand at least, against the next answer being late
_MOST_SPARE = 10  # that stay in hand for as long as it takes to see that they are not needed,
_SEEN_S = 8.0
_FASTER = 0.8  # of a slot's length, while there are more than that,
_MUCH_FASTER = 0.5  # and while there are many more
_MANY = 25


class Playout:
    """`put` packets, `pop` one when the clock says `due`. Times are seconds of one clock."""

    def __init__(self, window_s: float = 3.0) -> None:
        """window_s: for how long packets must have been spare until they are sent faster; longer than a block."""
        self.window_s = window_s
        self._packets: deque[bytes] = deque()
        self._timestamp = 0  # of the next packet
        self._slot: float | None = None  # when the next packet is sent
        self._fewest: int | None = None  # packets that were left after one was sent, of late
        self._counted_at = 0.0
        self._spare = 0.0  # packets that are to be sent faster
        self._seen: list[int] = []  # `_fewest` of each window since something changed

    def __len__(self) -> int:
        """Packets that wait."""
        return len(self._packets)

    def put(self, packet: bytes, now: float) -> None:
        """One packet of 20 ms."""
        if not self._packets:
            self._resume(now)
        self._packets.append(packet)

    @property
    def due(self) -> float | None:
        """When to `pop`; None where nothing waits."""
        return self._slot if self._packets else None

    def pop(self, now: float) -> tuple[bytes, int]:
        """The next packet and its timestamp, in ticks of `CLOCK_RATE` from 0."""
        assert self._slot is not None
        packet, timestamp = self._packets.popleft(), self._timestamp
        self._timestamp += FRAME_TICKS
        self._watch(now)
        share = 1.0
        if self._spare >= 1:
            share = _MUCH_FASTER if self._spare > _MANY else _FASTER
            self._spare -= 1 - share
        self._slot = max(self._slot, now - FRAME_S) + share * FRAME_S
        return packet, timestamp

    def _resume(self, now: float) -> None:
        """After nothing was there to send."""
        if self._slot is None:
            self._slot, self._counted_at = now + SPARE * FRAME_S, now
            return
        late = now - self._slot
        if late > 0:
            slots = math.ceil(late / FRAME_S) + SPARE
            self._timestamp += slots * FRAME_TICKS
            self._slot += slots * FRAME_S
            self._look_anew(now)
            self._spare = 0.0

    def _watch(self, now: float) -> None:
        left = len(self._packets)
        self._fewest = left if self._fewest is None else min(self._fewest, left)
        if now - self._counted_at < self.window_s:
            return
        self._seen.append(self._fewest)
        self._spare = max(0.0, self._fewest - _MOST_SPARE)
        if len(self._seen) * self.window_s >= _SEEN_S:
            self._spare = max(0.0, self._spare, min(self._seen) - SPARE)
        if self._spare:
            self._seen.clear()
        self._seen = self._seen[-math.ceil(_SEEN_S / self.window_s) :]
        self._fewest, self._counted_at = None, now

    def _look_anew(self, now: float) -> None:
        self._seen.clear()
        self._fewest, self._counted_at = None, now
