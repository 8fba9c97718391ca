"""How fast a caller may send. Time is a number here."""

from __future__ import annotations

import pytest

from gateway.events import PayloadReceived
from gateway.pace import Pace


class Clock:
    time = 100.0

    def __call__(self) -> float:
        return self.time


def send(pace: Pace, seconds: float) -> None:
    pace.on_payload(PayloadReceived(0.0, b"", seconds * 1000))


def test_real_time_and_a_burst_are_never_held_up() -> None:
    clock = Clock()
    pace = Pace(2.0, clock)
    send(pace, 30.0)
    for _ in range(100):
        clock.time += 1.0
        send(pace, 1.0)
        assert pace.pause_s == 0


def test_beyond_the_burst_only_the_rate_is_left() -> None:
    clock = Clock()
    pace = Pace(2.0, clock)
    send(pace, 50.0)
    assert pace.pause_s == pytest.approx(10.0)
    clock.time += 4.0
    assert pace.pause_s == pytest.approx(6.0)
    began = clock.time
    for _ in range(60):  # a minute of sound, as fast as it is read
        clock.time += pace.pause_s
        send(pace, 1.0)
    assert clock.time - began == pytest.approx(6.0 + 29.5)


async def test_every_pause_is_told() -> None:
    paused: list[float] = []
    clock = Clock()
    pace = Pace(1000.0, clock, paused.append)
    send(pace, 25.0)
    await pace.wait()
    assert paused == []
    send(pace, 25.0)
    await pace.wait()
    assert paused == [pytest.approx(0.02)]
