"""The first message: which protocol it starts, and how its sender is told of errors."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import SessionError
from gateway.protocols.contract import ClientProtocol
from gateway.protocols.reading import read_object
from gateway.protocols.simple import SimpleProtocol, simple_error
from gateway.protocols.standard import StandardProtocol, standard_error


def error_writer(text: str) -> Callable[[SessionError], str]:
    """How errors are put to the sender of this first message, before it is known to be valid."""
    content = read_object(text)
    if "signal" in content:
        stream_id = content.get("stream_id")
        return lambda error: simple_error(error, stream_id)
    session_id = content.get("session_id")
    given = session_id if isinstance(session_id, str) and session_id else None
    return lambda error: standard_error(error, given)


def parse_first(text: str, *, allow_simple: bool = True) -> ClientProtocol:
    """The protocol that a first text message starts. Raises `SessionError`, INVALID_CONFIG with the fields' names."""
    content = read_object(text)
    if not content:
        raise SessionError("INVALID_CONFIG", "the first message must be a JSON object that configures the session")
    if "signal" not in content:
        return StandardProtocol(content)
    if not allow_simple:
        raise SessionError("AUTH_FAILED", "the simple protocol carries no key and is not allowed here")
    return SimpleProtocol(content)
