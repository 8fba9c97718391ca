"""What a protocol of text messages is: the meaning of a caller's control messages, and how the answers are put."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.caller import Heard
from gateway.errors import SessionError
from gateway.request import SessionRequest


class ClientProtocol(Protocol):
    """One caller's protocol, with what it asked for in its first message."""

    name: str
    may_return: bool  # whether a caller whose connection broke can say so
    request: SessionRequest

    def read(self, text: str) -> Heard:
        """A text message after the first. Raises `SessionError` for a control message that cannot be meant."""
        ...

    def pong(self) -> str: ...

    def ready(self, details: dict[str, Any]) -> str | None:
        """None where the protocol has no such message."""
        ...

    def warning(self, message: str, seconds_left: int) -> str | None:
        """None where the protocol has no such message."""
        ...

    def report(self, stats: dict[str, Any]) -> str | None:
        """How one block was made. None where the protocol has no such message."""
        ...

    def going_away(self, resume_within_s: float) -> str | None:
        """None where the protocol has no such message."""
        ...

    def complete(self, stats: dict[str, Any]) -> str: ...

    def error(self, error: SessionError) -> str: ...
