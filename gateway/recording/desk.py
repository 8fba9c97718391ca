"""The desk where recordings are asked for: whose they are, in which form, and the same refusals over any transport."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from loguru import logger

from gateway.auth.principal import ADMIN, Principal
from gateway.errors import ErrorCode
from gateway.recording.analysis import analyse
from gateway.recording.files import ABOUT, CHUNKS, TIMELINE
from gateway.recording.index import Entry
from gateway.recording.recorder import Recorder
from gateway.recording.retrieval import FORMATS, PARTS, as_json, as_wav, as_zip, load
from gateway.recording.vault import VaultError, check_public, encrypt_to
from shared.errors import ConfigError
from shared.log import for_session

ANALYSIS = "analysis"
_MAX_ID_CHARS = 200
_AT_ONCE = 2  # a call of hours is hundreds of megabytes
_TYPES = {"zip": "application/zip", "base64": "application/json", "wav": "audio/wav"}


class DeskRefusal(Exception):
    """`status` is HTTP's."""

    def __init__(self, status: int, code: ErrorCode, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


@dataclass(frozen=True, slots=True)
class Wish:
    """Which recording, and what of it. `read` checks all but the id: one that cannot be shall look unknown."""

    session_id: str
    date: str | None = None
    part: str = "all"
    form: str = "zip"
    public: bytes | None = None  # an X25519 key: encrypted for who has its private one

    @classmethod
    def read(cls, session_id: str, given: Mapping[str, str], *, encrypt_to: str | None, key_name: str) -> Wish:
        """`given`: `date`, `part` and `format`. Raises `DeskRefusal`."""
        part = _choice(given, "part", (*PARTS, ANALYSIS), "all")
        form = _choice(given, "format", FORMATS, "zip")
        if form == "wav" and part not in ("input", "output"):
            raise _wrong("format", "wav is for part=input or part=output")
        date, public = given.get("date"), None
        if date is not None:
            try:
                date = datetime.date.fromisoformat(date).isoformat()
            except ValueError:
                raise _wrong("date", "write YYYY-MM-DD (UTC)") from None
        if encrypt_to is not None:
            try:
                public = base64.b64decode(encrypt_to, validate=True)
            except (binascii.Error, ValueError):
                raise _wrong(key_name, "must be base64") from None
            try:
                check_public(public)
            except VaultError as error:
                raise _wrong(key_name, str(error)) from None
        return cls(session_id, date, part, form, public)

    @property
    def content_type(self) -> str:
        """Of the answer."""
        if self.public is not None:
            return "application/octet-stream"
        return "application/json" if self.part == ANALYSIS else _TYPES[self.form]


class Desk:
    """Lives on one event loop; the disk is left to threads."""

    def __init__(self, recorder: Recorder, *, opened_to_anybody: bool) -> None:
        """opened_to_anybody: nobody is asked who they are, and others than this machine reach the gateway."""
        self._recorder = recorder
        self._closed = opened_to_anybody
        self._reading = asyncio.Semaphore(_AT_ONCE)

    def check_open(self) -> None:
        """Raises `DeskRefusal` where nobody can be told from anybody."""
        if self._closed:
            raise DeskRefusal(403, "AUTH_FAILED", "recordings are given to known principals alone (auth.mode)")

    async def get(self, principal: Principal, wish: Wish) -> bytes:
        """Raises `DeskRefusal`."""
        entry = await self._find(principal, wish)
        async with self._reading:
            try:
                body = await asyncio.to_thread(self._body, entry, wish)
            except ValueError:
                raise _nothing() from None
        for_session(entry.session_id).info("recording: {} was given to {}", wish.part, principal.name)
        return body

    async def delete(self, principal: Principal, wish: Wish) -> None:
        """Raises `DeskRefusal`."""
        entry = await self._find(principal, wish)
        if entry.outcome is None:
            raise DeskRefusal(409, "INVALID_CONFIG", "the call is still on")
        try:
            await asyncio.to_thread(self._recorder.index.remove, entry)
        except (OSError, sqlite3.Error) as error:
            for_session(entry.session_id).error("the recording cannot be removed: {}", error)
            raise _failed("the recording cannot be removed") from None
        for_session(entry.session_id).info("recording: removed for {}", principal.name)

    async def _find(self, principal: Principal, wish: Wish) -> Entry:
        """Unknown, foreign and impossible ids look the same."""
        if not 0 < len(wish.session_id) <= _MAX_ID_CHARS:
            raise _nothing()
        owner = None if principal.may(ADMIN) else principal.name
        try:
            entry = await asyncio.to_thread(self._recorder.index.find, wish.session_id, owner, wish.date)
        except (UnicodeError, OverflowError):
            entry = None  # what is no text
        except (OSError, sqlite3.Error) as error:
            logger.error("the index of recordings cannot be read: {}", error)
            raise _failed("recordings cannot be read") from None
        if entry is None:
            raise _nothing()
        return entry

    def _body(self, entry: Entry, wish: Wish) -> bytes:
        """Raises `ValueError` where there is nothing of it, `DeskRefusal` where it cannot be read."""
        part = "all" if wish.part == ANALYSIS else wish.part
        try:
            loaded = load(self._recorder.index, self._recorder.vault, entry, part)
        except (OSError, ConfigError, VaultError) as error:
            for_session(entry.session_id).error("the recording cannot be read: {}", error)
            raise _failed("the recording cannot be read") from None
        if not loaded:
            raise ValueError("nothing")
        if wish.part == ANALYSIS:
            known = [loaded.get(name, b"") for name in (ABOUT, TIMELINE, CHUNKS)]
            body = json.dumps(analyse(*known)).encode()
        elif wish.form == "zip":
            body = as_zip(loaded)
        elif wish.form == "wav":
            body = as_wav(next(iter(loaded.values())))
        else:
            body = as_json(entry, loaded)
        return body if wish.public is None else encrypt_to(wish.public, body)


def _choice(given: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in allowed:
        raise _wrong(name, f"one of {', '.join(allowed)}")
    return value


def _wrong(field: str, reason: str) -> DeskRefusal:
    return DeskRefusal(400, "INVALID_CONFIG", f"{field}: {reason}", field)


def _failed(what: str) -> DeskRefusal:
    return DeskRefusal(503, "INTERNAL_ERROR", f"{what}; see the gateway's log")


def _nothing() -> DeskRefusal:
    return DeskRefusal(404, "INVALID_CONFIG", "no recording of yours has this id")
