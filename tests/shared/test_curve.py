"""Keys of the link: CURVE with an allow-list, what is refused, and pairs that nobody else reads."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from shared.curve import LinkError, authenticator, check_plain, derive_secret, load_keys, make_pair
from shared.link import bind_router, connect_dealer
from shared.settings import LinkConfig
from tests.support.sockets import TidyContext, port_of


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with TidyContext.opened() as context:
        yield context


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
        make_pair(tmp_path, name)
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


def test_a_pair_is_its_owner_s_alone_and_never_replaced(tmp_path: Path) -> None:
    public, secret = make_pair(tmp_path / "keys", "worker")
    for path in (public, secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert zmq.auth.load_certificate(secret)[0] == zmq.auth.load_certificate(public)[0]
    before = secret.read_bytes()
    with pytest.raises(FileExistsError, match=r"worker\.key is there already"):
        make_pair(tmp_path / "keys", "worker")
    assert secret.read_bytes() == before


def test_who_has_a_key_derives_the_same_from_it_for_one_purpose_and_nobody_else(keys: Path, tmp_path: Path) -> None:
    secret = keys / "gateway.key_secret"
    copy = tmp_path / "elsewhere"
    copy.write_bytes(secret.read_bytes())
    derived = derive_secret(LinkConfig(secret_key_file=secret), "one")
    assert derived is not None
    assert len(derived) == 32
    assert derived == derive_secret(LinkConfig(secret_key_file=copy), "one")
    assert derived != derive_secret(LinkConfig(secret_key_file=secret), "another")
    assert derived != derive_secret(LinkConfig(secret_key_file=keys / "worker.key_secret"), "one")
    assert derive_secret(LinkConfig(), "one") is None
    with pytest.raises(LinkError, match="no secret key"):
        derive_secret(LinkConfig(secret_key_file=keys / "gateway.key"), "one")
