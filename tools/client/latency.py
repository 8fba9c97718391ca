"""Latency of a call, from what was sent and received.

The server converts blocks of `block_ms`; the first begins with `prefill_ms` of silence. Answer k, the k-th block of
output, is therefore complete with the input up to ``(k + 1) * block_ms - prefill_ms`` (the input's end at the latest).
Its latency counts from the moment at which that input was *due* to be sent in real time, not from when it was sent: a
client or server that stalls delays its own questions, and measuring from the actual sending would hide just the stalls
(coordinated omission). Without real-time pacing nothing is due, and the actual sending counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from tools.client.client import Call


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
    block_ms = call.block_ms
    prefill_ms = float(call.ready.get("prefill_ms", 0))
    ends = [sent.audio_ms for sent in call.sent]
    latencies = []
    for number, at in enumerate(answer_times(call, block_ms)):
        needed_ms = min((number + 1) * block_ms - prefill_ms, call.input_ms)
        index = min(bisect_left(ends, needed_ms - 1e-6), len(ends) - 1)
        sent = call.sent[index]
        latencies.append((at - (sent.due if call.config.real_time else sent.at)) * 1000)
    return latencies


ALL = ("mean", "median", "min", "max", "std", "p95", "p99")


def summarise(values: Sequence[float], names: tuple[str, ...] = ALL, unit: str = "") -> dict[str, float]:
    """The named statistics of `values`, each name followed by `unit`; zeros of none."""
    data = np.asarray(values if len(values) else [0.0])
    known = {
        "mean": data.mean(),
        "median": np.median(data),
        "min": data.min(),
        "max": data.max(),
        "std": data.std(),
        "p95": np.percentile(data, 95),
        "p99": np.percentile(data, 99),
    }
    return {name + unit: round(float(known[name]), 3) for name in names}
