"""The report adds the figures of calls up as if they were one."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded
from gateway.recording.figures import CallFigures
from gateway.recording.report import Call, page, report
from gateway.stream import Answer

BLOCK_MS = 100


def figures(latencies_ms: list[float], late_ms: float = 0.0) -> dict[str, Any]:
    observer = CallFigures(BLOCK_MS)
    sound = np.zeros(1600, np.int16)
    for seq, latency in enumerate(latencies_ms):
        at = 5 + seq * (BLOCK_MS + late_ms) / 1000
        observer.on_payload(PayloadReceived(at, bytes(3200), BLOCK_MS))
        observer.on_block(BlockSubmitted(at, seq, sound))
        observer.on_answer(AnswerSent(at + latency / 1000, Answer(seq, sound, None, at), sound, [b""]))
    observer.on_end(SessionEnded(99.0, "complete", {}))
    return observer.as_json()


def test_two_calls_are_as_one() -> None:
    first, second = [10.0, 20.0, 30.0, 40.0], [100.0] * 6
    content = report([Call(0.0, "complete", figures(first)), Call(3600.0, "gone", figures(second, 50.0))], 0, 7200)
    both = first + second
    chunk = content["chunk_latency_stats"]
    assert content["sessions"] == 2
    assert content["outcomes"] == {"complete": 1, "gone": 1}
    assert content["chunks"] == 10
    assert content["audio_seconds"] == 1.0
    assert chunk["mean_ms"] == pytest.approx(np.mean(both))
    assert chunk["std_ms"] == pytest.approx(np.std(both), abs=0.01)
    assert (chunk["median_ms"], chunk["p95_ms"], chunk["p99_ms"], chunk["max_ms"]) == (100, 100, 100, 100)
    assert content["real_time_factor"] == {"mean": 0.7, "median": 1.0, "p95": 1.0, "p99": 1.0}
    assert content["first_token_latency_ms"]["mean"] == 55
    assert content["end_to_end_latency_ms"]["mean"] == 70
    gaps = [10.0] * 3 + [50.0] * 5
    assert content["jitter_ms"] == pytest.approx(np.std(gaps), abs=0.01)
    assert content["send_timing"]["late_max_ms"] == pytest.approx(50)
    assert [hour["sessions"] for hour in content["per_hour"]] == [1, 1]


def test_hours_follow_each_other_over_the_years() -> None:
    new_year = 1798761600.0  # 2027-01-01
    begun = [new_year + 60, new_year - 60, new_year - 365 * 86_400 + 60]
    content = report([Call(at, "complete", figures([10.0])) for at in begun], -62135596800.0, new_year)
    assert [hour["hour"] for hour in content["per_hour"]] == [
        "2026-01-01 00:00",
        "2026-12-31 23:00",
        "2027-01-01 00:00",
    ]
    assert content["from"] == "0001-01-01T00:00:00Z"


def test_quantiles_are_those_of_all_blocks() -> None:
    values = [float(ms) for ms in range(1, 101)]
    chunk = report([Call(0.0, "complete", figures(values))], 0, 1)["chunk_latency_stats"]
    assert (chunk["median_ms"], chunk["p95_ms"], chunk["p99_ms"]) == (50, 95, 99)


@pytest.mark.parametrize("calls", [[], [Call(0.0, "interrupted", {})], [Call(0.0, "gone", figures([]))]])
def test_without_figures_there_is_a_report_as_well(calls: list[Call]) -> None:
    content = report(calls, 0, 1)
    assert content["chunks"] == 0
    assert content["chunk_latency_stats"]["median_ms"] is None
    assert "No calls" in page(content)


def test_the_page_has_plots_loads_nothing_and_believes_no_name() -> None:
    content = report([Call(0.0, "<script>", figures([10.0, 700.0]))], 0, 1)
    text = page(content)

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.add(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}

    parser = Tags()
    parser.feed(text)
    assert {"svg", "rect", "table"} <= parser.seen
    assert "script" not in parser.seen
