"""What the workers offer together, for callers and people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.workers import WorkerRecord, common_bounds
from shared.messages import VoiceInfo


def offered_voices(workers: Iterable[WorkerRecord], default_model: str) -> list[VoiceInfo]:
    """Each once, those of the default model first: the first is the default."""
    known: dict[str, VoiceInfo] = {}
    for worker in sorted(workers, key=lambda w: w.hello.model != default_model):
        for voice in worker.hello.voices:
            known.setdefault(voice.name, voice)
    return list(known.values())


def offered_models(workers: Iterable[WorkerRecord], default_model: str) -> list[dict[str, Any]]:
    """Each with what its workers have in common, and their places; the default first."""
    known: dict[str, list[WorkerRecord]] = {}
    for worker in workers:
        known.setdefault(worker.hello.model, []).append(worker)
    return [
        {
            "name": name,
            "workers": len(same),
            "capacity": sum(worker.capacity for worker in same),
            "free": sum(worker.free for worker in same),
            "block_ms": same[0].hello.block_ms,
            "delay_ms": same[0].hello.delay_ms,
            "sample_rate_out": same[0].hello.sample_rate_out,
            "reference_ms": max(worker.hello.reference_ms for worker in same),
            "options": common_bounds(same),
        }
        for name, same in sorted(known.items(), key=lambda item: (item[0] != default_model, item[0]))
    ]
