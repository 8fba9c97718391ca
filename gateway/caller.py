"""What a call needs of whoever calls, over whatever transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from gateway.auth.principal import Principal
from gateway.errors import SessionError
from gateway.request import SessionRequest


class Cue(Enum):
    """What may be heard besides sound."""

    END = auto()  # no more sound will come
    PING = auto()  # wants an answer
    ALIVE = auto()  # means nothing, but somebody is there
    UNKNOWN = auto()  # neither control nor sound


@dataclass(frozen=True, slots=True)
class Lost:
    """So many packets did not arrive."""

    count: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The caller has heard everything before this position, in samples."""

    samples: int


Heard = bytes | Lost | Acknowledged | Cue


class Caller(Protocol):
    """One caller. Every method may raise `CallerGone` or `ConnectionError` when nobody is there any more."""

    transport: str  # and protocol, for the log
    address: str  # where the call comes from, as far as is known
    principal: Principal | None  # whose credential came with the connection

    @property
    def may_return(self) -> bool:
        """Over another connection, should this one break; known after the introduction."""
        ...

    async def introduce(self) -> SessionRequest:
        """What the caller asks for. Raises `SessionError`."""
        ...

    async def ready(self, details: dict[str, Any]) -> None:
        """The session is open; `details` say how the answer lies in time."""
        ...

    async def hear(self) -> Heard:
        """The next payload or cue. Raises `SessionError` for what cannot be understood."""
        ...

    async def say(self, payloads: Sequence[bytes]) -> None:
        """The next messages of the answer; waits while the caller does not read."""
        ...

    async def warn(self, message: str, seconds_left: int) -> None:
        """The call will be ended so soon; nothing is said where the protocol has no words for it."""
        ...

    async def report(self, stats: dict[str, Any]) -> None:
        """How the block was made that was said last; for callers who asked for it."""
        ...

    async def going_away(self, resume_within_s: float) -> None:
        """The gateway stops: what was heard is answered, and the caller may go on elsewhere."""
        ...

    async def complete(self, stats: dict[str, Any], *, going_away: bool) -> bool:
        """The answer is whole; whether the caller has taken note. `going_away`: the gateway stops."""
        ...

    async def refuse(self, error: SessionError) -> None:
        """The call ends with `error`; said once, then hung up."""
        ...

    async def forward(self, port: int) -> None:
        """Have the caller served by the process that listens there on loopback, to the end."""
        ...

    def cut(self) -> None:
        """End the connection without a word; whoever waits for the caller is told that they are gone."""
        ...

    async def is_alive(self) -> bool:
        """Whether the caller answers within moments."""
        ...
