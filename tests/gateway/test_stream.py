"""When a block is due: the caller's own clock, and what a stalled line does to it. On a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gateway.blocks import BlockLayout
from gateway.stream import Answer, Stream, StreamSpec
from shared.messages import Audio, Chunk, ChunkStats, FromGateway, Open

BLOCK_S = 0.5
BUDGET_S = 2.0
STATS = ChunkStats(1.0, 1, 1, True, False, {})


@dataclass
class House:
    """A stream, its clock, and a worker that answers when it is told to."""

    now: float = 100.0
    sent: list[FromGateway] = field(default_factory=list)
    dropped: int = 0

    def __post_init__(self) -> None:
        layout = BlockLayout(500, 0, 16_000, 0)
        spec = StreamSpec("s", "voice", "model", layout)
        self.stream = Stream(spec, budget_s=BUDGET_S, counters=self, clock=lambda: self.now)
        self.stream.open_at("worker", self.sent.append, 1000)

    def dropped_answer(self) -> None:
        self.dropped += 1

    def say(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.stream.submit(np.zeros(8000, np.int16))

    def talk(self, blocks: int) -> None:
        """In real time, each block answered at once."""
        for _ in range(blocks):
            self.now += BLOCK_S
            self.say()
            self.answer_all()

    def answer_all(self) -> None:
        answered = {a.seq for a in self.answers}
        while waiting := [m for m in self.sent if isinstance(m, Chunk) and m.seq not in answered]:
            for chunk in waiting:
                answered.add(chunk.seq)
                self.stream.on_audio(Audio("s", chunk.epoch, chunk.seq, bytes(16_000), STATS))

    @property
    def answers(self) -> list[Answer]:
        return list(self.stream.answers._queue)  # type: ignore[attr-defined]

    def concealed_after(self) -> float:
        """Seconds from now until the latest block is concealed, while nothing is answered."""
        began, wanted = self.now, self.stream.submitted
        while len(self.answers) < wanted:
            self.now += 0.01
            self.stream.check(self.now, 1e9)
        assert self.answers[-1].concealed_by == "gateway"
        return self.now - began


async def test_a_block_is_concealed_when_the_budget_is_over() -> None:
    house = House()
    house.talk(4)
    house.now += BLOCK_S
    house.say()
    assert abs(house.concealed_after() - BUDGET_S) < 0.02


async def test_the_backlog_of_a_stalled_line_is_due_in_quick_succession() -> None:
    house = House()
    house.talk(4)
    house.now += 3.5
    house.say(7)
    assert BUDGET_S + 6 * BLOCK_S / 2 - 0.02 < house.concealed_after() < BUDGET_S + 6 * BLOCK_S / 2 + 0.02


async def test_after_a_stalled_line_caught_up_the_budget_is_the_configured_one_again() -> None:
    """Five stalls of 3 s: without this each of them would have moved every later deadline by 3 s."""
    house = House()
    house.talk(4)
    for _ in range(5):
        house.now += 3.0
        house.say(6)  # all that was said meanwhile
        house.answer_all()
        house.talk(8)
    house.now += BLOCK_S
    house.say()
    assert abs(house.concealed_after() - BUDGET_S) < 0.02


async def test_a_caller_who_was_muted_has_the_same_budget_as_before() -> None:
    house = House()
    house.talk(4)
    house.now += 60.0
    house.talk(3)
    house.now += BLOCK_S
    house.say()
    assert abs(house.concealed_after() - BUDGET_S) < 0.02


async def test_a_caller_faster_than_real_time_has_later_deadlines() -> None:
    house = House()
    house.say(20)  # ten seconds at once
    assert abs(house.concealed_after() - (19 * BLOCK_S + BUDGET_S)) < 0.02


async def test_every_block_is_answered_once_and_in_order_across_workers() -> None:
    house = House()
    house.say(3)
    house.stream.on_audio(Audio("s", 0, 1, bytes(16_000), STATS))
    assert house.answers == []  # block 0 comes first
    house.stream.orphan()
    house.sent.clear()
    house.stream.open_at("another", house.sent.append, 1000)
    assert [m.epoch for m in house.sent if isinstance(m, Open)] == [1]
    assert [m.seq for m in house.sent if isinstance(m, Chunk)] == [0, 2]
    house.answer_all()
    assert [a.seq for a in house.answers] == [0, 1, 2]
    house.stream.on_audio(Audio("s", 1, 1, bytes(16_000), STATS))
    assert (len(house.answers), house.dropped) == (3, 1)
