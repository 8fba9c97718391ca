"""Where the time of a call went."""

from __future__ import annotations

import json
from typing import Any

from gateway.recording.analysis import analyse


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def receive(ms: float, audio_ms: float = 20.0, size: int | None = 640) -> dict[str, Any]:
    return {"ms": ms, "event": "receive", "bytes": size, "audio_ms": audio_ms}


def chunk(seq: int, latency_ms: float, queue_ms: float, **stages: float) -> dict[str, Any]:
    return {"seq": seq, "ms": 100.0 * seq, "latency_ms": latency_ms, "queue_ms": queue_ms, "stages_ms": stages}


def test_every_millisecond_has_somebody_who_had_it() -> None:
    about = json.dumps({"session_id": "a", "outcome": "complete", "block_ms": 100}).encode()
    said = analyse(about, b"", lines(chunk(0, 100.0, 20.0, dit=50.0, vocoder=10.0), chunk(1, 60.0, 0.0, dit=60.0)))
    assert said["mean_ms"] == {"dit": 55.0, "queue": 10.0, "rest": 10.0, "vocoder": 5.0}
    assert said["shares"]["dit"] == round(110 / 160, 4)
    assert abs(sum(said["shares"].values()) - 1) < 1e-3
    assert [row["seq"] for row in said["slowest"]] == [0, 1]
    assert (said["session_id"], said["chunks"], said["mean_latency_ms"]) == ("a", 2, 80.0)


def test_a_caller_who_was_late_is_told_apart() -> None:
    timeline = lines(receive(0), receive(20), receive(140), receive(150, size=None))
    said = analyse(b"", timeline, b"")["caller"]
    assert said == {"messages": 4, "lost": 1, "sound_ms": 80.0, "late_ms": 100.0, "longest_ms": 100.0}


def test_silence_in_place_of_speech_is_named_and_a_torn_line_left_out() -> None:
    concealed = {"seq": 3, "ms": 1.0, "latency_ms": 5.0, "concealed": "gateway"}
    said = analyse(b"", b'{"ms": 1', lines(concealed) + b'{"seq"')
    assert (said["concealed"], said["chunks"], said["duration_ms"]) == ([3], 1, 0.0)
    assert said["shares"] == {"rest": 1.0, "queue": 0.0}
