"""Which gateways a worker joins: those that are named by address, and every address of names that are looked up.

``dns://NAME:PORT`` stands for all gateways behind a name (a headless service, ``tasks.gateway`` of a swarm), however
many there are, while they come and go. The name is looked up again and again by a thread of its own; an answer that
fails changes nothing.
"""

from __future__ import annotations

import socket as net
import threading
from collections.abc import Callable, Iterable

from loguru import logger

from shared.addresses import addresses_of, is_name

LOOK_UP_EVERY_S = 2.0


class Directory:
    """`start`, then read `endpoints`: it is replaced, never changed, whenever an answer differs from the last."""

    def __init__(
        self, endpoints: Iterable[str], look_up: Callable[[str], list[str]] = addresses_of, every_s: float | None = None
    ) -> None:
        endpoints = list(endpoints)
        self._named = [one for one in endpoints if is_name(one)]
        self._fixed = [one for one in endpoints if not is_name(one)]
        self._known: dict[str, list[str]] = {}
        self._look_up = look_up
        self._every_s = LOOK_UP_EVERY_S if every_s is None else every_s
        self._stopped = threading.Event()
        self._failing: set[str] = set()
        self.endpoints = tuple(self._fixed)

    def start(self) -> None:
        """Only names need the thread."""
        if self._named:
            threading.Thread(target=self._run, name="directory", daemon=True).start()

    def stop(self) -> None:
        """The thread ends when its lookup does."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.refresh()
            self._stopped.wait(self._every_s)

    def refresh(self) -> None:
        """Look every name up once."""
        for name in self._named:
            try:
                self._known[name] = self._look_up(name)
            except net.gaierror as error:
                if name not in self._failing:
                    logger.warning("{}: cannot be looked up ({})", name, error.strerror)
                self._failing.add(name)
            else:
                self._failing.discard(name)
        now = tuple(dict.fromkeys([*self._fixed, *(one for known in self._known.values() for one in known)]))
        if now != self.endpoints:
            logger.info("gateways: {}", ", ".join(now) or "none")
            self.endpoints = now
