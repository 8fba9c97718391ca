"""Packets of RTP (RFC 3550) put in order, and what is missing told in its place.

Nothing waits unless something is missing: a block of many packets is collected behind this anyway, so that only a gap
needs time. How long follows from the jitter that was measured, RFC 3550's estimate of 6.4.1.
"""

from __future__ import annotations

from gateway.caller import Lost

CLOCK_RATE = 48_000  # of Opus over RTP, whatever rate was encoded: RFC 7587, 4.1
START_S = 0.06  # the first packet to come may not be the first that was sent
MIN_WAIT_S, MAX_WAIT_S = 0.04, 0.25  # for a packet that others overtook
MAX_GAP = 500  # packets; a longer leap of the numbers is another stream, of which nothing is missing
_JITTERS = 3  # deviations from the mean that are waited for: with an even spread, nearly all of it
_HALF, _WHOLE = 1 << 15, 1 << 16

Released = list[bytes | Lost]


class JitterBuffer:
    """`push` packets as they come, and `expire` when the clock says `due`."""

    def __init__(self) -> None:
        self.late = 0  # packets that came after they had been given up, or twice
        self._next: int | None = None  # number, unwrapped, of the packet to be released next
        self._held: dict[int, tuple[bytes, float]] = {}  # by number: payload, and when it came
        self._starts_at: float | None = None
        self._latest = 0  # number, the highest
        self._ssrc: int | None = None
        self._transit: float | None = None
        self._jitter_s = 0.0

    @property
    def wait_s(self) -> float:
        """How long a missing packet is waited for."""
        return min(MAX_WAIT_S, max(MIN_WAIT_S, _JITTERS * self._jitter_s))

    def push(self, sequence: int, timestamp: int, ssrc: int, payload: bytes, now: float) -> Released:
        """One packet at `now` (s); its numbers as RTP has them, 16 and 32 bits. What can be released."""
        released: Released = []
        number = self._unwrap(sequence)
        if ssrc != self._ssrc or abs(number - self._latest) > MAX_GAP:
            released = self.flush()
            self._ssrc, self._latest, number = ssrc, sequence, sequence
            self._next, self._starts_at, self._transit = None, now + START_S, None
        self._measure(timestamp, now)
        self._latest = max(self._latest, number)
        if number in self._held or (self._next is not None and number < self._next):
            self.late += 1
            return released
        self._held[number] = payload, now
        return released + self.expire(now)

    @property
    def due(self) -> float | None:
        """When `expire` has something to do; None where nothing is waited for."""
        if not self._held:
            return None
        if self._next is None:
            return self._starts_at
        return self._held[min(self._held)][1] + self.wait_s

    def expire(self, now: float) -> Released:
        """What can be released at `now`: packets in order, with what was waited for long enough told as `Lost`."""
        if self._next is None:
            if self._starts_at is None or now < self._starts_at or not self._held:
                return []
            self._next = min(self._held)
        released = self._in_order()
        while (due := self.due) is not None and due <= now:
            released += self._give_up()
        return released

    def flush(self) -> Released:
        """All that is held: nothing more is waited for."""
        released: Released = []
        if self._held and self._next is None:
            self._next = min(self._held)
        while self._held:
            released += self._give_up()
        return released

    def _give_up(self) -> Released:
        """The first gap, and the packets behind it."""
        assert self._next is not None
        first = min(self._held)
        gap: Released = [Lost(first - self._next)] if first > self._next else []
        self._next = first
        return gap + self._in_order()

    def _in_order(self) -> Released:
        assert self._next is not None
        released: Released = []
        while (held := self._held.pop(self._next, None)) is not None:
            released.append(held[0])
            self._next += 1
        return released

    def _unwrap(self, sequence: int) -> int:
        return self._latest + (sequence - self._latest + _HALF) % _WHOLE - _HALF

    def _measure(self, timestamp: int, now: float) -> None:
        transit = now - timestamp / CLOCK_RATE
        if self._transit is not None and (moved := abs(transit - self._transit)) < 1:  # more: the clock leapt
            self._jitter_s += (moved - self._jitter_s) / 16
        self._transit = transit
