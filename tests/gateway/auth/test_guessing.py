"""Guessing is slow, and costs nobody else anything. Time is a number here."""

from __future__ import annotations

import asyncio

import pytest

from gateway.auth.guessing import Guessing, SlowDown, network


class Clock:
    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def test_a_few_wrong_credentials_cost_nothing_then_each_waits_longer() -> None:
    clock = Clock()
    guessing = Guessing(clock.now, clock.sleep)
    for number in range(60):
        await guessing.wait("10.0.0.1", f"wrong-{number}")
        guessing.failed("10.0.0.1")
    assert len(clock.slept) == 49
    assert clock.slept == sorted(clock.slept)
    assert (clock.slept[0], clock.slept[-1]) == (0.25, 5.0)


async def test_time_forgives() -> None:
    clock = Clock()
    guessing = Guessing(clock.now, clock.sleep)
    for _ in range(30):
        guessing.failed("10.0.0.1")
    clock.time = 1000.0
    await guessing.wait("10.0.0.1", "wrong")
    assert not clock.slept


async def test_who_was_right_before_and_who_is_elsewhere_never_wait() -> None:
    clock = Clock()
    guessing = Guessing(clock.now, clock.sleep)
    guessing.succeeded("10.0.0.1", "right")
    for _ in range(100):
        guessing.failed("10.0.0.1")
    await guessing.wait("10.0.0.1", "right")
    await guessing.wait("10.0.0.2", "new")
    assert not clock.slept
    await guessing.wait("10.0.0.1", "new")
    assert clock.slept


async def test_a_flood_is_refused_unheard() -> None:
    open_ = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await open_.wait()

    guessing = Guessing(lambda: 0.0, sleep)
    for _ in range(100):
        guessing.failed("10.0.0.1")
    waiting = [asyncio.create_task(guessing.wait("10.0.0.1", "w")) for _ in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(SlowDown, match="too many wrong credentials"):
        await guessing.wait("10.0.0.1", "w")
    open_.set()
    await asyncio.gather(*waiting)
    await guessing.wait("10.0.0.1", "w")


async def test_what_is_remembered_is_bounded() -> None:
    guessing = Guessing(lambda: 0.0)
    for number in range(10_500):
        guessing.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        guessing.succeeded("10.0.0.1", f"key-{number}")
    assert len(guessing._addresses) == 10_000
    assert len(guessing._known) == 10_000


def test_addresses_of_one_guesser_are_one() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") != network("10.0.0.2")
    assert network("fe80::1%eth0") == network("fe80::2%eth0")
    assert network("unknown") == "unknown"
