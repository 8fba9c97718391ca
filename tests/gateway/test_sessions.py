"""Whole sessions over real sockets: gateway in this process, a worker that echoes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.support.waiting import PATIENCE_S

from .conftest import BLOCK_MS, DELAY_MS, KEY, Service, hear

LEAD_MS = 100  # prefill 80 and delay 20


def noise(ms: int, rate: int = 16_000, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.random.default_rng(seed).integers(-9000, 9000, ms * rate // 1000).astype(np.int16)


async def say(socket: aiohttp.ClientWebSocketResponse, wave: np.ndarray[Any, Any], bytes_each: int = 640) -> None:
    sound = wave.astype("<i2").tobytes()
    for at in range(0, len(sound), bytes_each):
        await socket.send_bytes(sound[at : at + bytes_each])


async def test_every_sample_comes_back_once_in_order(service: Service) -> None:
    await service.worker()
    socket = await service.call(session_id="a")
    wave = noise(730)
    await say(socket, wave, 646)
    await socket.send_json({"type": "end"})
    audio, control, code = await hear(socket)
    heard = np.frombuffer(audio, "<i2")
    lead = LEAD_MS * 16
    assert len(heard) == len(wave) + lead
    np.testing.assert_array_equal(heard[lead:], wave)
    assert not heard[:lead].any()
    assert code == 1000
    assert [c["type"] for c in control] == ["complete"]
    stats = control[0]["stats"]
    assert stats["total_processed_ms"] == 730
    assert stats["chunks_processed"] == 9
    assert stats["average_latency_ms"] > 0
    await service.until(lambda: len(service.workers[0].closes) == 1)


@pytest.mark.parametrize("rate_in", [8000, 11_025, 16_000, 48_000])
@pytest.mark.parametrize("rate_out", [8000, 16_000, 22_050, 48_000])
@pytest.mark.parametrize("rate_model", [16_000, 22_050])
async def test_time_is_conserved_at_every_rate(service: Service, rate_in: int, rate_out: int, rate_model: int) -> None:
    await service.worker(rate=rate_model)
    socket = await service.call(sample_rate=rate_in, sample_rate_out=rate_out)
    wave = noise(450, rate_in)
    await say(socket, wave)
    await socket.send_json({"type": "end"})
    audio, _, code = await hear(socket)
    assert code == 1000
    expected = len(wave) / rate_in * rate_out
    assert expected - 1 <= len(audio) // 2 <= expected + BLOCK_MS / 1000 * rate_out + 1


async def test_the_first_answer_needs_only_the_rest_of_a_prefilled_block(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await say(socket, noise(BLOCK_MS - 80))
    first = await socket.receive(timeout=PATIENCE_S)
    assert len(first.data) == BLOCK_MS * 32
    await socket.close()


async def test_ready_says_how_the_stream_lies_in_blocks(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/")  # the root serves sessions too
    await socket.send_json({"type": "config", "session_id": "x", "api_key": KEY})
    ready = await socket.receive_json(timeout=PATIENCE_S)
    assert ready["session_id"] == "x"
    assert ready["message"]
    assert (ready["block_ms"], ready["prefill_ms"], ready["delay_ms"]) == (BLOCK_MS, 80, DELAY_MS)
    await socket.close()


async def test_nothing_in_nothing_out(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await socket.send_json({"type": "end"})
    audio, control, code = await hear(socket)
    assert (audio, code, control[0]["stats"]["chunks_processed"]) == (b"", 1000, 0)


async def test_simple_protocol(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"signal": "start", "stream_id": "s1", "sample_rate": 16_000, "sample_bit": 16})
    await say(socket, noise(300))
    await socket.send_json({"signal": "end"})
    audio, control, code = await hear(socket)
    assert len(audio) == 2 * 16 * (300 + LEAD_MS)
    assert [c["signal"] for c in control] == ["completed"]
    assert code == 1000


async def test_simple_protocol_errors_have_its_form(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"signal": "start", "stream_id": "s1", "voice": "nobody"})
    _, control, _ = await hear(socket)
    assert control[0]["status"] == "failed"
    assert control[0]["stream_id"] == "s1"
    assert "nobody" in control[0]["error_msg"]


@pytest.mark.parametrize("settings", [{"simple_protocol": False}])
async def test_simple_protocol_only_where_configured(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"signal": "start", "stream_id": "s1"})
    _, control, code = await hear(socket)
    assert "AUTH_FAILED" in control[0]["error_msg"]
    assert code == 1008


@pytest.mark.parametrize(
    ("first", "code", "text"),
    [
        ({"type": "config", "api_key": "wrong"}, "AUTH_FAILED", "api_key"),
        ({"type": "config"}, "AUTH_FAILED", "api_key"),
        ({"type": "config", "api_key": KEY, "sample_rate": 1}, "INVALID_CONFIG", "sample_rate"),
        ({"type": "config", "api_key": KEY, "voice": "nobody"}, "INVALID_CONFIG", "there are: one, two"),
        ({"type": "config", "api_key": KEY, "model": "nothing"}, "INVALID_CONFIG", "there are: echo"),
        ({"type": "end"}, "INVALID_CONFIG", "type"),
        ("hello", "INVALID_CONFIG", "JSON"),
        (b"\0\0", "INVALID_CONFIG", "text"),
    ],
)
async def test_a_wrong_first_message_gets_its_code(service: Service, first: Any, code: str, text: str) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    match first:
        case bytes():
            await socket.send_bytes(first)
        case str():
            await socket.send_str(first)
        case _:
            await socket.send_json(first)
    _, control, close_code = await hear(socket)
    assert control[0]["error_code"] == code
    assert text in control[0]["message"]
    assert close_code == 1008
    await service.until(lambda: service.gateway.pool.reserved == 0)


@pytest.mark.parametrize(
    ("config", "message", "text"),
    [
        ({}, b"RIFF\0\0\0\0WAVEfmt ", "WAV"),
        ({}, '{"type":"lost","count":0}', "count"),
        ({"bit_depth": "float32"}, b"\xff" * 8000, "not finite"),
        ({"encoding": "OPUS"}, b"\xff\xff\xff", "damaged packets"),
        ({"encoding": "OPUS"}, b"\x03", "frame count"),
        ({}, b"\0" * (10 << 20), "exceeds"),
    ],
)
async def test_bad_audio_ends_its_own_session_only(
    service: Service, config: dict[str, Any], message: bytes | str, text: str
) -> None:
    await service.worker()
    other = await service.call(session_id="other")
    socket = await service.call(session_id="bad", **config)
    if isinstance(message, str):
        await socket.send_str(message)
    else:
        try:
            await socket.send_bytes(message)
            if "encoding" in config:  # a few would be made up for
                for _ in range(60):
                    await socket.send_bytes(message)
        except ConnectionError:
            pass  # the gateway has stopped reading it
    _, control, code = await hear(socket)
    assert len(control) == 1
    assert control[0]["error_code"] == "INVALID_AUDIO"
    assert control[0].get("session_id") == "bad"
    assert text in control[0]["message"]
    assert code in (1007, 1009)
    wave = noise(300)
    await say(other, wave)
    await other.send_json({"type": "end"})
    audio, _, code = await hear(other)
    np.testing.assert_array_equal(np.frombuffer(audio, "<i2")[LEAD_MS * 16 :], wave)
    assert code == 1000


@pytest.mark.parametrize("settings", [{"config_timeout_s": 0.2, "idle_timeout_s": 0.3}])
async def test_timeouts(service: Service) -> None:
    await service.worker()
    silent = await service.http.ws_connect(service.url + "/ws")
    _, control, _ = await hear(silent)
    assert (control[0]["error_code"], "0.2 s" in control[0]["message"]) == ("TIMEOUT", True)
    idle = await service.call()
    _, control, _ = await hear(idle)
    assert (control[0]["error_code"], "0.3 s" in control[0]["message"]) == ("TIMEOUT", True)


@pytest.mark.parametrize("settings", [{"max_session_s": 0.5}])
async def test_a_session_has_a_longest_duration(service: Service) -> None:
    await service.worker()
    _, control, _ = await hear(await service.call())
    assert control[0]["error_code"] == "TIMEOUT"


@pytest.mark.parametrize("settings", [{"processing_timeout_s": 0.4, "latency_budget_ms": 60_000}])
@pytest.mark.parametrize("ms", [500, 950])  # the last blocks of the longer one find no room to wait in
@pytest.mark.parametrize("ends", [False, True])
async def test_a_worker_that_never_answers(service: Service, ms: int, ends: bool) -> None:
    await service.worker(answer=lambda worker, chunk: False)
    socket = await service.call()
    await say(socket, noise(ms)[:-160])
    if ends:
        await socket.send_json({"type": "end"})
    _, control, _ = await hear(socket)
    assert control[0]["error_code"] == "TIMEOUT"


@pytest.mark.parametrize("settings", [{"send_timeout_s": 0.5, "max_message_bytes": 4 << 20}])
async def test_a_caller_that_does_not_read_is_bounded_and_ended(service: Service) -> None:
    worker = await service.worker()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.gateway.port, limit=1 << 10)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")

    def frame(code: int, content: bytes) -> bytes:
        return bytes([0x80 | code, 0xFF]) + len(content).to_bytes(8, "big") + b"\0\0\0\0" + content

    config = json.dumps({"type": "config", "api_key": KEY, "sample_rate_out": 48_000}).encode()
    writer.write(frame(1, config))

    async def flood() -> None:
        for _ in range(40):
            writer.write(frame(2, bytes(32_000 * 30)))
            await writer.drain()

    flooding = asyncio.create_task(flood())
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="TIMEOUT") == 1)
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    assert len(worker.chunks) < 2000  # of 12000 that were on offer; some MB sit in the system's socket buffers
    writer.transport.abort()
    await asyncio.sleep(0.1)


async def test_a_caller_that_vanishes_is_forgotten(service: Service) -> None:
    worker = await service.worker()
    socket = await service.call()
    await say(socket, noise(300))
    assert socket._response.connection is not None
    socket._response.connection.transport.abort()  # no closing handshake
    await service.until(lambda: len(worker.closes) == 1)
    assert service.gateway.pool.session_ids() == []
    assert worker.tails == {}


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_caller_without_a_place_is_told_in_its_own_protocol(service: Service, workers: int) -> None:
    taken = []
    for _ in range(workers):
        await service.worker(capacity=1)
        taken.append(await service.call())
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": KEY, "session_id": "a"})
    audio, control, code = await hear(socket)
    assert (audio, len(control), code) == (b"", 1, 1013)
    assert (control[0]["error_code"], control[0]["session_id"]) == ("OVERLOADED", "a")
    assert control[0]["details"]["retry_after_s"] > 0
    simple = await service.http.ws_connect(service.url + "/ws")
    await simple.send_json({"signal": "start", "stream_id": "b"})
    _, control, code = await hear(simple)
    assert (control[0]["status"], control[0]["stream_id"], code) == ("failed", "b", 1013)
    assert "OVERLOADED" in control[0]["error_msg"]
    assert service.counter("fastvc_sessions_refused_total", reason="OVERLOADED") == 2


@pytest.mark.parametrize("settings", [{"refusals_per_s": 0}])
async def test_beyond_a_rate_of_refusals_the_upgrade_itself_is_refused(service: Service) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as none:
        await service.http.ws_connect(service.url + "/ws")
    assert none.value.status == 503
    await service.worker(capacity=1)
    socket = await service.call()
    async with service.http.get(
        service.url + "/ws", headers={"Upgrade": "websocket", "Connection": "Upgrade"}
    ) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert (await response.json())["error_code"] == "OVERLOADED"
    async with service.http.get(service.url + "/ready") as response:
        assert response.status == 503
    await socket.close()
    await service.until(lambda: service.gateway.pool.free == 1)


@pytest.mark.parametrize("settings", [{"max_sessions": 1}])
async def test_too_many_sessions(service: Service) -> None:
    await service.worker()
    await service.call()
    second = await service.http.ws_connect(service.url + "/ws")
    await second.send_json({"type": "config", "api_key": KEY})
    _, control, code = await hear(second)
    assert (control[0]["error_code"], code) == ("TOO_MANY_SESSIONS", 1013)


async def test_a_session_id_cannot_be_taken_from_a_caller_who_is_there(service: Service) -> None:
    await service.worker()
    first = await service.call(session_id="same")
    hearing = asyncio.create_task(hear(first))
    second = await service.http.ws_connect(service.url + "/ws")
    await second.send_json({"type": "config", "api_key": KEY, "session_id": "same"})
    _, control, _ = await hear(second)
    assert control[0]["details"] == {"fields": ["session_id"]}
    await first.send_json({"type": "end"})
    assert (await hearing)[2] == 1000


async def test_a_session_id_is_taken_over_from_a_connection_that_is_dead(service: Service) -> None:
    """Takes as long as a caller is given to answer: 2 s."""
    worker = await service.worker()
    first = await service.call(session_id="same")  # never reads again: no pong
    second = await service.call(session_id="same")
    wave = noise(300)
    await say(second, wave)
    await second.send_json({"type": "end"})
    audio, _, code = await hear(second)
    np.testing.assert_array_equal(np.frombuffer(audio, "<i2")[LEAD_MS * 16 :], wave)
    assert code == 1000
    assert service.counter("fastvc_sessions_ended_total", outcome="replaced") == 1
    await service.until(lambda: not worker.tails and not len(service.gateway.calls))
    await first.close()


async def test_the_gateway_drains(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    wave = noise(350)
    await say(socket, wave)
    await asyncio.sleep(0.05)
    hearing = asyncio.create_task(hear(socket))
    await service.gateway.calls.drain(5)
    audio, control, code = await hearing
    np.testing.assert_array_equal(np.frombuffer(audio, "<i2")[LEAD_MS * 16 :], wave)
    assert (control[-1]["type"], code) == ("complete", 1001)
    async with service.http.get(service.url + "/ready") as response:
        assert response.status == 503


async def test_pages(service: Service) -> None:
    await service.worker()
    async with service.http.get(service.url + "/health") as response:
        assert (await response.json())["status"] == "healthy"
    async with service.http.get(service.url + "/version") as response:
        assert (await response.json())["name"] == "fast-vc-pool"
    async with service.http.get(service.url + "/voices") as response:
        body = await response.json()
        assert [v["name"] for v in body["voices"]] == ["one", "two"]
        assert body["default"] == "one"
    async with service.http.get(service.url + "/metrics") as response:
        assert "fastvc_workers 1.0" in await response.text()
    async with service.http.get(service.url + "/") as response:
        assert "Fast-VC" in await response.text()


async def test_nothing_is_left_of_200_short_sessions(service: Service) -> None:
    worker = await service.worker()
    before = asyncio.all_tasks()
    for number in range(200):
        socket = await service.call(encoding="OPUS" if number % 2 else "PCM", sample_rate=16_000)
        if not number % 2:
            await say(socket, noise(40))
        if number % 3:
            await socket.send_json({"type": "end"})
            await hear(socket)
        else:
            await socket.close()
    await service.until(lambda: not worker.tails and not service.gateway.pool.session_ids())
    await asyncio.sleep(0.1)
    assert service.gateway.pool.reserved == 0
    assert not len(service.gateway.calls)
    assert len(asyncio.all_tasks()) <= len(before) + 2
