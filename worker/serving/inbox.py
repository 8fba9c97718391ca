"""What gateways have sent and the engine has not taken yet: where the link's thread and the engine's meet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shared.messages import Chunk, Close, Open

MAX_INBOX = 100_000  # messages; reached only if the engine hangs while gateways ignore their credit


@dataclass(frozen=True, slots=True)
class DropGateway:
    """A connection is gone, and its sessions with it."""


Message = Open | Chunk | Close | DropGateway
Arrived = tuple[int, float, Message]  # gateway connection, clock time, message


class Inbox:
    """`put` and `wake` are for any thread, the rest for the engine's.

    A voice that a session brings is computed while everybody waits, so that each turn has time for one: other sessions
    that bring theirs are put off until the next turn, and what else comes for them stays behind their beginning.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.refused = 0  # chunks that found no room
        self._clock = clock
        self._messages: deque[Arrived] = deque()
        self._later: deque[Arrived] = deque()  # of the next turn
        self._brought = False  # in this turn a session began that brought its voice
        self._arrived = threading.Condition()

    def put(self, gateway: int, message: Message) -> None:
        """Never blocks for long."""
        with self._arrived:
            if len(self._messages) >= MAX_INBOX and isinstance(message, Chunk):
                self.refused += 1
                return
            self._messages.append((gateway, self._clock(), message))
            self._arrived.notify()

    def wake(self) -> None:
        """Ends a `wait`."""
        with self._arrived:
            self._arrived.notify()

    @property
    def is_empty(self) -> bool:
        """Nothing has come, and nothing is put off."""
        with self._arrived:
            return not self._messages and not self._later

    def wait(self, seconds: float) -> None:
        """Until a message has come, or somebody wakes."""
        with self._arrived:
            if not self._messages:
                self._arrived.wait(seconds)

    def begin_turn(self) -> None:
        """One session more may bring its voice."""
        self._brought = False

    def take(self) -> Iterator[Arrived]:
        """What is there, in order, less what is put off."""
        with self._arrived:
            arrived, self._messages = self._later + self._messages, deque()
        self._later = deque()
        for one in arrived:
            if not self._put_off(one):
                yield one

    def _put_off(self, one: Arrived) -> bool:
        gateway, _, message = one
        if isinstance(message, DropGateway):
            self._later = deque(other for other in self._later if other[0] != gateway)
            return False
        key = (gateway, message.session)
        brings = isinstance(message, Open) and bool(message.reference)
        if (brings and self._brought) or any(key == _key(other) for other in self._later):
            self._later.append(one)
            return True
        self._brought = self._brought or brings
        return False


def _key(arrived: Arrived) -> tuple[int, str] | None:
    gateway, _, message = arrived
    return None if isinstance(message, DropGateway) else (gateway, message.session)
