"""Where the time of one call went: its timeline and its chunks, told apart by who had them in hand."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

_SHOWN = 5  # chunks, the slowest first


def analyse(about: bytes, timeline: bytes, chunks: bytes) -> dict[str, Any]:
    """From the three files of a recording; ms. A last line that a crash cut short is left out.

    `shares` are of the sum of all latencies: `queue` waited at the worker, each stage was computed in, `rest` is what
    remains for link, codecs, order and sending. `caller` is what the caller itself was late by, which no latency holds.
    """
    told = json.loads(about) if about else {}
    events, made = _lines(timeline), _lines(chunks)
    rows = [_row(chunk) for chunk in made]
    total = sum(row["latency_ms"] for row in rows)
    sums: Counter[str] = Counter()
    for row in rows:
        sums.update({"queue": row["queue_ms"], "rest": row["rest_ms"], **row["stages_ms"]})
    return {
        "session_id": told.get("session_id"),
        "outcome": told.get("outcome"),
        "block_ms": told.get("block_ms"),
        "duration_ms": round(max((event["ms"] for event in events), default=0.0), 3),
        "chunks": len(rows),
        "mean_latency_ms": round(total / len(rows), 3) if rows else None,
        "shares": {name: round(value / total, 4) for name, value in sums.most_common()} if total else {},
        "mean_ms": {name: round(value / len(rows), 3) for name, value in sums.most_common()},
        "caller": _caller(events),
        "concealed": [row["seq"] for row in rows if row["concealed"]],
        "slowest": sorted(rows, key=lambda row: -row["latency_ms"])[:_SHOWN],
    }


def _row(chunk: dict[str, Any]) -> dict[str, Any]:
    stages = {name: round(ms, 3) for name, ms in chunk.get("stages_ms", {}).items()}
    queue_ms = round(chunk.get("queue_ms", 0.0), 3)
    rest_ms = round(max(0.0, chunk["latency_ms"] - queue_ms - sum(stages.values())), 3)
    return {
        "seq": chunk["seq"],
        "ms": chunk["ms"],
        "latency_ms": chunk["latency_ms"],
        "queue_ms": queue_ms,
        "stages_ms": stages,
        "rest_ms": rest_ms,
        "batch_size": chunk.get("batch_size"),
        "concealed": chunk.get("concealed"),
    }


def _caller(events: list[dict[str, Any]]) -> dict[str, Any]:
    """How much later than the sound before it was over the caller's messages came."""
    late_ms = longest_ms = sound_ms = 0.0
    until: float | None = None
    came = [event for event in events if event["event"] == "receive"]
    for event in came:
        late = max(0.0, event["ms"] - until) if until is not None else 0.0
        late_ms, longest_ms = late_ms + late, max(longest_ms, late)
        until = max(event["ms"], until or 0.0) + event["audio_ms"]
        sound_ms += event["audio_ms"]
    lost = sum(event["bytes"] is None for event in came)
    return {
        "messages": len(came),
        "lost": lost,
        "sound_ms": round(sound_ms, 3),
        "late_ms": round(late_ms, 3),
        "longest_ms": round(longest_ms, 3),
    }


def _lines(data: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in data.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
