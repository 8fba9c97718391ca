"""What each network costs: parameters, work and bytes of one block, time a stage by batch size, memory.

    python -m tools.bench_models --model tiny
    python -m tools.bench_models --model tiny --device cuda:0 --dtype bf16 --batches 1,8,32,128

Weights are synthetic (nano's are its own): what is measured does not depend on them.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from shared.ranges import FiniteRange
from tools.bench.timing import (
    Setting,
    StageCounter,
    Timing,
    empty,
    fill,
    make_engine,
    matmul_ceiling,
    rows_of,
    time_calls,
)
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.v2.engine import V2Engine
from worker.main import check_device
from worker.precision import PRECISIONS

MODELS = ("nano", "tiny", "small", "base", "v2")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [all]")
@click.option("--device", default="cpu")
@click.option("--dtype", type=click.Choice(list(PRECISIONS)), default="float32")
@click.option("--batches", default="1,2,4,8", help="Rows of a call. [1,2,4,8]")
@click.option("--steps", type=click.IntRange(1, 100), default=10)
@click.option("--guidance", type=FiniteRange(0, 10), default=0.7)
@click.option("--repeats", type=click.IntRange(1, 1000), default=3)
@click.option("--threads", type=click.IntRange(1, 256), default=1)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    models: tuple[str, ...],
    device: str,
    dtype: str,
    batches: str,
    steps: int,
    guidance: float,
    repeats: int,
    threads: int,
    json_path: Path | None,
) -> None:
    """Measure the networks of models in blocks of 0.5 s with 2.5 s of context and a prompt of 3 s."""
    torch.set_num_threads(threads)
    check_device(device)
    sizes = [int(size) for size in batches.split(",")]
    ceiling = matmul_ceiling(device, PRECISIONS[dtype])
    click.echo(f"{device}, {dtype}, {threads} thread(s): matmul ceiling {ceiling:.3f} TFLOP/s\n")
    report: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "matmul_tflops": ceiling,
        "models": {},
    }
    for model in models or MODELS:
        setting = Setting(
            model,
            device,
            PRECISIONS[dtype],
            steps if model != "nano" else 1,
            guidance if model != "nano" else 0.0,
            max(sizes),
        )
        report["models"][model] = measure(setting, sizes, repeats, ceiling)
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1))


def measure(setting: Setting, sizes: list[int], repeats: int, ceiling: float) -> dict[str, Any]:
    engine = make_engine(setting)
    work = flops(engine)
    parts = engine.pipeline.networks.parts()
    table: dict[str, Any] = {}
    click.echo(f"{setting.model}: {setting.steps} steps, guidance {setting.guidance:g}, prompt 3 s")
    click.echo(f"  {'network':<10} {'parameters':>12} {'MB':>8} {'GFLOP/block':>12}")
    for name, part in parts.items():
        count = sum(weight.numel() for weight in part.parameters())
        size = sum(weight.numel() * weight.element_size() for weight in part.parameters())
        table[name] = {"parameters": count, "bytes": size, "flops_a_block": work.get(name, 0.0)}
        click.echo(f"  {name:<10} {count / 1e6:>10.2f} M {size / 1e6:>8.1f} {work.get(name, 0.0) / 1e9:>12.2f}")
    times = {}
    for size in sizes:
        timing = time_batch(engine, size, repeats, setting.device)
        achieved = sum(work.values()) * size / timing.median_ms / 1e9
        times[size] = {
            "median_ms": timing.median_ms,
            "p95_ms": timing.p95_ms,
            "stages_ms": timing.stages_ms,
            "tflops": achieved,
            "share_of_ceiling": achieved / ceiling,
        }
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in timing.stages_ms.items())
        click.echo(
            f"  B = {size:<4} {timing.median_ms:9.1f} ms ({stages}); {achieved:.3f} TFLOP/s, "
            f"{achieved / ceiling:.0%} of the ceiling"
        )
    peak = peak_bytes(setting.device)
    click.echo(f"  peak memory {peak / 1e9:.2f} GB\n")
    return {"networks": table, "batches": times, "steps": setting.steps, "peak_bytes": peak}


def flops(engine: DiffusionEngine | V2Engine) -> dict[str, float]:
    """Floating-point operations of one row by stage, counted on tensors without values; Fourier transforms are not
    among them."""
    rows = rows_of(engine, fill(engine, 1))
    if engine.name != "nano":  # it has none
        engine.pipeline.solver(engine.max_steps)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.inference_mode(), FlopCounterMode(display=False) as counter:
        stages = StageCounter(lambda: float(counter.get_total_flops()))
        fake = type(rows)(**{field.name: mode.from_tensor(getattr(rows, field.name)) for field in fields(rows)})
        engine.call(fake, engine.max_steps, mixed=False, clock=stages)
    empty(engine, 1)
    return stages.stages


def time_batch(engine: DiffusionEngine | V2Engine, size: int, repeats: int, device: str) -> Timing:
    batch = fill(engine, size)
    try:
        return time_calls(lambda: engine.convert(batch)[1], repeats=repeats, device=device)
    finally:
        empty(engine, size)


def peak_bytes(device: str) -> int:
    """Of the device, or of this process so far."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
