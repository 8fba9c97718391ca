"""Callers come back to a gateway of another host, or to the container that replaced theirs: nothing of the old call is
there but what they bring, which the key that gateways share must have signed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.errors import SessionError
from gateway.resume.returns import Returns, Where
from shared.config import Config
from shared.curve import load_keys, make_pair
from shared.settings import LinkConfig
from tests.support.waiting import PATIENCE_S
from tools.client.client import CallConfig
from tools.client.resuming import resuming_call

from ..conftest import KEY, Service, hear
from ..test_sessions import LEAD_MS, noise, say
from .test_resume import break_off, connect, finish, goes_on_anew, listen, whole

OTHER_KEY = "another-principal-s-key"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A link key of this service's gateways, one of another service's, and a worker's that both let in."""
    for name in ("gateway", "stranger"):
        make_pair(tmp_path, name)
    make_pair(tmp_path / "workers", "worker")
    return tmp_path


Host = Callable[..., Any]


@pytest.fixture
async def host(keys: Path) -> AsyncIterator[Host]:
    """Starts a gateway with a state folder of its own, and a worker."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(name: str, *, key: str | None = "gateway", port: int = 0, **gateway: Any) -> Service:
            link: dict[str, Any] = {"port": 0}
            if key is not None:
                link |= {"secret_key_file": keys / f"{key}.key_secret", "allowed_workers_dir": keys / "workers"}
            config = Config.model_validate(
                {
                    "gateway": {"port": port, "default_model": "echo", **gateway},
                    "auth": {"api_keys": [KEY, OTHER_KEY]},
                    "link": link,
                    "serve": {"state_dir": keys / name},
                    "recording": {"dir": keys / "outputs"},
                },
                strict=False,
            )
            started = Gateway(config)
            await started.start()
            service = Service(started, http)

            async def stop() -> None:
                if service.gateway is not None:
                    await service.gateway.stop()
                for worker in service.workers:
                    await worker.die()

            stack.push_async_callback(stop)
            pair = None
            if key is not None:
                own = LinkConfig(
                    secret_key_file=keys / "workers" / "worker.key_secret", server_key_file=keys / f"{key}.key"
                )
                pair = load_keys(own, need_server=True)
            await service.worker(keys=pair)
            return service

        yield start


async def end(service: Service) -> None:
    await service.gateway.stop()
    service.gateway = None  # type: ignore[assignment]


@pytest.mark.parametrize("kept", [None, 0])
async def test_after_a_gateway_is_gone_another_host_goes_on(host: Host, kept: int | None) -> None:
    first, second = await host("one"), await host("two")
    socket, ready = await connect(first)
    wave = noise(1000)
    await say(socket, wave[:8000])
    hearing = asyncio.create_task(hear(socket))
    await first.until(lambda: len(first.workers[0].chunks) >= 5)
    await end(first)
    heard, control, code = await hearing
    assert ([c["type"] for c in control], code) == (["going_away", "complete"], 1001)
    assert len(heard) == 2 * 16 * (500 + LEAD_MS)
    await goes_on_anew(second, ready, heard, wave, kept)
    assert bool(second.workers[0].opens[-1].history) == (kept == 0)


async def test_a_caller_whose_connection_breaks_may_reach_another_host_while_the_first_one_lives(host: Host) -> None:
    first, second = await host("one", resume_window_s=0.5), await host("two")
    socket, ready = await connect(first)
    wave = noise(900)
    await say(socket, wave[:8000])
    heard = await listen(socket, 2 * 16 * 300)
    break_off(socket)
    again, back = await connect(
        second, session_id=ready["session_id"], resume=ready["resume"], heard=len(heard) // 2, kept=0
    )
    assert back["new_stream"] is True
    await say(again, wave[back["received"] :])
    assert heard + await finish(again) == whole(wave)
    await first.until(lambda: not len(first.gateway.calls))  # it waits for nobody, for as long as the window


async def test_a_call_goes_on_at_one_host_after_the_other(host: Host) -> None:
    """The token of a new stream is that stream's own."""
    first, second = await host("one"), await host("two")
    wave, heard, ready = noise(1200), b"", {}
    for service, said in ((first, 6400), (second, 12_800), (first, len(wave))):
        came_back = {name: ready[name] for name in ("session_id", "resume") if name in ready}
        if came_back:
            came_back |= {"heard": len(heard) // 2, "kept": 0}
        socket, ready = await connect(service, **came_back)
        at = ready.get("received", 0)
        await say(socket, wave[at:said])
        if said == len(wave):
            heard += await finish(socket)
        else:
            heard += await listen(socket, 2 * (said - len(heard) // 2))
            break_off(socket)
    assert heard == whole(wave)


@pytest.mark.parametrize("stranger", ["another service's key", "no key"])
async def test_a_token_that_was_signed_by_others_leads_nowhere(host: Host, stranger: str) -> None:
    first = await host("one", key=None if stranger == "no key" else "gateway")
    second = await host("two", key=None if stranger == "no key" else "stranger")
    _, ready = await connect(first)
    refused, error = await connect(second, session_id=ready["session_id"], resume=ready["resume"], heard=0)
    assert (error["error_code"], error["details"]) == ("INVALID_CONFIG", {"fields": ["resume"]})
    assert (await refused.receive(timeout=PATIENCE_S)).type == aiohttp.WSMsgType.CLOSE


async def test_elsewhere_too_a_token_is_of_one_session_and_one_principal(host: Host) -> None:
    first, second = await host("one"), await host("two")
    _, ready = await connect(first, session_id="mine")
    token = ready["resume"]
    for config in (
        {"session_id": "other", "resume": token},
        {"session_id": "mine", "resume": token, "api_key": OTHER_KEY},
        {"session_id": "mine", "resume": token.replace("-", "-f", 1)},  # as if the call had begun at another time
        {"session_id": "mine", "resume": token[:-1] + ("0" if token[-1] != "0" else "1")},
    ):
        refused, error = await connect(second, **config)
        assert (error["error_code"], error["details"]["fields"]) == ("INVALID_CONFIG", ["resume"])
        assert (await refused.receive(timeout=PATIENCE_S)).type == aiohttp.WSMsgType.CLOSE


def returns(folder: Path, *, from_elsewhere: bool = True) -> Returns:
    made = Returns(folder, bytes(32), 30, longest_call_s=3600, from_elsewhere=from_elsewhere)
    made.start(None)
    return made


def test_a_token_holds_elsewhere_for_as_long_as_its_call_could_have_lasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = returns(tmp_path / "one").issue("s", "p")
    now = time.time()
    for later_s in (-60, 0, 3600 + 30):  # clocks are not quite the same
        monkeypatch.setattr(time, "time", lambda later_s=later_s: now + later_s)
        assert returns(tmp_path / "two").find(token, "s", "p").where is Where.ELSEWHERE
    monkeypatch.setattr(time, "time", lambda: now + 3600 + 30 + 62)
    with pytest.raises(SessionError, match="begin anew"):
        returns(tmp_path / "two").find(token, "s", "p")


def test_of_its_own_host_s_processes_a_gateway_knows_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files stay for as long as their tokens could be believed for want of them."""
    former = returns(tmp_path)
    _, token = former.issue("s", "p")
    former.beat(leaving=True)
    assert returns(tmp_path).find(token, "s", "p").where is Where.GONE
    (file,) = [path for path in tmp_path.glob("*.json") if json.loads(path.read_text())["leaving"]]
    import os

    os.utime(file, (time.time() - 600,) * 2)
    with pytest.raises(SessionError, match="begin anew"):
        returns(tmp_path).find(token, "s", "p")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600 + 100)
    with pytest.raises(SessionError, match="begin anew"):
        returns(tmp_path).find(token, "s", "p")
    assert not file.exists()


async def test_the_client_finds_the_container_that_replaced_the_gateway(host: Host) -> None:
    """`tools.client.resuming`, in real time, while the only gateway is replaced by one that remembers nothing."""
    first = await host("one")
    wave = noise(2500)

    async def replace() -> None:
        await asyncio.sleep(0.8)
        port = first.gateway.port
        await end(first)
        await asyncio.sleep(0.3)
        await host("another", port=port)

    replacing = asyncio.create_task(replace())
    async with aiohttp.ClientSession() as http:
        made = await resuming_call(http, CallConfig(first.url + "/ws", KEY, real_time=True), wave)
    await replacing
    assert [one.new_stream for one in made.breaks] == [True]
    assert made.output().tobytes() == whole(wave)
    assert (made.close_code, made.concealed) == (1000, 0)
