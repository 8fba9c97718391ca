"""Convert recordings to the voice of a reference, without a service.

python -m tools.file_vc --source-wav-path talk.wav --reference-wav-path june.flac --output out/ --model nano
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import torch
from tqdm import tqdm

from shared.config import ConfigError
from shared.ranges import FiniteRange
from tools.files.jobs import Job, Outputs, plan
from tools.files.v2 import V2Settings, v2_converter
from worker.engines.diffusion.offline import ConversionOptions, FileConverter
from worker.engines.diffusion.pipeline import Pipeline
from worker.engines.diffusion.prompts import make_prompt
from worker.main import check_device
from worker.models.catalogue import load_model
from worker.models.networks import Networks
from worker.models.seedvc.plan import METHODS, Method
from worker.models.weights.checkpoints import CheckpointError
from worker.models.weights.hub import DEFAULT_FOLDER
from worker.recordings import Recording, SourceError, Wave
from worker.voices import Voice, VoiceError

MODELS = ("nano", "tiny", "small", "base", "v2")
DEFAULT_STEPS = {"nano": 1}  # of the others as the original: 30
DEFAULT_GUIDANCE = {"nano": 0.0}
MAX_REFERENCE_S = 25.0
NANO_REFERENCE_S, NANO_WINDOW_S = 6.0, 9.0  # prompt and source, near to what it was trained with


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--source-wav-path", "sources", multiple=True, required=True, type=click.Path(path_type=Path),
    help="A recording of any format libsndfile reads, or a folder of them; repeatable.",
)  # fmt: skip
@click.option("--reference-wav-path", "reference", required=True, type=click.Path(path_type=Path), help="The voice.")
@click.option(
    "--output",
    default=Path("outputs"),
    type=click.Path(path_type=Path),
    help="A folder, or a file.",
)
@click.option("--model", type=click.Choice(MODELS), help="[nano; base with --f0-condition]")
@click.option("--diffusion-steps", type=click.IntRange(1, 200), help="[30; nano takes 1, whatever is asked for]")
@click.option("--solver", type=click.Choice(METHODS), default="euler", help="Others evaluate twice a step. [euler]")
@click.option("--inference-cfg-rate", type=FiniteRange(0, 10), help="Guidance. [0.7; nano 0]")
@click.option("--length-adjust", type=FiniteRange(0.25, 4), default=1.0, help="Below 1 is faster.")
@click.option("--f0-condition/--no-f0-condition", default=None, help="Keep the source's melody, with a model that can.")
@click.option("--auto-f0-adjust/--no-auto-f0-adjust", default=True, help="Move its median to the reference's. [on]")
@click.option("--semi-tone-shift", type=FiniteRange(-48, 48), default=0.0, help="On top of it.")
@click.option("--device", default="cpu", metavar="cpu|cuda:0")
@click.option("--fp16/--no-fp16", default=False, help="The heavy networks in half precision.")
@click.option("--batch", type=click.IntRange(1, 64), default=4, help="Windows of one call.")
@click.option("--checkpoints", default=DEFAULT_FOLDER, type=click.Path(path_type=Path), help="Where weights are kept.")
@click.option("--dit-checkpoint-path", type=click.Path(path_type=Path), help="A fine-tuned model.")
@click.option("--dit-config-path", type=click.Path(path_type=Path), help="Its YAML file.")
@click.option("--convert-style/--no-convert-style", default=False, help="v2: the reference's rhythm and accent too.")
@click.option("--anonymize/--no-anonymize", default=False, help="v2: nobody's voice; the reference only sets the room.")
@click.option("--intelligibility-cfg-rate", type=FiniteRange(0, 10), help="v2: guidance towards the words. [0.7]")
@click.option("--similarity-cfg-rate", type=FiniteRange(0, 10), help="v2: guidance towards the voice. [0.7]")
@click.option("--top-p", type=FiniteRange(0, 1), help="v2, style: likeliest share of codes to draw from. [0.9]")
@click.option("--temperature", type=FiniteRange(0, 100), help="v2, style: of the draws. [1]")
@click.option("--repetition-penalty", type=FiniteRange(0.01, 100), help="v2, style: above 1 repeats less. [1]")
@click.option("--seed", type=click.IntRange(0), help="v2: of noise and draws. [0]")
@click.option("--threads", type=click.IntRange(1, 256), help="Of torch. [all cores]")
def main(
    sources: tuple[Path, ...],
    reference: Path,
    output: Path,
    model: str | None,
    diffusion_steps: int | None,
    solver: Method,
    inference_cfg_rate: float | None,
    length_adjust: float,
    f0_condition: bool | None,
    auto_f0_adjust: bool,
    semi_tone_shift: float,
    device: str,
    fp16: bool,
    batch: int,
    checkpoints: Path,
    dit_checkpoint_path: Path | None,
    dit_config_path: Path | None,
    threads: int | None,
    **of_v2: Any,
) -> None:
    """Convert recordings to the voice of a reference."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = model or ("base" if f0_condition else "nano")
    try:
        check_device(device)
        if model == "nano" and solver != "euler":
            raise ValueError("--solver: nano has none")
        jobs, skipped = plan(sources, reference, output)
        if model == "v2":
            refuse(
                "v2",
                inference_cfg_rate=inference_cfg_rate,
                f0_condition=f0_condition,
                semi_tone_shift=semi_tone_shift or None,
                dit_config_path=dit_config_path,
            )
            settings = V2Settings.of(
                device, fp16, batch, checkpoints, dit_checkpoint_path, diffusion_steps, solver, length_adjust, of_v2
            )
            run(*v2_converter(settings, Voice(reference.stem, "", reference)), jobs)
            report(skipped)
            return
        refuse(model, **{name: value or None for name, value in of_v2.items()})
        networks = load_model(model, checkpoints, dit_checkpoint_path, dit_config_path)
        check_pitch(networks, f0_condition)
        pipeline = Pipeline(
            networks,
            device=device,
            dtype=torch.float16 if fp16 else torch.float32,
            guidance=DEFAULT_GUIDANCE.get(model, 0.7) if inference_cfg_rate is None else inference_cfg_rate,
            method=solver,
        )
        voice = Voice(reference.stem, "", reference)
        prompt = make_prompt(pipeline, voice, NANO_REFERENCE_S if model == "nano" else MAX_REFERENCE_S)
        options = ConversionOptions(
            steps=diffusion_steps or DEFAULT_STEPS.get(model, 30),
            length_adjust=length_adjust,
            follow_pitch=f0_condition is not False,
            auto_f0_adjust=auto_f0_adjust,
            semitones=semi_tone_shift,
            window_s=NANO_WINDOW_S if model == "nano" else None,
        )
        converter = FileConverter(pipeline, prompt, options, batch=batch)
        run(converter, pipeline.mel_config.rate, jobs)
        report(skipped)
    except (CheckpointError, ConfigError, SourceError, VoiceError, ValueError) as error:
        click.echo(f"file_vc: {error}", err=True)
        sys.exit(2)
    except (torch.OutOfMemoryError, MemoryError):
        click.echo(f"file_vc: no memory for batches of {batch} windows: try --batch {max(1, batch // 2)}", err=True)
        sys.exit(1)


def report(skipped: list[SourceError]) -> None:
    """Name what could not be converted, and end with exit code 1 if there is any."""
    for error in skipped:
        click.echo(f"file_vc: skipped {error}", err=True)
    if skipped:
        sys.exit(1)


def refuse(model: str, **options: Any) -> None:
    """Raises ``ValueError`` naming an option that was given and that the model does not know."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')}: {model} does not know it")


def check_pitch(networks: Networks, f0_condition: bool | None) -> None:
    """Raises ``ValueError`` where the model cannot do as asked."""
    if f0_condition and networks.tracker is None:
        raise ValueError(f"--f0-condition: {networks.name} takes no f0: choose --model base or nano")
    if f0_condition is False and networks.name == "nano":
        raise ValueError("--no-f0-condition: nano needs f0: choose --model tiny or small")


class Converter(Protocol):
    def convert(
        self,
        recordings: Sequence[Recording],
        write: Callable[[int, Wave], None],
        progress: Callable[[float], None],
    ) -> None: ...


def run(converter: Converter, rate: int, jobs: list[Job]) -> None:
    """Convert, with a progress bar in seconds of source."""
    if not jobs:
        return
    total_s = sum(job.recording.samples / job.recording.rate for job in jobs)
    began = time.monotonic()
    with (
        Outputs([job.output for job in jobs], rate) as outputs,
        tqdm(total=round(total_s, 1), unit="s", bar_format="{l_bar}{bar}| {n:.1f}/{total} s") as bar,
    ):

        def advance(seconds: float) -> None:
            bar.update(min(seconds, float(bar.total or 0) - bar.n))

        converter.convert(
            [job.recording for job in jobs],
            outputs.write,
            advance,
        )
    took = time.monotonic() - began
    for job in jobs:
        click.echo(f"{job.recording.path} -> {job.output}")
    click.echo(f"{total_s:.1f} s in {took:.1f} s: real-time factor {took / total_s:.2f}")
