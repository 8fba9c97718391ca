"""Who somebody is, once a credential has been believed: a name, what it may do, and how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

CALL = "call"  # open sessions, hear the voices
VOICES = "voices"  # add voices of one's own, remove them
ADMIN = "admin"  # everybody's recordings and voices, and the report
SCOPES = frozenset({CALL, VOICES, ADMIN})


class CredentialError(ValueError):
    """A credential that is not believed. The text is for the caller and tells nothing a guesser could use."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one principal may take of one gateway. None: as much as there is."""

    sessions: int | None = None  # at once
    sessions_per_minute: int | None = None
    minutes_per_day: float | None = None

    @classmethod
    def read(cls, given: Any) -> Limits:
        """From a file's or a token's mapping. Raises `ValueError` naming the key."""
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise ValueError("limits must be a mapping")
        known = [one.name for one in fields(cls)]
        for key, value in given.items():
            if key not in known:
                raise ValueError(f"limits.{key}: unknown; allowed: {', '.join(known)}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= 1e6):
                raise ValueError(f"limits.{key}: must be a number from 0 to 1000000")
            if value is not None and key != "minutes_per_day" and value != int(value):
                raise ValueError(f"limits.{key}: must be a whole number")
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may come in."""

    name: str
    scopes: frozenset[str] = frozenset({CALL})
    limits: Limits = field(default_factory=Limits)
    expires_at: float | None = None  # seconds since 1970, UTC
    record: bool | None = None  # whether calls leave a recording; None: as the configuration says
    key_id: str | None = None  # of the key of the file that was given

    def may(self, scope: str) -> bool:
        return scope in self.scopes or ADMIN in self.scopes


ANYBODY = Principal("anybody")  # where no credential is asked for


def read_scopes(given: Any) -> frozenset[str]:
    """From a list or a text with spaces; unknown ones (of other services) are left out. Nothing given: `call`."""
    if given is None:
        return frozenset({CALL})
    if isinstance(given, str):
        given = given.split()
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise ValueError("scopes must be a list or a text with spaces")
    return SCOPES & {str(scope) for scope in given}
