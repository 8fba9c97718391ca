"""Nothing blocks the event loop: no call that waits, and no work that takes long."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import opuslib
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from gateway.audio import opus, resample
from shared.config import ROOT

from .conftest import KEY, Service, hear
from .test_sessions import noise, say


@pytest.fixture
def blockbuster() -> Iterator[BlockBuster]:
    """Raises where code of the gateway sleeps, opens a file, connects or waits for a lock on the loop's thread."""
    with blockbuster_ctx("gateway", excluded_modules=["loguru"]) as blockbuster:
        yield blockbuster


@pytest.mark.parametrize("config", [{}, {"encoding": "OPUS", "encoding_out": "OPUS"}, {"sample_rate": 44_100}], ids=str)
async def test_a_session_makes_no_call_that_blocks(
    service: Service, blockbuster: BlockBuster, config: dict[str, Any]
) -> None:
    await service.worker()
    socket = await service.call(**config)
    rate = config.get("sample_rate", 16_000)
    if "encoding" in config:
        encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
        for frame in noise(1000).reshape(-1, 320):
            await socket.send_bytes(encoder.encode(frame.tobytes(), 320))
    else:
        await say(socket, noise(1000, rate))
    await socket.send_json({"type": "end"})
    _, control, code = await hear(socket)
    assert (control[-1]["type"], code) == ("complete", 1000)
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="complete") == 1)


async def test_a_session_over_webrtc_makes_none_either(service: Service, blockbuster: BlockBuster) -> None:
    pytest.importorskip("aiortc", reason="the extra webrtc is not installed")
    from ..support.webrtc import TestCaller

    await service.worker()
    caller = TestCaller()
    assert (await caller.dial(service.http, f"{service.url}/webrtc?api_key={KEY}")).status == 201
    await caller.configure()
    await caller.say(np.zeros(24_000, np.int16))
    caller.tell({"type": "end"})
    assert (await caller.message("complete", "error"))["type"] == "complete"
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="complete") == 1)
    await caller.hang_up()


async def test_a_voice_that_is_brought_and_kept_makes_none(service: Service, blockbuster: BlockBuster) -> None:
    await service.worker()
    recording = await asyncio.to_thread((ROOT / "worker/assets/voices/june.flac").read_bytes)
    headers = {"Authorization": f"Bearer {KEY}"}
    for method, path, body in (
        ("POST", "/voices?name=mine", recording),
        ("GET", "/voices", None),
        ("GET", "/voices/mine/sample", None),
        ("DELETE", "/voices/mine", None),
        ("GET", "/docs", None),
        ("GET", "/openapi.json", None),
    ):
        async with service.http.request(method, service.url + path, headers=headers, data=body) as response:
            assert response.status < 300, await response.text()
    socket = await service.call(voice_audio=base64.b64encode(recording).decode())
    await socket.close()


async def test_a_call_that_blocks_would_be_noticed(
    service: Service, blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.worker()
    monkeypatch.setattr("gateway.session.Session.summary", lambda session: time.sleep(0.001) or {})
    socket = await service.call()
    await socket.send_json({"type": "end"})
    _, control, _ = await hear(socket)
    assert control[-1]["error_code"] == "INTERNAL_ERROR"


async def test_slow_codecs_work_on_threads_of_their_own(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is not how long a codec takes, which depends on the machine, but where it runs."""
    threads: set[str] = set()

    def noted(work: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            threads.add(threading.current_thread().name.partition("_")[0])
            return work(*arguments, **options)

        return run

    monkeypatch.setattr(opus.OpusDecoder, "_decode", noted(opus.OpusDecoder._decode))
    monkeypatch.setattr(opus.OpusEncoder, "encode", noted(opus.OpusEncoder.encode))
    monkeypatch.setattr(resample.StreamResampler, "_run", noted(resample.StreamResampler._run))
    await service.worker()
    for config in ({"encoding": "OPUS", "encoding_out": "OPUS"}, {"sample_rate": 8000, "sample_rate_out": 48_000}):
        socket = await service.call(**config)
        if "encoding" in config:
            encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
            for frame in noise(400).reshape(-1, 320):
                await socket.send_bytes(encoder.encode(frame.tobytes(), 320))
        else:
            await say(socket, noise(400, 8000))
        await asyncio.sleep(0.7)  # longer than hold_ms: what is held is sent on
        await socket.send_json({"type": "end"})
        await hear(socket)
    assert threads == {"codec"}
