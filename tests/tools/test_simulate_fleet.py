"""The simulated fleet: what must hold whatever the load, and that faults cost what they should and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tools.fleet.costs import NANO_ON_A_CORE, TINY_ON_AN_H200, find, read
from tools.fleet.day import HOUR_S, Day
from tools.fleet.device import measure, table
from tools.fleet.fleet import Fleet, Outcome, Plan
from tools.fleet.simulate import main

PLACES = NANO_ON_A_CORE.places
PLAN = Plan(workers=12, gateways=4, zones=3, begin=18.5 * HOUR_S, end=19 * HOUR_S)


def run(plan: Plan, load: float) -> Outcome:
    day = Day(load * PLACES * plan.workers, call_s=300)
    return Fleet(plan, NANO_ON_A_CORE, day, span_s=600).run()


def total(outcome: Outcome, name: str) -> int:
    return sum(getattr(span, name) for span in outcome.spans)


def test_half_an_hour_with_room_refuses_nobody_and_fills_no_place_twice() -> None:
    calm = run(PLAN, 0.5)
    assert total(calm, "calls") > 250
    assert (total(calm, "gave_up"), total(calm, "moved"), calm.beyond) == (0, 0, 0)
    again = run(PLAN, 0.5)
    assert [span.calls for span in again.spans] == [span.calls for span in calm.spans]  # a seed is a day


def test_more_callers_than_places_fill_them_and_no_more() -> None:
    full = run(PLAN, 1.6)
    assert full.beyond == 0
    assert total(full, "gave_up") > 0
    assert max(span.sessions for span in full.spans) > 0.9 * PLACES * PLAN.workers


def test_a_zone_that_is_lost_costs_its_gateways_callers_a_moment_and_nobody_else_the_call() -> None:
    plan = replace(PLAN, zone_lost_at=18.7 * HOUR_S + 1, zone_lost_s=300)
    outcome = run(plan, 0.5)
    assert total(outcome, "dropped") > 0
    assert total(outcome, "moved") > 0
    assert total(outcome, "gave_up") == 0
    assert outcome.beyond == 0
    assert outcome.spans[-1].places == PLACES * plan.workers  # it came back
    tight = run(plan, 0.9)
    assert total(tight, "gave_up") > 0  # two thirds of the places are not enough


def test_an_upgrade_that_rolls_over_workers_ends_no_call() -> None:
    plan = replace(PLAN, upgrade_at=18.5 * HOUR_S + 60, upgrade_at_once=2)
    outcome = run(plan, 0.6)
    assert total(outcome, "moved") > 20
    assert total(outcome, "gave_up") == 0
    assert outcome.waits_s == []


def test_latency_and_concealment_follow_the_load_of_a_worker() -> None:
    loads = table(NANO_ON_A_CORE, talk=1.0)
    assert [load.sessions for load in loads] == sorted({load.sessions for load in loads})
    assert loads[0].p50_ms == pytest.approx(NANO_ON_A_CORE.ms[1][2])
    assert loads[0].p95_ms < loads[-1].p95_ms
    assert all(load.concealed == 0 for load in loads)  # what is offered can be kept, though all speak at once
    assert loads[-1].steps < NANO_ON_A_CORE.max_steps
    assert measure(NANO_ON_A_CORE, 3 * PLACES, talk=1.0).concealed > 0.3


def test_a_day_has_its_callers() -> None:
    dice = np.random.default_rng(1)
    calls = list(Day(100, call_s=600).calls(0, 24 * HOUR_S, dice))
    assert calls == sorted(calls, key=lambda call: call[0])
    at_once = [sum(at <= hour * HOUR_S < at + length for at, length in calls) for hour in (3, 19)]
    assert at_once[0] < 20 < 70 < at_once[1] < 130


def test_a_gpu_has_the_places_that_its_worker_s_warm_up_gave_it() -> None:
    """docs/performance.md, "Places"."""
    assert find("tiny-h200").places == 335
    assert replace(TINY_ON_AN_H200, min_steps=10).places == 234


def test_a_device_that_is_neither_known_nor_a_file_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--costs", str(tmp_path / "tiny-h300")])
    assert result.exit_code == 2
    assert "--costs" in result.output
    assert "tiny-h300" in result.output


def test_the_command_and_a_table_of_one_s_own(tmp_path: Path) -> None:
    device = {"name": "a GPU", "block_ms": 500, "min_steps": 4, "max_steps": 10, "max_batch": 4, "max_sessions": 8}
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(device | {"ms": {"1": {"4": 10, "10": 20}, "4": {"4": 20, "10": 40}}}))
    assert read(file).places == 8
    options = ["--workers", "3", "--gateways", "2", "--hours", "0.2", "--costs", str(file)]
    result = CliRunner().invoke(main, [*options, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert "3 workers of 8 places (a GPU), 2 gateways" in result.output
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["beyond"] == 0
    assert {"calls", "refusals", "gave_up", "p95_ms"} <= set(content["spans"][0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--load", "nan"], "--load"),
        (["--hours", "2", "--zone-lost-at", "3"], "--zone-lost-at: 3 is not among the hours 0 to 2"),
        (["--from", "6", "--upgrade-at", "5"], "--upgrade-at: 5 is not among the hours 6 to 30"),
        (["--json", "."], "--json"),
    ],
)
def test_what_cannot_be_simulated_is_said_at_once(options: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["--workers", "2", *options])
    assert result.exit_code == 2
    assert said in result.output
