"""The performance report: the figures of many calls added up, as JSON and as a page with plots."""

from __future__ import annotations

import html
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.recording.figures import Spread, read_spread


@dataclass(frozen=True, slots=True)
class Call:
    """One call that is over: when it began (seconds since 1970), how it ended, and `CallFigures.as_json`."""

    started: float
    outcome: str
    figures: dict[str, Any]


def report(calls: Iterable[Call], start: float, end: float) -> dict[str, Any]:
    """The figures of `calls` over the time from `start` to `end`. Milliseconds, but for what says otherwise.

    Quantiles of the latency are those of all blocks of all calls; of first token and end to end, of calls.
    """
    calls = list(calls)
    measured = [call for call in calls if call.figures.get("latencies_ms")]
    latencies: Counter[int] = Counter()
    factors: Counter[float] = Counter()
    latency, gaps, late = Spread(), Spread(), Spread()
    for call in measured:
        figures = call.figures
        for ms, count in figures["latencies_ms"].items():
            latencies[int(ms)] += count
            factors[round(int(ms) / figures["block_ms"], 3)] += count
        for spread, name in ((latency, "latency"), (gaps, "gaps"), (late, "late")):
            spread.merge(read_spread(figures[name]))
    return {
        "from": _iso(start),
        "to": _iso(end),
        "sessions": len(calls),
        "outcomes": dict(Counter(call.outcome for call in calls).most_common()),
        "chunks": latency.count,
        "concealed_chunks": sum(call.figures["concealed"] for call in measured),
        "audio_seconds": round(sum(call.figures["input_ms"] for call in measured) / 1000, 3),
        "first_token_latency_ms": _of_calls(measured, "first_token_ms"),
        "end_to_end_latency_ms": _of_calls(measured, "end_to_end_ms"),
        "chunk_latency_stats": {
            "mean_ms": round(latency.mean, 3),
            "std_ms": round(latency.std, 3),
            **{f"{name}_ms": value for name, value in _quantiles(latencies).items()},
            "max_ms": round(latency.largest, 3),
        },
        "jitter_ms": round(gaps.std, 3),
        "real_time_factor": {"mean": _mean(factors), **_quantiles(factors)},
        "send_timing": {"late_mean_ms": round(late.mean, 3), "late_max_ms": round(late.largest, 3)},
        "latency_histogram_ms": {str(ms): count for ms, count in sorted(_coarse(latencies).items())},
        "per_hour": _per_hour(measured),
    }


def page(content: dict[str, Any]) -> str:
    """`report`'s figures as HTML: everything in the page, nothing is loaded."""
    chunk, hours = content["chunk_latency_stats"], content["per_hour"]
    bars = [(f"{ms} ms", count) for ms, count in content["latency_histogram_ms"].items()]
    rows = [
        ("Sessions", content["sessions"]),
        ("Sound", f"{content['audio_seconds']:.0f} s in {content['chunks']} chunks"),
        ("Concealed", content["concealed_chunks"]),
        ("First token, median / p95", _pair(content["first_token_latency_ms"])),
        ("End to end, median / p95", _pair(content["end_to_end_latency_ms"])),
        ("Chunk latency, mean / median", f"{chunk['mean_ms']:.0f} / {chunk['median_ms']} ms"),
        ("Chunk latency, p95 / p99 / max", f"{chunk['p95_ms']} / {chunk['p99_ms']} / {chunk['max_ms']:.0f} ms"),
        ("Jitter", f"{content['jitter_ms']:.1f} ms"),
        ("Real-time factor, median / p99", "{median} / {p99}".format(**content["real_time_factor"])),
        (
            "Callers' sending late, mean / max",
            "{late_mean_ms:.0f} / {late_max_ms:.0f} ms".format(**content["send_timing"]),
        ),
        ("Ended as", ", ".join(f"{name} {count}" for name, count in content["outcomes"].items()) or "-"),
    ]
    table = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(str(value))}" for name, value in rows)
    plots = [
        ("Chunk latency", _bars(bars)),
        ("Sessions an hour", _bars([(hour["hour"][5:], hour["sessions"]) for hour in hours])),
        ("Median chunk latency by hour, ms", _bars([(hour["hour"][5:], hour["median_ms"]) for hour in hours])),
    ]
    drawn = "".join(f"<h2>{html.escape(title)}</h2>{svg}" for title, svg in plots)
    period = f"{html.escape(content['from'])} to {html.escape(content['to'])}"
    return _PAGE.format(period=period, table=table, plots=drawn)


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Performance</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
th{{text-align:left;font-weight:500;padding-right:2rem}}svg{{width:100%;height:auto}}rect{{fill:#3867d6}}
text{{font-size:11px;fill:currentColor}}@media(prefers-color-scheme:dark){{body{{background:#16181d;color:#e6e6e6}}}}
</style><h1>Performance</h1><p>{period}</p><table>{table}</table>{plots}</html>"""

_PLOT = (800, 160)  # width and height of a plot


def _bars(values: Sequence[tuple[str, float]]) -> str:
    if not values:
        return "<p>No calls.</p>"
    width, height = _PLOT
    step, largest = width / len(values), max(value for _, value in values) or 1
    shown = max(1, math.ceil(len(values) / 10))  # labels that fit
    parts = []
    for place, (label, value) in enumerate(values):
        tall, left, name = value / largest * height, place * step, html.escape(label)
        parts.append(
            f'<rect x="{left:.1f}" y="{height - tall + 15:.1f}" width="{max(1.0, step - 1):.1f}" height="{tall:.1f}">'
            f"<title>{name}: {value:g}</title></rect>"
        )
        if place % shown == 0:
            parts.append(f'<text x="{left:.1f}" y="{height + 30}">{name}</text>')
    parts.append(f'<text x="0" y="11">{largest:g}</text>')
    return f'<svg viewBox="0 0 {width} {height + 35}" role="img">{"".join(parts)}</svg>'


def _of_calls(calls: Sequence[Call], name: str) -> dict[str, float | None]:
    values = Counter(round(call.figures[name], 3) for call in calls if call.figures[name] is not None)
    return {"mean": _mean(values), **_quantiles(values)}


def _quantiles(values: Counter[Any]) -> dict[str, Any]:
    return {name: _quantile(values, share) for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))}


def _quantile(values: Counter[Any], share: float) -> Any:
    """The smallest value that `share` of all are not above; None of none."""
    wanted, seen = math.ceil(share * values.total()), 0
    for value in sorted(values):
        seen += values[value]
        if seen >= wanted:
            return value
    return None


def _mean(values: Counter[Any]) -> float | None:
    return round(sum(value * count for value, count in values.items()) / values.total(), 3) if values else None


def _coarse(latencies: Counter[int]) -> Counter[int]:
    """By tens of milliseconds up to 500, by hundreds beyond: the lower end of each."""
    coarse: Counter[int] = Counter()
    for ms, count in latencies.items():
        coarse[ms // 10 * 10 if ms < 500 else ms // 100 * 100] += count
    return coarse


def _per_hour(calls: Sequence[Call]) -> list[dict[str, Any]]:
    hours: dict[float, list[Call]] = {}
    for call in calls:
        hours.setdefault(call.started // 3600, []).append(call)
    rows = []
    for hour, those in sorted(hours.items()):
        latencies: Counter[int] = Counter()
        for call in those:
            latencies.update({int(ms): count for ms, count in call.figures["latencies_ms"].items()})
        named = time.strftime("%Y-%m-%d %H:00", time.gmtime(hour * 3600))
        rows.append({"hour": named, "sessions": len(those), "median_ms": _quantile(latencies, 0.5)})
    return rows


def _pair(values: dict[str, float | None]) -> str:
    return " / ".join("-" if values[name] is None else f"{values[name]:.0f}" for name in ("median", "p95")) + " ms"


def _iso(at: float) -> str:
    moment = time.gmtime(at)
    return f"{moment.tm_year:04}{time.strftime('-%m-%dT%H:%M:%SZ', moment)}"
