"""The link with keys: who is not listed is kept out and named, and the list is followed while the gateway runs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from gateway.app import Gateway
from gateway.seldom import Seldom
from shared.config import Config
from shared.curve import fingerprint, load_keys, make_pair, read_public
from shared.link import connect_dealer
from shared.messages import PROTOCOL_VERSION, Hello, VoiceInfo, encode
from shared.settings import LinkConfig
from tests.support.sockets import TidyContext
from tests.support.waiting import soon

HELLO = encode(
    Hello(PROTOCOL_VERSION, "w", "host", 1, "cpu", "echo", 100, 20, 200, 16_000, [VoiceInfo("one")], capacity=4)
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "workers").mkdir()
    for name in ("gateway", "worker", "stranger", "elsewhere"):
        make_pair(tmp_path, name)
    shutil.copy(tmp_path / "worker.key", tmp_path / "workers")
    return tmp_path


@pytest.fixture
async def gateway(keys: Path) -> AsyncIterator[Gateway]:
    link = {"port": 0, "secret_key_file": keys / "gateway.key_secret", "allowed_workers_dir": keys / "workers"}
    config = {"gateway": {"port": 0, "default_model": "echo"}, "link": link, "serve": {"state_dir": keys / "temp"}}
    gateway = Gateway(Config.model_validate(config, strict=False))
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with TidyContext.opened() as context:
        yield context


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def join(context: zmq.Context[Any], gateway: Gateway, keys: Path, name: str | None, server: str = "gateway") -> None:
    """A worker with the keys of `name` says hello."""
    own = LinkConfig(secret_key_file=keys / f"{name}.key_secret", server_key_file=keys / f"{server}.key")
    pair = None if name is None else load_keys(own, need_server=True)
    dealer = connect_dealer(context, f"tcp://127.0.0.1:{gateway.link.port}", pair, "w")
    with suppress(zmq.Again):  # it was refused already
        dealer.send(HELLO, zmq.NOBLOCK)


def refused(gateway: Gateway, reason: str) -> float:
    name = "fastvc_link_connections_refused_total"
    return gateway.metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0


async def test_a_key_that_is_not_listed_is_named_with_what_to_do_and_joins_once_it_is(
    gateway: Gateway, keys: Path, context: zmq.Context[Any], log: list[str]
) -> None:
    join(context, gateway, keys, "stranger")
    await soon(lambda: refused(gateway, "key") >= 1)
    (line,) = [line for line in log if "kept out" in line]
    for words in (fingerprint(read_public(keys / "stranger.key")), "at 127.0.0.1", f"{keys}/workers/", "seconds"):
        assert words in line
    for _ in range(3):
        join(context, gateway, keys, "stranger")
    await soon(lambda: refused(gateway, "key") >= 4)
    assert len([line for line in log if "kept out" in line]) == 1
    assert not gateway.pool.workers
    shutil.copy(keys / "stranger.key", keys / "workers")
    await soon(lambda: any("2 workers may join" in line for line in log))
    join(context, gateway, keys, "stranger")
    await soon(lambda: gateway.pool.workers)
    (keys / "workers" / "stranger.key").unlink()
    await soon(lambda: not gateway.pool.workers)
    await asyncio.sleep(0.1)
    assert not gateway.pool.workers
    assert any("no longer in link.allowed_workers_dir" in line for line in log)


async def test_a_broken_certificate_lets_nobody_in_and_keeps_nobody_out(
    gateway: Gateway, keys: Path, context: zmq.Context[Any], log: list[str]
) -> None:
    (keys / "workers" / "broken.key").write_text("nothing")
    await soon(lambda: any("broken.key" in line for line in log))
    join(context, gateway, keys, "worker")
    await soon(lambda: gateway.pool.workers)


@pytest.mark.parametrize(("name", "server"), [(None, "gateway"), ("worker", "elsewhere")])
async def test_without_keys_or_with_another_gateway_s_nobody_gets_a_word_in(
    gateway: Gateway, keys: Path, context: zmq.Context[Any], log: list[str], name: str | None, server: str
) -> None:
    join(context, gateway, keys, name, server)
    await soon(lambda: refused(gateway, "handshake") >= 1)
    assert any("another gateway" in line for line in log)
    assert not gateway.pool.workers


async def test_garbage_and_a_recorded_handshake_never_reach_the_pool(
    gateway: Gateway, keys: Path, context: zmq.Context[Any], log: list[str]
) -> None:
    """What a worker once sent, sent again by somebody who listened; and bytes that are nothing at all."""
    recorded = bytearray()

    async def listen_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", gateway.link.port)

        async def back() -> None:
            while part := await there[0].read(65_536):
                writer.write(part)

        task = asyncio.create_task(back())
        while part := await reader.read(65_536):
            recorded.extend(part)
            there[1].write(part)
        task.cancel()
        await close(there[1])
        await close(writer)

    async with await asyncio.start_server(listen_in, "127.0.0.1", 0) as eavesdropper:
        port = eavesdropper.sockets[0].getsockname()[1]
        own = LinkConfig(secret_key_file=keys / "worker.key_secret", server_key_file=keys / "gateway.key")
        worker = connect_dealer(context, f"tcp://127.0.0.1:{port}", load_keys(own, need_server=True), "w")
        worker.send(HELLO)
        await soon(lambda: gateway.pool.workers)
        worker.close(0)
        await soon(lambda: not gateway.pool.workers)
    assert len(recorded) > len(HELLO)
    for content in (bytes(recorded), bytes(range(256)) * 40, b"GET / HTTP/1.1\r\n\r\n" * 100, b"\xff" * 10_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.link.port)
        writer.write(content)
        with pytest.raises((TimeoutError, ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(0.5):
                await reader.readexactly(1 << 20)
        await close(writer)
    assert not gateway.pool.workers
    assert refused(gateway, "handshake") >= 1


def test_seldom_is_seldom_and_bounded() -> None:
    now = 0.0
    seldom = Seldom(10, at_most=3, clock=lambda: now)
    assert seldom.count("a") == 1
    assert [seldom.count("a") for _ in range(5)] == [None] * 5
    assert [seldom.count(kind) for kind in "bcde"] == [1, 1, None, None]
    now = 11.0
    assert seldom.count("a") == 6
    assert seldom.count("d") == 2
    for number in range(3000):
        seldom.count(str(number))
    assert len(seldom._kinds) <= 1001
