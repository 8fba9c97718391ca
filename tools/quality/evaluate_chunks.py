"""How far what V2 makes block by block is from what it makes of the whole recording at once, given the same codes.

    python -m tools.evaluate_chunks talk.wav --voice june.flac --checkpoints checkpoints [--left-ms 1500] [--steps 10]

Codes, noise and mel grid are the same in both (see docs/v2.md), so three things remain: the moments of the regulator's
norms, which a stream learns as it goes; the transformer, whose frames hear all others of their window; the vocoder,
which gets a margin. The bound is that of Euler steps along two velocities: with ``d`` their distance at the whole's own
mel and ``L`` how fast the window's grows with its own error, errors obey ``e <- (1 + h L) e + h d``; ``d`` and ``L``
are the largest of all windows. As a yardstick, how far the whole is from itself with other noise.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import soxr
import torch
from torch import Tensor

from shared.config import ROOT
from tools.bench.timing import synthetic_v2
from tools.quality.seams import border_excess_db
from worker.engines.diffusion.pipeline import Prompts
from worker.engines.diffusion.prompts import make_prompt
from worker.engines.v2.commit import NEVER, Places
from worker.engines.v2.hearing import remember
from worker.engines.v2.pipeline import V2Pipeline
from worker.geometry import INPUT_RATE, UNITS_A_SECOND, Geometry
from worker.main import check_device
from worker.models.seedvc2.flow import FlowSolver2
from worker.models.seedvc2.model import SeedVc2
from worker.models.seedvc2.regulator import Moments
from worker.models.weights import hub
from worker.precision import PRECISIONS
from worker.recordings import Recording
from worker.streaming.crossfade import sola
from worker.voices import Voice

MARGIN_FRAMES = 32  # that the vocoder gets before what is emitted, as the engine's
JUNE = ROOT / "worker" / "assets" / "voices" / "june.flac"


@dataclass(frozen=True, slots=True)
class Distances:
    """Root mean squares over emitted mel frames, natural log."""

    mel: float  # of the stream's from the whole's
    mel_same_moments: float  # if the stream's norms had the whole's moments
    other_noise: float  # of the whole's from the whole's with another seed
    bound: float  # of any window's largest root mean square
    worst_window: float  # what that was
    lipschitz: float  # the largest, over windows and steps
    seams_db: float  # how much the stream's joints stand out
    seams_whole_db: float  # the same places of the whole


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--voice", default=JUNE, type=click.Path(path_type=Path))
@click.option("--checkpoints", default=hub.DEFAULT_FOLDER, type=click.Path(path_type=Path))
@click.option("--synthetic", is_flag=True, help="Weights nobody trained.")
@click.option("--device", default="cpu")
@click.option("--dtype", type=click.Choice(list(PRECISIONS)), default="float32")
@click.option("--seconds", default=10.0)
@click.option("--left-ms", default=1500, help="That the transformer hears.")
@click.option("--right-ms", default=240)
@click.option("--block-ms", default=500)
@click.option("--steps", default=10)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    source: Path,
    voice: Path,
    checkpoints: Path,
    synthetic: bool,
    device: str,
    dtype: str,
    seconds: float,
    left_ms: int,
    right_ms: int,
    block_ms: int,
    steps: int,
    json_path: Path | None,
) -> None:
    """Compare a stream with its recording as a whole."""
    check_device(device)
    networks = synthetic_v2(device) if synthetic else SeedVc2().load(checkpoints)
    pipeline = V2Pipeline(networks, device=device, dtype=PRECISIONS[dtype])
    wave = np.concatenate(list(Recording(source).pieces()))[: int(seconds * INPUT_RATE)]
    rate = pipeline.mel_config.rate
    geometry = Geometry.from_ms(block_ms=block_ms, left_ms=left_ms, right_ms=right_ms, output_rate=rate)
    found = measure(pipeline, wave, Voice(voice.stem, "", voice), geometry, steps)
    click.echo(json.dumps(asdict(found), indent=1))
    if json_path is not None:
        json_path.write_text(json.dumps(asdict(found)) + "\n")


class Speech:
    """A recording's codes on the grid of mel frames, and what the model makes of stretches of them."""

    def __init__(self, pipeline: V2Pipeline, codes: Tensor, voice: Voice, geometry: Geometry, steps: int) -> None:
        self.pipeline, self.codes, self.geometry = pipeline, codes, geometry
        self.solver: FlowSolver2 = pipeline.solver(steps)
        self.prompt = Prompts.of([make_prompt(pipeline, voice, 3.0)])
        self.hop = pipeline.mel_config.hop
        self.frames = len(codes) * geometry.unit_samples_out // self.hop

    def code_of(self, frame: Tensor) -> Tensor:
        unit = torch.div(frame * self.hop, self.geometry.unit_samples_out, rounding_mode="floor")
        return unit.clamp(0, len(self.codes) - 1)

    def condition(self, first: int, count: int, known: Moments, counted: Tensor) -> tuple[Tensor, Moments]:
        """Of mel frames; ``counted`` says which units are measured."""
        at = self.code_of(torch.arange(first, first + count, device=self.codes.device))
        made, moments = self.pipeline.v2.regulator.streamed(self.codes[at][None], known, counted[at][None])
        return made, moments

    def path(self, condition: Tensor, first: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """The mel in front of every step and at the end, and every step's velocity; prompt frames included."""
        given, noise, free = self._given(condition, first, seed)
        x, xs, velocities = noise * free, [noise * free], []
        for step in range(self.solver.steps):
            velocities.append(self.velocity(x, given, step))
            x = (x + self.solver.sizes[step] * velocities[-1]).where(free, 0)
            xs.append(x)
        return xs, velocities

    def velocity(self, x: Tensor, given: object, step: int) -> Tensor:
        solver = self.solver
        parts = solver.dit.velocity(x, solver.times.at(step), given).chunk(len(solver.rates.branches))  # type: ignore[arg-type]
        return torch.stack([w * part for w, part in zip(solver._weights(None), parts, strict=True)]).sum(0)

    def _given(self, condition: Tensor, first: int, seed: int) -> tuple[object, Tensor, Tensor]:
        prompt, count = self.prompt, condition.shape[1]
        room = prompt.mel.shape[-1]
        start = torch.tensor([first + seed], device=condition.device)
        noise = self.pipeline.mel_noise.take(start, count)
        mu = torch.cat([prompt.condition, condition], dim=1)
        padded = torch.nn.functional.pad(prompt.mel, (0, count))
        given = self.solver.dit.conditions(padded, prompt.style, mu, None, self.solver.rates.branches)
        free = torch.arange(room + count, device=mu.device) >= room
        return given, torch.cat([noise.new_zeros(*noise.shape[:2], room), noise], dim=2), free

    @property
    def room(self) -> int:
        return self.prompt.mel.shape[-1]


@torch.inference_mode()
def measure(pipeline: V2Pipeline, wave: np.ndarray, voice: Voice, geometry: Geometry, steps: int) -> Distances:
    """wave: float32 ``[n]`` at 16 kHz, at most thirty seconds and longer than two windows."""
    device = pipeline.device
    (codes,) = pipeline.codes([torch.from_numpy(wave).to(device)])
    speech = Speech(pipeline, codes.wide, voice, geometry, steps)
    everything = torch.ones(len(codes.wide), device=device)
    condition, moments = speech.condition(0, speech.frames, Moments.none(1, device), everything)
    whole, velocities = speech.path(condition, 0)
    again, _ = speech.path(condition, 0, seed=100_000)
    room, hop, unit = speech.room, speech.hop, geometry.unit_samples_out
    target = whole[-1][..., room:]
    sound = pipeline.vocode(target, None, *[torch.zeros(1, dtype=torch.int64, device=device)] * 2)

    known, upto, tail = Moments.none(1, device), NEVER, torch.zeros(1, geometry.crossfade_samples, device=device)
    errors: dict[str, list[Tensor]] = {"own": [], "same": []}
    largest_d, largest_l = [0.0] * steps, [0.0] * steps
    worst, joined, reference = 0.0, [], []
    for position in range(geometry.window_units, len(codes.wide), geometry.block_units):
        begin = position - geometry.window_units
        first, last = begin * unit // hop, position * unit // hop
        emitted_to = (position - geometry.right_units) * unit
        emitted = slice((emitted_to - geometry.engine_samples) // hop - first, -(-emitted_to // hop) - first)
        counted = _counted(position, upto, len(codes.wide), geometry, device)
        own, new = speech.condition(first, last - first, known, counted)
        same, _ = speech.condition(first, last - first, moments, counted)
        mels = {name: speech.path(made, first) for name, made in (("own", own), ("same", same))}
        for name, (xs, _) in mels.items():
            errors[name].append((xs[-1][..., room:] - target[..., first:last])[..., emitted])
        given, _, _ = speech._given(own, first, 0)
        part = [torch.cat([x[..., :room], x[..., room + first : room + last]], dim=-1) for x in (*whole, *velocities)]
        for step in range(steps):
            x, theirs = mels["own"][0][step], part[step]
            here = speech.velocity(theirs, given, step)
            d = _rms((here - part[steps + 1 + step])[..., room:])
            error = _rms((x - theirs)[..., room:])
            growth = _rms((mels["own"][1][step] - here)[..., room:]) / error if error > 1e-6 else 0.0
            largest_d[step], largest_l[step] = max(largest_d[step], d), max(largest_l[step], growth)
        worst = max(worst, _rms((mels["own"][0][-1] - part[steps])[..., room:]))
        margin = max(0, emitted.start - MARGIN_FRAMES)
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        made = pipeline.vocode(mels["own"][0][-1][..., room + margin :], None, zero, zero)
        offset = emitted_to - geometry.engine_samples - (first + margin) * hop
        block, tail = sola(made[:, offset : offset + geometry.engine_samples], tail, geometry)
        joined.append(block[0])
        at = emitted_to - geometry.engine_samples
        reference.append(sound[0, at : at + geometry.block_samples_out])
        known = Moments(*remember(known.sums, known.frames, new.sums, new.frames, pipeline.mel_config.rate / hop))
        upto = position
    bound = 0.0
    for step, size in enumerate(speech.solver.sizes):
        bound = (1 + size * largest_l[step]) * bound + size * largest_d[step]
    return Distances(
        mel=_rms(torch.cat(errors["own"], dim=-1)),
        mel_same_moments=_rms(torch.cat(errors["same"], dim=-1)),
        other_noise=_rms(again[-1][..., room:] - target),
        bound=bound,
        worst_window=worst,
        lipschitz=max(largest_l),
        seams_db=_seams(joined, geometry),
        seams_whole_db=_seams(reference, geometry),
    )


def _counted(position: int, upto: int, units: int, geometry: Geometry, device: torch.device) -> Tensor:
    """Which of a recording's units a window measures, as ``hearing.hear`` has it: float32 ``[units]``."""
    places = Places.of(torch.tensor([position]), torch.tensor([upto]), geometry.window_units, geometry.right_units)
    newly = places.newly if bool(places.newly.any()) else places.begun
    out = torch.zeros(units, device=device)
    begin = position - geometry.window_units
    out[begin : begin + geometry.window_units - 1] = newly[0].float().to(device)
    return out


def _seams(blocks: list[Tensor], geometry: Geometry) -> float:
    """At 16 kHz, in the geometry that it has there."""
    sound = torch.cat(blocks).float().cpu().numpy()
    sound = soxr.resample(sound, geometry.output_rate, INPUT_RATE)
    pcm = np.clip(sound / max(1e-3, float(np.abs(sound).max())) * 16_000, -32768, 32767).astype(np.int16)
    unit_ms = 1000 // UNITS_A_SECOND
    at_16k = Geometry.from_ms(
        block_ms=geometry.block_ms,
        left_ms=geometry.left_units * unit_ms,
        right_ms=geometry.right_units * unit_ms,
    )
    return border_excess_db(pcm[at_16k.delay_ms * INPUT_RATE // 1000 :], at_16k)


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


if __name__ == "__main__":
    main()
