"""Addresses: one owner for what is this machine, how to reach it and how it is written."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from shared.addresses import (
    addresses_of,
    base_url,
    bracketed,
    free_port,
    free_ports,
    is_loopback,
    is_name,
    link_endpoint,
    parse_endpoint,
)
from shared.config import Config, ConfigError, GatewayConfig, LinkConfig


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.example", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("10.1.2.3", "10.1.2.3"),
        ("localhost", "localhost"),
    ],
)
def test_addresses_to_connect_to(host: str, reached: str) -> None:
    config = Config(gateway=GatewayConfig(host=host), link=LinkConfig(host=host))
    assert base_url(config) == f"http://{reached}:8042"
    assert link_endpoint(config) == f"tcp://{reached}:5555"


def test_an_endpoint_is_read() -> None:
    assert parse_endpoint("tcp://gateway.example:5555") == ("gateway.example", 5555)
    assert parse_endpoint("tcp://[::1]:5556") == ("::1", 5556)
    assert parse_endpoint("dns://tasks.gateway:5555") == ("tasks.gateway", 5555)
    assert bracketed("::1") == bracketed("[::1]") == "[::1]"


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:5555", "tcp://host", "tcp://:1", "udp://h:1", "tcp://h:99999"])
def test_an_endpoint_is_checked(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="tcp://HOST:PORT"):
        parse_endpoint(endpoint)


def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_name("dns://gateway:5555")
    assert not is_name("tcp://gateway:5555")
    found = [("10.0.0.2", 5555), ("10.0.0.1", 5555), ("fd00::1", 5555, 0, 0), ("10.0.0.2", 5555)]
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    addresses = addresses_of("dns://gateway:5555")
    assert addresses == ["tcp://10.0.0.1:5555", "tcp://10.0.0.2:5555", "tcp://[fd00::1]:5555"]


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def test_free_ports_are_free_and_in_a_row() -> None:
    first = free_ports(3)
    with ExitStack() as stack:
        for port in range(first, first + 3):
            stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
