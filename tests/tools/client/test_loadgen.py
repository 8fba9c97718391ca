"""loadgen and ws_client against a real WebSocket server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import WSMsgType, web
from click.testing import CliRunner

from shared.config import ROOT
from tools.client import loadgen, ws_client
from tools.client.client import Call, CallConfig, CallError, Sent, encode_source
from tools.client.latency import answer_latencies_ms, answer_times
from tools.client.stats import call_stats

BLOCK_MS, LEAD_MS = 100, 40
NAMES = {"mean", "median", "min", "max", "std", "p95", "p99"}
STATS_KEYS = {  # of fast-vc-service's report, and ours beside them
    *("first_token_latency_ms", "end_to_end_latency_ms", "chunk_latency_stats", "jitter_ms", "real_time_factor"),
    *("is_real_time", "send_timing", "send_timing_analysis", "timeline_summary", "from_due"),
}
SUMMARY_KEYS = {
    *("total_send_events", "total_recv_events", "send_duration_ms", "recv_duration_ms", "processing_start_to_end_ms")
}


class FakeService(threading.Thread):
    """Speaks the standard protocol: echoes whole blocks behind a lead of silence; or loses some; or refuses."""

    def __init__(self, mode: str) -> None:
        super().__init__(daemon=True)
        self.mode = mode
        self.configs: list[dict[str, Any]] = []
        self.url = ""
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> FakeService:
        self.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set_result, None)
        self.join(10)

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._done = self._loop.create_future()
        app = web.Application()
        app.router.add_get("/ws", self._session)
        app.router.add_get("/voices", self._voices)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
        self._up.set()
        await self._done
        await runner.cleanup()

    async def _voices(self, request: web.Request) -> web.Response:
        return web.json_response({"voices": [{"name": "v", "description": "a voice"}], "default": "v"})

    async def _session(self, request: web.Request) -> web.StreamResponse:
        if self.mode == "full":
            return web.json_response({"error_code": "OVERLOADED"}, status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        config = await socket.receive_json()
        self.configs.append(config)
        if self.mode == "refuse":
            await socket.send_json({"type": "error", "error_code": "AUTH_FAILED", "message": "api_key: no"})
            await socket.close()
            return socket
        lead = {"block_ms": BLOCK_MS, "prefill_ms": 30, "delay_ms": 10}
        await socket.send_json({"type": "ready", "session_id": config.get("session_id", "made-up"), **lead})
        rate = config["sample_rate"]
        held = bytes(2 * rate * LEAD_MS // 1000)
        block, answered = 2 * rate * BLOCK_MS // 1000, 0
        async for message in socket:
            if self.mode == "mute":
                continue
            if message.type == WSMsgType.BINARY:
                held += message.data if config["encoding"] == "PCM" else bytes(2 * rate * 20 // 1000)
            elif message.type == WSMsgType.TEXT:
                break
            while len(held) >= block:
                if self.mode != "lossy":
                    await socket.send_bytes(held[:block])
                held = held[block:]
                answered += 1
            if self.mode == "leaving" and answered == 3:
                held = b""
                break
        if held:
            await socket.send_bytes(held)
        if self.mode != "rude":
            await socket.send_json({"type": "complete", "session_id": "x", "stats": {"concealed_chunks": 0}})
        await socket.close(code=1001 if self.mode == "leaving" else 1000)
        return socket


@pytest.fixture
def source(tmp_path: Path) -> Path:
    wave = np.random.default_rng(0).integers(-5000, 5000, 22_050 * 6 // 10).astype(np.int16)
    soundfile.write(tmp_path / "source.wav", wave, 22_050)
    return tmp_path / "source.wav"


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[FakeService]:
    with FakeService(getattr(request, "param", "good")) as service:
        yield service


def run(command: Any, *arguments: object) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.parametrize("processes", [1, 2])
def test_every_client_leaves_its_files(service: FakeService, source: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "out"
    arguments = ["--url", service.url, "--num-clients", 3, "--delay-between-starts", 0.01, "--max-workers", processes]
    arguments += ["--output-dir", out, "--voice", "a", "--voice", "b", "--json", tmp_path / "again.json"]
    result = run(loadgen.main, *arguments, "--source-wav-path", source, source)
    assert result.exit_code == 0, result.output
    for number in range(3):
        stats = json.loads((out / f"client{number}_stats.json").read_text())
        assert set(stats) == STATS_KEYS
        assert set(stats["chunk_latency_stats"]) == {f"{name}_ms" for name in NAMES}
        assert set(stats["real_time_factor"]) == NAMES
        assert set(stats["timeline_summary"]) == SUMMARY_KEYS
        saved = json.loads((out / f"client{number}_result.json").read_text())
        assert saved["success"]
        assert len(saved["send_timeline"]) == stats["timeline_summary"]["total_send_events"] == 30
        assert saved["send_timeline"][-1]["cumulative_ms"] == 600
        assert saved["recv_timeline"][-1]["cumulative_ms"] == 600 + LEAD_MS
        times = [datetime.fromisoformat(event["timestamp"]) for event in saved["recv_timeline"]]
        assert times == sorted(times)
        wave, rate = soundfile.read(out / f"client{number}_output.wav")
        assert (rate, len(wave)) == (16_000, 16 * (600 + LEAD_MS))
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["clients"], summary["successful"]) == (3, 3)
    assert json.loads((tmp_path / "again.json").read_text()) == summary
    assert sorted(config["voice"] for config in service.configs) == ["a", "a", "b"]
    assert "fast-vc-demo-key" not in (out / "summary.json").read_text()
    assert "3 of 3 clients got all their audio" in result.output


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ("lossy", "audio are missing"),
        ("refuse", "AUTH_FAILED: api_key: no"),
        ("rude", "before it was complete"),
        ("full", "HTTP 503"),
    ],
    indirect=["service"],
)
def test_lost_audio_and_refusals_are_failures(service: FakeService, source: Path, tmp_path: Path, reason: str) -> None:
    arguments = ["--url", service.url, "--output-dir", tmp_path / "out", "--no-real-time", "--source-wav-path", source]
    arguments += ["-c", 1]
    result = run(loadgen.main, *arguments)
    assert result.exit_code == 1
    assert reason in result.output
    saved = json.loads((tmp_path / "out" / "client0_result.json").read_text())
    assert not saved["success"]
    assert reason in saved["error"]


def test_wrong_usage_is_exit_2(tmp_path: Path) -> None:
    missing = run(loadgen.main, "--source-wav-path", tmp_path / "none.wav")
    assert (missing.exit_code, "none.wav is not a file" in missing.output) == (2, True)


def test_ws_client_writes_the_answer_over_the_source(service: FakeService, source: Path, tmp_path: Path) -> None:
    output, stats = tmp_path / "answer.wav", tmp_path / "stats.json"
    result = run(
        ws_client.main,
        *("--url", service.url, "--source-wav-path", source, "--output", output, "--json", stats, "--session-id", "me"),
    )
    assert result.exit_code == 0, result.output
    wave, _ = soundfile.read(output, dtype="int16")
    assert len(wave) == 16 * 600  # without the lead
    assert "session me" in result.output
    assert set(json.loads(stats.read_text())) >= STATS_KEYS
    assert "a voice" in run(ws_client.main, "--url", service.url, "--list-voices").output


def test_ws_client_failures_are_one_sentence(source: Path, tmp_path: Path) -> None:
    nobody = run(ws_client.main, "--url", "ws://127.0.0.1:1/ws", "--source-wav-path", source)
    assert (nobody.exit_code, "cannot reach" in nobody.output) == (1, True)
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    unreadable = run(ws_client.main, "--url", "ws://127.0.0.1:1/ws", "--source-wav-path", tmp_path / "bad.wav")
    assert (unreadable.exit_code, "bad.wav: cannot be read" in unreadable.output) == (1, True)
    absent = run(ws_client.main, "--url", "ws://127.0.0.1:1/ws", "--source-wav-path", tmp_path / "none.wav")
    assert (absent.exit_code, absent.output) == (1, f"ws_client: {tmp_path}/none.wav: no such file\n")


@pytest.mark.parametrize("service", ["leaving"], indirect=True)
def test_ws_client_fails_where_the_service_left_before_all_was_answered(
    service: FakeService, source: Path, tmp_path: Path
) -> None:
    """What came is kept all the same."""
    output = tmp_path / "answer.wav"
    result = run(ws_client.main, "--url", service.url, "--source-wav-path", source, "--output", output)
    assert result.exit_code == 1
    said = "ws_client: 300 ms of audio are missing; the service went away (--reconnect comes back to a call)\n"
    assert result.stderr.endswith(said)
    assert len(soundfile.read(output)[0]) == 16 * (300 - LEAD_MS)


def timeline(late_ms: float = 0.0) -> Call:
    """300 ms in 20 ms messages from second 1000 on, sent `late_ms` late; a block of 100 ms answered 30 ms after it."""
    made = Call(CallConfig("", ""), 300.0)
    made.ready = {"block_ms": 100, "prefill_ms": 40, "delay_ms": 20}
    made.sent = [Sent(1000 + i * 0.02, 1000 + i * 0.02 + late_ms / 1000, i * 20.0) for i in range(1, 16)]
    made.end_due = 1000.3
    for due_ms in (60, 160, 260):
        made.received.append((1000 + (due_ms + 30) / 1000, bytes(3200)))
    made.received.append((1000.35, bytes(32 * 60)))
    return made


def test_ours_counts_from_when_the_completing_audio_was_due() -> None:
    assert answer_latencies_ms(timeline()) == pytest.approx([30, 30, 30, 50])
    due = call_stats(timeline())["from_due"]
    assert due["first_answer_latency_ms"] == pytest.approx(30)
    assert due["end_to_end_latency_ms"] == pytest.approx(50)
    assert due["arrival_jitter_ms"] == pytest.approx(0, abs=1e-3)
    assert due["real_time_factor"]["mean"] == pytest.approx(0.35)
    assert due["is_real_time"]


def test_a_client_that_stalls_does_not_shorten_what_counts_from_due() -> None:
    on_time, late = call_stats(timeline()), call_stats(timeline(late_ms=25))
    assert late["from_due"] == on_time["from_due"]
    assert late["send_timing"]["late_max_ms"] == pytest.approx(25)
    assert late["chunk_latency_stats"]["mean_ms"] == pytest.approx(on_time["chunk_latency_stats"]["mean_ms"] - 25)


def test_the_old_report_s_keys_mean_what_they_meant() -> None:
    """Packets end at 20, 40, ..., 300 ms; answers of 100, 100, 100, 60 ms come 30, 30, 30, 50 ms after their packet."""
    stats = call_stats(timeline())
    assert stats["first_token_latency_ms"] == pytest.approx(70)  # sent at 20 ms, heard at 90
    assert stats["end_to_end_latency_ms"] == pytest.approx(50)  # last sent at 300, last heard at 350
    assert stats["chunk_latency_stats"]["max_ms"] == pytest.approx(30)  # the rest beyond the input has no packet
    assert stats["jitter_ms"] == pytest.approx(0, abs=1e-3)
    assert stats["real_time_factor"]["max"] == pytest.approx(
        0.5
    )  # the first brings only 60 ms: 40 are silence before it
    assert stats["real_time_factor"]["min"] == pytest.approx(0.3)
    assert stats["timeline_summary"] == pytest.approx(
        {
            "total_send_events": 15,
            "total_recv_events": 4,
            "send_duration_ms": 300,
            "recv_duration_ms": 360,
            "processing_start_to_end_ms": 330,
        }
    )


def test_unsteady_sending_is_seen() -> None:
    steady = call_stats(timeline())["send_timing_analysis"]
    assert steady["total_chunks"] == 14
    assert steady["timing_quality"] == {
        "chunks_with_positive_delay": steady["timing_quality"]["chunks_with_positive_delay"],
        "chunks_with_significant_delay": 0,
        "max_consecutive_delays": 0,
        "is_sending_stable": True,
    }
    assert set(steady["send_delay_stats"]) == {f"{name}_ms" for name in NAMES}
    assert set(steady["delay_ratio_stats"]) == NAMES
    made = timeline()
    slips_ms = [0, 0, 7, 14, 21, 21, 21, 51, *[51] * 7]  # three packets in a row 7 ms late, and one by 30 ms
    made.sent = [Sent(s.due, s.at + slip / 1000, s.audio_ms) for s, slip in zip(made.sent, slips_ms, strict=True)]
    quality = call_stats(made)["send_timing_analysis"]["timing_quality"]
    assert quality["max_consecutive_delays"] == 3
    assert quality["chunks_with_significant_delay"] == 1
    assert not quality["is_sending_stable"]


def test_a_call_that_heard_nothing_has_a_report_too() -> None:
    made = timeline()
    made.received = []
    stats = call_stats(made)
    assert (stats["first_token_latency_ms"], stats["end_to_end_latency_ms"]) == (None, None)
    assert not stats["is_real_time"]


def test_small_messages_are_put_together_into_answers() -> None:
    made = timeline()
    made.received = [(at + i * 1e-3, bytes(640)) for at, message in made.received for i in range(len(message) // 640)]
    assert [round((at - 1000) * 1000) for at in answer_times(made, 100)] == [94, 194, 294, 352]


def test_a_block_later_than_a_block_is_not_real_time() -> None:
    made = timeline()
    made.received[1] = (made.received[1][0] + 0.08, made.received[1][1])
    assert not call_stats(made)["from_due"]["is_real_time"]


@pytest.mark.parametrize("command", [loadgen.main, ws_client.main])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoding", "OPUS", "--sample-rate", "44100"], "--sample-rate 44100: Opus has 8000, 12000, 16000, 24000"),
        (["--encoding-out", "opus", "--sample-rate-out", "22050"], "--sample-rate-out 22050: Opus has"),
        (["--encoding", "OPUS", "--frame-duration", "30"], "--frame-duration 30: write one of 10, 20, 40, 60 ms"),
    ],
)
def test_what_opus_cannot_is_said_before_anybody_is_called(
    source: Path, command: Any, arguments: list[str], said: str
) -> None:
    result = run(command, "--url", "ws://127.0.0.1:1/ws", "--source-wav-path", source, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")


def test_opus_packets_have_the_length_and_the_bitrate_that_were_asked_for() -> None:
    wave = np.random.default_rng(0).integers(-9000, 9000, 16_000).astype(np.int16)
    sizes = {}
    for bitrate in (12_000, 96_000):
        packets = encode_source(wave, CallConfig("", "", encoding="OPUS", frame_ms=40, bitrate=bitrate))
        assert [end for _, end in packets] == [40 * (i + 1) for i in range(25)]
        sizes[bitrate] = sum(len(packet) for packet, _ in packets)
    assert sizes[96_000] > 3 * sizes[12_000]
    with pytest.raises(CallError, match="--frame-duration"):
        CallConfig("", "", encoding="OPUS", frame_ms=25)


@pytest.mark.parametrize("service", ["mute"], indirect=True)
def test_a_call_beyond_its_time_has_failed(service: FakeService, source: Path, tmp_path: Path) -> None:
    arguments = ["--url", service.url, "--output-dir", tmp_path, "-c", 1, "-t", 0.5, "--source-wav-path", source]
    result = run(loadgen.main, *arguments)
    assert result.exit_code == 1
    assert "for 0.5 s" in result.output or "within 0.5 s" in result.output


def test_the_documented_line_of_fast_vc_service_runs(service: FakeService, source: Path, tmp_path: Path) -> None:
    """As a path, from another folder, with its options."""
    script = ROOT / "tools" / "loadgen.py"
    line = f"--url {service.url} --api-key test-key --num-clients 2 --max-workers 1 --delay-between-starts 0.1"
    line += f" --timeout 60 --source-wav-path {source} --output-wav-dir here --encoding OPUS --chunk-time 20"
    line += " --frame-duration 20 --bitrate 128000 --no-save-output"
    done = subprocess.run(
        [sys.executable, "-I", script, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = {"summary.json"} | {f"client{i}_{what}.json" for i in (0, 1) for what in ("result", "stats")}
    assert {path.name for path in (tmp_path / "here").iterdir()} == names
    assert {config["api_key"] for config in service.configs} == {"test-key"}
