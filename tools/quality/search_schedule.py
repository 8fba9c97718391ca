"""Where a model's solver should step: positions searched on recordings by their distance to the many-step result.

    python -m tools.search_schedule talk.wav more.wav --reference june.flac --model tiny --steps 2 --steps 3 --steps 4

Each recording gives a few windows with their noise. The result of 64 Euler steps is what every plan is held to: the
root mean square of the difference of log-mels. Half of the windows are searched on, the other half judge. Beside the
searched positions stand the named schedules, midpoint and Heun, each with its cost in evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from shared.ranges import FiniteRange
from worker.engines.diffusion.offline import Recording
from worker.engines.diffusion.pipeline import Pipeline, Prompt, Prompts
from worker.engines.diffusion.prompts import make_prompt
from worker.geometry import UNIT_SAMPLES
from worker.main import check_device
from worker.models.catalogue import load_model
from worker.models.seedvc.dit import DiT
from worker.models.seedvc.plan import METHODS, Plan, PlannedSolver
from worker.models.weights import hub
from worker.voices import Voice

MANY_STEPS = 64
WINDOW_UNITS = 100
PROMPT_S = 3.0
FIRST_MOVE, LAST_MOVE = 0.16, 0.01  # of a position, halved whenever nothing gets better


@dataclass(frozen=True, slots=True)
class Windows:
    """Everything a solver is given but its plan."""

    condition: Tensor  # [B, M, D]
    noise: Tensor  # [B, C, M]

    def half(self, which: int) -> Windows:
        return Windows(self.condition[which::2], self.noise[which::2])


@dataclass(frozen=True, slots=True)
class Row:
    """A plan: what it is, what it costs, and how far it is from the many-step result."""

    method: str
    schedule: str
    steps: int
    evaluations: int
    distance: float  # root mean square of log-mels
    times: tuple[float, ...]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Choice(["tiny", "small", "base"]), default="tiny")
@click.option("--guidance", type=FiniteRange(0, 10), default=0.7)
@click.option("--steps", multiple=True, type=click.IntRange(1, 30), default=(2, 3, 4))
@click.option("--checkpoints", default=hub.DEFAULT_FOLDER, type=click.Path(path_type=Path))
@click.option("--device", default="cpu")
@click.option("--threads", type=click.IntRange(1, 256), default=1)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    sources: tuple[Path, ...],
    reference: Path,
    model: str,
    guidance: float,
    steps: tuple[int, ...],
    checkpoints: Path,
    device: str,
    threads: int,
    json_path: Path | None,
) -> None:
    """Search the positions of a solver's steps."""
    torch.set_num_threads(threads)
    check_device(device)
    pipeline = Planned(load_model(model, checkpoints), device=device, guidance=guidance)
    prompt = make_prompt(pipeline, Voice(reference.stem, "", reference), PROMPT_S)
    windows = windows_of(pipeline, [Recording(source) for source in sources])
    rows = compare(pipeline, prompt, windows, steps)
    click.echo(f"{'plan':<10} {'schedule':<10} {'steps':>5} {'evaluations':>12} {'distance':>9}  times")
    for row in rows:
        times = " ".join(f"{time:.3f}" for time in row.times) if row.schedule == "searched" else ""
        click.echo(
            f"{row.method:<10} {row.schedule:<10} {row.steps:>5} {row.evaluations:>12} {row.distance:>9.4f}  {times}"
        )
    if json_path is not None:
        report = {"model": model, "guidance": guidance, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(report, indent=1) + "\n")


class Planned(Pipeline):
    """A pipeline whose solver follows a plan."""

    plan = Plan.of(1)

    def solver(self, steps: int) -> PlannedSolver:
        dit = self.networks.dit
        assert isinstance(dit, DiT)
        return PlannedSolver(dit, self.plan, self.guidance)


@torch.inference_mode()
def windows_of(pipeline: Planned, recordings: list[Recording]) -> Windows:
    """Windows of 2 s end to end. Raises ``ValueError`` if there are fewer than two."""
    pieces: list[Tensor] = []
    for recording in recordings:
        wave = torch.cat([torch.from_numpy(piece) for piece in recording.pieces()])
        pieces += [part for part in wave.split(WINDOW_UNITS * UNIT_SAMPLES) if len(part) == WINDOW_UNITS * UNIT_SAMPLES]
    if len(pieces) < 2:
        raise ValueError("the recordings give fewer than two windows of 2 s")
    wave = torch.stack(pieces).to(pipeline.device)
    content = pipeline.networks.content(wave)
    tracker = pipeline.networks.tracker
    frames = pipeline.mel_frames(content.shape[1])
    condition = pipeline.condition(content, frames, None if tracker is None else tracker(wave))
    start = torch.arange(len(pieces), device=pipeline.device) * frames
    return Windows(condition, pipeline.mel_noise.take(start, frames))


@torch.inference_mode()
def solved(pipeline: Planned, prompt: Prompt, windows: Windows, plan: Plan) -> Tensor:
    """Mel ``[B, C, M]``."""
    pipeline.plan = plan
    prompts = Prompts.of([prompt] * len(windows.noise))
    return pipeline.solve(windows.condition, prompts, windows.noise, len(plan.times) - 1)


def compare(pipeline: Planned, prompt: Prompt, windows: Windows, steps: tuple[int, ...]) -> list[Row]:
    """A row a plan, judged on windows that were not searched on."""
    branches = 2 if pipeline.guidance > 0 else 1
    searched_on, judged_on = windows.half(0), windows.half(1)
    goals = [solved(pipeline, prompt, half, Plan.of(MANY_STEPS, "linear")) for half in (searched_on, judged_on)]

    def distance(plan: Plan, half: int) -> float:
        made = solved(pipeline, prompt, (searched_on, judged_on)[half], plan)
        return float((made - goals[half]).square().mean().sqrt())

    rows = []
    for count in steps:
        named = [("linear", Plan.of(count, "linear")), ("cosine", Plan.of(count, "cosine"))]
        plans = [(name, plan) for name, plan in named if count > 1 or name == "linear"]
        plans += [
            ("linear", Plan.of(count, "linear", method)) for method in METHODS[1:] if count > 1 or method != "heun"
        ]
        if count > 1:
            start = min((plan for _, plan in named), key=lambda plan: distance(plan, 0))
            plans.append(("searched", search(start, lambda plan: distance(plan, 0))))
        for schedule, plan in plans:
            rows.append(Row(plan.method, schedule, count, plan.evaluations(branches), distance(plan, 1), plan.times))
    return rows


def search(start: Plan, cost: Callable[[Plan], float]) -> Plan:
    """Move one position at a time as long as it gets better, by ever smaller moves."""
    best, lowest = start, cost(start)
    move = FIRST_MOVE
    while move >= LAST_MOVE:
        better = False
        for place in range(1, len(best.times) - 1):
            for direction in (-move, move):
                times = list(best.times)
                times[place] += direction
                if not times[place - 1] < times[place] < times[place + 1]:
                    continue
                plan = Plan(tuple(times), best.method, best.guided)
                found = cost(plan)
                if found < lowest:
                    best, lowest, better = plan, found, True
        if not better:
            move /= 2
    return best
