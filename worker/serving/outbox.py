"""What one thread has for another that waits at sockets: a queue that wakes it up."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Any thread puts in; one thread waits for `socket` to be readable, calls `hush`, then takes out.

    However much is put in before it does, it is woken once: a system call for each would let the two threads take the
    interpreter's lock from each other.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._is_waking = False
        self.socket, self._waker = socket.socketpair()
        self.socket.setblocking(False)
        self._waker.setblocking(False)

    def put(self, item: T) -> None:
        self._items.append(item)
        self.wake()

    def wake(self) -> None:
        """Let the waiting thread look round, with or without an item."""
        if not self._is_waking:
            self._is_waking = True
            with suppress(BlockingIOError, OSError):  # a full pipe wakes it as well
                self._waker.send(b"x")

    def hush(self) -> None:
        """Of the waiting thread, before it takes out: what is put in from now on wakes it again."""
        with suppress(BlockingIOError):
            self.socket.recv(64)
        self._is_waking = False

    def take(self) -> Iterator[T]:
        """Everything, in order, also what comes meanwhile."""
        while self._items:
            yield self._items.popleft()

    def close(self) -> None:
        self.socket.close()
        self._waker.close()
