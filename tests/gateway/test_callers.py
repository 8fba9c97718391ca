"""Callers as they are: muted microphones, odd messages, old clients. Over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
import opuslib
import pytest

from shared.messages import Failed
from tests.support.waiting import PATIENCE_S

from .conftest import BLOCK_MS, DELAY_MS, KEY, Service, hear
from .test_sessions import LEAD_MS, noise, say

RESAMPLED_LEAD_MS = 83  # prefill 63: a multiple of 20 and the resampler's lag of 3; delay 20
END = {"type": "end"}
BLOCK = BLOCK_MS * 16


async def finish(socket: aiohttp.ClientWebSocketResponse) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    await socket.send_json(END)
    audio, control, code = await hear(socket)
    assert (control[-1].get("type"), code) == ("complete", 1000), control
    return np.frombuffer(audio, "<i2"), control[-1]["stats"]


# --- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"hold_ms": 200}])
@pytest.mark.parametrize("config", [{}, {"sample_rate": 48_000}], ids=str)
async def test_the_end_of_the_last_word_does_not_wait_for_the_caller_to_speak_again(
    service: Service, config: dict[str, Any]
) -> None:
    await service.worker()
    socket = await service.call(**config)
    rate = config.get("sample_rate", 16_000)
    lead_ms = RESAMPLED_LEAD_MS if config else LEAD_MS
    first, second = noise(250, rate), noise(330, rate, seed=1)
    await say(socket, first)
    heard = bytearray()
    while len(heard) < 2 * 16 * (250 + lead_ms):  # all of it, though not a byte follows
        heard += (await socket.receive(timeout=PATIENCE_S)).data
    assert len(heard) // 2 - 16 * (250 + lead_ms) <= BLOCK + DELAY_MS * 16
    await say(socket, second)
    rest, stats = await finish(socket)
    whole = np.concatenate([np.frombuffer(heard, "<i2"), rest])
    padded = round(stats["padded_ms"] * 16)
    assert stats["total_processed_ms"] == 580
    assert stats["padded_ms"] > 0
    assert abs(len(whole) - 16 * (580 + lead_ms) - padded) <= 1
    if not config:
        lead = LEAD_MS * 16
        np.testing.assert_array_equal(whole[lead : lead + len(first)], first)
        np.testing.assert_array_equal(whole[lead + len(first) + padded :][: len(second)], second)
        assert not whole[lead + len(first) : lead + len(first) + padded].any()


@pytest.mark.parametrize("settings", [{"hold_ms": 100}])
async def test_silence_is_put_in_once_a_pause(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await say(socket, noise(130))
    await asyncio.sleep(0.6)  # six times hold_ms
    _, stats = await finish(socket)
    assert stats["padded_ms"] <= BLOCK_MS + DELAY_MS


@pytest.mark.parametrize("settings", [{"hold_ms": 100}])
async def test_a_caller_who_never_spoke_is_not_padded(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await asyncio.sleep(0.4)
    audio, stats = await finish(socket)
    assert (len(audio), stats["padded_ms"], stats["chunks_processed"]) == (0, 0, 0)


@pytest.mark.parametrize("settings", [{"idle_timeout_s": 0.6}])
@pytest.mark.parametrize("sign", ["ping", "pong", "empty", "text"])
async def test_signs_of_life_keep_a_silent_call_open(service: Service, sign: str) -> None:
    await service.worker()
    socket = await service.call()
    signs = {
        "ping": lambda: socket.ping(),
        "pong": lambda: socket.pong(b"here"),
        "empty": lambda: socket.send_bytes(b""),
        "text": lambda: socket.send_json({"type": "ping"}),
    }
    for _ in range(6):
        await asyncio.sleep(0.2)
        await signs[sign]()
    await socket.send_json(END)
    _, control, code = await hear(socket)
    assert (control[-1]["type"], code) == ("complete", 1000)


@pytest.mark.parametrize("settings", [{"idle_timeout_s": 0.3}])
async def test_a_call_without_a_sign_of_life_ends(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await say(socket, noise(100))
    _, control, code = await hear(socket)
    assert (control[-1]["error_code"], code) == ("TIMEOUT", 1008)


# --- odd messages -------------------------------------------------------------------------------------------------


async def test_half_samples_carry_over(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    wave = noise(300)
    await say(socket, wave, bytes_each=333)
    audio, _ = await finish(socket)
    np.testing.assert_array_equal(audio[LEAD_MS * 16 :], wave)


async def test_unknown_text_is_ignored_and_counted(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    wave = noise(200)
    for text in ("hello", '{"type":"config"}', "[]", '{"type":"mute"}'):
        await socket.send_str(text)
    await say(socket, wave)
    audio, stats = await finish(socket)
    np.testing.assert_array_equal(audio[LEAD_MS * 16 :], wave)
    assert stats["ignored_messages"] == 4


async def test_a_ping_in_text_gets_a_pong_in_text(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await socket.send_json({"type": "ping"})
    assert await socket.receive_json(timeout=PATIENCE_S) == {"type": "pong"}
    await socket.close()


@pytest.mark.parametrize(
    ("first", "end"),
    [
        ({"type": "config", "api_key": KEY}, b'{"type":"end"}'),
        ({"type": "config", "api_key": KEY}, b' {"type": "end"}'.strip()),
        ({"signal": "start"}, b'{"signal":"end"}'),
    ],
)
async def test_the_end_message_may_come_as_binary(service: Service, first: dict[str, Any], end: bytes) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json(first)
    await say(socket, noise(100))
    await socket.send_bytes(end)
    audio, _, code = await hear(socket)
    assert (len(audio), code) == (2 * 16 * (100 + LEAD_MS), 1000)


@pytest.mark.parametrize("settings", [{"max_message_bytes": 4096}])
async def test_a_message_of_exactly_the_limit_is_allowed_and_one_more_byte_is_not(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    wave = noise(128)
    assert wave.nbytes == 4096
    await socket.send_bytes(wave.tobytes())
    audio, _ = await finish(socket)
    np.testing.assert_array_equal(audio[LEAD_MS * 16 :], wave)
    longer = await service.call()
    await longer.send_bytes(bytes(4097))
    _, control, code = await hear(longer)
    assert [(c["error_code"], code) for c in control] == [("INVALID_AUDIO", 1009)]


# --- packets ------------------------------------------------------------------------------------------------------


def packets(ms: int) -> list[bytes]:
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    return [encoder.encode(frame.tobytes(), 320) for frame in noise(ms).reshape(-1, 320)]


@pytest.mark.parametrize("damage", [b"\x03", b"\x42\xff\xff", "lost"])
async def test_time_stays_right_when_packets_are_damaged_or_lost(service: Service, damage: bytes | str) -> None:
    await service.worker()
    socket = await service.call(encoding="OPUS")
    sent = packets(600)
    for number, packet in enumerate(sent):
        if number % 6 != 3:
            await socket.send_bytes(packet)
        elif isinstance(damage, bytes):
            await socket.send_bytes(damage)
        else:
            await socket.send_json({"type": "lost", "count": 1})
    audio, stats = await finish(socket)
    assert len(audio) == 16 * (600 + LEAD_MS)
    assert stats["lost_packets"] == 5
    assert stats["total_processed_ms"] == 600


@pytest.mark.serial
@pytest.mark.parametrize("settings", [{"hold_ms": 5000}])
async def test_silence_that_an_encoder_does_not_send_takes_its_time(service: Service) -> None:
    """Discontinuous transmission: after a packet of silence nothing comes for 0.4 s, three times."""
    await service.worker()
    socket = await service.call(encoding="OPUS")
    began = asyncio.get_running_loop().time()
    sent = packets(300)
    for packet in sent[:10]:
        await socket.send_bytes(packet)
        await asyncio.sleep(0.02)
    for _ in range(3):
        await socket.send_bytes(sent[0][:1])
        await asyncio.sleep(0.4)
    for packet in sent[10:]:
        await socket.send_bytes(packet)
        await asyncio.sleep(0.02)
    took_ms = 1000 * (asyncio.get_running_loop().time() - began)
    audio, stats = await finish(socket)
    assert stats["lost_packets"] == 0
    assert stats["padded_ms"] >= 900
    assert abs(len(audio) / 16 - LEAD_MS - took_ms) <= BLOCK_MS + 60


async def test_a_run_of_damaged_packets_ends_the_call_with_one_error(service: Service) -> None:
    await service.worker()
    socket = await service.call(encoding="OPUS")
    for _ in range(80):
        await socket.send_bytes(b"\x42\xff\xff")
    _, control, code = await hear(socket)
    assert [(c["error_code"], code) for c in control] == [("INVALID_AUDIO", 1007)]
    assert "damaged packets" in control[0]["message"]


# --- first messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_id", ["声音.wav", "my voice.wav", "2025:11:04", "../x", "a\nb", "é" * 200])
async def test_a_session_id_of_any_text_comes_back_as_it_was(service: Service, session_id: str) -> None:
    worker = await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": KEY, "session_id": session_id})
    assert (await socket.receive_json(timeout=PATIENCE_S))["session_id"] == session_id
    await say(socket, noise(200))
    await socket.send_json(END)
    _, control, _ = await hear(socket)
    assert control[-1]["session_id"] == session_id
    assert [o.session for o in worker.opens] == [session_id]


async def test_the_first_message_of_an_old_client(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    first = {
        "type": "config",
        "session_id": "clip 01.wav",
        "api_key": KEY,
        "sample_rate": 16_000.0,
        "sample_rate_out": "16000",
        "bit_depth": 16,
        "channels": 1,
        "encoding": "wav",
        "opus_frame_duration": None,
        "voice": None,
    }
    await socket.send_json(first)
    assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "ready"
    wave = noise(200)
    await say(socket, wave)
    audio, _ = await finish(socket)
    np.testing.assert_array_equal(audio[LEAD_MS * 16 :], wave)


async def test_the_simple_protocol_answers_at_the_rate_that_was_asked_for(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"signal": "start", "sample_rate": 8000, "sample_bit": 16, "sample_rate_out": 48_000})
    await say(socket, noise(300, 8000))
    await socket.send_json({"signal": "end"})
    audio, control, _ = await hear(socket)
    assert control[-1]["signal"] == "completed"
    assert len(audio) == 2 * 48 * (300 + RESAMPLED_LEAD_MS)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"voice": "nobody"}, "voice"), ({"model": "nothing"}, "model"), ({"sample_rate": 5}, "sample_rate")],
)
async def test_details_name_the_field(service: Service, fields: dict[str, Any], named: str) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": KEY, **fields})
    _, control, _ = await hear(socket)
    assert control[0]["details"]["fields"] == [named]


async def test_details_name_the_field_that_a_worker_refuses(service: Service) -> None:
    worker = await service.worker(opens_sessions=False)
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": KEY, "session_id": "s", "options": {"steps": 50}})
    await service.until(lambda: len(worker.opens) == 1)
    await worker.send(Failed("s", 0, "INVALID_CONFIG", "options.steps must be within 1 and 10, got 50"))
    _, control, code = await hear(socket)
    assert (control[0]["details"], code) == ({"fields": ["options.steps"]}, 1008)


# --- statistics -----------------------------------------------------------------------------------------------------


async def test_who_asks_is_told_how_each_block_was_made(service: Service) -> None:
    await service.worker()
    socket = await service.call(stats=True)
    await say(socket, noise(4 * BLOCK))
    await socket.send_json(END)
    _, control, _ = await hear(socket)
    told = [message for message in control if message["type"] == "stats"]
    assert [message["seq"] for message in told] == list(range(len(told)))
    assert len(told) == control[-1]["stats"]["chunks_processed"]
    assert {"queue_ms", "compute_ms", "batch_size", "steps", "concealed", "padded_ms"} <= set(told[0])


async def test_who_does_not_ask_is_told_nothing_of_blocks(service: Service) -> None:
    await service.worker()
    socket = await service.call()
    await say(socket, noise(4 * BLOCK))
    await socket.send_json(END)
    _, control, _ = await hear(socket)
    assert [message["type"] for message in control] == ["complete"]
