"""ZeroMQ contexts that leave no socket open when a test ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq


class TidyContext(zmq.Context):  # type: ignore[type-arg]
    """Remembers its sockets, so that a test leaves none open."""

    def socket(self, *arguments: Any, **options: Any) -> Any:
        socket = super().socket(*arguments, **options)
        self.__dict__.setdefault("opened", []).append(socket)
        return socket

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[TidyContext]:
        context = cls()
        yield context
        for socket in context.__dict__.get("opened", []):
            socket.close(0)
        context.term()


def port_of(socket: zmq.Socket[Any]) -> int:
    return int(socket.getsockopt(zmq.LAST_ENDPOINT).rsplit(b":", 1)[1].rstrip(b"\0"))
