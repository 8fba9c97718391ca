"""What operators see, and who is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.auth.keys import add_key
from gateway.overview import merged
from gateway.routes.description import read

from ..conftest import KEY, Service, hear
from ..test_sessions import noise, say


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    return {"auth": {"api_keys": [KEY], "keys_file": tmp_path / "keys.json"}}


@pytest.fixture
def page_of(service: Service) -> str:
    return service.url.replace("ws", "http", 1)


async def test_sessions_places_and_counts_of_a_call(service: Service, page_of: str) -> None:
    await service.worker(worker_id="a", capacity=3)
    socket = await service.call()
    await say(socket, noise(500))
    await socket.send_json({"type": "end"})
    await hear(socket)
    await service.call()
    async with service.http.get(f"{page_of}/tools/status") as answer:
        content = await answer.json()
    jsonschema.validate(content, read("openapi")["components"]["schemas"]["Overview"])
    (gateway,) = content["gateways"]
    assert gateway["sessions"] == 1
    assert gateway["ready"]
    (worker,) = gateway["workers"]
    assert (worker["worker_id"], worker["capacity"], worker["sessions"]) == ("a", 3, 1)
    counted = gateway["counted"]
    assert counted["opened"] == 2
    assert counted["blocks"] == counted["latency_s"][-1][1] >= 5
    assert counted["latency_s"][-1][0] is None
    assert counted["concealed"] == 0


@pytest.mark.parametrize("headers", [{"X-Forwarded-For": "192.0.2.7"}, {"Host": "rebound.example"}])
async def test_elsewhere_the_scope_admin_is_asked_for(service: Service, page_of: str, headers: dict[str, str]) -> None:
    async def ask(key: str | None) -> int:
        given = headers if key is None else headers | {"Authorization": f"Bearer {key}"}
        async with service.http.get(f"{page_of}/tools/status", headers=given) as answer:
            return answer.status

    path = service.gateway.config.auth.keys_file
    caller, operator = add_key(path, "carl"), add_key(path, "olga", ["admin"])
    service.gateway.door.refresh()
    assert [await ask(key) for key in (None, "wrong", caller, operator)] == [401, 401, 403, 200]


def test_what_a_sibling_says_and_cannot_be_read_is_left_out() -> None:
    own: dict[str, Any] = {"number": 1}
    assert merged([b'{"number": 0}', b"[]", b"nonsense"], own) == [{"number": 0}, own]
