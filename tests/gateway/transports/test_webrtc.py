"""A call over WebRTC: WHIP's requests, sound both ways, the standard protocol on a data channel."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.waiting import PATIENCE_S

aiortc = pytest.importorskip("aiortc", reason="the extra webrtc is not installed")

from ...support.webrtc import RATE, TestCaller  # noqa: E402
from ..conftest import BLOCK_MS, KEY, Service  # noqa: E402

BEARER = {"Authorization": f"Bearer {KEY}"}


def speech(ms: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A tone whose pitch and loudness go up and down."""
    t = np.arange(ms * RATE // 1000) / RATE
    wave = np.sin(2 * np.pi * (300 * t + 40 * np.sin(5 * t))) * (0.5 + 0.4 * np.sin(13 * t))
    return (12_000 * wave).astype(np.int16)


@pytest.fixture
async def callers() -> AsyncIterator[Callable[..., TestCaller]]:
    """Makes callers, who hang up in the end."""
    made: list[TestCaller] = []

    def make(**options: Any) -> TestCaller:
        made.append(TestCaller(**options))
        return made[-1]

    yield make
    for one in made:
        await one.hang_up()


@pytest.fixture
def caller(callers: Callable[..., TestCaller]) -> TestCaller:
    return callers()


async def test_the_answer_is_as_long_as_the_question_and_sounds_like_it(service: Service, caller: TestCaller) -> None:
    await service.worker()
    response = await caller.dial(service.http, service.url + "/webrtc")
    assert (response.status, response.content_type) == (201, "application/sdp")
    ready = await caller.configure(api_key=KEY, session_id="mine", stats=True)
    assert (ready["type"], ready["session_id"], ready["block_ms"]) == ("ready", "mine", BLOCK_MS)
    said = speech(2000)
    await caller.say(said)
    caller.tell({"type": "end"})
    complete = await caller.message("complete", "error")
    assert complete["type"] == "complete"
    lead_ms = ready["prefill_ms"] + ready["delay_ms"]
    assert caller.heard_ms == pytest.approx(2000 + lead_ms, abs=BLOCK_MS)
    assert complete["stats"]["lost_packets"] == 0
    heard, lead = caller.heard().astype(float), lead_ms * RATE // 1000
    spectra = [np.abs(np.fft.rfft(wave[:RATE])) for wave in (said.astype(float), heard[lead:])]
    assert np.corrcoef(*(spectrum[100:2000] for spectrum in spectra))[0, 1] > 0.8
    stats = [message for message in caller.messages if message["type"] == "stats"]
    assert len(stats) == complete["stats"]["chunks_processed"]
    async with asyncio.timeout(PATIENCE_S):
        await caller.closed.wait()
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="complete") == 1)


async def test_packets_leave_in_time_though_answers_come_in_blocks(service: Service, caller: TestCaller) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure()
    await caller.say(speech(1000))
    times = np.array([packet.at for packet in caller.packets])
    early = np.sum(np.diff(times) < 0.008)
    assert early < 0.2 * len(times), "packets come in bursts"


async def test_time_is_conserved_though_packets_are_lost_and_late(service: Service, caller: TestCaller) -> None:
    """5 % lost and 100 ms of jitter, both ways; four seconds, for chance to be even."""
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    ready = await caller.configure()
    caller.spoil(loss=0.05, jitter_s=0.1)
    said = speech(4000)
    await caller.say(said)
    caller.tell({"type": "end"})
    stats = (await caller.message("complete"))["stats"]
    sent = 200
    assert 2 <= stats["lost_packets"] <= 0.3 * sent  # a busy machine is late with more
    answered_ms = stats["chunks_processed"] * BLOCK_MS
    lead_ms = ready["prefill_ms"] + ready["delay_ms"]
    assert answered_ms - stats["padded_ms"] == pytest.approx(4000 + lead_ms, abs=2 * BLOCK_MS)
    numbers = {packet.number for packet in caller.packets}
    assert max(numbers) - min(numbers) + 1 == pytest.approx(answered_ms / 20, abs=2 * BLOCK_MS / 20)
    assert len(numbers) > 0.85 * (max(numbers) - min(numbers) + 1)


async def test_delete_ends_the_call(service: Service, caller: TestCaller) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure()
    async with service.http.delete(service.url + caller.location) as response:
        assert response.status == 200
    assert service.gateway.pool.session_ids() == []
    async with asyncio.timeout(PATIENCE_S):
        await caller.closed.wait()
    async with service.http.delete(service.url + caller.location) as response:
        assert response.status == 404


async def test_a_caller_who_hangs_up_is_gone(service: Service, caller: TestCaller) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure()
    await caller.hang_up()
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="gone") == 1)


async def test_a_caller_who_hangs_up_on_the_last_word_has_heard_it(service: Service, caller: TestCaller) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure()
    caller.tell({"type": "end"})
    await caller.message("complete")
    await caller.hang_up()
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="complete") == 1)
    assert len(service.gateway.calls) == 0


async def test_a_gateway_that_stops_says_so_and_answers_what_it_has(service: Service, caller: TestCaller) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure()
    await caller.say(speech(600))
    await service.gateway.calls.drain(10)
    complete = await caller.message("complete")
    assert complete["stats"]["total_processed_ms"] >= 400
    assert "going_away" in [message["type"] for message in caller.messages]
    assert caller.heard_ms >= 400


async def test_without_a_data_channel_the_offer_says_what_is_wanted(
    service: Service, callers: Callable[..., TestCaller]
) -> None:
    await service.worker()
    url = service.url + "/webrtc?voice=two"
    assert (await callers(channel=False).dial(service.http, url)).status == 401
    caller = callers(channel=False)
    assert (await caller.dial(service.http, f"{url}&api_key={KEY}")).status == 201
    await caller.say(speech(600))
    await caller.until_heard(10)
    assert service.workers[0].opens[0].voice == "two"


async def test_a_wrong_key_is_told_on_the_channel_once_or_before(
    service: Service, callers: Callable[..., TestCaller]
) -> None:
    await service.worker()
    url = service.url + "/webrtc"
    refused = await callers().dial(service.http, url, headers={"Authorization": "Bearer wrong-key-here"})
    assert refused.status == 401
    assert "Bearer" in refused.headers["WWW-Authenticate"]
    caller = callers()
    assert (await caller.dial(service.http, url)).status == 201
    error = await caller.configure(api_key="wrong-key-here")
    assert (error["type"], error["error_code"]) == ("error", "AUTH_FAILED")
    async with asyncio.timeout(PATIENCE_S):
        await caller.closed.wait()


@pytest.mark.parametrize(("config", "field"), [({"voice": "nobody"}, "voice"), ({"options": {"steps": 0}}, "steps")])
async def test_wrong_fields_are_named(service: Service, caller: TestCaller, config: dict[str, Any], field: str) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    error = await caller.configure(**config)
    assert (error["error_code"], field in str(error["details"]["fields"])) == ("INVALID_CONFIG", True)


def drop(prefix: str) -> Any:
    return lambda sdp: "".join(line for line in sdp.splitlines(keepends=True) if not line.startswith(prefix))


@pytest.mark.parametrize(
    "change",
    [
        lambda sdp: "nonsense",
        lambda sdp: "v=0\r\n",
        lambda sdp: sdp.replace("opus/48000/2", "opux/48000/2"),
        lambda sdp: sdp.replace("a=sendrecv", "a=recvonly", 1),
        lambda sdp: sdp.replace("m=audio", "m=video"),
        lambda sdp: sdp + "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n" * 40,
        lambda sdp: sdp + "a=candidate:words\r\n",
        drop("a=ice-ufrag"),
        drop("a=fingerprint"),
        drop("a=mid"),
    ],
    ids=["text", "empty", "codec", "direction", "video", "candidates", "candidate", "ufrag", "fingerprint", "mid"],
)
async def test_an_offer_that_cannot_be_used_is_refused_and_takes_no_place(
    service: Service, caller: TestCaller, change: Any
) -> None:
    await service.worker(capacity=1)
    response = await caller.dial(service.http, service.url + "/webrtc", headers=BEARER, change=change)
    assert response.status == 400
    assert service.gateway.pool.free == 1


async def test_other_requests_are_refused_in_words(service: Service) -> None:
    url = service.url + "/webrtc"
    async with service.http.post(url, json={}) as response:
        assert (response.status, response.headers["Accept"]) == (415, "application/sdp")
    headers = {"Content-Type": "application/sdp"}
    async with service.http.post(url, data="v=0\r\n" * 20_000, headers=headers) as response:
        assert (response.status, (await response.json())["details"]["fields"]) == (400, ["sdp"])
    async with service.http.post(url, data="v=0", headers={**headers, "Origin": "https://elsewhere"}) as response:
        assert response.status == 403
    async with service.http.patch(url + "/0.x", data="") as response:
        assert response.status == 405
    async with service.http.delete(url + "/7.x") as response:
        assert response.status == 404


async def test_without_a_place_the_offer_is_refused_with_when_to_come_again(
    service: Service, caller: TestCaller
) -> None:
    response = await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    assert (response.status, int(response.headers["Retry-After"]) > 0) == (503, True)


@pytest.mark.parametrize("settings", [{"config_timeout_s": 0.3}])
async def test_who_does_not_connect_gives_the_place_back(service: Service, caller: TestCaller) -> None:
    await service.worker(capacity=1)
    await caller.pc.setLocalDescription(await caller.pc.createOffer())
    headers = {"Content-Type": "application/sdp"}
    async with service.http.post(service.url + "/webrtc", data=caller.pc.localDescription.sdp, headers=headers) as got:
        assert got.status == 201
    assert service.gateway.pool.free == 0
    await service.until(lambda: service.gateway.pool.free == 1)
    assert service.counter("fastvc_sessions_ended_total", outcome="TIMEOUT") == 1


async def test_a_session_goes_over_to_who_calls_again_once_the_former_is_silent(
    service: Service, callers: Callable[..., TestCaller]
) -> None:
    await service.worker()
    first, second, third = callers(), callers(), callers()
    url = service.url + "/webrtc"
    await first.dial(service.http, url, headers=BEARER)
    assert (await first.configure(session_id="mine"))["type"] == "ready"
    await second.dial(service.http, url, headers=BEARER)
    assert (await second.configure(session_id="mine"))["details"]["fields"] == ["session_id"]
    first.cut_off()
    await third.dial(service.http, url, headers=BEARER)
    assert (await third.configure(session_id="mine"))["type"] == "ready"
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="replaced") == 1)


async def test_a_caller_whose_network_is_gone_comes_back_to_the_call(
    service: Service, callers: Callable[..., TestCaller]
) -> None:
    await service.worker()
    first, second = callers(), callers()
    url = service.url + "/webrtc"
    await first.dial(service.http, url, headers=BEARER)
    ready = await first.configure(session_id="mine")
    await first.say(speech(600))
    first.cut_off()
    await second.dial(service.http, url, headers=BEARER)
    again = await second.configure(session_id="mine", resume=ready["resume"])
    assert (again["type"], again["resumed"], again["new_stream"]) == ("ready", True, False), again
    await second.say(speech(600))
    second.tell({"type": "end"})
    complete = await second.message("complete", "error")
    assert complete["stats"]["total_processed_ms"] - complete["stats"]["padded_ms"] >= 1100
    assert second.heard_ms >= 500
    assert len(service.workers[0].opens) == 1
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="complete") == 1)


async def test_what_is_neither_control_nor_sound_is_counted_and_noise_in_its_place_ends_the_call(
    service: Service, caller: TestCaller
) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure(session_id="mine")
    for content in ("words", b"\x00\x01", "[1]", '{"type":"lost","count":3}', "{" * 5000):
        caller.tell(content)
    caller.tell({"type": "ping"})
    assert (await caller.message("pong"))["type"] == "pong"
    speaking = asyncio.create_task(caller.speak([b"\x03" + bytes(30)] * 80))
    error = await caller.message("error")
    speaking.cancel()
    assert error["error_code"] == "INVALID_AUDIO"
    assert "one after another" in error["message"]
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="INVALID_AUDIO") == 1)


@pytest.mark.parametrize("sections", [{"recording": {"enabled": True}}])
async def test_a_call_is_recorded_as_every_call_is(service: Service, caller: TestCaller, tmp_path: Path) -> None:
    await service.worker()
    await caller.dial(service.http, service.url + "/webrtc", headers=BEARER)
    await caller.configure(session_id="mine")
    await caller.say(speech(1000))
    caller.tell({"type": "end"})
    await caller.message("complete")
    await service.until(lambda: service.counter("fastvc_sessions_ended_total", outcome="complete") == 1)
    async with service.http.get(f"{service.url}/tools/session/mine", headers=BEARER) as response:
        archive = zipfile.ZipFile(io.BytesIO(await response.read()))
    about = json.loads(archive.read("session.json"))
    assert about["summary"]["total_processed_ms"] == pytest.approx(1000, abs=BLOCK_MS)
    assert "WebRTC" in str(about)
    assert {name.partition(".")[0] for name in archive.namelist()} >= {"input", "output"}


SERVERS = [{"urls": ["stun:127.0.0.1:9", "turn:127.0.0.1:9"], "username": "name", "credential": "word"}]


@pytest.mark.parametrize("sections", [{"webrtc": {"ice_servers": SERVERS}}])
async def test_ice_servers_are_told_to_who_has_a_credential(service: Service) -> None:
    url = service.url + "/webrtc"
    async with service.http.options(url) as response:
        assert (response.status, response.headers["Accept-Post"]) == (204, "application/sdp")
        assert "Link" not in response.headers
    async with service.http.options(url, headers=BEARER) as response:
        links = response.headers.getall("Link")
    assert links[0].startswith('<stun:127.0.0.1:9>; rel="ice-server"')
    assert 'username="name"; credential="word"' in links[1]


@pytest.mark.parametrize("settings", [{"allowed_origins": ["https://app.example"]}])
async def test_pages_of_sites_that_may_call_are_let_through(service: Service, caller: TestCaller) -> None:
    await service.worker()
    url, origin = service.url + "/webrtc", {"Origin": "https://app.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with service.http.options(url, headers=preflight) as response:
        assert response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        assert {"POST", "OPTIONS"} <= set(response.headers["Access-Control-Allow-Methods"].split(", "))
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
    response = await caller.dial(service.http, url, headers={**origin, **BEARER})
    assert response.status == 201
    assert "Location" in response.headers["Access-Control-Expose-Headers"]
    address = service.url + response.headers["Location"]
    async with service.http.options(
        address, headers={**preflight, "Access-Control-Request-Method": "DELETE"}
    ) as of_one:
        assert of_one.headers["Allow"] == of_one.headers["Access-Control-Allow-Methods"] == "DELETE, OPTIONS"
    async with service.http.delete(address) as ended:
        assert ended.status == 200
    async with service.http.options(url, headers={"Origin": "https://elsewhere.example"}) as refused:
        assert "Access-Control-Allow-Origin" not in refused.headers


@pytest.mark.parametrize("settings", [{"allowed_origins": ["https://app.example"]}])
async def test_pages_of_sites_that_may_call_read_why_they_are_refused(service: Service) -> None:
    url = service.url + "/webrtc"
    for method, path, status in (("POST", "", 415), ("PATCH", "/0.x", 405), ("DELETE", "/0.x", 404)):
        for origin, allowed in (("https://app.example", "https://app.example"), ("https://elsewhere.example", None)):
            async with service.http.request(method, url + path, headers={"Origin": origin}) as refused:
                assert refused.status == (403 if method == "POST" and allowed is None else status)
                assert refused.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.parametrize("sections", [{"webrtc": {"enabled": False}}])
async def test_where_it_is_switched_off_that_is_said(service: Service) -> None:
    async with service.http.options(service.url + "/webrtc") as response:
        assert (response.status, "Accept-Post" in response.headers) == (204, False)
    for method, path in (("POST", "/webrtc"), ("DELETE", "/webrtc/0.x")):
        async with service.http.request(method, service.url + path) as response:
            assert (response.status, "webrtc.enabled" in (await response.json())["message"]) == (501, True)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiortc", None)


async def test_without_the_extra_it_is_said_how_to_get_it(without_the_extra: None, service: Service) -> None:
    async with service.http.post(service.url + "/webrtc", data="v=0") as response:
        assert (response.status, "fast-vc-pool[webrtc]" in (await response.json())["message"]) == (501, True)
