"""Sockets of the link: safe options, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from shared.curve import LinkError
from shared.link import bind_router, connect_dealer
from shared.settings import LinkConfig
from tests.support.sockets import TidyContext, port_of


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with TidyContext.opened() as context:
        yield context


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
