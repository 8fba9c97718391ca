"""How many sessions each gateway may have at this worker, so that together they never exceed what was measured.

A gateway learns of its quota a moment after it was sent, and opens sessions by the old one until then. So a place
counts for its gateway until that gateway has confirmed a smaller quota: its heartbeats say which one it has read, and
how many sessions it then had. What nobody holds is shared out evenly, and again with every beat, so that places follow
the callers, wherever they knock. Where there are more gateways than free places chance decides, at each worker anew, or
the same gateways would go without at all of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Account:
    luck: float
    sent: int = 0  # the latest quota
    confirmed: bool = True  # whether the gateway has read it
    bound: int = 0  # sessions that the gateway may have, as far as anybody here can know


class Quotas:
    """The accounts of the gateways that are connected, by the number of their connection. Lives on one thread."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._accounts: dict[int, _Account] = {}
        self._chance = chance or random.Random()

    def join(self, gateway: int) -> None:
        """A connection is up. Its quota is 0 until `share` gives it one."""
        self._accounts[gateway] = _Account(self._chance.random())

    def leave(self, gateway: int) -> None:
        """The connection is gone, and its sessions with it."""
        self._accounts.pop(gateway, None)

    def confirm(self, gateway: int, quota: int, held: int) -> None:
        """The gateway has read `quota`, and has `held` sessions here, those that are on their way to us included."""
        account = self._accounts.get(gateway)
        if account is not None and quota == account.sent:
            account.confirmed = True
            account.bound = max(quota, held)

    def quota(self, gateway: int) -> int:
        """The latest that was shared out."""
        return self._accounts[gateway].sent

    def share(self, capacity: int, sessions: Mapping[int, int]) -> None:
        """New quotas, of `capacity` places in all. sessions: how many each gateway has here.

        A quota changes only when the last one was confirmed, so that a confirmation can mean one thing only.
        """
        wanted = self._targets(capacity, sessions)
        settled = [gateway for gateway, account in self._accounts.items() if account.confirmed]
        for gateway in settled:
            account = self._accounts[gateway]
            if wanted[gateway] < account.sent:
                account.sent, account.confirmed = wanted[gateway], False
        room = capacity - sum(account.bound for account in self._accounts.values())
        for gateway in settled:
            account = self._accounts[gateway]
            more = min(wanted[gateway], account.bound + room)
            if account.confirmed and room >= 0 and more > account.sent:  # what it has already takes no room
                room -= max(0, more - account.bound)
                account.sent, account.confirmed = more, False
                account.bound = max(account.bound, more)

    def _targets(self, capacity: int, sessions: Mapping[int, int]) -> dict[int, int]:
        """Those a gateway has, and an even part of the free ones; odd ones go where most callers are.

        Where all have too many, for the worker has become slower, each gets its share of less; it moves the rest.
        """
        order = sorted(self._accounts, key=lambda one: (-sessions.get(one, 0), self._accounts[one].luck))
        total = sum(sessions.get(gateway, 0) for gateway in order)
        if total > capacity:
            kept = {gateway: sessions.get(gateway, 0) * capacity // total for gateway in order}
            left = capacity - sum(kept.values())
            return {gateway: kept[gateway] + (place < left) for place, gateway in enumerate(order)}
        free = capacity - total
        each, odd = divmod(free, max(1, len(order)))
        return {gateway: sessions.get(gateway, 0) + each + (place < odd) for place, gateway in enumerate(order)}
