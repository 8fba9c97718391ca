"""What a call left, over HTTP or a WebSocket: for who made it or an administrator to have, or to have removed."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import WSMsgType, web

from gateway.auth.door import Door
from gateway.auth.guessing import SlowDown
from gateway.auth.principal import CredentialError, Principal
from gateway.auth.requests import address_of, credential_of, failure, principal_of
from gateway.errors import ErrorCode
from gateway.origins import Origins
from gateway.protocols.reading import read_object
from gateway.recording.desk import Desk, DeskRefusal, Wish
from gateway.recording.recorder import Recorder
from gateway.refused import Count

ENCRYPT_TO = "X-Encrypt-To"  # an X25519 public key, 32 bytes in base64
_IDLE_S = 30.0
_MAX_QUESTION_BYTES = 16_384
_PIECE_BYTES = 1 << 18
_MAX_QUESTIONS = 100  # of one connection
_POLICY = 1008


def recording_routes(
    door: Door, recorder: Recorder, origins: Origins, on_refused: Count, *, is_private: bool
) -> list[web.RouteDef]:
    """is_private: only this machine reaches the gateway; elsewhere nobody is served without a credential. `on_refused`
    is told of questions over a WebSocket with the status that they would have had over HTTP."""
    desk = Desk(recorder, opened_to_anybody=door.is_open and not is_private)

    async def asked(request: web.Request) -> tuple[Principal, Wish]:
        desk.check_open()
        principal = await principal_of(request, door)
        key = request.headers.get(ENCRYPT_TO)
        wish = Wish.read(request.match_info["id"], request.query, encrypt_to=key, key_name=ENCRYPT_TO)
        return principal, wish

    async def get(request: web.Request) -> web.Response:
        try:
            principal, wish = await asked(request)
            body = await desk.get(principal, wish)
        except DeskRefusal as error:
            raise _failure(error) from None
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=body, content_type=wish.content_type, headers=headers)

    async def delete(request: web.Request) -> web.Response:
        try:
            await desk.delete(*await asked(request))
        except DeskRefusal as error:
            raise _failure(error) from None
        return web.Response(status=204)

    async def converse(request: web.Request) -> web.WebSocketResponse:
        if request.body_exists:
            raise failure(400, "INVALID_CONFIG", "an upgrade has no body")
        if not origins.admit(request):
            raise failure(403, "AUTH_FAILED", "Origin: pages of this site may not ask here (gateway.allowed_origins)")
        principal = await principal_of(request, door) if credential_of(request) else None
        socket = web.WebSocketResponse(max_msg_size=_MAX_QUESTION_BYTES, compress=False, heartbeat=15.0)
        await socket.prepare(request)
        for _ in range(_MAX_QUESTIONS):
            try:
                message = await socket.receive(timeout=_IDLE_S)
            except TimeoutError:
                break
            if message.type is not WSMsgType.TEXT:
                break
            try:
                await _Question(message.data, door, desk, principal, address_of(request)).answer(socket)
            except CredentialError as error:
                on_refused(429 if isinstance(error, SlowDown) else 401, "AUTH_FAILED")
                await socket.send_json(_error("AUTH_FAILED", str(error), "api_key"))
                await socket.close(code=_POLICY)
            except DeskRefusal as error:
                on_refused(error.status, error.code)
                await socket.send_json(_error(error.code, str(error), error.field))
        await socket.close()
        return socket

    path = "/tools/session/{id}"
    return [web.get("/tools/session", converse), web.get(path, get), web.delete(path, delete)]


class _Question:
    """One text message: ``{"type": "get" | "delete", "session_id", "api_key"?, "date"?, "part"?, "format"?,
    "encrypt_to"?}``."""

    def __init__(self, text: str, door: Door, desk: Desk, principal: Principal | None, address: str) -> None:
        """principal: whose credential came with the connection."""
        self._given = read_object(text)
        self._door, self._desk, self._principal, self._address = door, desk, principal, address

    async def answer(self, socket: web.WebSocketResponse) -> None:
        """Raises `CredentialError` and `DeskRefusal`."""
        kind = self._given.get("type")
        if kind not in ("get", "delete"):
            raise DeskRefusal(400, "INVALID_CONFIG", "type: must be get or delete", "type")
        self._desk.check_open()
        principal = self._principal
        if principal is None:
            principal = await self._door.identify(self._text("api_key") or self._text("token") or "", self._address)
        named = {name: text for name in ("date", "part", "format") if (text := self._text(name)) is not None}
        session_id, key = self._text("session_id") or "", self._text("encrypt_to")
        wish = Wish.read(session_id, named, encrypt_to=key, key_name="encrypt_to")
        if kind == "delete":
            await self._desk.delete(principal, wish)
            await socket.send_json({"type": "deleted", "session_id": session_id})
            return
        body = await self._desk.get(principal, wish)
        said = {"type": "recording", "session_id": session_id, "part": wish.part}
        if wish.content_type == "application/json":
            await socket.send_str(json.dumps({**said, "content": json.loads(body)}))
            return
        await socket.send_json({**said, "content_type": wish.content_type, "bytes": len(body)})
        for start in range(0, len(body), _PIECE_BYTES):
            await socket.send_bytes(body[start : start + _PIECE_BYTES])

    def _text(self, name: str) -> str | None:
        value = self._given.get(name)
        if value is not None and not isinstance(value, str):
            raise DeskRefusal(400, "INVALID_CONFIG", f"{name}: must be text", name)
        return value


def _failure(error: DeskRefusal) -> web.HTTPException:
    return failure(error.status, error.code, str(error), field=error.field)


def _error(code: ErrorCode, message: str, field: str | None) -> dict[str, Any]:
    details = {"details": {"fields": [field]}} if field else {}
    return {"type": "error", "error_code": code, "message": message, **details}
