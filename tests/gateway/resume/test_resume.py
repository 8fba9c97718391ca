"""Callers whose connection breaks come back to their call: nothing is lost or comes twice, nobody else gets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import opuslib
import pytest

from gateway.app import Gateway
from gateway.resume import line, said
from shared.addresses import free_port
from shared.config import Config
from tests.support.waiting import PATIENCE_S
from tools.client.client import CallConfig
from tools.client.resuming import resuming_call

from ..conftest import KEY, Service, hear
from ..test_sessions import LEAD_MS, noise, say

Socket = aiohttp.ClientWebSocketResponse


async def connect(service: Service, url: str = "", **config: Any) -> tuple[Socket, dict[str, Any]]:
    socket = await service.http.ws_connect((url or service.url) + "/ws")
    await socket.send_json({"type": "config", "api_key": KEY, **config})
    return socket, await socket.receive_json(timeout=PATIENCE_S)


def break_off(socket: Socket) -> None:
    """No closing handshake."""
    assert socket._response.connection is not None
    assert socket._response.connection.transport is not None
    socket._response.connection.transport.abort()


async def listen(socket: Socket, count: int) -> bytes:
    """So many bytes of sound, in whole messages."""
    heard = b""
    while len(heard) < count:
        heard += (await socket.receive(timeout=PATIENCE_S)).data
    return heard


async def finish(socket: Socket) -> bytes:
    await socket.send_json({"type": "end"})
    audio, control, code = await hear(socket)
    assert (control[-1]["type"], code) == ("complete", 1000), control
    return audio


async def goes_on_anew(
    elsewhere: Service, ready: dict[str, Any], heard: bytes, wave: np.ndarray[Any, Any], kept: int | None
) -> Socket:
    """Who was let go in the middle, 8000 samples of `wave` behind them, has all of it from a new stream `elsewhere`."""
    optional = {} if kept is None else {"kept": kept}
    again, back = await connect(
        elsewhere, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2, **optional
    )
    assert (back["resumed"], back["new_stream"], back["heard"]) == (True, True, len(heard) // 2)
    assert back["received"] == (8000 if kept is None else 8000 - 200 * 16)
    await say(again, wave[back["received"] :])
    assert heard + await finish(again) == whole(wave)
    return again


def whole(wave: np.ndarray[Any, Any]) -> bytes:
    return bytes(2 * LEAD_MS * 16) + wave.astype("<i2").tobytes()


async def test_ready_has_a_token(service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service)
    assert isinstance(ready["resume"], str)
    assert ready["resume_within_s"] == 30
    assert "resumed" not in ready
    await socket.close()


@pytest.mark.parametrize("heard_ms", [0, 100, 250])
async def test_a_broken_connection_costs_no_sample(service: Service, heard_ms: int) -> None:
    await service.worker()
    socket, ready = await connect(service)
    wave = noise(1000)
    await say(socket, wave[:8000])
    answer = await listen(socket, 2 * 16 * 500)
    heard = answer[: 2 * 16 * heard_ms]  # the rest was on its way when the line broke
    break_off(socket)
    again, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2)
    assert (back["resumed"], back["new_stream"], back["heard"]) == (True, False, len(heard) // 2)
    assert back["received"] == 8000
    await say(again, wave[back["received"] :])
    assert heard + await finish(again) == whole(wave)
    assert service.counter("fastvc_sessions_resumed_total", stream="same") == 1
    await service.until(lambda: not len(service.gateway.calls))


async def test_a_caller_comes_back_before_the_break_was_noticed_and_half_a_sample_is_sent_again(
    service: Service,
) -> None:
    await service.worker()
    socket, ready = await connect(service)
    wave = noise(600)
    await socket.send_bytes(wave[:4000].tobytes() + b"\x55")
    heard = await listen(socket, 2 * 16 * 200)
    again, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2)
    assert back["received"] == 4000
    await say(again, wave[4000:])
    assert heard + await finish(again) == whole(wave)
    async for _ in socket:  # the former connection ends after what was on its way
        pass
    assert socket.closed


async def test_who_does_not_count_has_heard_what_was_acknowledged_or_all_that_was_said(service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service)
    wave = noise(400)
    await say(socket, wave)
    heard = await listen(socket, 2 * 16 * 400)
    break_off(socket)
    socket, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"])
    assert back["heard"] == len(heard) // 2
    await socket.send_json({"type": "ack", "heard": "much"})
    await socket.send_json({"type": "ack", "heard": 1600})
    await socket.send_json({"type": "ping"})
    assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "pong"
    break_off(socket)
    socket, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"])
    assert back["heard"] == 1600
    assert heard[: 2 * 1600] + await finish(socket) == whole(wave)


async def test_opus_packets_are_said_again_as_they_were(service: Service) -> None:
    await service.worker()
    config = {"encoding_out": "OPUS", "sample_rate_out": 16_000}
    wave = noise(800)
    packets: list[bytes] = []

    async def take(socket: Socket, count: int) -> None:
        while len(packets) < count:
            packets.append((await socket.receive(timeout=PATIENCE_S)).data)

    socket, ready = await connect(service, session_id="opus", **config)
    await say(socket, wave[:8000])
    await take(socket, 20)
    break_off(socket)
    del packets[12:]
    socket, _ = await connect(service, session_id="opus", resume=ready["resume"], heard=12 * 320, **config)
    await say(socket, wave[8000:])
    await socket.send_json({"type": "end"})
    while (message := await socket.receive(timeout=PATIENCE_S)).type == aiohttp.WSMsgType.BINARY:
        packets.append(message.data)
    undisturbed, _ = await connect(service, **config)
    await say(undisturbed, wave)
    await undisturbed.send_json({"type": "end"})
    expected = []
    while (message := await undisturbed.receive(timeout=PATIENCE_S)).type == aiohttp.WSMsgType.BINARY:
        expected.append(message.data)
    assert len(packets) == len(expected)
    decoders = opuslib.Decoder(16_000, 1), opuslib.Decoder(16_000, 1)
    for one, other in zip(packets, expected, strict=True):
        assert decoders[0].decode(one, 320) == decoders[1].decode(other, 320)


async def test_the_end_is_said_again_to_who_lost_it(service: Service) -> None:
    await service.worker()
    held: list[Any] = []
    service.workers[0].answer = lambda worker, chunk: held.append(chunk) or False
    socket, ready = await connect(service)
    wave = noise(60)
    await say(socket, wave)
    await socket.send_json({"type": "end"})
    await service.until(lambda: len(held) == 2)
    break_off(socket)
    for chunk in held:
        await service.workers[0].respond(chunk, np.frombuffer(chunk.samples, "<i2"))
    socket, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=0)
    assert back["received"] == 960
    audio, control, code = await hear(socket)
    assert (control[-1]["type"], code) == ("complete", 1000)
    assert len(audio) == 2 * 16 * (60 + LEAD_MS)


async def test_who_is_away_needs_no_place_and_gets_one_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_REST_AFTER_S", 0.1)
    worker = await service.worker(capacity=1)
    socket, ready = await connect(service)
    wave = noise(800)
    await say(socket, wave[:6400])
    heard = await listen(socket, 2 * 16 * 400)
    break_off(socket)
    await service.until(lambda: service.gateway.pool.free == 1 and not worker.tails)
    assert service.gateway.pool.session_ids() == []
    guest = await service.call()
    await guest.close()
    await service.until(lambda: not worker.tails)
    again, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2)
    assert back["new_stream"] is False
    await say(again, wave[back["received"] :])
    assert heard + await finish(again) == whole(wave)


async def test_without_a_place_a_caller_may_still_come_back(service: Service) -> None:
    await service.worker(capacity=1)
    socket, ready = await connect(service)
    break_off(socket)
    again, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"])
    assert back["resumed"]
    await again.close()


async def test_hanging_up_is_the_end_and_so_is_the_end_of_the_window(service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service)
    await socket.close()
    await service.until(lambda: not len(service.gateway.calls))
    _, error = await connect(service, session_id=ready["session_id"], resume=ready["resume"])
    assert (error["error_code"], error["details"]) == ("INVALID_CONFIG", {"fields": ["resume"]})
    assert "begin anew" in error["message"]


@pytest.mark.parametrize("settings", [{"resume_window_s": 0.2}])
async def test_who_stays_away_too_long_is_gone(service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service)
    break_off(socket)
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="gone") == 1)
    socket, error = await connect(service, session_id=ready["session_id"], resume=ready["resume"])
    assert "0.2 s" in error["message"]
    assert (await socket.receive(timeout=PATIENCE_S)).type == aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize("settings", [{"resume_window_s": 0}])
async def test_where_nobody_may_come_back_there_is_no_token(service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service)
    assert "resume" not in ready
    break_off(socket)
    await service.until(lambda: not len(service.gateway.calls))


async def test_a_token_is_of_one_session_and_one_principal(service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service, session_id="mine")
    other, _ = await connect(service, session_id="other")
    token = ready["resume"]
    for config in (
        {"session_id": "other", "resume": token},
        {"session_id": "mine", "resume": "nonsense"},
        {"session_id": "mine", "resume": token[:-1] + ("0" if token[-1] != "0" else "1")},
        {"session_id": "mine", "resume": "\u00e9" * 20},
        {"session_id": "mine", "resume": token, "encoding_out": "OPUS"},
    ):
        refused, error = await connect(service, **config)
        assert (error["error_code"], error["details"]["fields"]) == ("INVALID_CONFIG", ["resume"])
        assert (await refused.receive(timeout=PATIENCE_S)).type == aiohttp.WSMsgType.CLOSE
    refused, error = await connect(service, session_id="mine", resume=token, heard=1 << 30)
    assert error["details"]["fields"] == ["heard"]
    wave = noise(200)  # nobody has noticed
    await say(socket, wave)
    assert await finish(socket) == whole(wave)
    await other.close()


async def test_coming_back_does_not_change_a_call(service: Service) -> None:
    """What is asked for anew and is not what the call has is refused by its name; the same, and nothing, are not."""
    await service.worker()
    socket, ready = await connect(service, session_id="mine", options={"steps": 2})
    back = {"session_id": "mine", "resume": ready["resume"], "heard": 0}
    for field, other in (
        ("voice", {"voice": "two"}),
        ("voice_audio", {"voice_audio": "AAAA"}),
        ("model", {"model": "tiny"}),
        ("stats", {"stats": True}),
        ("options.steps", {"options": {"steps": 3}}),
        ("options.guidance", {"options": {"steps": 2, "guidance": 0.5}}),
    ):
        _, error = await connect(service, **back, **other)
        assert (error["error_code"], error["details"]["fields"]) == ("INVALID_CONFIG", [field])
        assert "the call has another, and keeps it" in error["message"]
    await socket.send_json({"type": "ping"})  # nobody was disturbed
    assert await socket.receive_json(timeout=PATIENCE_S) == {"type": "pong"}
    for same in ({}, {"voice": "one", "model": "echo", "options": {"steps": 2}, "stats": False}):
        again, answer = await connect(service, **back, **same)
        assert (answer["resumed"], answer["new_stream"]) == (True, False)
    wave = noise(200)
    await say(again, wave)
    assert await finish(again) == whole(wave)


async def test_what_is_kept_is_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said, "MAX_KEPT_BYTES", 8000)
    await service.worker()
    socket, ready = await connect(service)
    await say(socket, noise(1000))
    await listen(socket, 2 * 16 * 1000)
    break_off(socket)
    _, error = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=0)
    assert error["details"]["fields"] == ["heard"]
    socket, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=16_000)
    assert back["heard"] == 16_000
    await socket.close()


# --- other processes ------------------------------------------------------------------------------------------------


async def gateway_beside(tmp_path: Path, port: int = 0, number: int | None = None) -> Gateway:
    config = Config.model_validate(
        {
            "gateway": {"port": port, "default_model": "echo"},
            "auth": {"api_keys": [KEY]},
            "link": {"port": 0 if number is None else free_port() - number},
            "serve": {"state_dir": tmp_path},
            "recording": {"dir": tmp_path / "outputs"},
        },
        strict=False,
    )
    gateway = Gateway(config, number)
    await gateway.start()
    return gateway


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Service, Service]]:
    """Two gateways of one host, each with a worker."""
    gateways = [await gateway_beside(tmp_path, number=number) for number in (0, 1)]
    async with aiohttp.ClientSession() as http:
        services = [Service(gateway, http) for gateway in gateways]
        for service in services:
            await service.worker()
        yield services[0], services[1]
        for service in services:
            if service.gateway is not None:
                await service.gateway.stop()
    for service in services:
        await service.workers[0].die()


async def test_a_call_goes_on_through_another_process(pair: tuple[Service, Service]) -> None:
    first, second = pair
    socket, ready = await connect(first)
    wave = noise(900)
    await say(socket, wave[:8000])
    heard = await listen(socket, 2 * 16 * 300)
    break_off(socket)
    again, back = await connect(second, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2)
    assert (back["new_stream"], back["received"]) == (False, 8000)
    await say(again, wave[8000:12_000])
    heard += await listen(again, 2 * 16 * 400)
    break_off(again)  # that process knows only that it passed something on
    again, back = await connect(second, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2)
    await say(again, wave[back["received"] :])
    assert heard + await finish(again) == whole(wave)
    await first.until(lambda: not len(first.gateway.calls) and not len(second.gateway.calls))


@pytest.mark.parametrize("kept", [None, 0])
async def test_after_a_process_is_gone_a_new_stream_goes_on_with_the_old_history(
    tmp_path: Path, pair: tuple[Service, Service], kept: int | None
) -> None:
    first, second = pair
    socket, ready = await connect(first)
    wave = noise(1000)
    await say(socket, wave[:8000])
    hearing = asyncio.create_task(hear(socket))
    await first.until(lambda: first.counter("fastvc_received_bytes_total") >= 0 and len(first.workers[0].chunks) >= 5)
    await first.gateway.stop()
    heard, control, code = await hearing
    first.gateway = None  # type: ignore[assignment]
    assert [c["type"] for c in control] == ["going_away", "complete"]
    assert (control[0]["resume_within_s"], code) == (30, 1001)
    assert len(heard) == 2 * 16 * (500 + LEAD_MS)
    again = await goes_on_anew(second, ready, heard, wave, kept)
    assert (again.close_code, bool(second.workers[0].opens[-1].history)) == (1000, kept == 0)


async def test_a_process_that_died_is_followed_for_as_long_as_the_window(tmp_path: Path, service: Service) -> None:
    await service.worker()
    socket, ready = await connect(service)
    returns = service.gateway.returns
    former = returns._path
    returns._instance = "0" * 12  # as if this were the one that was started after it
    returns.beat()
    former.write_text(former.read_text().replace('"pid": ', '"pid": 99999'))
    await socket.close()
    await service.until(lambda: not len(service.gateway.calls))
    again, back = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=0)
    assert back["new_stream"] is True
    await again.close()
    returns._window_s = -1.0
    _, error = await connect(service, session_id=ready["session_id"], resume=ready["resume"], heard=0)
    assert "begin anew" in error["message"]


async def test_the_client_comes_back_by_itself(service: Service) -> None:
    """`tools.client.resuming`, whose line breaks every now and then."""
    await service.worker()
    wave = noise(3000)

    async def saboteur() -> None:
        while True:
            await asyncio.sleep(0.4)
            for call in list(service.gateway.calls._tasks.values()):
                call.line.caller.cut()

    breaking = asyncio.create_task(saboteur())
    async with aiohttp.ClientSession() as http:
        made = await resuming_call(http, CallConfig(service.url + "/ws", KEY, real_time=True), wave)
    breaking.cancel()
    assert len(made.breaks) >= 4
    assert made.output().tobytes() == whole(wave)
    assert made.close_code == 1000
    assert made.complete is not None
    assert made.complete["concealed_chunks"] == 0
