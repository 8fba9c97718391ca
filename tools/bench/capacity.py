"""What a worker would offer on a device, by its own warm-up and cost model; and whether captured calls are true."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.config import load
from tools.bench.timing import SPREAD, empty, fill, rows_of, synchronise
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.v2.engine import V2Engine
from worker.serving.warmup import warm_up
from worker.streaming.gates import SileroGate
from worker.streaming.pool import StreamPool

LOUD = 3000  # of the noise that callers say, so that every gate is open


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one engine on one device."""

    sessions: int  # that can speak at once in real time, at the fewest steps, by the worker's cost model
    sessions_at_most_steps: int
    max_batch: int
    warm_up_s: float
    batches: list[dict[str, float]]  # batch, most and fewest steps' expected ms, p95_ms and rtf of calls at most steps
    captures_s: dict[str, float]  # "rows x steps" -> seconds
    peak_bytes: int


def capacity(
    engine: DiffusionEngine | V2Engine,
    rows: int,
    *,
    device: str,
    fewest: int,
    load_share: float = 0.9,
    warm_up_s: float = 60.0,
    repeats: int = 5,
) -> Capacity:
    """Warm up as a worker does with ``max_batch: rows``, then time calls of every bucket that fitted."""
    geometry = engine.geometry
    config = load(environ={}).worker.model_copy(
        update={
            "steps": engine.max_steps,
            "min_steps": fewest,
            "max_batch": rows,
            "max_sessions": rows,
            "warm_up_s": warm_up_s,
            "load_share": load_share,
            "block_ms": geometry.block_ms,
        }
    )
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    pool = StreamPool(engine, rows, device=device, gate=SileroGate(rows, device=device))
    began = time.perf_counter()
    planner = warm_up(pool, config)
    took_s = time.perf_counter() - began
    cost, block_ms = planner.cost, float(geometry.block_ms)
    batches = []
    for size in (1 << i for i in range(planner.max_batch.bit_length())):
        p95 = _p95_ms(pool, size, engine.max_steps, repeats, device)
        batches.append(
            {
                "batch": size,
                "most_ms": cost.ms(size, engine.max_steps),
                "fewest_ms": cost.ms(size, fewest),
                "p95_ms": p95,
                "rtf": p95 / block_ms,
            }
        )
    graphs = engine._graphs
    captures = {} if graphs is None else {f"{size} x {steps}": s for (size, steps), s in graphs.captured_s.items()}
    return Capacity(
        sessions=planner.in_real_time,
        sessions_at_most_steps=cost.capacity(block_ms, engine.max_steps, planner.max_batch, load_share),
        max_batch=planner.max_batch,
        warm_up_s=took_s,
        batches=batches,
        captures_s=captures,
        peak_bytes=int(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else 0,
    )


def _p95_ms(pool: StreamPool, size: int, steps: int, repeats: int, device: str) -> float:
    voices = list(pool.engine.voices)
    noise = np.random.default_rng(0).integers(-LOUD, LOUD, pool.geometry.block_samples_in).astype(np.int16)
    slots = [pool.open(voices[number % len(voices)], seed=number) for number in range(size)]
    try:
        pool.listen(slots, [noise] * size)
        taken = []
        for _ in range(repeats):
            synchronise(device)
            began = time.perf_counter()
            pool.convert(slots, steps)
            taken.append(1e3 * (time.perf_counter() - began))
        return float(np.quantile(taken, SPREAD))
    finally:
        for slot in slots:
            pool.close(slot)


@torch.inference_mode()
def graph_errors(engine: DiffusionEngine | V2Engine, sizes: list[int]) -> list[dict[str, Any]]:
    """Captured calls against eager ones of the same rows: the largest difference of the sound, and of all else that a
    call gives. Captures what is not captured yet; ``captured`` is false where that failed."""
    graphs = engine._graphs
    out = []
    for size in sizes:
        batch = fill(engine, size)
        try:
            rows = rows_of(engine, batch)
            if graphs is None:
                break
            made = graphs.replay(rows, engine.max_steps)
            if made is None:
                graphs.capture_next(float("inf"))
                made = graphs.replay(rows, engine.max_steps)
            eager = engine.call(rows, engine.max_steps, mixed=True)
            plain = engine.call(rows, engine.max_steps, mixed=False)
            again = engine.call(rows, engine.max_steps, mixed=True)
            row: dict[str, Any] = {
                "batch": size,
                "captured": made is not None,
                "finite": bool(eager[0].isfinite().all()),
                "loudest": float(eager[0].abs().max()),
                "eager_again": _difference(again, eager),
                "plain_against_mixed": _difference(plain[:1], eager[:1]),
            }
            if made is not None:
                row["wave"] = _difference(made[:1], eager[:1])
                row["rest"] = _difference(made[1:], eager[1:])
            out.append(row)
        finally:
            empty(engine, size)
    return out


def _difference(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> float:
    return max((float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True)), default=0.0)
