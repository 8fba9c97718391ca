"""Limits of a principal: sessions at once, sessions a minute, minutes a day. Time is a number here."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.auth.ledger import NOTHING, Ledger, LimitReached, Usage
from gateway.auth.principal import Limits, Principal
from gateway.auth.spent import SpentMinutes

DAY_S = 86_400.0


class Clock:
    time = 1000 * DAY_S + 3600

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_sessions_at_once(clock: Clock) -> None:
    ledger, alice = Ledger(clock), Principal("alice", limits=Limits(sessions=2))
    first, _ = ledger.enter(alice), ledger.enter(alice)
    with pytest.raises(LimitReached, match="2 sessions at once") as caught:
        ledger.enter(alice)
    assert caught.value.limit == "sessions"
    ledger.enter(Principal("bob", limits=Limits(sessions=1)))  # another's limit is another's
    first.leave()
    first.leave()
    ledger.enter(alice)
    with pytest.raises(LimitReached):
        ledger.enter(alice)


def test_sessions_a_minute(clock: Clock) -> None:
    ledger, alice = Ledger(clock), Principal("alice", limits=Limits(sessions_per_minute=3))
    for _ in range(3):
        ledger.enter(alice).leave()
        clock.time += 10
    with pytest.raises(LimitReached, match="3 sessions a minute"):
        ledger.enter(alice)
    clock.time += 30  # the first is a minute old
    ledger.enter(alice)
    with pytest.raises(LimitReached):
        ledger.enter(alice)


def test_minutes_a_day_are_spent_by_all_calls_together(clock: Clock) -> None:
    ledger, alice = Ledger(clock), Principal("alice", limits=Limits(minutes_per_day=10))
    first, second = ledger.enter(alice), ledger.enter(alice)
    assert first.left_s() == 600
    clock.time += 240
    assert first.left_s() == second.left_s() == 120
    second.leave()
    clock.time += 120
    assert first.left_s() == 0
    with pytest.raises(LimitReached, match="10 minutes a day"):
        ledger.enter(alice)


def test_a_new_day_begins_at_midnight_also_for_a_call_that_is_on(clock: Clock) -> None:
    ledger, alice = Ledger(clock), Principal("alice", limits=Limits(minutes_per_day=10))
    ticket = ledger.enter(alice)
    clock.time = 1001 * DAY_S + 60
    assert ticket.left_s() == 540
    ticket.leave()
    assert ledger.left_s(alice) == 540


def test_without_limits_nothing_is_counted_down(clock: Clock) -> None:
    ledger, anybody = Ledger(clock), Principal("anybody")
    tickets = [ledger.enter(anybody) for _ in range(1000)]
    assert tickets[0].left_s() is None


def test_principals_of_yesterday_are_forgotten(clock: Clock) -> None:
    ledger = Ledger(clock)
    for number in range(50):
        ledger.enter(Principal(f"caller-{number}")).leave()
    clock.time += DAY_S
    ledger.enter(Principal("today")).leave()
    assert len(ledger._accounts) == 1


@pytest.mark.parametrize("given", [{"session": 1}, {"sessions": -1}, {"sessions": "2"}, {"sessions": 1.5}, [], 5])
def test_limits_that_cannot_be_are_named(given: object) -> None:
    with pytest.raises(ValueError, match="limits"):
        Limits.read(given)


def test_what_other_processes_say_counts(clock: Clock) -> None:
    day = int(clock.time // DAY_S)
    here, there = Ledger(clock), Ledger(clock)
    alice = Principal("alice", limits=Limits(sessions=2, sessions_per_minute=3, minutes_per_day=10))
    ticket = there.enter(alice)
    there.enter(Principal("bob"))  # without limits: nobody asks
    clock.time += 5 * 60
    assert there.usage() == {"alice": Usage(1, (), day, 300.0)}
    there.enter(alice)
    here.elsewhere = there.usage()
    assert here.elsewhere["alice"] == Usage(2, (clock.time,), day, 300.0)
    with pytest.raises(LimitReached, match="2 sessions at once"):
        here.enter(alice)
    ticket.leave()
    here.elsewhere = there.usage()
    mine = here.enter(alice)
    assert mine.left_s() == 300.0
    mine.leave()
    here.enter(alice).leave()
    with pytest.raises(LimitReached, match="3 sessions a minute"):
        here.enter(alice)
    clock.time += 61
    here.elsewhere = {"alice": Usage(0, (), day, 600.0)}
    with pytest.raises(LimitReached, match="10 minutes a day"):
        here.enter(alice)
    here.elsewhere = {"alice": Usage(0, (), day - 1, 600.0)}  # of yesterday
    here.enter(alice)


def test_several_processes_add_up() -> None:
    today, yesterday = Usage(1, (5.0,), 2, 10.0), Usage(1, (3.0,), 1, 99.0)
    assert NOTHING.plus(today).plus(yesterday) == Usage(2, (5.0, 3.0), 2, 10.0)
    assert today.plus(today).spent_s == 20.0


def test_spent_minutes_outlive_the_process(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "usage" / "0.json"
    alice = Principal("alice", limits=Limits(minutes_per_day=10))
    first = Ledger(clock)
    first.enter(alice)
    first.enter(Principal("bob"))
    clock.time += 4 * 60
    kept = SpentMinutes(file, first)
    kept.save()
    assert (file.stat().st_mode & 0o777, "bob" in file.read_text()) == (0o600, False)
    second = Ledger(clock)
    SpentMinutes(file, second).load()
    assert second.enter(alice).left_s() == 360.0
    clock.time += DAY_S
    tomorrow = Ledger(clock)
    SpentMinutes(file, tomorrow).load()
    assert tomorrow.enter(alice).left_s() == 600.0


@pytest.mark.parametrize("content", ["", "[]", "{", '{"day": "x"}', '{"day": 1, "spent_s": {"a": "b"}}'])
def test_a_file_that_says_nothing_counts_nothing(clock: Clock, tmp_path: Path, content: str) -> None:
    (tmp_path / "usage.json").write_text(content)
    ledger = Ledger(clock)
    SpentMinutes(tmp_path / "usage.json", ledger).load()
    assert ledger.spent()[1] == {}


def test_a_disk_that_is_gone_costs_the_count_alone(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    ledger = Ledger(clock)
    ledger.enter(Principal("alice", limits=Limits(minutes_per_day=10)))
    clock.time += 60
    SpentMinutes(tmp_path / "file" / "usage.json", ledger).save()
