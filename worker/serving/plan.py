"""Who is converted next, with how many solver steps, and who comes too late: policy without threads, clocks or tensors.

The earliest deadline goes first (Liu & Layland, 1973), and among equals who has been concealed before. Steps follow
load: as many as let everything that waits be done in time, fewer at once when they do not, one more only after a while
of room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

from worker.serving.cost import CostModel

MISSES_A_BLOCK = 4  # in a row move a session's next chunk ahead by a block's time; more do no more
HOLD_BLOCKS = 3.0  # of room for one more step, before it is taken
ROOM = 0.85  # share of the allowed time that counts as room


K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[K]):
    """A chunk that waits for conversion; times in seconds of one clock."""

    key: K
    arrived_at: float
    deadline: float
    missed: int = 0  # of the session's chunks in a row that came too late


@dataclass(frozen=True, slots=True)
class Plan(Generic[K]):
    batch: list[Waiting[K]]  # to be converted now, the earliest deadline first
    late: list[Waiting[K]]  # cannot be converted in time: to be concealed now
    steps: int


class Planner:
    """Remembers only how many steps are in use, and since when there is room for more or nothing to do."""

    def __init__(
        self,
        cost: CostModel,
        *,
        max_batch: int,
        min_steps: int,
        max_steps: int,
        block_s: float,
        load_share: float = 0.9,
    ) -> None:
        """block_s: a session sends a chunk so often, so an answer that takes longer means that work piles up."""
        if not 1 <= min_steps <= max_steps:
            raise ValueError(f"min_steps must be within 1 and steps = {max_steps}, got {min_steps}")
        self.cost = cost
        self.max_batch = max_batch
        self.min_steps, self.max_steps = min_steps, max_steps
        self.steps = max_steps
        self._block_s = block_s
        self._load_share = load_share
        self._room_since: float | None = None
        self._resting_since: float | None = None

    @property
    def capacity(self) -> int:
        """Sessions that can all speak in real time, at the fewest steps; at least one, or a worker that was measured on
        a busy host would never be asked again."""
        return max(1, self.in_real_time)

    @property
    def in_real_time(self) -> int:
        """As ``capacity``; 0 where not even one can."""
        return self.cost.capacity(1e3 * self._block_s, self.min_steps, self.max_batch, self._load_share)

    def plan(self, waiting: Sequence[Waiting[K]], now: float) -> Plan[K]:
        """Something of ``waiting`` is always planned, if there is any."""
        self._resting_since = None
        queue = sorted(waiting, key=attrgetter("deadline"))
        late = 0
        # A chunk is late if it cannot be done in the batch that the queue calls for: small batches that save the
        # first few would cost many others their time.
        while late < len(queue) and self._done(now, len(queue) - late, self.min_steps) > queue[late].deadline:
            late += 1
        ready = queue[late:]
        if ready:
            self._adapt(ready, now)
        ready.sort(key=self._turn)
        return Plan(ready[: self.max_batch], queue[:late], self.steps)

    def rest(self, now: float) -> None:
        """Nobody waits."""
        if self._resting_since is not None:
            self.cost.rest(now - self._resting_since)
        self._resting_since = now

    def _turn(self, one: Waiting[K]) -> float:
        """The deadline; earlier for who missed the last ones, or the same sessions would lose every time."""
        return one.deadline - self._block_s * min(1.0, one.missed / MISSES_A_BLOCK)

    def halve(self) -> None:
        """The device has no memory for a full batch."""
        self.max_batch = max(1, self.max_batch // 2)

    def _done(self, now: float, count: int, steps: int) -> float:
        return now + 1e-3 * self.cost.ms(min(count, self.max_batch), steps)

    def _adapt(self, ready: Sequence[Waiting[K]], now: float) -> None:
        steps = self.steps
        while steps > self.min_steps and not self._fits(ready, now, steps, 1.0):
            steps -= 1
        if steps < self.steps:
            self.steps, self._room_since = steps, None
            return
        if steps == self.max_steps or not self._fits(ready, now, steps + 1, ROOM):
            self._room_since = None
        elif self._room_since is None:
            self._room_since = now
        elif now - self._room_since >= HOLD_BLOCKS * self._block_s:
            self.steps, self._room_since = steps + 1, None

    def _fits(self, ready: Sequence[Waiting[K]], now: float, steps: int, share: float) -> bool:
        """Whether all that waits, batch after batch, is done by its deadline and within ``share`` of a block."""
        done = now
        for begin in range(0, len(ready), self.max_batch):
            done = self._done(done, len(ready) - begin, steps)
            first = ready[begin]
            if done > min(first.deadline, first.arrived_at + share * self._block_s):
                return False
        return True
