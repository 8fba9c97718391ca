"""What operators see of one gateway process: what it has now, and what it has counted since its start.

Whoever shows it takes differences of two counts for what happens at present; counts of several processes add up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.samples import Sample

from gateway.calls import Calls
from gateway.metrics import Metrics
from gateway.pool import Pool
from shared.state import GatewayState


def overview(state: GatewayState, pool: Pool, calls: Calls, metrics: Metrics) -> dict[str, Any]:
    """As `/tools/status` has it (docs/operations.md)."""
    workers = [
        {**asdict(worker.describe()), "steps": worker.steps, "queue_ms": round(worker.queue_ms, 1)}
        for worker in pool.workers.values()
    ]
    return {
        "number": state.number,
        "host": state.hostname,
        "pid": state.pid,
        "started": state.started,
        "sessions": state.sessions,
        "ready": state.ready and not calls.draining,
        "draining": calls.draining,
        "workers": workers,
        "counted": _counted(metrics),
    }


def merged(others: Iterable[bytes], own: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of all processes, by number; what others say and cannot be read is left out."""
    every = [own]
    for body in others:
        try:
            content = json.loads(body)
        except ValueError:
            continue
        if isinstance(content, dict) and "number" in content:
            every.append(content)
    return sorted(every, key=lambda one: int(one["number"]))


def _counted(metrics: Metrics) -> dict[str, Any]:
    steps = {sample.name: sample.value for sample in _samples(metrics.steps) if not sample.labels}
    return {
        "latency_s": _buckets(metrics.latency),
        "blocks": _buckets(metrics.latency)[-1][1],
        "concealed": _total(metrics.concealed),
        "late": _total(metrics.missed),
        "steps_sum": steps["fastvc_chunk_steps_sum"],
        "steps_blocks": steps["fastvc_chunk_steps_count"],
        "opened": _total(metrics.opened),
        "refused": _total(metrics.refused),
    }


def _buckets(histogram: Histogram) -> list[tuple[float | None, float]]:
    """Upper bound in seconds (None: there is none) and how many are up to it."""
    samples = [sample for sample in _samples(histogram) if sample.name.endswith("_bucket")]
    bounds = [float(sample.labels["le"]) for sample in samples]
    return [(None if math.isinf(le) else le, sample.value) for le, sample in zip(bounds, samples, strict=True)]


def _total(counter: Counter) -> float:
    return sum(sample.value for sample in _samples(counter) if sample.name.endswith("_total"))


def _samples(figure: Counter | Histogram) -> list[Sample]:
    return [sample for family in figure.collect() for sample in family.samples]
