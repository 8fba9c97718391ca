"""What the gateway serves to the page."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.auth.door import Door
from gateway.auth.passes import Passes
from gateway.auth.principal import CredentialError
from gateway.auth.secret import ServiceSecret, service_secret
from gateway.origins import Origins
from gateway.routes.page import page_routes
from shared.config import Config
from shared.settings import DEMO_KEY, AuthConfig

SECRET = bytes(32)


def door(auth: AuthConfig, is_private: bool = True, secret: bytes = SECRET) -> Door:
    return Door(auth, is_private=is_private, passes=Passes(secret))


async def get(path: str, auth: AuthConfig, is_private: bool = True, **headers: str) -> aiohttp.ClientResponse:
    app = web.Application()
    origins = Origins(["https://app.example"], is_private=is_private)
    app.add_routes(page_routes(door(auth, is_private), origins, is_private=is_private))
    async with TestClient(TestServer(app)) as client:
        answer = await client.get(path, headers=headers)
        await answer.read()
        return answer


async def test_a_browser_on_this_machine_is_given_a_token_of_minutes_that_is_as_good_as_the_demo_key() -> None:
    answer = await get("/web/token", AuthConfig())
    content = await answer.json()
    assert content["required"]
    assert DEMO_KEY not in content["token"]
    assert answer.headers["Cache-Control"] == "no-store"
    own = door(AuthConfig())
    assert await own.identify(content["token"], "127.0.0.1") == await own.identify(DEMO_KEY, "127.0.0.1")
    expires = jwt.decode(content["token"].removeprefix("fvp_"), options={"verify_signature": False})["exp"]
    assert 0 < expires - time.time() <= content["expires_in_s"] <= 900


async def test_a_token_ends_and_cannot_be_made_by_others() -> None:
    late, strange = Passes(SECRET, lifetime_s=-1).issue(), Passes(bytes([1] * 32)).issue()
    unsigned = "fvp_" + jwt.encode({"aud": "fast-vc-page", "exp": time.time() + 60}, "", "none")
    endless = "fvp_" + jwt.encode({"aud": "fast-vc-page"}, SECRET, "HS256")
    for token in (late, strange, unsigned, endless, "fvp_", "fvp_a.b.c"):
        with pytest.raises(CredentialError):
            await door(AuthConfig()).identify(token, "127.0.0.1")


async def test_no_token_lets_in_where_the_demo_key_does_not() -> None:
    for shut in (door(AuthConfig(api_keys=["a-key-of-ones-own"])), door(AuthConfig(), is_private=False)):
        assert shut.issue_pass() is None
        with pytest.raises(CredentialError):
            await shut.identify(Passes(SECRET).issue(), "127.0.0.1")


def secret_of(state_dir: Path) -> ServiceSecret:
    return service_secret(Config.model_validate({"serve": {"state_dir": state_dir}}))


def test_processes_of_one_service_share_the_secret_which_nobody_else_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "temp"
    first = secret_of(folder)
    assert secret_of(folder) == first
    assert len(first.key) == 32
    assert not first.of_many_hosts
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    (tmp_path / "file").touch()
    assert secret_of(tmp_path / "file") != first  # nothing can be written: one's own


@pytest.mark.parametrize(
    ("auth", "is_private", "headers"),
    [
        (AuthConfig(), False, {}),
        (AuthConfig(), True, {"Host": "rebound.example"}),
        (AuthConfig(), True, {"X-Forwarded-For": "192.0.2.7"}),
        (AuthConfig(api_keys=["a-key-of-ones-own"]), True, {}),
    ],
    ids=["open to others", "a stranger's name", "through a proxy", "keys of one's own"],
)
async def test_nobody_else_is_given_a_token(auth: AuthConfig, is_private: bool, headers: dict[str, str]) -> None:
    answer = await get("/web/token", auth, is_private, **headers)
    assert await answer.json() == {"required": True, "token": None, "expires_in_s": None}


async def test_modules_are_lent_to_the_sites_that_may_call_and_tokens_are_not() -> None:
    for origin, lent in (("https://app.example", "https://app.example"), ("https://evil.example", None)):
        answer = await get("/web/fastvc.js", AuthConfig(), Origin=origin)
        assert answer.headers.get("Access-Control-Allow-Origin") == lent
        assert "Origin" in answer.headers["Vary"]
    assert (
        "Access-Control-Allow-Origin"
        not in (await get("/web/token", AuthConfig(), Origin="https://app.example")).headers
    )


async def test_modules_come_with_a_policy_and_nothing_else_comes_at_all() -> None:
    answer = await get("/web/fastvc.js", AuthConfig())
    assert answer.content_type == "text/javascript"
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    for path in ("/web/nothing.js", "/web/..%2Fapp.py", "/web/__init__.py"):
        assert (await get(path, AuthConfig())).status == 404
