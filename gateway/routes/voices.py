"""Voices: those of the workers and those that callers brought; to list, add, hear and remove."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from loguru import logger

from gateway.auth.door import Door
from gateway.auth.principal import ADMIN, VOICES, Principal
from gateway.auth.requests import credential_of, failure, principal_of
from gateway.origins import Origins
from gateway.pool import Pool
from gateway.voices.clip import Clip, ClipError
from gateway.voices.reader import ClipReader
from gateway.voices.store import StoredVoice, StoreError, VoiceStore

Handle = Callable[[web.Request], Awaitable[web.Response]]

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_TEXT = 200
_UPLOADS_AT_ONCE = 4  # each may hold a whole upload in memory
_TRUE = ("1", "true", "yes")


class VoiceRoutes:
    """`/voices`. A credential is asked for where something is changed; who shows one sees their own voices, too."""

    def __init__(
        self,
        pool: Pool,
        door: Door,
        store: VoiceStore,
        reader: ClipReader,
        origins: Origins,
        max_upload_bytes: int,
        on_upload: Callable[[str], None],
    ) -> None:
        """`on_upload` is told how each ended: "kept", the reason of a refusal, its error code, or "gone"."""
        self._pool, self._door, self._store, self._reader, self._origins = pool, door, store, reader, origins
        self._max_bytes, self._on_upload = max_upload_bytes, on_upload
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    def routes(self) -> list[web.RouteDef]:
        named = "/voices/{name}"
        return [
            web.get("/voices", self._open(self._list)),
            web.post("/voices", self._open(self._add)),
            web.delete(named, self._open(self._remove)),
            web.get(f"{named}/sample", self._open(self._sample)),
            *(web.options(path, preflight(self._origins)) for path in ("/voices", named, f"{named}/sample")),
        ]

    def _open(self, handle: Handle) -> Handle:
        """Answers may be read by pages of other sites that may call."""

        async def handler(request: web.Request) -> web.Response:
            try:
                response = await handle(request)
            except ConnectionError:  # the caller's own
                raise
            except OSError as error:
                logger.error("voices cannot be kept: {}", error)
                raise failure(503, "INTERNAL_ERROR", "voices cannot be kept; see the gateway's log") from None
            response.headers.update(self._origins.headers(request))
            return response

        return handler

    async def _list(self, request: web.Request) -> web.Response:
        principal = await principal_of(request, self._door) if credential_of(request) else None
        known = self._pool.voices()
        listed: list[dict[str, Any]] = [{"name": voice.name, "description": voice.description} for voice in known]
        name = None if principal is None else principal.name
        everything = principal is not None and principal.may(ADMIN)
        brought = await asyncio.to_thread(self._store.visible, name, everything=everything)
        listed += [_describe(voice, principal) for voice in brought]
        return web.json_response({"voices": listed, "default": known[0].name if known else None})

    async def _add(self, request: web.Request) -> web.Response:
        try:
            response = await self._upload(request)
        except web.HTTPException as error:
            refused = json.loads(error.text or "{}")
            self._on_upload(refused.get("details", {}).get("reason") or refused["error_code"])
            raise
        except ConnectionError:
            self._on_upload("gone")
            raise
        except OSError:
            self._on_upload("INTERNAL_ERROR")
            raise
        self._on_upload("kept")
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        principal = await principal_of(request, self._door, VOICES)
        async with self._uploads:
            data, given = await self._read(request)
            name = self._name(given.get("name", ""))
            shared = given.get("shared", "").lower() in _TRUE
            if shared and not principal.may(ADMIN):
                raise failure(
                    403, "AUTH_FAILED", "shared: only an administrator's voices are everybody's", field="shared"
                )
            description = given.get("description", "")[:_MAX_TEXT]
            try:
                clip = await self._reader.read(data)
            except ClipError as error:
                raise failure(400, "INVALID_AUDIO", f"audio: {error}", field="audio", reason=error.reason) from None
        voice = await self._keep(name, principal, clip, description, shared)
        logger.info("voice {!r} of {}: {:.1f} s", name, principal.name, clip.seconds)
        place = {"Location": f"/voices/{quote(name)}"}
        return web.json_response(_describe(voice, principal), status=201, headers=place)

    async def _keep(self, name: str, owner: Principal, clip: Clip, description: str, shared: bool) -> StoredVoice:
        def keep() -> StoredVoice:
            return self._store.add(name, owner.name, clip, description=description, shared=shared)

        try:
            return await asyncio.to_thread(keep)
        except StoreError as error:
            if error.field is None:
                raise failure(507, "OVERLOADED", str(error), reason="full") from None
            raise failure(409, "INVALID_CONFIG", f"{error.field}: {error}", field=error.field) from None

    async def _remove(self, request: web.Request) -> web.Response:
        principal = await principal_of(request, self._door, VOICES)
        voice = await self._find(request, principal)
        if voice.owner != principal.name and not principal.may(ADMIN):
            raise _unknown(voice.name)
        await asyncio.to_thread(self._store.remove, voice)
        logger.info("voice {!r} of {}: removed for {}", voice.name, voice.owner, principal.name)
        return web.Response(status=204)

    async def _sample(self, request: web.Request) -> web.Response:
        principal = await principal_of(request, self._door) if credential_of(request) else None
        voice = await self._find(request, principal)
        sound = await asyncio.to_thread(self._store.sound, voice)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=sound, content_type="audio/flac", headers=headers)

    async def _find(self, request: web.Request, principal: Principal | None) -> StoredVoice:
        """What the path names, among what `principal` may see; `owner` lets an administrator say whose."""
        name, owner = request.match_info["name"], request.query.get("owner")
        if owner is not None and (principal is None or not (principal.may(ADMIN) or owner == principal.name)):
            raise _unknown(name)
        own = None if principal is None else principal.name
        voice = await asyncio.to_thread(self._store.find, name, own, owner)
        if voice is None:
            raise _unknown(name)
        return voice

    def _name(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            text = "name: 1 to 64 letters, digits, '_', '-', '.'; it begins with a letter or digit"
            raise failure(400, "INVALID_CONFIG", text, field="name")
        if any(voice.name == name for voice in self._pool.voices()):
            raise failure(409, "INVALID_CONFIG", f"name: {name!r} is a voice of this service", field="name")
        return name

    async def _read(self, request: web.Request) -> tuple[bytes, dict[str, str]]:
        """The recording, and what is said about it: a form with the file `audio`, or bare sound and a query."""
        given = {name: request.query[name] for name in ("name", "description", "shared") if name in request.query}
        if request.content_type != "multipart/form-data":
            return await self._bounded(request.content.readany), given
        data = b""
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    raise ValueError("nested")
                if part.name == "audio":
                    data = await self._bounded(part.read_chunk)
                elif part.name in ("name", "description", "shared"):
                    given[part.name] = (await self._bounded(part.read_chunk, 4096)).decode()
        except (ValueError, AssertionError, HttpProcessingError):
            raise failure(400, "INVALID_CONFIG", "the form cannot be read", field="audio") from None
        return data, given

    async def _bounded(self, read: Callable[[], Awaitable[bytes]], limit: int | None = None) -> bytes:
        limit, data = self._max_bytes if limit is None else limit, bytearray()
        while piece := await read():
            data += piece
            if len(data) > limit:
                text = f"audio: more than {limit / 1e6:g} MB"
                raise failure(413, "INVALID_AUDIO", text, field="audio", reason="too_large")
        return bytes(data)


def preflight(origins: Origins) -> Handle:
    """A browser asks before it sends a credential from a page of another site."""

    async def answer(request: web.Request) -> web.Response:
        allowed = {**origins.headers(request), **_PREFLIGHT} if origins.admit(request) else origins.headers(request)
        return web.Response(status=204, headers=allowed)

    return answer


def _describe(voice: StoredVoice, principal: Principal | None) -> dict[str, Any]:
    mine = principal is not None and principal.name == voice.owner
    whose = {} if mine or principal is None or not principal.may(ADMIN) else {"owner": voice.owner}
    return {
        "name": voice.name,
        "description": voice.description,
        "mine": mine,
        "shared": voice.shared,
        "seconds": round(voice.seconds, 2),
        "sample": f"/voices/{quote(voice.name)}/sample",
        **whose,
    }


def _unknown(name: str) -> web.HTTPException:
    return failure(404, "INVALID_CONFIG", f"there is no voice {name[:100]!r} of yours", field="name")
