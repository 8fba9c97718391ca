"""An answer in blocks becomes a packet every 20 ms; what is late makes room, and room that is not needed goes."""

from __future__ import annotations

import itertools

import pytest

from gateway.rtp.playout import FRAME_S, FRAME_TICKS, SPARE, Playout

BLOCK = 10  # packets that are answered at once


def run(playout: Playout, arrivals: list[float], until: float) -> list[tuple[float, int]]:
    """Blocks that come at `arrivals`; what is sent, when and with which timestamp."""
    sent: list[tuple[float, int]] = []
    waiting = sorted(arrivals)
    while True:
        due = playout.due
        arrival = waiting[0] if waiting else None
        if arrival is not None and (due is None or arrival <= due):
            waiting.pop(0)
            for _ in range(BLOCK):
                playout.put(b"packet", arrival)
        elif due is None or due > until:
            return sent
        else:
            sent.append((due, playout.pop(due)[1]))


def test_blocks_become_a_packet_every_slot() -> None:
    sent = run(Playout(), [number * BLOCK * FRAME_S for number in range(5)], 9.0)
    assert [timestamp for _, timestamp in sent] == [number * FRAME_TICKS for number in range(5 * BLOCK)]
    assert [at for at, _ in sent] == pytest.approx([(SPARE + number) * FRAME_S for number in range(5 * BLOCK)])


def test_a_slot_with_nothing_to_send_is_left_out_of_the_timestamps_too() -> None:
    sent = run(Playout(), [0.0, BLOCK * FRAME_S + 0.5], 9.0)
    before, after = sent[BLOCK - 1], sent[BLOCK]
    assert after[0] - before[0] == pytest.approx((after[1] - before[1]) / 48_000)
    assert 0.5 <= after[0] - before[0] <= 0.5 + (SPARE + 1) * FRAME_S
    assert len(sent) == 2 * BLOCK


def test_answers_that_come_late_make_room_once() -> None:
    late = [0.0, *(number * BLOCK * FRAME_S + (0.07 if number % 3 == 1 else 0.0) for number in range(1, 12))]
    sent = run(Playout(), late, 9.0)
    gaps = [second[1] - first[1] for first, second in itertools.pairwise(sent) if second[1] - first[1] > 960]
    assert len(gaps) == 1


def test_room_for_a_habit_is_kept_and_forgotten_once_it_ends() -> None:
    """Every fifteenth answer, each three seconds, is 70 ms late; then none is for a minute."""
    block_s = BLOCK * FRAME_S
    arrivals = [number * block_s + (0.07 if number % 15 == 1 and number < 150 else 0.0) for number in range(450)]
    sent = run(Playout(), arrivals, 120.0)
    gaps = [second[1] - first[1] for first, second in itertools.pairwise(sent) if second[1] - first[1] > 960]
    assert len(gaps) == 1
    delays = [at - number * FRAME_S for number, (at, _) in enumerate(sent)]
    assert min(delays[200:1000]) >= 0.07
    assert delays[3500] < 0.05  # ten seconds of habit, forty later


def test_after_a_stall_the_delay_is_what_it_was() -> None:
    """Two seconds without an answer, then all of it at once, then as before."""
    block_s = BLOCK * FRAME_S
    arrivals = [max(number * block_s, 3.0) if number * block_s >= 1.0 else number * block_s for number in range(150)]
    sent = run(Playout(), arrivals, 60.0)
    assert len(sent) == 150 * BLOCK

    def delay(number: int) -> float:
        return sent[number][0] - number * FRAME_S

    assert delay(20) == pytest.approx(SPARE * FRAME_S)
    assert delay(60) > 1.9
    assert delay(len(sent) - 1) < 0.1
    intervals = [second[0] - first[0] for first, second in itertools.pairwise(sent)]
    assert min(intervals) >= 0.5 * FRAME_S - 1e-9


def test_a_sender_that_was_held_up_catches_up_by_a_slot_only() -> None:
    playout = Playout()
    for _ in range(BLOCK):
        playout.put(b"packet", 0.0)
    playout.pop(1.0)
    assert playout.due == pytest.approx(1.0)
    playout.pop(1.0)
    assert playout.due == pytest.approx(1.0 + FRAME_S)
