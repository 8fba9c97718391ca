"""What ``clientN_stats.json`` says of a call.

The keys at its top are those of fast-vc-service's load test, each with the meaning that it has there: latency counts
from the *actual* sending of the packet that completes an answer, so old and new figures can be compared. A client that
a stalled service holds up sends late, and those figures then look better than what its caller heard; ``from_due``
counts from when the packet was due (`tools.client.latency`), and is what a run's table and summary show.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import Any

import numpy as np

from tools.client.client import Call
from tools.client.latency import answer_latencies_ms, answer_times, summarise

# The limits of fast-vc-service's own report.
SIGNIFICANT_DELAY_MS = 10.0
CONSECUTIVE_DELAY_MS = 5.0
STABLE_STD_MS = 5.0


def call_stats(call: Call) -> dict[str, Any]:
    """All of it, JSON-ready; times in milliseconds."""
    latencies, durations = _message_latencies_ms(call)
    rtf = [latency / duration for latency, duration in zip(latencies, durations, strict=True) if duration > 0]
    sent_at = [sent.at for sent in call.sent]
    heard_at = [at for at, _ in call.received]
    both = bool(sent_at and heard_at)
    factor = summarise(rtf)
    return {
        "first_token_latency_ms": _ms(heard_at[0] - sent_at[0]) if both else None,
        "end_to_end_latency_ms": _ms(heard_at[-1] - sent_at[-1]) if both else None,
        "chunk_latency_stats": summarise(latencies, unit="_ms"),
        "jitter_ms": summarise(latencies)["std"],
        "real_time_factor": factor,
        "is_real_time": bool(rtf) and factor["mean"] <= 1.0,
        "send_timing": _send_timing(call),
        "send_timing_analysis": _send_timing_analysis(call),
        "timeline_summary": {
            "total_send_events": len(sent_at),
            "total_recv_events": len(heard_at),
            "send_duration_ms": round(call.sent[-1].audio_ms, 3) if call.sent else 0.0,
            "recv_duration_ms": round(sum(call.message_ms(message) for _, message in call.received), 3),
            "processing_start_to_end_ms": _ms(heard_at[-1] - sent_at[0]) if both else 0.0,
        },
        "from_due": _from_due(call),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _message_latencies_ms(call: Call) -> tuple[list[float], list[float]]:
    """Of each message that came: how long after the sending of the audio that completes it, and how much new audio."""
    ends = [sent.audio_ms for sent in call.sent]
    heard_ms = before_ms = -float(call.ready.get("prefill_ms", 0))
    latencies, durations = [], []
    for at, message in call.received:
        heard_ms += call.message_ms(message)
        index = bisect_left(ends, heard_ms - 1e-6)
        if index < len(ends):  # the rest of the last block has no packet of its own
            latencies.append((at - call.sent[index].at) * 1000)
            durations.append(heard_ms - max(before_ms, 0.0))
        before_ms = heard_ms
    return latencies, durations


def _from_due(call: Call) -> dict[str, Any]:
    block_ms = call.block_ms
    latencies = answer_latencies_ms(call)
    arrivals = answer_times(call, block_ms)
    gaps = np.diff(arrivals[:-1]) * 1000 - block_ms if len(arrivals) > 2 else np.zeros(1)
    return {
        "answers": len(latencies),
        "first_answer_latency_ms": round(latencies[0], 3) if latencies else None,
        "end_to_end_latency_ms": _ms(call.received[-1][0] - call.end_due) if call.received else None,
        "chunk_latency_stats": summarise(latencies, unit="_ms"),
        "arrival_jitter_ms": round(float(gaps.std()), 3),
        "real_time_factor": summarise([latency / block_ms for latency in latencies]),
        "is_real_time": bool(latencies) and max(latencies) <= block_ms,
    }


def _send_timing(call: Call) -> dict[str, Any]:
    late = summarise([max(0.0, (sent.at - sent.due) * 1000) for sent in call.sent], ("mean", "max"))
    return {
        "real_time": call.config.real_time,
        "chunk_ms": call.config.chunk_ms,
        "late_mean_ms": late["mean"],
        "late_max_ms": late["max"],
    }


def _send_timing_analysis(call: Call) -> dict[str, Any]:
    """How much later than its audio lasts each packet followed the one before it."""
    steps = [((after.at - before.at) * 1000, after.audio_ms - before.audio_ms) for before, after in pairwise(call.sent)]
    delays = [actual_ms - expected_ms for actual_ms, expected_ms in steps]
    ratios = [delay / expected_ms for delay, (_, expected_ms) in zip(delays, steps, strict=True) if expected_ms > 0]
    return {
        "total_chunks": len(steps),
        "send_delay_stats": summarise(delays, unit="_ms"),
        "delay_ratio_stats": summarise(ratios),
        "timing_quality": {
            "chunks_with_positive_delay": sum(delay > 0 for delay in delays),
            "chunks_with_significant_delay": sum(delay > SIGNIFICANT_DELAY_MS for delay in delays),
            "max_consecutive_delays": longest_run([delay > CONSECUTIVE_DELAY_MS for delay in delays]),
            "is_sending_stable": summarise(delays)["std"] < STABLE_STD_MS,
        },
    }


def longest_run(flags: list[bool]) -> int:
    """The most true ones in a row."""
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest
