"""The scheduler under load, in simulation: hundreds of sessions on a virtual clock, an engine of known cost.

What must hold whatever the load: every chunk is answered once and in order, nobody starves, nobody is twice in a batch,
deadlines go first, an answer is never later than its deadline by more than one batch, and a device that has more work
than it can do is busy with nearly as much of it as it could be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from loguru import logger

from shared.messages import Audio, Chunk, Open, Opened
from worker.buckets import bucket_of, buckets
from worker.engine import NO_OPTIONS
from worker.geometry import Geometry
from worker.serving.cost import CostModel
from worker.serving.plan import Planner, Waiting
from worker.serving.scheduler import Scheduler
from worker.streaming.pool import BlockOut, Heard, OutOfMemory, Step

GEOMETRY = Geometry.from_ms(block_ms=500, left_ms=500)
BLOCK_S = GEOMETRY.block_ms / 1000
BUDGET_MS = 2000.0
MIN_STEPS, MAX_STEPS = 4, 10
MAX_BATCH = 32
SILENT = np.zeros(1, np.int16)  # nobody listens
SPEECH = np.ones(GEOMETRY.block_samples_in, "<i2").tobytes()
HUSH = np.zeros(GEOMETRY.block_samples_in, "<i2").tobytes()


def true_ms(size: int, steps: int) -> float:
    """A device with a fixed price a call and a step, and a price a row: 32 rows of 4 steps take 127 ms."""
    bucket = bucket_of(size)
    return 4 + 2 * steps + bucket * (0.4 + 0.8 * steps)


IDEAL_ROWS_A_S = 1000 * MAX_BATCH / true_ms(MAX_BATCH, MIN_STEPS)


@pytest.fixture(scope="module", autouse=True)
def _silent() -> Iterator[None]:
    """A line for every block that is concealed would take longer than all the rest."""
    logger.disable("worker")
    yield
    logger.enable("worker")


class Named:
    """The engine, as far as a scheduler asks."""

    name = "simulated"
    limits = NO_OPTIONS

    def prepare(self, budget_s: float) -> bool:
        return False


class World:
    """A clock, a device, callers, and a record of everything."""

    def __init__(
        self, sessions: int, *, seed: int = 0, cost: Callable[[int, int], float] = true_ms, measured: bool = True
    ) -> None:
        self.now = 0.0
        self.engine, self.geometry, self.max_sessions = Named(), GEOMETRY, sessions
        self.rng = np.random.default_rng(seed)
        self.cost = cost
        self.batches: list[tuple[float, int, int, float]] = []  # begin, rows, steps, seconds
        self.answers: list[tuple[float, Audio]] = []
        self.sent: dict[tuple[str, int], tuple[float, float]] = {}  # chunk -> sent at, deadline
        self.memory_rows = 10**9
        self._opened = 0
        model = CostModel()
        for size in buckets(MAX_BATCH) if measured else []:
            for steps in (MIN_STEPS, MAX_STEPS):
                model.measure(size, steps, true_ms(size, steps))
        self.planner = Planner(
            model, max_batch=MAX_BATCH, min_steps=MIN_STEPS, max_steps=MAX_STEPS, block_s=BLOCK_S, load_share=0.9
        )
        self.scheduler = Scheduler(self, self._take, self.planner, clock=lambda: self.now)  # type: ignore[arg-type]
        for number in range(sessions):
            self.scheduler.take(0, Open(f"s{number}", 0, "any"))
        self.scheduler.turn(0.0)

    # --- what the scheduler knows as its pool

    def open(self, *_: Any) -> int:
        self._opened += 1
        return self._opened - 1

    def close(self, slot: int) -> None:
        raise AssertionError("nobody hangs up here")

    def listen(self, slots: list[int], blocks: list[Any]) -> list[Heard]:
        assert len(set(slots)) == len(slots)
        return [Heard(bool(block[0])) for block in blocks]

    def skip(self, slots: list[int]) -> Step:
        return Step([BlockOut(SILENT, False)] * len(slots), {})

    def convert(self, slots: list[int], steps: int) -> Step:
        assert len(set(slots)) == len(slots) <= MAX_BATCH
        if len(slots) > self.memory_rows:
            raise OutOfMemory(f"no memory for a batch of {len(slots)}")
        seconds = self.cost(len(slots), steps) / 1000
        self.batches.append((self.now, len(slots), steps, seconds))
        self.now += seconds
        return Step([BlockOut(SILENT, True)] * len(slots), {})

    def _take(self, gateway: int, message: Any) -> None:
        assert isinstance(message, Audio | Opened)
        if isinstance(message, Audio):
            self.answers.append((self.now, message))

    # --- the callers

    def run(self, arrivals: list[Arrival]) -> None:
        """Send chunks at their times, at most two of a session on their way, as the gateway does; until all is done."""
        coming = sorted(arrivals, key=attrgetter("at"))[::-1]
        held: dict[str, list[Arrival]] = defaultdict(list)
        flying: Counter[str] = Counter()
        answered = 0

        def send(one: Arrival) -> None:
            flying[one.session] += 1
            left_ms = one.at * 1000 + BUDGET_MS - self.now * 1000
            self.sent[one.session, one.seq] = self.now, one.at + BUDGET_MS / 1000
            samples = SPEECH if one.speech else HUSH
            self.scheduler.take(0, Chunk(one.session, 0, one.seq, samples, max(0.0, left_ms)))

        while coming or answered < len(self.sent):
            while coming and coming[-1].at <= self.now:
                one = coming.pop()
                if flying[one.session] < 2 and not held[one.session]:
                    send(one)
                else:
                    held[one.session].append(one)
            worked = self.scheduler.turn(0.0)
            for _, audio in self.answers[answered:]:
                flying[audio.session] -= 1
                if held[audio.session]:
                    send(held[audio.session].pop(0))
            answered = len(self.answers)
            if not worked and coming:
                self.now = max(self.now, coming[-1].at)

    def check(self) -> None:
        """What holds under any load."""
        seqs = defaultdict(list)
        longest = max((seconds for *_, seconds in self.batches), default=0.0)
        for at, audio in self.answers:
            seqs[audio.session].append(audio.seq)
            assert at <= self.sent[audio.session, audio.seq][1] + longest + 1e-6
        assert sum(map(len, seqs.values())) == len(self.sent)
        assert all(order == list(range(len(order))) for order in seqs.values())

    @property
    def concealed(self) -> int:
        return sum(audio.stats.concealed for _, audio in self.answers)

    def latencies_s(self) -> Any:
        return np.array([at - (self.sent[audio.session, audio.seq][0]) for at, audio in self.answers])

    def steps_over_time(self) -> list[int]:
        return [steps for _, _, steps, _ in self.batches]


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    session: str
    seq: int
    speech: bool = True


def calls(
    sessions: int,
    seconds: float,
    *,
    phase: Callable[[int], float],
    drift: float = 0.0,
    talk: float = 1.0,
    seed: int = 0,
) -> list[Arrival]:
    """A chunk a block from each session. drift: relative error of clocks. talk: share of blocks with speech."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(sessions):
        period = BLOCK_S * (1 + drift * rng.uniform(-1, 1))
        first = phase(number)
        for seq in range(int((seconds - first) / period)):
            out.append(Arrival(first + seq * period, f"s{number}", seq, bool(rng.random() < talk)))
    return out


SPREAD = lambda number: (number * 0.618) % 1.0 * BLOCK_S  # noqa: E731
ALIGNED = lambda number: 0.0  # noqa: E731
CLUMPED = lambda number: (number % 3) * BLOCK_S / 10  # noqa: E731


@pytest.mark.parametrize("phase", [SPREAD, ALIGNED, CLUMPED], ids=["spread", "aligned", "clumped"])
@pytest.mark.parametrize("sessions", [1, 10, 75])
def test_what_fits_is_all_converted_in_time(phase: Callable[[int], float], sessions: int) -> None:
    world = World(sessions)
    assert world.scheduler.capacity >= sessions
    world.run(calls(sessions, 20, phase=phase, drift=1e-4))
    world.check()
    assert world.concealed == 0
    assert np.quantile(world.latencies_s(), 0.95) <= BLOCK_S


def test_light_load_gets_all_steps_and_one_batch_of_what_is_ready() -> None:
    world = World(8)
    world.run(calls(8, 10, phase=ALIGNED))
    assert set(world.steps_over_time()) == {MAX_STEPS}
    assert {rows for _, rows, _, _ in world.batches} == {8}


@pytest.mark.parametrize("phase", [SPREAD, ALIGNED], ids=["spread", "aligned"])
@pytest.mark.parametrize("overload", [1.5, 3.0])
def test_overload_conceals_what_cannot_be_made_and_wastes_nothing(
    phase: Callable[[int], float], overload: float
) -> None:
    sessions = int(overload * IDEAL_ROWS_A_S * BLOCK_S)
    assert sessions > 180
    world = World(sessions)
    assert world.scheduler.capacity < sessions
    seconds = 9.0
    world.run(calls(sessions, seconds, phase=phase))
    world.check()
    begin, end = 3.0, seconds
    rows = sum(rows for at, rows, _, _ in world.batches if begin <= at < end)
    assert rows >= 0.9 * IDEAL_ROWS_A_S * (end - begin)
    share = world.concealed / len(world.answers)
    assert 0.5 * (1 - 1 / overload) <= share <= 1.1 * (1 - 1 / overload)
    # Nobody starves: everyone is heard now and then, and about as often as the others.
    converted = Counter(audio.session for _, audio in world.answers if audio.stats.batch_size)
    assert len(converted) == sessions
    assert min(converted.values()) >= 0.3 * np.mean(list(converted.values()))
    # Lateness does not accumulate: the last seconds are no later than those in the middle.
    late = world.latencies_s()
    middle, last = late[len(late) // 3 : len(late) // 2], late[-len(late) // 6 :]
    assert np.quantile(last, 0.95) <= np.quantile(middle, 0.95) + 0.1


def test_a_burst_passes_and_steps_return() -> None:
    sessions = 125
    world = World(sessions)
    quiet = calls(15, 30, phase=SPREAD)
    burst = [
        Arrival(10 + one.at, one.session, one.seq)
        for one in calls(sessions, 5, phase=SPREAD)
        if int(one.session[1:]) >= 15
    ]
    world.run(quiet + burst)
    world.check()

    def steps(begin: float, end: float) -> list[int]:
        return [steps for at, _, steps, _ in world.batches if begin <= at < end]

    assert set(steps(1, 10)) == {MAX_STEPS}
    assert min(steps(10, 15)) < MAX_STEPS
    assert set(steps(25, 30)) == {MAX_STEPS}
    assert world.concealed == 0


def test_steps_do_not_flap_under_constant_load() -> None:
    sessions = 82
    world = World(sessions)
    world.run(calls(sessions, 60, phase=SPREAD, drift=1e-3))
    world.check()
    steps = [steps for at, _, steps, _ in world.batches if at > 10]
    changes = sum(a != b for a, b in pairwise(steps))
    assert MIN_STEPS <= min(steps) < MAX_STEPS  # the load leaves no room for all
    assert changes <= 50  # in 50 s: once a second


def test_a_device_that_slows_down_is_noticed() -> None:
    """Half the speed from the tenth second on: steps fall, then blocks are concealed, and the model knows the price."""
    world = World(125)
    world.cost = lambda size, steps: true_ms(size, steps) * (2.0 if world.now >= 10 else 1.0)
    before = world.scheduler.capacity
    world.run(calls(125, 30, phase=SPREAD))
    world.check()
    np.testing.assert_allclose(
        world.planner.cost.ms(MAX_BATCH, MIN_STEPS), 2 * true_ms(MAX_BATCH, MIN_STEPS), rtol=0.15
    )
    assert world.scheduler.capacity < 0.65 * before
    assert world.steps_over_time()[-1] == MIN_STEPS


def test_silence_costs_nothing() -> None:
    world = World(500)
    world.run(calls(500, 10, phase=SPREAD, talk=0.1, seed=3))
    world.check()
    assert world.concealed == 0
    silent = [audio for _, audio in world.answers if not audio.stats.speech]
    assert 0.85 < len(silent) / len(world.answers) < 0.95
    assert all(audio.stats.batch_size == 0 for audio in silent)
    assert sum(rows for _, rows, _, _ in world.batches) == len(world.answers) - len(silent)


def test_out_of_memory_halves_the_batch_and_loses_nobody() -> None:
    world = World(50)
    world.memory_rows = 10
    world.run(calls(50, 10, phase=ALIGNED))
    world.check()
    assert world.planner.max_batch == 8
    assert max(rows for _, rows, _, _ in world.batches) == 8


def test_without_measurements_it_still_serves() -> None:
    world = World(20, measured=False)
    world.run(calls(20, 5, phase=SPREAD))
    world.check()
    assert world.concealed == 0


# --- the planner and the cost model by themselves


def planner(max_batch: int = 4) -> Planner:
    cost = CostModel()
    for size in (1, 2, 4):
        for steps in (1, 5):
            cost.measure(size, steps, 10 * size + 10 * size * steps)
    return Planner(cost, max_batch=max_batch, min_steps=1, max_steps=5, block_s=0.5)


def test_the_earliest_deadline_is_first_and_the_hopeless_is_late() -> None:
    plan = planner().plan([Waiting("b", 0, 1.0), Waiting("c", 0, 2.0), Waiting("a", 0, 0.03)], now=0.0)
    assert [one.key for one in plan.late] == ["a"]  # three rows take 80 ms at least
    assert [one.key for one in plan.batch] == ["b", "c"]


def test_more_steps_only_after_a_while_of_room() -> None:
    plans = planner()
    plans.steps = 2
    seen = []
    for tick in range(60):
        now = tick * 0.1
        seen.append(plans.plan([Waiting("a", now, now + 1)], now).steps)
    assert seen[:15] == [2] * 15
    assert seen[15:30] == [3] * 15
    assert seen[-1] == 5
    assert plans.plan([Waiting("a", 6.0, 6.03)], now=6.0).steps == 2  # 30 ms: 10 + 2 x 10


def test_costs_between_and_beyond_what_was_measured() -> None:
    cost = planner().cost
    assert cost.ms(1, 3) == pytest.approx(40)
    assert cost.ms(3, 1) == pytest.approx(80)  # in the bucket of 4
    assert cost.ms(8, 1) == pytest.approx(160)
    for _ in range(50):
        cost.observe(4, 5, 120.0)
    assert cost.ms(4, 5) == pytest.approx(120, rel=0.02)
    assert cost.ms(1, 5) < 60  # the others have followed some of the way
    assert CostModel().ms(8, 3) == 0


def test_capacity_is_what_real_time_leaves() -> None:
    cost = planner().cost
    assert cost.capacity(500, 1, 4, 0.9) == math.floor(0.9 * 500 / 20)
    assert cost.capacity(10, 1, 4, 0.9) == 0  # even one row takes longer than a block


def test_impossible_steps_are_named() -> None:
    with pytest.raises(ValueError, match="min_steps"):
        Planner(CostModel(), max_batch=1, min_steps=3, max_steps=2, block_s=0.5)


def test_places_come_back_when_a_busy_device_rests() -> None:
    """What another program's load has taught fades: with nobody to serve it could never be seen to have gone."""
    cost = CostModel()
    for size in (1, 2, 4, 8):
        cost.measure(size, 1, 20.0 * size)
        cost.measure(size, 2, 30.0 * size)
    planner = Planner(cost, max_batch=8, min_steps=1, max_steps=2, block_s=0.5)
    places = planner.capacity
    now = 0.0
    for _ in range(400):
        cost.observe(8, 1, 4000.0)
        planner.plan([Waiting("a", now, now + 2.0)], now)
        now += 1.0
    assert planner.capacity == 1
    planner.rest(now)
    for _ in range(10):
        now += 0.1
        planner.rest(now)
    assert planner.capacity == 1  # a second says little
    for _ in range(5000):
        now += 0.1
        planner.rest(now)
    assert planner.capacity == places


def test_rest_ends_with_the_next_chunk() -> None:
    cost = CostModel()
    cost.measure(1, 1, 100.0)
    planner = Planner(cost, max_batch=1, min_steps=1, max_steps=1, block_s=0.5)
    for _ in range(60):
        cost.observe(1, 1, 1000.0)
    slow = cost.ms(1, 1)
    planner.rest(0.0)
    planner.plan([Waiting("a", 1000.0, 1002.0)], 1000.0)
    planner.rest(1000.0)
    assert cost.ms(1, 1) == slow


def test_a_device_that_is_faster_than_at_its_start_is_remembered() -> None:
    cost = CostModel()
    cost.measure(1, 1, 400.0)
    for _ in range(60):
        cost.observe(1, 1, 100.0)
    for _ in range(20):
        cost.observe(1, 1, 800.0)
    cost.rest(1000.0)
    assert cost.ms(1, 1) == pytest.approx(100.0, rel=0.01)
