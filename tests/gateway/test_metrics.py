"""Whatever is measured is seen: every figure that is defined is set by real sessions."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import aiohttp
import opuslib
import pytest

from shared.messages import Heartbeat
from tests.support.waiting import PATIENCE_S

from .conftest import BLOCK_MS, KEY, Service, hear
from .test_sessions import noise, say


async def live_through_everything(service: Service) -> None:
    """A session that is converted, one that pauses and is moved, one that is concealed, one that is refused."""
    first = await service.worker(worker_id="a", answer=lambda worker, chunk: chunk.session != "slow")
    socket = await service.call(session_id="good", encoding="OPUS")
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    for frame in noise(500).reshape(-1, 320):
        await socket.send_bytes(encoder.encode(frame.tobytes(), 320))
    await socket.send_json({"type": "lost", "count": 3})
    await socket.send_bytes(b"\x03")  # an Opus packet that ends before its frame count
    await socket.send_str("what?")
    await asyncio.sleep(0.3)  # longer than hold_ms
    await socket.send_json({"type": "end"})
    _, control, _ = await hear(socket)
    stats = control[-1]["stats"]
    assert (stats["lost_packets"], stats["ignored_messages"]) == (4, 1)
    assert stats["padded_ms"] > 0
    slow = await service.call(session_id="slow")
    await say(slow, noise(300))
    await service.until(lambda: service.counter("fastvc_blocks_concealed_total", where="gateway") > 0)
    second = await service.worker(worker_id="b")
    await first.send(b"nonsense")
    _, stranger_to_the_link = await asyncio.open_connection("127.0.0.1", service.gateway.link.port)
    stranger_to_the_link.write(b"\xff" + bytes(8) + b"\x7f\3\0NONSENSE".ljust(55, b"\0") + b"?" * 100)
    await service.until(lambda: service.counter("fastvc_link_connections_refused_total", reason="handshake") > 0)
    stranger_to_the_link.close()
    with suppress(ConnectionError):
        await stranger_to_the_link.wait_closed()
    await first.die()
    await service.until(lambda: len(second.opens) == 1)
    second.beats = False  # its next one would say that nothing was
    await second.send(Heartbeat(1, 8, 5.0, 4, 2, 1))
    await service.until(lambda: service.counter("fastvc_worker_chunks_refused", worker="b") == 2)
    for chunk in second.chunks[:1]:
        await second.respond(chunk, noise(BLOCK_MS))
    await slow.send_json({"type": "end"})
    await hear(slow)
    stranger = await service.http.ws_connect(service.url + "/ws")
    await stranger.send_json({"type": "config", "api_key": "a-wrong-key"})
    await hear(stranger)
    broken = await service.http.ws_connect(service.url + "/ws")
    await broken.send_json({"type": "config", "api_key": KEY, "session_id": "back"})
    token = (await broken.receive_json(timeout=PATIENCE_S))["resume"]
    back = await service.call(session_id="back", resume=token)
    await back.close()
    await broken.close()
    service.gateway.calls._draining.set()
    refused = await service.http.ws_connect(service.url + "/ws")
    await refused.send_json({"type": "config", "api_key": KEY})
    await hear(refused)


@pytest.mark.parametrize("settings", [{"latency_budget_ms": 300, "hold_ms": 100}])
async def test_every_metric_that_is_defined_is_set_by_some_session(service: Service) -> None:
    """Gauges of what is there now may be 0 at the end; then they must have been set in between."""
    await live_through_everything(service)
    async with service.http.get(service.url + "/metrics") as response:
        text = await response.text()
    unset = []
    for family in service.gateway.metrics.registry.collect():
        samples = [s for s in family.samples if not s.name.endswith(("_created", "_bucket", "_sum"))]
        assert family.name in text
        if not any(sample.value for sample in samples) and family.name not in ("fastvc_sessions",):
            unset.append(family.name)
    elsewhere = (
        "fastvc_record",
        "fastvc_voices_uploaded",
        "fastvc_reading_paused",
        "fastvc_requests",
    )  # what they are set by
    assert [name for name in unset if not name.startswith(elsewhere)] == []
    assert service.counter("fastvc_packets_damaged_total") == 1
    assert service.counter("fastvc_packets_lost_total") == 4


async def test_what_the_recorder_does_is_among_the_figures(service: Service) -> None:
    backlog = service.gateway.recorder.backlog
    backlog.bytes, backlog.written_bytes, backlog.dropped_bytes, backlog.failed = 1, 2, 3, 4
    assert service.counter("fastvc_recorder_backlog_bytes") == 1
    assert service.counter("fastvc_recorder_written_bytes_total") == 2
    assert service.counter("fastvc_recorder_dropped_bytes_total") == 3
    assert service.counter("fastvc_recordings_failed_total") == 4


async def test_open_sessions_are_counted_while_they_last(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    assert service.counter("fastvc_sessions") == 1
    await socket.close()
    await service.until(lambda: service.counter("fastvc_sessions") == 0)


async def test_figures_of_a_worker_go_with_it(service: Service) -> None:
    worker = await service.worker(worker_id="a")
    await worker.send(Heartbeat(3, 8, 12.0, 4, 0, 0))
    await service.until(lambda: service.counter("fastvc_worker_steps", worker="a") == 4)
    assert service.counter("fastvc_worker_queue_seconds", worker="a") == 0.012
    await worker.die()
    await service.until(lambda: service.counter("fastvc_workers") == 0)
    assert service.gateway.metrics.registry.get_sample_value("fastvc_worker_steps", {"worker": "a"}) is None


async def test_a_caller_who_hangs_up_leaves_the_same_statistics(service: Service, log: list[str]) -> None:
    await service.worker()
    for ends in (True, False):
        socket: aiohttp.ClientWebSocketResponse = await service.call()
        await say(socket, noise(300))
        await socket.receive(timeout=PATIENCE_S)
        if ends:
            await socket.send_json({"type": "end"})
            await hear(socket)
        await socket.close()
    await service.until(lambda: any(line.startswith("INFO gone: {") for line in log))
    complete = next(line for line in log if line.startswith("INFO complete: {"))
    gone = next(line for line in log if line.startswith("INFO gone: {"))
    assert "'total_processed_ms': 300.0" in complete
    assert "'total_processed_ms': 300.0" in gone


async def test_a_caller_who_is_turned_away_is_counted_with_the_reason(service: Service) -> None:
    url = service.url + "/ws"
    for headers, data, reason in (({"Origin": "https://elsewhere.example"}, None, "origin"), ({}, b"{}", "body")):
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", **headers}
        async with service.http.get(url, headers=upgrade, data=data) as response:
            assert response.status in (400, 403)
        assert service.counter("fastvc_sessions_refused_total", reason=reason) == 1
    for key, reason in (("", "missing"), ("a-wrong-key", "wrong")):
        async with service.http.get(service.url + "/tools/session/x", params={"api_key": key}) as response:
            assert response.status == 401
        assert service.counter("fastvc_credentials_refused_total", reason=reason) == 1


async def test_a_late_block_is_a_missed_deadline(service: Service) -> None:
    """Later than its length: the worker's answer is held back for longer than a block."""
    worker = await service.worker(answer=lambda worker, chunk: False)
    socket = await service.call()
    await say(socket, noise(300))
    await service.until(lambda: bool(worker.chunks))
    await asyncio.sleep(2 * BLOCK_MS / 1000)
    await worker.respond(worker.chunks[0], noise(BLOCK_MS))
    await service.until(lambda: service.counter("fastvc_deadline_misses_total") == 1)
    assert service.counter("fastvc_block_real_time_factor_bucket", le="1.0") == 0
    assert service.counter("fastvc_block_real_time_factor_count") == 1
    await socket.close()


async def test_a_busy_event_loop_is_seen(service: Service) -> None:
    time.sleep(0.12)  # noqa: ASYNC251 - this is what shall be seen
    await service.until(lambda: service.counter("fastvc_event_loop_lag_seconds_sum") > 0.05)
