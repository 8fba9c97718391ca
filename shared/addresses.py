"""Addresses: which hosts are this machine, where a peer is reached, how one is written, and free ports."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.settings import Config

_ASK_EVERY_S = 0.2
_TRIES = 100
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens on `host`. A name other than localhost is not resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """`host` as it stands in a URL or an endpoint: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def reachable(host: str) -> str:
    """The address to connect to, from this machine, for one that was listened on; IPv6 in brackets."""
    return bracketed(_ANYWHERE.get(host.strip("[]"), host))


def base_url(config: Config) -> str:
    """Where a client on this machine reaches the gateway."""
    scheme = "http" if config.gateway.tls_certificate is None else "https"
    return f"{scheme}://{reachable(config.gateway.host)}:{config.gateway.port}"


def link_endpoint(config: Config, number: int = 0) -> str:
    """Where a worker on this machine reaches the link of the gateway, or of the n-th of several."""
    return f"tcp://{reachable(config.link.host)}:{config.link.port + number}"


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of ``tcp://HOST:PORT``, or of ``dns://NAME:PORT``. Raises `ConfigError`."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("tcp", "dns") or not parts.hostname or not port or parts.path:
        raise ConfigError(
            f"gateway address {endpoint!r}: write tcp://HOST:PORT, or dns://NAME:PORT for all that a name stands for"
        )
    return parts.hostname, port


def is_name(endpoint: str) -> bool:
    """Whether an endpoint stands for every address of a name."""
    return endpoint.startswith("dns://")


def addresses_of(endpoint: str) -> list[str]:
    """``tcp://ADDRESS:PORT`` for every address that the name of ``dns://NAME:PORT`` has now, in order. It may take
    seconds. Raises `socket.gaierror`."""
    name, port = parse_endpoint(endpoint)
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [f"tcp://{bracketed(host)}:{port}" for host in sorted({str(address[0]) for *_, address in found})]


def answers(url: str, timeout_s: float = 0.5) -> bool:
    """Whether `url` of this machine answers 200. A certificate names the public host, and is not looked at."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reads no authorities' certificates, which takes a while
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(  # a proxy knows no loopback of ours
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anybody)
    )
    try:
        with direct.open(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except (OSError, ValueError, http.client.HTTPException):
        return False


def wait_until_ready(base: str, alive: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the gateway at `base` could take a session before it stopped to be `alive` or the time was over."""
    end = time.monotonic() + timeout_s
    while alive() and time.monotonic() < end:
        if answers(base + "/ready", timeout_s=1.0):
            return True
        time.sleep(_ASK_EVERY_S)
    return False


def bind_fault(host: str, port: int) -> OSError | None:
    """Why nobody could listen on a port now, as a server would that was started anew; None: it is free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int, host: str = "127.0.0.1") -> int:
    """The first of `count` ports of `host` in a row that nobody listens on now. Raises `OSError` if none is found."""
    for _ in range(_TRIES):
        first = free_port(host)
        with suppress(OSError, OverflowError):
            for port in range(first + 1, first + count):
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
                    probe.bind((host, port))
            return first
    raise OSError(f"no {count} free ports in a row")
