"""``python -m tests.chaos``: every scenario, and a table of what was held. ``make chaos`` runs it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from tests.chaos.overload import overload
from tests.chaos.scenarios import SCENARIOS, Result, can_run, run


@click.command()
@click.option("--seed", type=int, default=lambda: time.time_ns() % 1_000_000, help="Of all choices. [one of its own]")
@click.option("--callers", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--seconds", type=float, help="Of each call. [as the scenario has it]")
@click.option("--only", help="Scenarios whose name holds this.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(seed: int, callers: int, seconds: float | None, only: str | None, json_file: Path | None) -> None:
    """Break a service in every way under calls in real time."""
    click.echo(f"seed {seed}, {callers} callers, {os.cpu_count()} CPUs")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, scenario in enumerate(SCENARIOS):
            if only is not None and only not in scenario.name:
                continue
            if not can_run(scenario):
                click.echo(f"NOT run: {scenario.name}: there is no libfaketime (apt-get install libfaketime)")
                continue
            made = asyncio.run(run(scenario, Path(folder) / str(number), seed=seed, callers=callers, seconds=seconds))
            results.append(made)
            click.echo(row(made))
            for problem in made.problems[:20]:
                click.echo(f"    {problem}")
        if only is None or only in "overload":
            full = asyncio.run(overload(Path(folder) / "overload", places=callers, seconds=12))
            click.echo(
                f"{3 * full.places} callers for {full.places} places: {full.refused} refused, the slowest after "
                f"{full.refused_ms:.0f} ms; the others' real-time factor {full.real_time_factor_p95:.2f} at p95"
            )
            for problem in full.problems[:20]:
                click.echo(f"    {problem}")
    click.echo("\n" + table(results))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"seed": seed, "results": [asdict(one) for one in results]}, indent=1))
    sys.exit(0 if all(one.held for one in results) else 1)


def row(one: Result) -> str:
    return (
        f"| {one.name} | {one.callers} × {one.seconds:g} s | {one.faults} | {one.breaks} | {one.away_s:.1f} s "
        f"| {one.recovered_s:.1f} s | {one.concealed} of {one.blocks} | {one.most} | {'yes' if one.held else 'NO'} |"
    )


def table(results: list[Result]) -> str:
    head = (
        "| | calls | faults | connections lost | longest | workers back after | concealed | most of one call | held |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(row, results)])


if __name__ == "__main__":
    main()
