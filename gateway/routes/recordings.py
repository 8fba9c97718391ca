"""What a call left, for who made it or an administrator: to have it, or to have it removed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import sqlite3

from aiohttp import web
from loguru import logger

from gateway.auth.door import Door
from gateway.auth.principal import ADMIN, Principal
from gateway.auth.requests import failure, principal_of
from gateway.recording.index import Entry
from gateway.recording.recorder import Recorder
from gateway.recording.retrieval import FORMATS, PARTS, as_json, as_wav, as_zip, load
from gateway.recording.vault import VaultError, encrypt_to
from shared.errors import ConfigError
from shared.log import for_session

ENCRYPT_TO = "X-Encrypt-To"  # an X25519 public key, 32 bytes in base64
_MAX_ID_CHARS = 200
_TYPES = {"zip": "application/zip", "base64": "application/json", "wav": "audio/wav"}


def recording_routes(door: Door, recorder: Recorder, *, is_private: bool) -> list[web.RouteDef]:
    """is_private: only this machine reaches the gateway; elsewhere nobody is served without a credential."""

    async def get(request: web.Request) -> web.Response:
        principal = await _who(request, door, is_private)
        part = _choice(request, "part", tuple(PARTS), "all")
        form = _choice(request, "format", FORMATS, "zip")
        if form == "wav" and part not in ("input", "output"):
            raise failure(400, "INVALID_CONFIG", "format: wav is for part=input or part=output", field="format")
        public = _public_key(request)
        entry = await _find(request, recorder, principal)
        try:
            body = await asyncio.to_thread(_body, recorder, entry, part, form, public)
        except VaultError as error:
            raise failure(400, "INVALID_CONFIG", f"{ENCRYPT_TO}: {error}", field=ENCRYPT_TO) from None
        except ValueError:
            raise _nothing() from None
        for_session(entry.session_id).info("recording: {} was given to {}", part, principal.name)
        kind = "application/octet-stream" if public is not None else _TYPES[form]
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=body, content_type=kind, headers=headers)

    async def delete(request: web.Request) -> web.Response:
        principal = await _who(request, door, is_private)
        entry = await _find(request, recorder, principal)
        if entry.outcome is None:
            raise failure(409, "INVALID_CONFIG", "the call is still on")
        try:
            await asyncio.to_thread(recorder.index.remove, entry)
        except (OSError, sqlite3.Error) as error:
            for_session(entry.session_id).error("the recording cannot be removed: {}", error)
            raise failure(503, "INTERNAL_ERROR", "the recording cannot be removed; see the gateway's log") from None
        for_session(entry.session_id).info("recording: removed for {}", principal.name)
        return web.Response(status=204)

    path = "/tools/session/{id}"
    return [web.get(path, get), web.delete(path, delete)]


async def _who(request: web.Request, door: Door, is_private: bool) -> Principal:
    if door.is_open and not is_private:
        raise failure(403, "AUTH_FAILED", "recordings are given to known principals alone (auth.mode)")
    return await principal_of(request, door)


async def _find(request: web.Request, recorder: Recorder, principal: Principal) -> Entry:
    """The recording. Unknown, foreign and impossible ids look the same. Raises `web.HTTPException`."""
    session_id, date = request.match_info["id"], request.query.get("date")
    if date is not None:
        try:
            date = datetime.date.fromisoformat(date).isoformat()
        except ValueError:
            raise failure(400, "INVALID_CONFIG", "date: write YYYY-MM-DD (UTC)", field="date") from None
    if not 0 < len(session_id) <= _MAX_ID_CHARS:
        raise _nothing()
    owner = None if principal.may(ADMIN) else principal.name
    try:
        entry = await asyncio.to_thread(recorder.index.find, session_id, owner, date)
    except (OSError, sqlite3.Error) as error:
        logger.error("the index of recordings cannot be read: {}", error)
        raise failure(503, "INTERNAL_ERROR", "recordings cannot be read; see the gateway's log") from None
    if entry is None:
        raise _nothing()
    return entry


def _body(recorder: Recorder, entry: Entry, part: str, form: str, public: bytes | None) -> bytes:
    """Raises `ValueError` where there is nothing of `part`, `VaultError` for a public key that is none."""
    try:
        loaded = load(recorder.index, recorder.vault, entry, part)
    except (OSError, ConfigError, VaultError) as error:
        for_session(entry.session_id).error("the recording cannot be read: {}", error)
        raise ValueError("cannot be read") from None
    if not loaded:
        raise ValueError("nothing")
    match form:
        case "zip":
            body = as_zip(loaded)
        case "wav":
            body = as_wav(next(iter(loaded.values())))
        case _:
            body = as_json(entry, loaded)
    return body if public is None else encrypt_to(public, body)


def _choice(request: web.Request, name: str, allowed: tuple[str, ...], default: str) -> str:
    given = request.query.get(name, default)
    if given not in allowed:
        raise failure(400, "INVALID_CONFIG", f"{name}: one of {', '.join(allowed)}", field=name)
    return given


def _public_key(request: web.Request) -> bytes | None:
    given = request.headers.get(ENCRYPT_TO)
    if given is None:
        return None
    try:
        return base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise failure(400, "INVALID_CONFIG", f"{ENCRYPT_TO}: must be base64", field=ENCRYPT_TO) from None


def _nothing() -> web.HTTPException:
    return failure(404, "INVALID_CONFIG", "no recording of yours has this id")
