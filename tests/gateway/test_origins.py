"""Whose pages may use the gateway."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.origins import Origins

OWN = {"Host": "127.0.0.1:8042"}
CASES = [
    ([], {}, True),  # no browser
    ([], {"Origin": "http://127.0.0.1:8042"}, True),
    ([], {"Origin": "http://127.0.0.1:9000"}, False),
    ([], {"Origin": "https://evil.example"}, False),
    ([], {"Origin": "null"}, False),
    ([], {"Origin": ""}, False),
    ([], {"Origin": "http://[::1"}, False),
    (["*"], {"Origin": "https://evil.example"}, True),
    (["https://App.example/"], {"Origin": "https://app.example"}, True),
    (["https://app.example:443"], {"Origin": "https://app.example"}, True),
    (["http://app.example:8443"], {"Origin": "http://app.example:8443"}, True),
    (["null"], {"Origin": "null"}, True),
    (["https://app.example"], {"Origin": "http://app.example"}, False),
    (["https://app.example"], {"Origin": "https://app.example.evil"}, False),
    ([], {"Origin": "http://evil.example", "Host": "evil.example"}, False),  # a name that was pointed at loopback
    ([], {"Origin": "http://localhost:8042", "Host": "localhost:8042"}, True),
]


@pytest.mark.parametrize(("allowed", "headers", "may"), CASES)
def test_own_pages_programs_and_listed_sites_may(allowed: list[str], headers: dict[str, str], may: bool) -> None:
    request = make_mocked_request("GET", "/ws", headers={**OWN, **headers})
    origins = Origins(allowed, is_private=True)
    assert origins.admit(request) == may
    answered = origins.headers(request).get("Access-Control-Allow-Origin")
    assert answered == (headers["Origin"] if may and "Origin" in headers else None)


def test_a_public_gateway_s_own_pages_may() -> None:
    request = make_mocked_request("GET", "/ws", headers={"Host": "vc.example", "Origin": "https://vc.example"})
    assert Origins([], is_private=False).admit(request)


def test_a_refused_page_is_named_in_the_log_once_in_a_while(log: list[str]) -> None:
    """Its browser tells neither the page nor its maker more than a number."""
    origins = Origins([], is_private=True)
    for site in ("http://localhost:3000", "http://localhost:3000", "http://127.0.0.1:8042"):
        origins.admit(make_mocked_request("GET", "/ws", headers={**OWN, "Origin": site}))
    [line] = log
    assert "a page of 'http://localhost:3000' is refused: gateway.allowed_origins" in line
