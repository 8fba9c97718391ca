"""How a call may fail: the table of error codes, the close code of each, and the exceptions that carry them."""

from __future__ import annotations

import re
from typing import Any, Literal

ErrorCode = Literal[
    "INVALID_CONFIG",
    "AUTH_FAILED",
    "INVALID_AUDIO",
    "TIMEOUT",
    "INTERNAL_ERROR",
    "OVERLOADED",
    "WORKER_LOST",
    "TOO_MANY_SESSIONS",
]

CLOSE_CODES: dict[ErrorCode, int] = {  # RFC 6455, 7.4.1
    "INVALID_CONFIG": 1008,
    "AUTH_FAILED": 1008,
    "INVALID_AUDIO": 1007,
    "TIMEOUT": 1008,
    "INTERNAL_ERROR": 1011,
    "OVERLOADED": 1013,
    "WORKER_LOST": 1011,
    "TOO_MANY_SESSIONS": 1013,
}


class SessionError(Exception):
    """Ends a session; the client is told `code`, `message` and `details`."""

    def __init__(
        self, code: ErrorCode, message: str, details: dict[str, Any] | None = None, close_code: int | None = None
    ) -> None:
        """`close_code` where the transport has a better one than the table's."""
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.details = details
        self.close_code = CLOSE_CODES[code] if close_code is None else close_code


def bad_field(name: str, reason: str) -> SessionError:
    """INVALID_CONFIG for one field, which the message and `details.fields` name."""
    return SessionError("INVALID_CONFIG", f"{name}: {reason}", {"fields": [name]})


_FIELD = re.compile(r"(options\.\w+|voice|model)\b")


def refused_by_worker(code: ErrorCode, message: str) -> SessionError:
    """A worker's refusal, whose message begins with the name of the field if there is one."""
    field = _FIELD.match(message) if code == "INVALID_CONFIG" else None
    return SessionError(code, message, {"fields": [field[0]]} if field else None)


class CallerGone(Exception):
    """The caller closed or lost the connection before the session was over."""

    def __init__(self, *, hung_up: bool = False) -> None:
        """`hung_up`: on purpose, so that they will not come back."""
        super().__init__("hung up" if hung_up else "the connection is gone")
        self.hung_up = hung_up
