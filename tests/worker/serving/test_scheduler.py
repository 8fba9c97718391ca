"""The scheduler's rules, on a virtual clock, with the real pipeline and an engine that returns what it hears."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.messages import Audio, Chunk, Close, Failed, Open, Opened
from worker.engine import Batch, OptionLimits, StageTimes
from worker.engines.passthrough import PassthroughEngine
from worker.geometry import Geometry
from worker.serving.cost import CostModel
from worker.serving.plan import Planner
from worker.serving.scheduler import Scheduler
from worker.streaming.pool import StreamPool
from worker.voices import VoiceError

GEOMETRY = Geometry.from_ms(block_ms=100, left_ms=100)
BLOCK = GEOMETRY.block_samples_in


class House:
    """A scheduler, what it answered, and the order in which rows were converted."""

    def __init__(self, max_sessions: int = 8, max_batch: int = 8, engine: Any = None, min_steps: int = 4) -> None:
        self.now = 100.0
        self.answers: list[tuple[int, Any]] = []
        engine = engine or PassthroughEngine(GEOMETRY)
        self.pool = StreamPool(engine, max_sessions, rms_mix_rate=1.0)
        reply = lambda gateway, message: self.answers.append((gateway, message))  # noqa: E731
        planner = Planner(CostModel(), max_batch=max_batch, min_steps=min_steps, max_steps=4, block_s=0.1)
        self.scheduler = Scheduler(self.pool, reply, planner, clock=lambda: self.now)

    def open(self, *names: str, epoch: int = 0, gateway: int = 0, voice: str = "none") -> None:
        for name in names:
            self.scheduler.take(gateway, Open(name, epoch, voice))
        self.turn()

    def chunk(self, name: str, seq: int, deadline_ms: float = 1000, **options: Any) -> None:
        level = options.pop("level", 1000)
        samples = np.full(BLOCK, level, "<i2").tobytes()
        gateway = options.pop("gateway", 0)
        self.scheduler.take(gateway, Chunk(name, options.pop("epoch", 0), seq, samples, deadline_ms))

    def turn(self) -> int:
        return self.scheduler.turn(wait_s=0)

    def audio(self) -> list[tuple[str, int]]:
        return [(m.session, m.seq) for _, m in self.answers if isinstance(m, Audio)]

    def of(self, kind: type[Any]) -> list[Any]:
        return [m for _, m in self.answers if isinstance(m, kind)]


def test_everything_ready_is_one_batch_with_one_chunk_a_session() -> None:
    house = House()
    house.open("a", "b", "c")
    for name in "abc":
        house.chunk(name, 0)
        house.chunk(name, 1)
    assert house.turn() == 3
    assert sorted(house.audio()) == [("a", 0), ("b", 0), ("c", 0)]
    assert house.turn() == 3
    assert sorted(house.audio()[3:]) == [("a", 1), ("b", 1), ("c", 1)]
    assert house.turn() == 0
    assert {m.stats.batch_size for m in house.of(Audio)} == {3}
    assert {m.stats.steps for m in house.of(Audio)} == {4}


class Stepping(PassthroughEngine):
    """Takes steps, and notes how many each batch was given."""

    limits = OptionLimits(max_steps=4, max_guidance=0, max_f0_shift=0)

    def __init__(self) -> None:
        super().__init__(GEOMETRY)
        self.given: list[int] = []

    def convert(self, batch: Batch) -> tuple[Tensor, StageTimes]:
        self.given.append(batch.steps)
        return super().convert(batch)


def test_a_batch_takes_as_many_steps_as_somebody_in_it_asked_for_and_each_is_told_its_own() -> None:
    engine = Stepping()
    house = House(engine=engine, min_steps=2)
    for name, steps in (("a", 1), ("b", 3)):
        house.scheduler.take(0, Open(name, 0, "none", options={"steps": steps}))
        house.chunk(name, 0)
    house.turn()
    house.chunk("a", 1)  # alone
    house.turn()
    house.open("c")
    house.chunk("c", 0)
    house.turn()
    assert engine.given == [3, 2, 4]  # never fewer than the planner would take
    assert [(m.session, m.stats.steps) for m in house.of(Audio)] == [("a", 1), ("b", 3), ("a", 1), ("c", 4)]


def test_the_earliest_deadlines_go_first_when_not_all_fit() -> None:
    house = House(max_batch=2)
    house.open("a", "b", "c")
    for name, deadline_ms in (("a", 900), ("b", 100), ("c", 500)):
        house.chunk(name, 0, deadline_ms)
    house.turn()
    assert sorted(house.audio()) == [("b", 0), ("c", 0)]
    house.turn()
    assert house.audio()[2:] == [("a", 0)]


def test_nobody_starves_beside_faster_sessions() -> None:
    house = House(max_batch=1)
    house.open("slow", "fast")
    house.chunk("slow", 0, deadline_ms=300)
    for seq in range(20):
        house.chunk("fast", seq, deadline_ms=200)
        house.turn()
        house.now += 0.05
    assert ("slow", 0) in house.audio()[:5]


def test_queue_time_is_what_a_chunk_waited() -> None:
    house = House()
    house.open("a")
    house.chunk("a", 0)
    house.now += 0.03
    house.turn()
    assert house.of(Audio)[0].stats.queue_ms == pytest.approx(30)
    assert house.scheduler.queue_ms == pytest.approx(30)


def test_a_chunk_past_its_deadline_is_silence_and_says_so() -> None:
    house = House()
    house.open("a")
    house.chunk("a", 0, deadline_ms=20)
    house.now += 0.05
    house.turn()
    answer = house.of(Audio)[0]
    assert answer.stats.concealed
    assert not answer.stats.speech
    assert not np.frombuffer(answer.samples, "<i2").any()
    assert house.scheduler.concealed == 1
    house.chunk("a", 1)
    house.turn()
    assert not house.of(Audio)[1].stats.concealed
    assert np.frombuffer(house.of(Audio)[1].samples, "<i2").any()


def test_more_than_the_credit_ends_the_session_of_who_sent_it_only() -> None:
    house = House()
    house.open("greedy", "good")
    for seq in range(3):
        house.chunk("greedy", seq)
    house.chunk("good", 0)
    house.turn()
    assert [(m.session, m.code) for m in house.of(Failed)] == [("greedy", "INTERNAL_ERROR")]
    assert house.audio() == [("good", 0)]
    assert house.pool.sessions == 1


def test_a_chunk_of_the_wrong_length_is_named() -> None:
    house = House()
    house.open("a")
    house.scheduler.take(0, Chunk("a", 0, 0, b"\0\0", 100.0))
    house.turn()
    assert "3200 bytes, got 2" in house.of(Failed)[0].message


def test_places_voices_and_options_are_refused_by_name() -> None:
    house = House(max_sessions=1)
    house.open("a")
    house.open("b")
    house.open("c", voice="nobody")
    house.scheduler.take(0, Open("d", 0, "none", b"", {"steps": 3.0}))
    house.turn()
    failed = {m.session: m for m in house.of(Failed)}
    assert failed["b"].code == "OVERLOADED"
    assert failed["c"].code == "INVALID_CONFIG"
    assert "nobody" in failed["c"].message
    assert "steps" in failed["d"].message
    assert [m.session for m in house.of(Opened)] == ["a"]


def test_an_earlier_life_gets_no_answer_and_frees_its_place() -> None:
    house = House(max_sessions=1)
    house.open("a", epoch=0)
    house.chunk("a", 0, epoch=0)
    house.scheduler.take(0, Open("a", 1, "none"))
    house.chunk("a", 0, epoch=0)
    house.chunk("a", 0, epoch=1)
    house.turn()
    assert [(m.epoch, m.seq) for m in house.of(Audio)] == [(1, 0)]
    house.scheduler.take(0, Close("a", 0))  # of the earlier life: too late
    house.turn()
    assert house.pool.sessions == 1
    house.scheduler.take(0, Close("a", 1))
    house.turn()
    assert house.pool.sessions == 0


def test_a_lost_gateway_takes_its_sessions_along() -> None:
    house = House()
    house.open("a", gateway=1)
    house.open("a", gateway=2)
    house.scheduler.drop_gateway(1)
    house.turn()
    house.chunk("a", 0, gateway=2)
    house.chunk("a", 0, gateway=1)
    house.turn()
    assert [gateway for gateway, m in house.answers if isinstance(m, Audio)] == [2]


class Poisoned(PassthroughEngine):
    """Cannot stand loud rows: NaN above 0.5, an exception above 0.9."""

    def convert(self, batch: Batch) -> Any:
        peak = batch.window.abs().amax(dim=1)
        if (peak > 0.9).any():
            raise RuntimeError("poisoned")
        made, times = super().convert(batch)
        made[peak > 0.5] = float("nan")
        return made, times


@pytest.mark.parametrize(("level", "text"), [(20_000, "not finite"), (32_000, "poisoned")])
def test_a_bad_row_fails_alone(level: int, text: str) -> None:
    house = House(engine=Poisoned(GEOMETRY))
    house.open("a", "bad", "b")
    house.chunk("a", 0)
    house.chunk("bad", 0, level=level)
    house.chunk("b", 0)
    house.turn()
    assert [(m.session, text in m.message) for m in house.of(Failed)] == [("bad", True)]
    assert sorted(house.audio()) == [("a", 0), ("b", 0)]
    assert house.pool.sessions == 2


def test_the_engine_is_stuck_only_while_a_batch_runs() -> None:
    house = House()
    seen: list[float] = []

    class Slow(PassthroughEngine):
        def convert(self, batch: Batch) -> Any:
            house.now += 7
            seen.append(house.scheduler.stuck_for())
            return super().convert(batch)

    house.pool.engine = Slow(GEOMETRY)
    house.open("a")
    house.chunk("a", 0)
    assert house.scheduler.stuck_for() == 0
    house.turn()
    assert seen == [pytest.approx(7)]
    assert house.scheduler.stuck_for() == 0


class Full(PassthroughEngine):
    """Has no memory for a second session, and a fault in every third."""

    def __init__(self) -> None:
        super().__init__(GEOMETRY)
        self.prepared: list[float] = []

    def open(self, slot: int, voice: str, options: Any, seed: int, reference: bytes | None = None) -> None:
        if slot == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if slot == 2:
            raise RuntimeError("CUDA error")

    def prepare(self, budget_s: float) -> bool:
        self.prepared.append(budget_s)
        return False


def test_without_memory_to_begin_a_session_fails_alone() -> None:
    house = House(engine=Full())
    house.open("a")
    house.open("b", "c")
    assert [(m.session, m.code) for m in house.of(Failed)] == [("b", "OVERLOADED"), ("c", "OVERLOADED")]
    assert "no memory for one more session" in house.of(Failed)[0].message
    house.chunk("a", 0)
    house.turn()
    assert house.audio() == [("a", 0)]
    assert house.pool.sessions == house.scheduler.sessions == 1


def test_whatever_fails_while_a_session_begins_costs_nobody_else_anything() -> None:
    house = House(engine=Full())
    house.open("a")
    house.pool._open[1] = True  # so that the next one is the third
    house.open("b")
    assert [(m.session, m.code) for m in house.of(Failed)] == [("b", "INTERNAL_ERROR")]
    assert [m.session for m in house.of(Opened)] == ["a"]
    house.chunk("a", 0)
    house.turn()
    assert house.audio() == [("a", 0)]


def test_what_was_put_off_is_done_when_nobody_waits() -> None:
    """Without sessions it may take any time; with some, a part of a block, so that nobody's answer is late for it."""
    engine = Full()
    house = House(engine=engine)
    house.turn()
    assert engine.prepared == [float("inf")]
    house.open("a")
    house.chunk("a", 0)
    house.turn()
    assert max(engine.prepared[1:]) == GEOMETRY.block_ms / 1000
    asked = len(engine.prepared)
    house.chunk("a", 1)
    house.turn()
    assert len(engine.prepared) == asked


class Guests(PassthroughEngine):
    """Takes a voice that a session brings, if it is one."""

    guest_prompt_s = 3.0

    def open(self, slot: int, voice: str, options: Any, seed: int, reference: bytes | None = None) -> None:
        if reference is not None and reference != b"sound":
            raise VoiceError(f"voice {voice!r}: no voiced speech found in the recording")


def test_a_session_may_bring_its_voice() -> None:
    house = House(engine=Guests(GEOMETRY))
    for name, reference in (("a", b"sound"), ("b", b"noise"), ("c", b"")):
        house.scheduler.take(0, Open(name, 0, "clip:1", reference=reference))
    house.turn()
    house.turn()
    assert [message.session for message in house.of(Opened)] == ["a"]
    refused = {message.session: (message.code, message.message) for message in house.of(Failed)}
    assert refused["b"] == ("INVALID_CONFIG", "voice 'clip:1': no voiced speech found in the recording")
    assert refused["c"][1].startswith("voice: no 'clip:1'")


def test_voices_that_are_brought_are_computed_one_a_turn() -> None:
    """So that those who speak wait for one at most; what comes for a session that waits is kept, in order."""
    house = House(engine=Guests(GEOMETRY))
    house.open("speaks")
    house.scheduler.take(0, Open("plain", 0, "none"))
    for name in ("a", "b", "c", "gone"):
        house.scheduler.take(0 if name != "gone" else 7, Open(name, 0, "clip:1", reference=b"sound"))
    house.chunk("c", 0)
    house.scheduler.take(0, Close("b", 0))
    house.chunk("speaks", 0)
    assert house.turn() == 1
    assert [message.session for message in house.of(Opened)] == ["speaks", "plain", "a"]
    house.scheduler.drop_gateway(7)
    house.chunk("speaks", 1)
    house.turn()
    assert [message.session for message in house.of(Opened)][3:] == ["b"]
    house.turn()
    assert [message.session for message in house.of(Opened)][4:] == ["c"]
    house.turn()
    assert house.audio() == [("speaks", 0), ("speaks", 1), ("c", 0)]
    assert house.scheduler.sessions == 4
    assert house.scheduler.sessions_of(7) == 0
