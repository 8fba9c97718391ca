"""Workers come, die, fall silent, leave and talk nonsense; sessions go on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
import zmq.asyncio

from shared.messages import MAX_FRAME_BYTES, PROTOCOL_VERSION, Audio, Chunk, ChunkStats, Failed
from tests.support.waiting import PATIENCE_S

from .conftest import BLOCK_MS, KEY, EchoWorker, Service, hear
from .test_sessions import LEAD_MS, noise, say


async def finish(socket: Any) -> np.ndarray[Any, np.dtype[np.int16]]:
    await socket.send_json({"type": "end"})
    audio, control, code = await hear(socket)
    assert code == 1000, control
    return np.frombuffer(audio, "<i2")[LEAD_MS * 16 :]


async def test_a_killed_worker_costs_nothing_while_another_has_room(service: Service, log: list[str]) -> None:
    first = await service.worker(worker_id="a", answer=lambda worker, chunk: chunk.seq < 3)
    socket = await service.call(session_id="moves")
    second = await service.worker(worker_id="b")
    wave = noise(1000)
    await say(socket, wave)
    await service.until(lambda: len(first.chunks) == 5)  # two are in flight: the credit
    await asyncio.sleep(0.05)
    assert len(first.chunks) == 5
    await first.die()
    await service.until(lambda: len(second.opens) == 1)
    assert any("worker a is gone (Host unreachable)" in line for line in log)  # not as a silent one
    opened = second.opens[0]
    assert opened.epoch == 1
    np.testing.assert_array_equal(await finish(socket), wave)
    assert [chunk.seq for chunk in second.chunks[:2]] == [3, 4]
    assert len(opened.history) >= 2 * 16 * 200  # the context that the worker asked for, or all there was
    assert service.counter("fastvc_sessions_reopened_total") == 1
    assert service.counter("fastvc_blocks_concealed_total", where="gateway") == 0


async def test_a_silent_worker_is_dead_after_three_beats(service: Service, log: list[str]) -> None:
    first = await service.worker(worker_id="a", answer=lambda worker, chunk: False)
    socket = await service.call()
    wave = noise(300)
    await say(socket, wave)
    second = await service.worker(worker_id="b")
    first.beats = False
    since = time.monotonic()
    await service.until(lambda: len(second.opens) == 1)
    assert time.monotonic() - since > 0.9
    assert any("worker a is gone (silent for 1.5 s)" in line for line in log)
    np.testing.assert_array_equal((await finish(socket))[: len(wave)], wave)  # the caller paused: silence follows


async def test_a_session_waits_for_a_worker_to_come_back(service: Service) -> None:
    first = await service.worker(worker_id="a")
    socket = await service.call()
    wave = noise(600)
    await say(socket, wave[:4800])
    await asyncio.sleep(0.1)
    await first.die()
    await say(socket, wave[4800:])
    await asyncio.sleep(0.2)
    await service.worker(worker_id="a")
    np.testing.assert_array_equal(await finish(socket), wave)


@pytest.mark.parametrize("settings", [{"processing_timeout_s": 0.5}])
async def test_without_any_worker_the_session_ends_with_its_reason(service: Service) -> None:
    worker = await service.worker()
    socket = await service.call()
    await say(socket, noise(200))
    await worker.die()
    await say(socket, noise(200))
    _, control, code = await hear(socket)
    assert (control[-1]["error_code"], code) == ("WORKER_LOST", 1011)


@pytest.mark.parametrize("settings", [{"latency_budget_ms": 200}])
async def test_overdue_blocks_are_silence_and_the_late_answers_are_dropped(service: Service) -> None:
    held: list[Any] = []

    def answer(worker: EchoWorker, chunk: Any) -> bool:
        if 4 <= chunk.seq < 6:
            held.append(chunk)
            return False
        return True

    worker = await service.worker(answer=answer)
    socket = await service.call()
    wave = noise(1200, seed=3)
    hearing = asyncio.create_task(hear(socket))
    for at in range(0, len(wave), 320):  # in real time
        await socket.send_bytes(wave[at : at + 320].astype("<i2").tobytes())
        await asyncio.sleep(0.02)
        if len(held) == 2 and at > 13_000:
            for chunk in held:
                await worker.respond(chunk, np.full(BLOCK_MS * 16, 7777, np.int16))
            held.append(None)
    await socket.send_json({"type": "end"})
    audio, control, code = await hearing
    assert code == 1000
    heard = np.frombuffer(audio, "<i2")
    assert len(heard) == len(wave) + LEAD_MS * 16  # time is conserved
    assert not (heard == 7777).any()
    block = BLOCK_MS * 16
    fade = 160
    assert not heard[4 * block + fade : 6 * block].any()  # neither sound nor the caller's own voice
    np.testing.assert_array_equal(heard[LEAD_MS * 16 : 4 * block], wave[: 4 * block - LEAD_MS * 16])
    stats = control[-1]["stats"]
    assert stats["concealed_chunks"] >= 2
    assert service.counter("fastvc_blocks_concealed_total", where="gateway") == stats["concealed_chunks"]
    assert service.counter("fastvc_answers_dropped_total") == 2


async def test_a_leaving_worker_hands_its_sessions_over(service: Service) -> None:
    first = await service.worker(worker_id="a")
    socket = await service.call()
    wave = noise(500)
    await say(socket, wave[:4000])
    second = await service.worker(worker_id="b")
    await first.goodbye()
    await service.until(lambda: len(second.opens) == 1 and len(first.closes) == 1)
    await say(socket, wave[4000:])
    np.testing.assert_array_equal(await finish(socket), wave)


async def test_a_leaving_worker_is_heard_until_it_has_answered_all_it_had(service: Service) -> None:
    """The other worker takes its time; nobody waits for it while the first still answers."""
    held: list[Chunk] = []
    first = await service.worker(worker_id="a", answer=lambda worker, chunk: held.append(chunk) or False)
    socket = await service.call()
    await say(socket, np.full(BLOCK_MS * 2 * 16, 500, np.int16))
    await service.until(lambda: len(held) == 2)
    second = await service.worker(worker_id="b", answer=lambda worker, chunk: False)
    await first.goodbye()
    await service.until(lambda: len(second.chunks) == 2)
    assert not first.closes
    for chunk in held:
        await first.respond(chunk, np.frombuffer(chunk.samples, "<i2"))
    for chunk in held:
        assert (await socket.receive(timeout=PATIENCE_S)).data == chunk.samples
    await service.until(lambda: len(first.closes) == 1)
    for chunk in second.chunks:  # the same blocks again: nobody hears them, nobody counts them
        await second.respond(chunk, np.zeros(BLOCK_MS * 16, np.int16))
    second.answer = lambda worker, chunk: True
    await socket.send_json({"type": "end"})
    audio, control, code = await hear(socket)
    assert len(audio) == 2 * LEAD_MS * 16
    assert (control[-1]["stats"]["concealed_chunks"], code) == (0, 1000)
    assert service.counter("fastvc_answers_dropped_total") == 0


async def test_who_stays_with_a_leaving_worker_for_want_of_places_moves_when_there_are_some(service: Service) -> None:
    first = await service.worker(worker_id="a")
    socket = await service.call()
    await first.goodbye()
    wave = noise(500)
    await say(socket, wave[:4000])
    await service.until(lambda: len(first.chunks) >= 2)
    assert not first.closes
    second = await service.worker(worker_id="b")
    await service.until(lambda: len(second.opens) == 1 and len(first.closes) == 1)
    await say(socket, wave[4000:])
    np.testing.assert_array_equal(await finish(socket), wave)


@pytest.mark.parametrize("settings", [{"hold_ms": 60_000}])
async def test_a_worker_that_becomes_slower_gives_places_back_and_takes_them_again(service: Service) -> None:
    slow = await service.worker(worker_id="a", capacity=4)
    sockets = [await service.call(session_id=str(number)) for number in range(3)]
    other = await service.worker(worker_id="b", capacity=4)
    slow.capacity = 1
    wave = noise(600)
    for socket in sockets:
        await say(socket, wave[:4800])
    await service.until(lambda: len(other.opens) == 2 and len(slow.closes) == 2)
    for socket in sockets:
        await say(socket, wave[4800:])
        np.testing.assert_array_equal(await finish(socket), wave)
    await service.until(lambda: service.gateway.pool.free == 5)
    slow.capacity = 4
    await service.until(lambda: service.gateway.pool.free == 8)
    later = [await service.call() for _ in range(6)]
    assert len(slow.opens) == 3 + 3
    for socket in later:
        await socket.close()


async def test_sessions_spread_over_workers(service: Service) -> None:
    workers = [await service.worker(worker_id=name, capacity=4) for name in "abc"]
    sockets = [await service.call() for _ in range(6)]
    assert [len(worker.opens) for worker in workers] == [2, 2, 2]
    for socket in sockets:
        await socket.close()


@pytest.mark.parametrize("settings", [{"default_model": "big"}])
async def test_without_a_model_the_default_model_is_meant_not_whoever_is_idle(service: Service) -> None:
    await service.worker(worker_id="idle", model="small", voices=("one", "three"))
    busy = await service.worker(worker_id="busy", model="big", capacity=2)
    sockets = [await service.call(), await service.call()]
    assert len(busy.opens) == 2
    refused = await service.http.ws_connect(service.url + "/ws")
    await refused.send_json({"type": "config", "api_key": KEY})
    _, control, _ = await hear(refused)
    assert control[0]["error_code"] == "OVERLOADED"  # the other model's places are not for those who name none
    named = await service.call(model="small", voice="three")
    async with service.http.get(service.url + "/voices") as response:
        assert [voice["name"] for voice in (await response.json())["voices"]] == ["one", "two", "three"]
    for socket in (*sockets, named):
        await socket.close()


async def test_a_default_model_that_no_worker_has_is_no_fault_of_the_caller(service: Service) -> None:
    await service.worker(model="other")
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": KEY})
    _, control, code = await hear(socket)
    assert (control[0]["error_code"], code) == ("OVERLOADED", 1013)
    assert "'echo'" in control[0]["message"]


async def test_answers_of_an_earlier_life_strangers_and_nonsense_are_refused(service: Service) -> None:
    worker = await service.worker()
    socket = await service.call(session_id="s")
    stats = ChunkStats(0.0, 1, 1, True, False, {})
    await worker.send(Audio("s", 9, 0, b"\1\1" * 1600, stats))
    await worker.send(Audio("nobody", 0, 0, b"\1\1" * 1600, stats))
    await worker.send(Audio("s", 0, 700, b"\1\1" * 1600, stats))
    await worker.send(Failed("s", 5, "INTERNAL_ERROR", "old"))
    for frame in (b"", b"\xc1", msgpack.packb({"kind": "audio"}), msgpack.packb([1]), b"\x00" * 1000):
        await worker.send(frame)
    context = zmq.asyncio.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    stranger.connect(f"tcp://127.0.0.1:{worker.port}")
    await stranger.send_multipart([b"a", b"b", b"c"])
    await stranger.send(b"\0" * (2 * MAX_FRAME_BYTES))  # beyond MAXMSGSIZE: its connection is closed
    wave = noise(400)
    await say(socket, wave)
    np.testing.assert_array_equal(await finish(socket), wave)
    await service.until(lambda: service.counter("fastvc_link_frames_refused_total") == 6)
    assert service.counter("fastvc_answers_dropped_total") == 3
    stranger.close(0)
    context.term()


async def test_a_worker_of_another_protocol_version_is_told_and_not_used(service: Service) -> None:
    worker = EchoWorker(service.gateway.link.port)
    context = zmq.asyncio.Context()
    worker._socket = context.socket(zmq.DEALER)
    worker._socket.connect(f"tcp://127.0.0.1:{worker.port}")
    await worker.say_hello(protocol=PROTOCOL_VERSION + 1)
    answer = msgpack.unpackb(await asyncio.wait_for(worker._socket.recv(), 2))
    assert (answer["protocol"], answer["known"]) == (PROTOCOL_VERSION, False)
    assert not service.gateway.pool.workers
    worker._socket.close(0)
    context.term()


async def test_a_failing_session_is_told_and_others_are_not_touched(service: Service) -> None:
    worker = await service.worker()
    bad, good = await service.call(session_id="bad"), await service.call(session_id="good")
    await worker.send(Failed("bad", 0, "INTERNAL_ERROR", "row is not finite"))
    _, control, code = await hear(bad)
    assert (control[0]["error_code"], control[0]["message"], code) == ("INTERNAL_ERROR", "row is not finite", 1011)
    wave = noise(200)
    await say(good, wave)
    np.testing.assert_array_equal(await finish(good), wave)
