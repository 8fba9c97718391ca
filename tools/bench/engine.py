"""How many callers one device serves, against serving them one after another as the predecessor does.

    python -m tools.bench_engine --model tiny --device cuda:0 --dtype bf16       (the goals; under 8 minutes)
    python -m tools.bench_engine --quick                                          (a CPU, the ratio at B = 8)

Batched: the worker's engine, with CUDA graphs where there is CUDA. Baseline, in the same run: the same networks in
float32, one session after another, eager. Real time means that the 95th percentile of a batch takes at most half of its
block of 0.5 s. What a worker would offer follows from its own cost model, after its own warm-up.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch

from shared.ranges import FiniteRange
from tools.bench.capacity import capacity
from tools.bench.models import flops, time_batch
from tools.bench.timing import Setting, Timing, empty, fill, make_engine, matmul_ceiling, synchronise
from worker.buckets import buckets
from worker.main import check_device
from worker.precision import PRECISIONS

MODELS = ("nano", "tiny", "small", "base", "v2")
BLOCK_MS = 500.0
GOAL = {"sessions": 200, "ratio": 10.0, "share": 0.5, "first_ms": 100.0}  # of tiny on one GPU


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [tiny; --quick: nano, tiny]"
)
@click.option("--device", help="[cuda:0 if there, else cpu]")
@click.option(
    "--dtype", type=click.Choice(list(PRECISIONS)), help="Of the batched engine. [bf16 on CUDA, else float32]"
)
@click.option("--steps", type=click.IntRange(1, 100), help="[10; nano 1; --quick: 2]")
@click.option("--guidance", type=FiniteRange(0, 10), help="[0.7; nano 0]")
@click.option("--most", type=click.IntRange(1, 1024), help="Largest batch. [256 on CUDA, else 8]")
@click.option("--repeats", type=click.IntRange(1, 1000), help="[20 on CUDA, else 3]")
@click.option("--threads", type=click.IntRange(1, 256), default=1)
@click.option("--quick", is_flag=True, help="Few steps and repeats.")
@click.option("--plot", type=click.Path(path_type=Path), help="A PNG of time and rate by batch size.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    models: tuple[str, ...],
    device: str | None,
    dtype: str | None,
    steps: int | None,
    guidance: float | None,
    most: int | None,
    repeats: int | None,
    threads: int,
    quick: bool,
    plot: Path | None,
    json_path: Path | None,
) -> None:
    """Measure batched conversion against one session after another."""
    torch.set_num_threads(threads)
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    check_device(device)
    cuda = device.startswith("cuda")
    dtype = dtype or ("bf16" if cuda else "float32")
    most = most or (256 if cuda else 8)
    repeats = repeats or (2 if quick else 20 if cuda else 3)
    ceiling = matmul_ceiling(device, PRECISIONS[dtype])
    click.echo(f"{device}, {dtype}, {threads} thread(s): matmul ceiling {ceiling:.3f} TFLOP/s")
    report: dict[str, Any] = {"device": device, "dtype": dtype, "matmul_tflops": ceiling, "models": {}}
    for model in models or (("nano", "tiny") if quick else ("tiny",)):
        nano = model == "nano"
        setting = Setting(
            model,
            device,
            PRECISIONS[dtype],
            steps or (1 if nano else 2 if quick else 10),
            (0.0 if nano else 0.7) if guidance is None else guidance,
            most,
        )
        report["models"][model] = measure(setting, repeats, ceiling)
    if plot is not None:
        draw(report, plot)
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1))


def measure(setting: Setting, repeats: int, ceiling: float) -> dict[str, Any]:
    click.echo(f"\n{setting.model}: {setting.steps} steps, guidance {setting.guidance:g}")
    baseline = one_after_another(setting, repeats)
    click.echo(f"  baseline: {baseline.median_ms:.1f} ms a session ({_stages(baseline)})")
    engine = make_engine(setting)
    first_ms = first_answer(setting, engine)
    click.echo(f"  first answer after a warm start: {first_ms:.1f} ms")
    work = sum(flops(engine).values())
    rows = []
    for size in buckets(setting.rows):
        try:
            timing = time_batch(engine, size, repeats, setting.device)
        except torch.OutOfMemoryError:
            click.echo(f"  B = {size}: no memory")
            break
        achieved = work * size / timing.median_ms / 1e9
        row: dict[str, Any] = {
            "batch": size,
            "median_ms": timing.median_ms,
            "p95_ms": timing.p95_ms,
            "stages_ms": timing.stages_ms,
            "ratio": size * baseline.median_ms / timing.median_ms,
            "tflops": achieved,
            "share_of_ceiling": achieved / ceiling,
        }
        rows.append(row)
        click.echo(
            f"  B = {size:<4} {timing.median_ms:9.1f} ms, p95 {timing.p95_ms:9.1f} ({_stages(timing)}); "
            f"{row['ratio']:.2f} x baseline, {row['share_of_ceiling']:.0%} of the ceiling"
        )
    fits = max((row["batch"] for row in rows), default=1)
    offered = capacity(engine, fits, device=setting.device, fewest=-(-setting.steps // 2))
    click.echo(
        f"  a worker offers {offered.sessions} places at {-(-setting.steps // 2)} steps, "
        f"{offered.sessions_at_most_steps} at {setting.steps}; warm after {offered.warm_up_s:.1f} s, "
        f"{len(offered.captures_s)} graphs, peak memory {offered.peak_bytes / 1e9:.1f} GB"
    )
    sessions = max((row["batch"] for row in rows if row["p95_ms"] <= BLOCK_MS / 2), default=0)
    click.echo(f"  sessions in real time (p95 within {BLOCK_MS / 2:.0f} ms): {sessions}")
    if setting.model == "tiny" and setting.device.startswith("cuda"):
        best = max(rows, key=lambda row: row["ratio"])
        click.echo(
            f"  goals: sessions {sessions} of {GOAL['sessions']}, {best['ratio']:.1f} x of {GOAL['ratio']:g} x, "
            f"{best['share_of_ceiling']:.0%} of {GOAL['share']:.0%}, first {first_ms:.0f} of {GOAL['first_ms']:.0f} ms"
        )
    return {
        "steps": setting.steps,
        "guidance": setting.guidance,
        "baseline_ms": baseline.median_ms,
        "first_answer_ms": first_ms,
        "flops_a_block": work,
        "batches": rows,
        "sessions_in_real_time": sessions,
        "worker": asdict(offered),
    }


def one_after_another(setting: Setting, repeats: int) -> Timing:
    """One session's block in float32, eager: what a copy of the model, or a turn in a queue, costs each caller."""
    engine = make_engine(replace(setting, dtype=torch.float32, rows=1, graphs=False))
    return time_batch(engine, 1, max(2, repeats), setting.device)


def first_answer(setting: Setting, engine: Any) -> float:
    """Milliseconds from a complete first block to its answer, once every shape has been run."""
    time_batch(engine, 1, 1, setting.device)
    batch = fill(engine, 1)
    synchronise(setting.device)
    began = time.perf_counter()
    engine.convert(batch)[0].cpu()
    took = 1e3 * (time.perf_counter() - began)
    empty(engine, 1)
    return took


def _stages(timing: Timing) -> str:
    return ", ".join(f"{name} {ms:.1f}" for name, ms in timing.stages_ms.items())


def draw(report: dict[str, Any], path: Path) -> None:
    """Time of a batch, and sessions a second of one device, by batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for model, made in report["models"].items():
        sizes = [row["batch"] for row in made["batches"]]
        left.loglog(sizes, [row["p95_ms"] for row in made["batches"]], "o-", label=f"{model}, {made['steps']} steps")
        right.semilogx(sizes, [row["ratio"] for row in made["batches"]], "o-", label=model)
    left.axhline(BLOCK_MS / 2, color="grey", linestyle="--", label="half a block")
    left.set(xlabel="sessions in a batch", ylabel="p95 of a batch (ms)")
    right.axhline(1, color="grey", linestyle="--")
    right.set(xlabel="sessions in a batch", ylabel="times the baseline's rate")
    left.legend()
    right.legend()
    figure.suptitle(f"{report['device']}, {report['dtype']}")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
