"""Latency of a call, from what was sent and received.

The server converts blocks of `block_ms`; the first begins with `prefill_ms` of silence. Answer k, the k-th block of
output, is therefore complete with the input up to ``(k + 1) * block_ms - prefill_ms`` (the input's end at the latest).
Its latency counts from the moment at which that input was *due* to be sent in real time, not from when it was sent: a
client or server that stalls delays its own questions, and measuring from the actual sending would hide just the stalls
(coordinated omission). Without real-time pacing nothing is due, and the actual sending counts.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from tools.client.client import Call

DEFAULT_BLOCK_MS = 500  # of servers whose `ready` does not tell


def answer_times(call: Call, block_ms: float) -> list[float]:
    """When each block of output was complete at the client, seconds on the monotonic clock; the last may be shorter."""
    times: list[float] = []
    heard_ms = 0.0
    for at, message in call.received:
        heard_ms += call.message_ms(message)
        while heard_ms >= (len(times) + 1) * block_ms - 1e-3:
            times.append(at)
    if call.received and heard_ms > len(times) * block_ms + 1e-3:
        times.append(call.received[-1][0])
    return times


def answer_latencies_ms(call: Call) -> list[float]:
    """Latency of each answer."""
    block_ms = float(call.ready.get("block_ms", DEFAULT_BLOCK_MS))
    prefill_ms = float(call.ready.get("prefill_ms", 0))
    ends = [sent.audio_ms for sent in call.sent]
    latencies = []
    for number, at in enumerate(answer_times(call, block_ms)):
        needed_ms = min((number + 1) * block_ms - prefill_ms, call.input_ms)
        index = min(bisect_left(ends, needed_ms - 1e-6), len(ends) - 1)
        sent = call.sent[index]
        latencies.append((at - (sent.due if call.config.real_time else sent.at)) * 1000)
    return latencies


def summarise(values: list[float], names: tuple[str, ...]) -> dict[str, float]:
    """The named statistics of `values`; zeros of none."""
    data = np.asarray(values or [0.0])
    known = {
        "mean": data.mean(),
        "median": np.median(data),
        "min": data.min(),
        "max": data.max(),
        "std": data.std(),
        "p95": np.percentile(data, 95),
        "p99": np.percentile(data, 99),
    }
    return {name: round(float(known[name]), 3) for name in names}


def call_stats(call: Call) -> dict[str, Any]:
    """The statistics of one client."""
    block_ms = float(call.ready.get("block_ms", DEFAULT_BLOCK_MS))
    latencies = answer_latencies_ms(call)
    arrivals = answer_times(call, block_ms)
    gaps = np.diff(arrivals[:-1]) * 1000 - block_ms if len(arrivals) > 2 else np.zeros(1)
    chunk = summarise(latencies, ("mean", "median", "min", "max", "std", "p95", "p99"))
    late_ms = [max(0.0, (sent.at - sent.due) * 1000) for sent in call.sent]
    first_at = call.received[0][0] if call.received else 0.0
    last_at = call.received[-1][0] if call.received else 0.0
    started = call.sent[0].at if call.sent else 0.0
    return {
        "first_token_latency_ms": round(latencies[0], 3) if latencies else None,
        "end_to_end_latency_ms": round((last_at - call.end_due) * 1000, 3) if call.received else None,
        "chunk_latency_stats": {f"{name}_ms": value for name, value in chunk.items()},
        "jitter_ms": round(float(gaps.std()), 3),
        "real_time_factor": summarise([ms / block_ms for ms in latencies], ("mean", "median", "p95", "p99")),
        "is_real_time": bool(latencies) and max(latencies) <= block_ms,
        "send_timing": {
            "real_time": call.config.real_time,
            "chunk_ms": call.config.chunk_ms,
            "late_mean_ms": summarise(late_ms, ("mean",))["mean"],
            "late_max_ms": summarise(late_ms, ("max",))["max"],
        },
        "timeline_summary": {
            "total_send_events": len(call.sent),
            "total_recv_events": len(call.received),
            "send_duration_ms": round((call.sent[-1].at - started) * 1000, 3) if call.sent else 0.0,
            "processing_start_to_end_ms": round((last_at - started) * 1000, 3) if call.received else 0.0,
        },
        "first_audio_after_first_send_ms": round((first_at - started) * 1000, 3) if call.received else None,
        "answers": len(latencies),
    }
