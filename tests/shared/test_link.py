"""Sockets of the link: safe options, CURVE with an allow-list, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from shared.config import LinkConfig
from shared.link import (
    LinkError,
    authenticator,
    bind_router,
    check_plain,
    connect_dealer,
    load_keys,
)


class _Context(zmq.Context):  # type: ignore[type-arg]
    """Remembers its sockets, so that a test leaves none open."""

    def socket(self, *arguments: Any, **options: Any) -> Any:
        socket = super().socket(*arguments, **options)
        self.__dict__.setdefault("opened", []).append(socket)
        return socket


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context = _Context()
    yield context
    for socket in context.__dict__.get("opened", []):
        socket.close(0)
    context.term()


def port_of(socket: zmq.Socket[Any]) -> int:
    return int(socket.getsockopt(zmq.LAST_ENDPOINT).rsplit(b":", 1)[1].rstrip(b"\0"))


def test_nothing_is_unbounded_or_silent(context: zmq.Context[Any]) -> None:
    router = bind_router(context, LinkConfig(port=0))
    for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.MAXMSGSIZE, zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT):
        assert router.getsockopt(option) > 0
    assert 0 < router.getsockopt(zmq.LINGER) <= 1000
    with pytest.raises(zmq.ZMQError) as caught:  # ROUTER_MANDATORY
        router.send_multipart([b"nobody", b""], zmq.NOBLOCK)
    assert caught.value.errno == zmq.EHOSTUNREACH


def test_a_taken_port_is_named(context: zmq.Context[Any]) -> None:
    taken = port_of(bind_router(context, LinkConfig(port=0)))
    with pytest.raises(LinkError, match=rf"{taken}.*FASTVC_LINK__PORT"):
        bind_router(context, LinkConfig(port=taken))


def test_every_connection_has_its_own_identity(context: zmq.Context[Any]) -> None:
    first, second = (connect_dealer(context, "tcp://127.0.0.1:9", None, "w") for _ in range(2))
    assert first.getsockopt(zmq.IDENTITY) != second.getsockopt(zmq.IDENTITY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_plain_is_allowed_on_loopback(host: str) -> None:
    check_plain(host, LinkConfig())


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "gateway.example", "::"])
def test_plain_beyond_loopback_must_be_asked_for(host: str) -> None:
    with pytest.raises(LinkError, match="allow_plain"):
        check_plain(host, LinkConfig())
    check_plain(host, LinkConfig(allow_plain=True))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of a gateway, an allowed worker and a stranger; the allow-list has the worker's public key."""
    (tmp_path / "allowed").mkdir()
    for name in ("gateway", "worker", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
    shutil.copy(tmp_path / "worker.key", tmp_path / "allowed")
    return tmp_path


def says_hello(context: zmq.Context[Any], port: int, config: LinkConfig | None, router: zmq.Socket[Any]) -> bool:
    """Whether a worker with `config`'s keys gets a message through to the gateway."""
    worker_keys = load_keys(config, need_server=True) if config is not None else None
    dealer = connect_dealer(context, f"tcp://127.0.0.1:{port}", worker_keys, "w")
    dealer.send(b"hello")
    heard = bool(router.poll(700))
    if heard:
        assert router.recv_multipart()[1] == b"hello"
    dealer.close(0)
    return heard


def test_only_allowed_keys_get_through(context: zmq.Context[Any], keys: Path) -> None:
    config = LinkConfig(port=0, secret_key_file=keys / "gateway.key_secret", allowed_workers_dir=keys / "allowed")
    guard = authenticator(context, config)
    assert guard is not None
    try:
        router = bind_router(context, config)
        port = port_of(router)

        def worker(name: str) -> LinkConfig:
            return LinkConfig(secret_key_file=keys / f"{name}.key_secret", server_key_file=keys / "gateway.key")

        assert says_hello(context, port, worker("worker"), router)
        assert not says_hello(context, port, worker("stranger"), router)
        assert not says_hello(context, port, None, router)
    finally:
        guard.stop()


def test_incomplete_keys_are_named(context: zmq.Context[Any], keys: Path) -> None:
    secret = keys / "worker.key_secret"
    with pytest.raises(LinkError, match="server_key_file"):
        load_keys(LinkConfig(secret_key_file=secret), need_server=True)
    with pytest.raises(LinkError, match="no secret key"):
        load_keys(LinkConfig(secret_key_file=keys / "worker.key"), need_server=False)
    with pytest.raises(LinkError, match=r"nothing\.key"):
        load_keys(LinkConfig(secret_key_file=keys / "nothing.key"), need_server=False)
    with pytest.raises(LinkError, match="allowed_workers_dir"):
        authenticator(context, LinkConfig(secret_key_file=secret))
