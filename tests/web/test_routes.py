"""What the gateway serves to the page."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.routes.page import page_routes
from shared.settings import DEMO_KEY, AuthConfig


async def get(path: str, auth: AuthConfig, is_private: bool = True, **headers: str) -> aiohttp.ClientResponse:
    app = web.Application()
    app.add_routes(page_routes(auth, is_private=is_private))
    async with TestClient(TestServer(app)) as client:
        answer = await client.get(path, headers=headers)
        await answer.read()
        return answer


async def test_the_demo_key_is_given_to_a_browser_on_this_machine() -> None:
    assert await (await get("/web/key", AuthConfig())).json() == {"required": True, "api_key": DEMO_KEY}


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
async def test_nobody_else_is_given_a_key(auth: AuthConfig, is_private: bool, headers: dict[str, str]) -> None:
    answer = await get("/web/key", auth, is_private, **headers)
    assert await answer.json() == {"required": True, "api_key": None}


async def test_modules_come_with_a_policy_and_nothing_else_comes_at_all() -> None:
    answer = await get("/web/fastvc.js", AuthConfig())
    assert answer.content_type == "text/javascript"
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    for path in ("/web/nothing.js", "/web/..%2Fapp.py", "/web/__init__.py"):
        assert (await get(path, AuthConfig())).status == 404
