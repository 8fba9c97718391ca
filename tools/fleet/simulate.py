"""A day of a fleet in seconds: 1-1000 workers, 1-100 gateways, a day's load, a zone lost, an upgrade rolling.

    python -m tools.simulate_fleet --workers 100 --gateways 8 --load 0.75 --zone-lost-at 19 --upgrade-at 10

Scheduler, planner, pool and quotas are those that serve; the clock is virtual, and a batch takes what was measured.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from loguru import logger

from shared.ranges import FiniteRange
from tools.fleet import costs
from tools.fleet.day import HOUR_S, Day
from tools.fleet.device import Load, table
from tools.fleet.fleet import Fleet, Outcome, Plan, Span, latency_of


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--workers", type=click.IntRange(1, 1000), default=100)
@click.option("--gateways", type=click.IntRange(1, 100), default=8, help="Gateway processes.")
@click.option("--zones", type=click.IntRange(1, 10), default=3)
@click.option("--load", type=FiniteRange(0.01, 10), default=0.75, help="Callers at the busiest moment, of places.")
@click.option("--call-s", type=FiniteRange(10, 14_400), default=600, help="Length of a call in the mean.")
@click.option("--talk", type=FiniteRange(0, 1), default=0.5, help="Share of a call in which its caller speaks.")
@click.option("--from", "from_h", type=FiniteRange(0, 24), default=0, help="Hour of the day at the start.")
@click.option("--hours", type=FiniteRange(0.05, 48), default=24)
@click.option("--zone-lost-at", type=FiniteRange(0, 72), help="Hour at which one zone is lost, for 15 minutes.")
@click.option("--upgrade-at", type=FiniteRange(0, 72), help="Hour from which an upgrade rolls.")
@click.option("--at-once", type=click.IntRange(1, 1000), default=1, help="Workers that are upgraded at once.")
@click.option("--beat-s", type=FiniteRange(0.1, 60), default=1.0, help="Between heartbeats (0.5 in truth).")
@click.option("--costs", "costs_name", default="nano-core", help=f"A device: {', '.join(costs.KNOWN)}, or a JSON file.")
@click.option("--seed", type=int, default=0)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    workers: int,
    gateways: int,
    zones: int,
    load: float,
    call_s: float,
    talk: float,
    from_h: float,
    hours: float,
    zone_lost_at: float | None,
    upgrade_at: float | None,
    at_once: int,
    beat_s: float,
    costs_name: str,
    seed: int,
    json_file: Path | None,
) -> None:
    """Simulate a fleet: sessions, refusals, latency."""
    try:
        device = costs.find(costs_name)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--costs") from None
    for option, at in (("--zone-lost-at", zone_lost_at), ("--upgrade-at", upgrade_at)):
        if at is not None and not from_h <= at < from_h + hours:
            raise click.BadParameter(
                f"{at:g} is not among the hours {from_h:g} to {from_h + hours:g}", param_hint=option
            )
    places = device.places * workers
    plan = Plan(
        workers,
        gateways,
        zones,
        begin=from_h * HOUR_S,
        end=(from_h + hours) * HOUR_S,
        beat_s=beat_s,
        max_sessions=max(1, 2 * places // gateways),
        zone_lost_at=None if zone_lost_at is None else zone_lost_at * HOUR_S + 1,
        upgrade_at=None if upgrade_at is None else upgrade_at * HOUR_S + 1,
        upgrade_at_once=at_once,
        seed=seed,
    )
    logger.disable("worker")  # the scheduler's, of sessions that nobody has
    try:
        loads = table(device, talk=talk)
        outcome = Fleet(plan, device, Day(load * places, call_s), span_s=min(HOUR_S, hours * HOUR_S / 6)).run()
    finally:
        logger.enable("worker")
    click.echo(report(plan, device, loads, outcome))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content(plan, loads, outcome), indent=1), encoding="utf-8")


def report(plan: Plan, device: costs.Device, loads: list[Load], outcome: Outcome) -> str:
    """Tables for people."""
    lines = [f"{plan.workers} workers of {device.places} places ({device.name}), {plan.gateways} gateways", ""]
    lines.append(f"one worker: {'sessions':>8}{'p50 ms':>9}{'p95':>8}{'p99':>8}{'steps':>7}{'concealed':>11}")
    lines += [
        f"{'':>11} {one.sessions:>8}{one.p50_ms:>9.0f}{one.p95_ms:>8.0f}{one.p99_ms:>8.0f}{one.steps:>7.1f}"
        f"{one.concealed:>11.2%}"
        for one in loads
    ]
    lines += ["", f"{'from':>6}{'calls':>9}{'at once':>9}{'places':>9}{'refusals':>10}{'gave up':>9}{'dropped':>9}"
              f"{'lost':>6}{'moved':>8}{'p50 ms':>8}{'p95':>7}"]  # fmt: skip
    for span in outcome.spans:
        p50, p95 = latency_of(span, loads)
        hour, minute = divmod(round(span.begin / 60), 60)
        lines.append(
            f"{hour % 24:>3}:{minute:02}{span.calls:>9}{span.sessions:>9}{span.places:>9}{span.refusals:>10}"
            f"{span.gave_up:>9}{span.dropped:>9}{span.lost:>6}{span.moved:>8}{p50:>8.0f}{p95:>7.0f}"
        )
    lines += ["", summary(outcome)]
    return "\n".join(lines)


def summary(outcome: Outcome) -> str:
    """What counts, in a few lines."""
    total = {
        name: sum(getattr(span, name) for span in outcome.spans) for name in ("calls", "refusals", "gave_up", "lost")
    }
    waits = outcome.waits_s
    waited = f"{len(waits)} sessions waited for a worker and found one, {total['lost']} did not"
    if waits:
        waited += f", median {np.median(waits):.1f} s, longest {max(waits):.1f} s"
    return (
        f"{total['calls']} calls, {total['refusals']} knocks refused, {total['gave_up']} gave up "
        f"({total['gave_up'] / max(1, total['calls']):.2%}); {waited}\n"
        f"sessions beyond what a worker measured: {outcome.beyond}; the pool takes {outcome.placing_us:.0f} us to "
        f"place a call; {outcome.real_s:.0f} s of real time"
    )


def content(plan: Plan, loads: list[Load], outcome: Outcome) -> dict[str, Any]:
    """The same for scripts."""

    def of(span: Span) -> dict[str, Any]:
        p50, p95 = latency_of(span, loads)
        return {k: v for k, v in asdict(span).items() if k != "latency"} | {"p50_ms": p50, "p95_ms": p95}

    return {
        "plan": asdict(plan),
        "worker": [asdict(load) for load in loads],
        "spans": [of(span) for span in outcome.spans],
        "waits_s": outcome.waits_s,
        "beyond": outcome.beyond,
        "placing_us": outcome.placing_us,
    }
