"""The running service against its own description: schemathesis makes up requests, valid and not, and looks whether
what is answered is described. `make test-api` installs it; without it these tests are skipped. Half a minute or so."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.auth.keys import add_key
from shared.config import Config

from ..gateway.conftest import EchoWorker, Service, hear
from ..gateway.test_sessions import noise, say

schemathesis = pytest.importorskip("schemathesis")
EXAMPLES = int(os.environ.get("TEST_API_EXAMPLES", "30"))
EXCLUDED = ("/ws", "/tools/session", "/", "/webrtc")  # upgrades, and the page


class Running:
    """A gateway with a worker and a recorded call, on a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.key = add_key(folder / "keys.json", "root", scopes=("admin",))
        self._config = Config.model_validate(
            {
                "gateway": {"port": 0, "default_model": "echo"},
                "auth": {"api_keys": [], "keys_file": folder / "keys.json"},
                "link": {"port": 0},
                "serve": {"state_dir": folder / "temp"},
                "recording": {"enabled": True, "dir": folder / "outputs"},
                "voices": {"dir": folder / "uploads"},
            },
            strict=False,
        )
        self._up, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        gateway = Gateway(self._config)
        await gateway.start()
        async with aiohttp.ClientSession() as http:
            service = Service(gateway, http)
            worker: EchoWorker = await service.worker()
            socket = await service.call(api_key=self.key, session_id="call")
            await say(socket, noise(300))
            await socket.send_json({"type": "end"})
            await hear(socket)
            self.url = service.url
            self._up.set()
            await self._over.wait()
        await gateway.stop()
        await worker.die()

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._up.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("api")) as running:
        yield running


def test_whatever_is_asked_is_answered_as_described(running: Running) -> None:
    """Every operation, with a right key: no fault of ours, only statuses, types and bodies that are described."""
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    checks = schemathesis.checks
    wanted = [
        checks.not_a_server_error,
        *(check for check in checks.CHECKS.get_all() if check.__name__ in CONFORMANCE),
    ]
    told: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in EXCLUDED:
            continue
        for case in cases(operation):
            response = case.call(base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}, timeout=10)
            try:
                case.validate_response(response, checks=wanted)
            except Exception as error:  # collected, so that one finding does not hide another
                if response.status_code != 503 or operation.path != "/ready":
                    told.append(f"{case.method} {case.formatted_path} {response.status_code}: {error}"[:1500])
    assert not told, f"{len(told)} findings; the first: " + "\n\n".join(told[:5])


CONFORMANCE = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")


def cases(operation: Any) -> list[Any]:
    """Made up, half of them against the description."""
    from hypothesis import HealthCheck, Phase, given, settings

    made: list[Any] = []
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @settings(
            max_examples=EXAMPLES // 2,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def collect(case: Any) -> None:
            made.append(case)

        try:
            collect()
        except Exception as error:
            if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):  # nothing about it can be wrong
                raise
    return made
