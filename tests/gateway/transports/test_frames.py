"""RFC 6455 as a server must keep it, spoken frame by frame and byte by byte, and whatever else comes over a socket."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import numpy as np
import pytest

from ..conftest import KEY, Service
from ..test_sessions import LEAD_MS, noise
from .raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawCaller, frame

CONFIG: dict[str, Any] = {"type": "config", "api_key": KEY, "session_id": "raw"}
END = frame(TEXT, b'{"type":"end"}')


async def ready(service: Service, **config: Any) -> RawCaller:
    await service.worker()
    caller = await RawCaller.connect(service.gateway.port)
    assert (await caller.configure(**CONFIG, **config))["type"] == "ready"
    return caller


async def test_the_handshake_is_that_of_the_standard(service: Service) -> None:
    caller = await RawCaller.connect(service.gateway.port)
    assert caller.head.startswith("HTTP/1.1 101 ")
    assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in caller.head.lower()  # RFC 6455, 1.3
    caller.abort()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Version": "99"}, 400),
        ({"Upgrade": ""}, 400),
        ({"Connection": "keep-alive"}, 400),
    ],
)
async def test_a_broken_handshake_is_a_bad_request(service: Service, headers: dict[str, str], status: int) -> None:
    await service.worker()
    caller = await RawCaller.connect(service.gateway.port, **headers)
    assert caller.head.startswith(f"HTTP/1.1 {status} ")
    caller.abort()
    await service.until(lambda: service.gateway.pool.reserved == 0)


@pytest.mark.parametrize("bytes_each", [None, 1, 7])
async def test_a_whole_call_however_the_network_cuts_it(service: Service, bytes_each: int | None) -> None:
    caller = await ready(service)
    wave = noise(300)
    frames = [
        frame(BINARY, part.tobytes(), mask=bytes([1, 0, 255, n % 256])) for n, part in enumerate(np.split(wave, 15))
    ]
    await caller.send(*frames, END, bytes_each=bytes_each)
    heard = await caller.hear()
    np.testing.assert_array_equal(np.frombuffer(heard.sound, "<i2")[LEAD_MS * 16 :], wave)
    assert [text["type"] for text in heard.texts] == ["complete"]
    assert heard.close_codes == [1000]


async def test_fragments_with_control_frames_between_them(service: Service) -> None:
    caller = await ready(service)
    wave = noise(200)
    sound = wave.tobytes()
    await caller.send(
        frame(BINARY, sound[:101], fin=False),
        frame(PING, b"between"),
        frame(CONTINUATION, b"", fin=False),
        frame(PONG, b"nobody asked"),
        frame(CONTINUATION, sound[101:]),
        frame(TEXT, b'{"type":', fin=False),
        frame(PING),
        frame(CONTINUATION, b'"end"}'),
    )
    heard = await caller.hear()
    assert [content for opcode, content in heard.frames if opcode == PONG] == [b"between", b""]
    np.testing.assert_array_equal(np.frombuffer(heard.sound, "<i2")[LEAD_MS * 16 :], wave)
    assert heard.close_codes == [1000]


@pytest.mark.parametrize("size", [0, 1, 125])
async def test_a_ping_is_answered_with_its_content(service: Service, size: int) -> None:
    caller = await ready(service)
    await caller.send(frame(PING, b"x" * size))
    assert await caller.next() == (PONG, b"x" * size)
    caller.abort()


@pytest.mark.parametrize("size", [125, 126, 127, 65_535, 65_536])
async def test_lengths_of_all_three_forms(service: Service, size: int) -> None:
    caller = await ready(service)
    await caller.send(frame(BINARY, bytes(size)), frame(BINARY, bytes(size % 2)), END)
    heard = await caller.hear()
    assert len(heard.sound) == 2 * (-(-size // 2) + LEAD_MS * 16)


BROKEN = {
    "reserved bit": (frame(BINARY, b"ab", rsv=1), 1002),
    "unknown opcode": (frame(3, b"ab"), 1002),
    "unknown control opcode": (frame(11, b"ab"), 1002),
    "long ping": (frame(PING, bytes(126)), 1002),
    "fragmented ping": (frame(PING, b"a", fin=False), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"ab"), 1002),
    "two beginnings": (frame(BINARY, b"ab", fin=False) + frame(BINARY, b"cd"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "forbidden close code": (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "text that is no UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "too long": (frame(BINARY, bytes(20_000)), 1009),
    "too long in fragments": (frame(BINARY, bytes(5000), fin=False) + frame(CONTINUATION, bytes(5000)), 1009),
}


@pytest.mark.parametrize("settings", [{"max_message_bytes": 8192}])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_frame_is_one_error_and_a_close_at_once(service: Service, name: str) -> None:
    broken, code = BROKEN[name]
    caller = await ready(service)
    await caller.send(broken)
    began = asyncio.get_running_loop().time()
    opcode, content = await caller.next()
    if opcode == TEXT:
        told = json.loads(content)
        assert (told["type"], told["error_code"], told["session_id"]) == ("error", "INVALID_AUDIO", "raw")
        opcode, content = await caller.next()
    assert opcode == CLOSE
    assert int.from_bytes(content[:2], "big") == code
    assert asyncio.get_running_loop().time() - began < 1.5  # not after the time a closing handshake is given
    rest = await caller.hear()
    assert rest.frames == []
    await service.until(lambda: not service.gateway.pool.session_ids())


async def test_a_close_frame_is_answered_and_ends_the_call(service: Service) -> None:
    caller = await ready(service)
    await caller.send(frame(BINARY, bytes(640)), frame(CLOSE, (1000).to_bytes(2, "big") + b"bye"))
    heard = await caller.hear()
    assert heard.close_codes == [1000]
    assert heard.texts == []
    await service.until(lambda: not service.gateway.pool.session_ids())


async def test_an_error_is_said_once_and_the_close_follows_at_once(service: Service) -> None:
    caller = await ready(service)
    await caller.send(frame(BINARY, b"RIFF\0\0\0\0WAVE"), frame(BINARY, bytes(640)))
    heard = await caller.hear()
    assert [opcode for opcode, _ in heard.frames] == [TEXT, CLOSE]
    assert heard.close_codes == [1007]


async def test_a_caller_may_speak_before_it_is_told_to(service: Service) -> None:
    await service.worker()
    caller = await RawCaller.connect(service.gateway.port)
    wave = noise(200)
    await caller.send(frame(PING), frame(TEXT, json.dumps(CONFIG).encode()), frame(BINARY, wave.tobytes()), END)
    heard = await caller.hear()
    assert [text["type"] for text in heard.texts] == ["ready", "complete"]
    np.testing.assert_array_equal(np.frombuffer(heard.sound, "<i2")[LEAD_MS * 16 :], wave)


@pytest.mark.parametrize("settings", [{"resume_window_s": 0}])
@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_over_the_socket_ends_its_own_call_alone(service: Service, seed: int) -> None:
    """Valid frames with bytes changed, cut and put in. The other call does not notice."""
    rng = random.Random(seed)
    other = await ready(service)
    wave = noise(400, seed=seed)
    for _ in range(10):
        caller = await RawCaller.connect(service.gateway.port)
        good = [
            frame(TEXT, json.dumps({**CONFIG, "session_id": "", "encoding": rng.choice(["PCM", "OPUS"])}).encode()),
            *(
                frame(rng.choice([TEXT, BINARY, PING]), rng.randbytes(rng.choice([0, 3, 120, 640]))[:125])
                for _ in range(5)
            ),
            frame(BINARY, rng.randbytes(640)),
            END,
        ]
        sent = bytearray(b"".join(good))
        for _ in range(rng.choice([0, 1, 3, 20])):
            at = rng.randrange(len(sent))
            match rng.randrange(3):
                case 0:
                    sent[at] = rng.randrange(256)
                case 1:
                    del sent[at : at + rng.randrange(1, 8)]
                case 2:
                    sent[at:at] = rng.randbytes(rng.randrange(1, 8))
        await caller.send(bytes(sent))
        await asyncio.sleep(0.005)
        caller.abort()
    await other.send(*(frame(BINARY, part.tobytes()) for part in np.split(wave, 20)), END)
    heard = await other.hear()
    np.testing.assert_array_equal(np.frombuffer(heard.sound, "<i2")[LEAD_MS * 16 :], wave)
    assert heard.close_codes == [1000]
    await service.until(lambda: not service.gateway.pool.session_ids() and not len(service.gateway.calls))
    assert service.gateway.pool.reserved == 0
    assert service.counter("fastvc_sessions_ended_total", outcome="INTERNAL_ERROR") == 0
