"""RTP in order: nothing waits without a gap, a gap is waited for by the jitter that was measured, then told."""

from __future__ import annotations

import random

import pytest

from gateway.caller import Lost
from gateway.rtp.jitter import MAX_WAIT_S, MIN_WAIT_S, START_S, JitterBuffer

FRAME_S, FRAME_TICKS = 0.02, 960


def name(number: int) -> bytes:
    return str(number).encode()


def push(buffer: JitterBuffer, number: int, now: float, ssrc: int = 1) -> list[bytes | Lost]:
    return buffer.push(number % (1 << 16), number * FRAME_TICKS % (1 << 32), ssrc, name(number), now)


def started(first: int = 0) -> JitterBuffer:
    """A buffer whose packet `first` was released."""
    buffer = JitterBuffer()
    assert push(buffer, first, 0.0) == []
    assert buffer.expire(START_S) == [name(first)]
    return buffer


def test_packets_in_order_pass_at_once() -> None:
    buffer = started()
    for number in range(1, 50):
        assert push(buffer, number, number * FRAME_S) == [name(number)]
        assert buffer.due is None


def test_who_comes_first_need_not_have_been_sent_first() -> None:
    buffer = JitterBuffer()
    assert push(buffer, 7, 0.0) == []
    assert push(buffer, 5, 0.01) == []
    assert push(buffer, 6, 0.02) == []
    assert buffer.due == START_S
    assert buffer.expire(START_S) == [name(5), name(6), name(7)]


def test_a_packet_that_was_overtaken_is_waited_for() -> None:
    buffer = started()
    assert push(buffer, 2, 0.04) == []
    assert buffer.due == pytest.approx(0.04 + MIN_WAIT_S)
    assert push(buffer, 1, 0.05) == [name(1), name(2)]
    assert buffer.due is None


def test_what_does_not_come_is_told_in_its_place() -> None:
    buffer = started()
    push(buffer, 4, 0.08)
    push(buffer, 6, 0.1)
    assert buffer.expire(0.09) == []
    assert buffer.expire(0.08 + MIN_WAIT_S + 0.001) == [Lost(3), name(4)]
    assert buffer.expire(0.2) == [Lost(1), name(6)]


def test_who_comes_after_being_given_up_or_twice_is_dropped() -> None:
    buffer = started()
    push(buffer, 2, 0.04)
    assert buffer.expire(1.0) == [Lost(1), name(2)]
    assert push(buffer, 1, 1.01) == []
    assert push(buffer, 2, 1.02) == []
    assert buffer.late == 2


def test_numbers_wrap() -> None:
    buffer = started(65_534)
    assert push(buffer, 65_535, 0.12) == [name(65_535)]
    assert push(buffer, 65_536, 0.14) == [name(65_536)]
    assert push(buffer, 65_538, 0.18) == []
    assert push(buffer, 65_537, 0.19) == [name(65_537), name(65_538)]


@pytest.mark.parametrize(("number", "ssrc"), [(30_000, 1), (1, 2)], ids=["leap", "ssrc"])
def test_another_stream_begins_anew_and_nothing_of_it_is_missing(number: int, ssrc: int) -> None:
    buffer = started()
    push(buffer, 2, 0.04)
    assert push(buffer, number, 0.06, ssrc) == [Lost(1), name(2)]
    assert buffer.expire(0.06 + START_S) == [name(number)]


def test_flush_waits_for_nothing() -> None:
    buffer = started()
    push(buffer, 2, 0.04)
    assert buffer.flush() == [Lost(1), name(2)]
    fresh = JitterBuffer()
    push(fresh, 9, 0.0)
    assert fresh.flush() == [name(9)]


def test_under_loss_and_jitter_every_packet_has_its_time() -> None:
    """5 % lost and up to 200 ms of delay at random, as `tc netem delay 100ms 100ms loss 5%` does."""
    chance = random.Random(1)
    sent = 3000
    arrivals = sorted(
        (number * FRAME_S + chance.uniform(0, 0.2), number) for number in range(sent) if chance.random() > 0.05
    )
    buffer, heard = JitterBuffer(), []
    for at, number in arrivals:
        while (due := buffer.due) is not None and due <= at:
            heard += buffer.expire(due)
        heard += push(buffer, number, at)
    heard += buffer.flush()
    packets = [int(one) for one in heard if isinstance(one, bytes)]
    lost = sum(one.count for one in heard if isinstance(one, Lost))
    assert packets == sorted(packets)
    assert len(packets) + lost == packets[-1] - packets[0] + 1
    assert packets[0] <= 1
    assert packets[-1] >= sent - 3
    assert buffer.late < 0.01 * sent, "what came was given up too early"
    assert MIN_WAIT_S < buffer.wait_s <= MAX_WAIT_S
