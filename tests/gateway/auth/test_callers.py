"""Who may call, from outside: keys and tokens by every way, limits, ends, and what is never written anywhere."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from loguru import logger

from gateway.auth import door as doors
from gateway.auth import guessing
from gateway.auth.keys import add_key, revoke_keys
from gateway.auth.principal import Limits
from tests.support.waiting import PATIENCE_S

from ..conftest import KEY, Service, hear
from ..test_sessions import noise, say

SECRET = "a-secret-of-at-least-thirty-two-bytes"


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "secret").write_text(SECRET)
    auth = {"mode": "both", "api_keys": [KEY], "keys_file": tmp_path / "keys.json"}
    return {"auth": {**auth, "jwt_secret_file": tmp_path / "secret"}}


def token(lifetime_s: float = 60, **claims: Any) -> str:
    return jwt.encode({"sub": "tanya", "exp": time.time() + lifetime_s, **claims}, SECRET, "HS256")


def make_key(service: Service, name: str = "alice", **options: Any) -> str:
    key = add_key(service.gateway.config.auth.keys_file, name, **options)
    service.gateway.door.refresh()
    return key


async def outcome(service: Service, config: dict[str, Any], **request: Any) -> tuple[str | int, str]:
    """ "ready", an error code, or a status; and the message."""
    try:
        socket = await service.http.ws_connect(service.url + request.pop("path", "/ws"), **request)
    except aiohttp.WSServerHandshakeError as error:
        return error.status, ""
    await socket.send_json({"type": "config", **config})
    message = await socket.receive_json(timeout=10)
    await socket.close()
    return (message["type"] if message["type"] == "ready" else message["error_code"]), message["message"]


async def test_every_kind_of_credential_by_every_way(service: Service) -> None:
    await service.worker()
    for credential in (KEY, make_key(service), token()):
        for name in ("api_key", "token"):
            assert (await outcome(service, {name: credential}))[0] == "ready"
            assert (await outcome(service, {}, path="/ws", params={name: credential}))[0] == "ready"
        header = {"Authorization": f"Bearer {credential}"}
        assert (await outcome(service, {}, headers=header))[0] == "ready"
        assert (await outcome(service, {"api_key": "ignored"}, headers=header, path="/"))[0] == "ready"


async def test_a_wrong_credential_is_refused_before_the_upgrade_where_it_came_with_it(service: Service) -> None:
    await service.worker()
    for wrong in (KEY + "x", make_key(service)[:-1], token(-60), token()[:-2]):
        assert (await outcome(service, {"api_key": wrong}))[0] == "AUTH_FAILED"
        assert (await outcome(service, {}, params={"api_key": wrong}))[0] == 401
        assert (await outcome(service, {"api_key": KEY}, headers={"Authorization": f"Bearer {wrong}"}))[0] == 401
    assert (await outcome(service, {}))[0] == "AUTH_FAILED"
    async with service.http.get(service.url + "/ws", params={"token": "wrong"}) as response:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await response.json())["error_code"] == "AUTH_FAILED"
    assert len(service.gateway.pool.session_ids()) == 0
    assert service.counter("fastvc_credentials_refused_total", reason="wrong") > 0


async def test_an_upgrade_with_a_body_is_refused(service: Service) -> None:
    await service.worker()
    head = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    head["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with service.http.get(service.url + "/ws", headers=head, data=b"GET / HTTP/1.1\r\n\r\n") as response:
        assert response.status == 400
        assert "body" in (await response.json())["message"]


async def test_pages_of_other_sites_may_not_call(service: Service) -> None:
    await service.worker()
    assert (await outcome(service, {"api_key": KEY}, headers={"Origin": "https://evil.example"}))[0] == 403
    assert (await outcome(service, {"api_key": KEY}, headers={"Origin": service.url}))[0] == "ready"


async def test_an_offered_subprotocol_is_echoed(service: Service) -> None:
    await service.worker()
    socket = await service.http.ws_connect(service.url + "/ws", protocols=("voice.v1", "other"))
    assert socket.protocol == "voice.v1"
    await socket.close()


async def test_a_key_without_the_scope_may_not_call(service: Service) -> None:
    await service.worker()
    key = make_key(service, scopes=["voices"])
    code, message = await outcome(service, {"api_key": key})
    assert code == "AUTH_FAILED"
    assert "'call' is missing" in message


async def test_limits_are_the_principal_s_own(service: Service) -> None:
    await service.worker()
    alice = make_key(service, limits=Limits(sessions=1, sessions_per_minute=3))
    first = await service.call(api_key=alice)
    assert (await outcome(service, {"api_key": alice}))[0] == "TOO_MANY_SESSIONS"
    assert (await outcome(service, {"api_key": make_key(service, "bob")}))[0] == "ready"
    await first.close()
    await service.until(lambda: not service.gateway.calls)
    for expected in ("ready", "ready", "TOO_MANY_SESSIONS"):
        assert (await outcome(service, {"api_key": alice}))[0] == expected
        await service.until(lambda: not service.gateway.calls)


async def test_a_limit_names_itself(service: Service) -> None:
    await service.worker()
    key = make_key(service, limits=Limits(minutes_per_day=0))
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", "api_key": key})
    _, control, code = await hear(socket)
    assert control[-1]["error_code"] == "TOO_MANY_SESSIONS"
    assert control[-1]["details"] == {"limit": "minutes_per_day"}
    assert code == 1013


async def test_a_call_ends_with_its_token_after_a_warning(service: Service) -> None:
    await service.worker()
    socket = await service.call(api_key=token(1.5 - 5))  # 5 s of leeway for the clocks of two hosts
    _, control, code = await hear(socket)
    assert [message["type"] for message in control] == ["error"]
    assert (control[0]["error_code"], code) == ("AUTH_FAILED", 1008)
    assert "expired" in control[0]["message"]
    socket = await service.call(api_key=token(2))
    _, control, code = await hear(socket)
    assert [message["type"] for message in control] == ["warning", "error"]
    assert 0 < control[0]["seconds_left"] <= doors.WARN_BEFORE_S
    assert code == 1008


async def test_a_call_ends_when_its_key_is_revoked(service: Service) -> None:
    await service.worker()
    socket = await service.call(api_key=make_key(service))
    await say(socket, noise(200))
    revoke_keys(service.gateway.config.auth.keys_file, "alice")  # seen by the gateway's own watch
    _, control, code = await hear(socket)
    assert (control[-1]["error_code"], code) == ("AUTH_FAILED", 1008)
    assert "revoked" in control[-1]["message"]


async def test_the_minutes_of_a_day_end_a_call(service: Service) -> None:
    await service.worker()
    socket = await service.call(api_key=make_key(service, limits=Limits(minutes_per_day=0.02)))
    _, control, code = await hear(socket)
    assert control[-1]["details"] == {"limit": "minutes_per_day"}
    assert code == 1008


async def test_guesses_are_slowed_and_callers_notice_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 wrong keys at once beside a call, from the same address."""
    monkeypatch.setattr(guessing, "_MAX_WAIT_S", 0.3)
    await service.worker()
    call = await service.call(api_key=make_key(service))

    async def guess(number: int) -> int:
        async with service.http.get(service.url + "/ws", params={"api_key": f"wrong-key-{number}"}) as response:
            return response.status

    guesses = [asyncio.create_task(guess(number)) for number in range(200)]
    wave = noise(1000)
    await say(call, wave)
    await call.send_json({"type": "end"})
    audio, control, code = await hear(call)
    assert (control[-1]["type"], code) == ("complete", 1000)
    assert control[-1]["stats"]["concealed_chunks"] == 0
    assert len(audio) // 2 == len(wave) + 1600
    answered = await asyncio.gather(*guesses)
    assert set(answered) == {401, 429}
    assert answered.count(401) < 60  # the rest was not looked at


async def test_nobody_ends_the_call_of_somebody_else_by_its_id(service: Service) -> None:
    """A connection broke, and its caller is about to come back: who else names the session's id is refused."""
    await service.worker()
    config = {"session_id": "call-1", "api_key": make_key(service)}
    socket = await service.http.ws_connect(service.url + "/ws")
    await socket.send_json({"type": "config", **config})
    ready = await socket.receive_json(timeout=PATIENCE_S)
    connection = socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()
    code, message = await outcome(service, {"session_id": "call-1", "api_key": make_key(service, "bob")})
    assert (code, message) == ("INVALID_CONFIG", "session_id: 'call-1' is in use")
    again = await service.http.ws_connect(service.url + "/ws")
    await again.send_json({"type": "config", **config, "resume": ready["resume"], "heard": 0})
    back = await again.receive_json(timeout=PATIENCE_S)
    assert (back["type"], back["new_stream"]) == ("ready", False)
    await again.close()
    assert service.counter("fastvc_sessions_ended_total", outcome="replaced") == 0


async def test_no_secret_is_written_anywhere(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All output is searched: log at its most talkative, both streams, and every file that the gateway wrote."""
    monkeypatch.setattr(guessing, "_FREE_FAILURES", 1000.0)  # nobody waits
    sink = io.StringIO()
    handler = logger.add(sink, level="TRACE", backtrace=True, diagnose=True)
    await service.worker()
    key, expired, good = make_key(service), token(-100), token()
    wrong = "fvc_0123456789ab_a-wrong-secret-that-somebody-typed"
    for secret in (KEY, key, good, wrong, expired, "a-password-in-the-wrong-field"):
        await outcome(service, {"api_key": secret, "voice": 5})
        await outcome(service, {"api_key": secret})
        await outcome(service, {}, params={"token": secret})
        await outcome(service, {}, headers={"Authorization": f"Bearer {secret}"})
        async with service.http.get(service.url + "/tools/session/x", params={"api_key": secret}) as response:
            assert secret not in await response.text()
        async with service.http.post(service.url + "/voices", params={"token": secret}, data=b"no sound") as response:
            assert secret not in await response.text()
        socket = await service.http.ws_connect(service.url + "/tools/session")
        await socket.send_json({"type": "get", "session_id": "x", "api_key": secret, "part": secret})
        assert secret not in (await socket.receive(timeout=10)).data
        await socket.close()
    await outcome(service, {"api_key": ["a-list-with-" + KEY]})
    async with service.http.get(service.url + "/metrics") as response:
        exposition = await response.text()
    logger.remove(handler)
    streams = capfd.readouterr()
    written = _contents(tmp_path)
    everything = "\n".join([sink.getvalue(), streams.out, streams.err, exposition])
    assert "AUTH_FAILED" in everything
    for secret in (KEY, key, key.split("_", 2)[2], good, wrong, expired, SECRET, "a-password-in-the-wrong-field"):
        assert secret not in everything
        assert not any(secret.encode() in content for content in written)


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "secret"]


async def test_without_keys_everybody_comes_in(tmp_path: Path) -> None:
    from gateway.auth.door import Door
    from shared.config import AuthConfig

    for open_ in ({"mode": "none"}, {"required": False}):
        door = Door(AuthConfig(**open_), is_private=False)
        assert (await door.identify("", "10.0.0.1")).name == "anybody"
        door.enter(await door.identify("whatever", "10.0.0.1"))


async def test_the_key_that_everybody_knows_opens_nothing_beyond_loopback(tmp_path: Path) -> None:
    from gateway.auth.door import Door
    from gateway.auth.principal import CredentialError
    from shared.config import AuthConfig
    from shared.settings import DEMO_KEY

    config = AuthConfig(keys_file=tmp_path / "keys.json")
    assert (await Door(config, is_private=True).identify(DEMO_KEY, "127.0.0.1")).may("call")
    with pytest.raises(CredentialError):
        await Door(config, is_private=False).identify(DEMO_KEY, "127.0.0.1")


def test_only_proxies_that_are_trusted_say_where_a_caller_is() -> None:
    from aiohttp import web
    from aiohttp.test_utils import make_mocked_request

    from gateway.auth.requests import address_middleware, address_of
    from shared.errors import ConfigError

    async def seen(trusted: list[str], forwarded: str) -> str:
        found: list[str] = []

        async def handler(request: web.Request) -> web.Response:
            found.append(address_of(request))
            return web.Response()

        request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": forwarded}).clone(remote="172.18.0.5")
        await address_middleware(trusted)(request, handler)
        return found[0]

    assert asyncio.run(seen([], "1.2.3.4")) == "172.18.0.5"
    assert asyncio.run(seen(["172.16.0.0/12"], "6.6.6.6, 1.2.3.4")) == "1.2.3.4"
    assert asyncio.run(seen(["172.16.0.0/12"], "6.6.6.6, 1.2.3.4, 172.18.0.9")) == "1.2.3.4"
    with pytest.raises(ConfigError, match="trusted_proxies"):
        address_middleware(["everywhere"])
