"""Slow answers to those who guess: each address has a budget of wrong credentials, and waits once it is used up.

A credential that was right before, from the same address, never waits: callers behind one address with a guesser notice
nothing. Waiting itself is bounded, so that a flood of guesses costs neither memory nor the callers' time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.auth.principal import CredentialError

Sleep = Callable[[float], Awaitable[None]]

_FREE_FAILURES = 10.0  # wrong credentials at once that cost nothing: somebody mistyped
_FORGIVEN_PER_S = 0.1
_WAIT_PER_FAILURE_S = 0.25  # beyond the free ones
_MAX_WAIT_S = 5.0
_MAX_WAITING = 16  # of one address at once; who comes beyond is refused unheard
_MAX_ADDRESSES = 10_000  # remembered, the latest
_MAX_KNOWN = 10_000


class SlowDown(CredentialError):
    """Too many wrong credentials came from this address: this one was not looked at."""


@dataclass(slots=True)
class _Address:
    failures: float = 0.0
    counted_at: float = 0.0
    waiting: int = 0

    def left(self, now: float) -> float:
        """Failures that are not forgiven yet."""
        return max(0.0, self.failures - (now - self.counted_at) * _FORGIVEN_PER_S)


class Guessing:
    """Lives on one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._now = now
        self._sleep = sleep
        self._secret = secrets.token_bytes(32)  # what is remembered of right credentials is of no use elsewhere
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    async def wait(self, address: str, credential: str) -> None:
        """Before a credential is looked at. Raises `SlowDown`."""
        if self._digest(address, credential) in self._known:
            return
        entry = self._addresses.get(network(address))
        if entry is None or (over := entry.left(self._now()) - _FREE_FAILURES) <= 0:
            return
        if entry.waiting >= _MAX_WAITING:
            raise SlowDown(f"too many wrong credentials from this address: try again in {_MAX_WAIT_S:g} s")
        entry.waiting += 1
        try:
            await self._sleep(min(_MAX_WAIT_S, over * _WAIT_PER_FAILURE_S))
        finally:
            entry.waiting -= 1

    def failed(self, address: str) -> None:
        """A credential from `address` was wrong."""
        now, key = self._now(), network(address)
        entry = self._addresses.setdefault(key, _Address())
        entry.failures = min(entry.left(now) + 1, _FREE_FAILURES + 2 * _MAX_WAIT_S / _WAIT_PER_FAILURE_S)
        entry.counted_at = now
        self._addresses.move_to_end(key)
        if len(self._addresses) > _MAX_ADDRESSES:
            self._addresses.popitem(last=False)

    def succeeded(self, address: str, credential: str) -> None:
        """A credential from `address` was right."""
        digest = self._digest(address, credential)
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def _digest(self, address: str, credential: str) -> bytes:
        text = f"{network(address)} {credential}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, hashlib.sha256(text).digest(), "sha256")


def network(address: str) -> str:
    """What one guesser has of addresses: one of IPv4, a /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
