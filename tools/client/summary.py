"""The summary of a run of many callers: ``summary.json`` and a table. Latency counts from when audio was due."""

from __future__ import annotations

from typing import Any

from tools.client.latency import summarise


def summarise_run(results: list[dict[str, Any]], wall_s: float, settings: dict[str, Any]) -> dict[str, Any]:
    """``summary.json``."""
    good = [result for result in results if result["success"]]
    latencies = [ms for result in results for ms in result["latencies_ms"]]
    firsts = [r["stats"]["first_token_latency_ms"] for r in good if r["stats"]["first_token_latency_ms"] is not None]
    return {
        "clients": len(results),
        "successful": len(good),
        "failed": len(results) - len(good),
        "errors": {str(r["client"]): r["error"] for r in results if not r["success"]},
        "real_time_clients": sum(bool(r["stats"]["from_due"]["is_real_time"]) for r in good),
        "concealed_blocks": sum((r["complete"] or {}).get("concealed_chunks") or 0 for r in good),
        "audio_s": round(sum(r["input_ms"] for r in good) / 1000, 3),
        "wall_s": round(wall_s, 3),
        "chunk_latency_stats": summarise(latencies, unit="_ms"),
        "first_token_latency_stats": summarise(firsts, ("mean", "p95", "max"), "_ms"),
        "settings": settings,
    }


def table(results: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """A line a client, then the whole."""
    lines = [
        f"{'client':>6}  {'voice':<12}{'audio s':>8}{'first ms':>10}{'mean ms':>9}{'p95 ms':>8}{'max ms':>8}{'RTF':>7}"
    ]
    for result in sorted(results, key=lambda r: r["client"]):
        if not result["success"]:
            lines.append(f"{result['client']:>6}  FAILED: {result['error']}")
            continue
        stats = result["stats"]
        due = stats["from_due"]
        chunk = due["chunk_latency_stats"]
        lines.append(
            f"{result['client']:>6}  {result['voice'] or '-':<12}{result['input_ms'] / 1000:>8.2f}"
            f"{stats['first_token_latency_ms'] or 0:>10.1f}{chunk['mean_ms']:>9.1f}{chunk['p95_ms']:>8.1f}"
            f"{chunk['max_ms']:>8.1f}{due['real_time_factor']['mean']:>7.3f}"
        )
    chunk = summary["chunk_latency_stats"]
    lines.append(
        f"{summary['successful']} of {summary['clients']} clients got all their audio, "
        f"{summary['real_time_clients']} without a block later than one is long; "
        f"{summary['concealed_blocks']} blocks concealed; "
        f"block latency mean {chunk['mean_ms']:.1f}, p95 {chunk['p95_ms']:.1f}, p99 {chunk['p99_ms']:.1f} ms"
    )
    return "\n".join(lines)
