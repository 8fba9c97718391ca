"""docker/swarm.yaml on three hosts: keys as secrets, everything spread, and a rollout that no call notices."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from shared.config import ROOT
from tools.client.client import Call, CallConfig, CallError, call, read_source

from .conftest import SAMPLE, TAG, until
from .nodes import Node, three_nodes
from .test_faults import check_exact

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="three hosts are made by root"),
]
CALLS, WORKERS = 10, 3
STACK = "fvc"
PATIENT = """
version: "3.9"
services:
  gateway:
    environment:
      FASTVC_GATEWAY__LATENCY_BUDGET_MS: 30000
    deploy: {update_config: {delay: 3s, monitor: 5s}}
  worker:
    deploy: {update_config: {delay: 1s, monitor: 5s}}
"""  # a machine that is busy conceals nothing: what is concealed was lost on the way; and less waiting between tasks
IMAGES = [f"fast-vc-gateway:{TAG}", f"fast-vc-worker:{TAG}"]


class Swarm:
    """The stack as an operator sees it."""

    def __init__(self, nodes: list[Node], folder: Path) -> None:
        self.nodes, self.folder = nodes, folder
        self.manager = nodes[0]

    def command(self, *arguments: str) -> str:
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-P", "-m", "tools.service.cli", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=True)
        return done.stdout

    def deploy(self) -> None:
        self.command("keys", "link", "gateway", "--gateway")
        self.command("keys", "link", "worker")
        self.key = self.command("keys", "api", "tests").split()[0]
        (self.folder / "patient.yaml").write_text(PATIENT)
        files = ("-c", str(ROOT / "docker" / "swarm.yaml"), "-c", str(self.folder / "patient.yaml"))
        self.manager.docker(
            *("stack", "deploy", "--resolve-image", "never", *files, STACK),
            GATEWAY_IMAGE=IMAGES[0],
            WORKER_IMAGE=IMAGES[1],
            WORKERS=str(WORKERS),
            MODEL="passthrough",
            KEYS=str(self.folder / "keys"),
        )

    def ready(self, node: Node) -> dict[str, Any] | None:
        """What /ready says there; None where no gateway is."""
        try:
            with urllib.request.urlopen(f"http://{node.address}:8042/ready", timeout=2) as response:
                content: dict[str, Any] = json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                content = json.loads(error.read())
        except OSError:
            return None
        return content

    def gateways(self, workers: int = 1) -> list[Node]:
        """Nodes whose gateway sees so many workers."""
        seen = {node.address: self.ready(node) for node in self.nodes}
        return [node for node in self.nodes if (seen[node.address] or {}).get("workers", 0) >= workers]

    def rolled(self, service: str) -> bool:
        """Whether an update is over; it must not have been undone."""
        state = self.manager.docker("service", "inspect", service, "--format", "{{json .UpdateStatus}}").strip()
        said = (json.loads(state) or {}).get("State", "")
        assert not said.startswith(("rollback", "paused")), state
        return bool(said == "completed")


@pytest.fixture(scope="module")
def swarm(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with three_nodes(Path("/var/tmp/fvc-swarm") / str(os.getpid()), IMAGES) as nodes:
        made = Swarm(nodes, tmp_path_factory.mktemp("swarm"))
        made.deploy()
        until(lambda: len(made.gateways(WORKERS)) == 2, 240)
        yield made


async def talk(swarm: Swarm, node: Node, seconds: float, name: str) -> Call:
    wave = np.resize(read_source(SAMPLE, 16_000), int(16_000 * seconds))
    async with aiohttp.ClientSession() as http:
        return await call(http, CallConfig(f"ws://{node.address}:8042/ws", swarm.key, session_id=name), wave)


def test_gateways_and_workers_are_spread_and_all_know_each_other(swarm: Swarm) -> None:
    for service, count in (("gateway", 2), ("worker", WORKERS)):
        tasks = swarm.manager.tasks(f"{STACK}_{service}")
        assert len(tasks) == count
        assert len({task["Node"] for task in tasks}) == 1  # all engines have this machine's name
        assert len({task["Name"] for task in tasks}) == count
    assert sum(bool(node.docker("ps", "--quiet").split()) for node in swarm.nodes) == 3


async def test_workers_roll_and_no_call_notices(swarm: Swarm) -> None:
    """Three workers are replaced, one after the other, under ten calls in real time: as long as that takes."""
    gateways = swarm.gateways()

    async def keep_talking(number: int, over: asyncio.Event) -> list[Call]:
        made = []
        while not over.is_set():
            try:
                made.append(await talk(swarm, gateways[number % len(gateways)], 30, f"caller-{number}-{len(made)}"))
            except CallError as error:
                if "OVERLOADED" not in str(error):  # not let in is not cut off: a busy machine offers few places
                    raise
                await asyncio.sleep(0.5)
        return made

    over = asyncio.Event()
    talking = [asyncio.create_task(keep_talking(number, over)) for number in range(CALLS)]
    await asyncio.sleep(3)
    before = {task["ID"] for task in swarm.manager.tasks(f"{STACK}_worker")}
    await asyncio.to_thread(
        swarm.manager.docker, "service", "update", "--detach", "--force", f"{STACK}_worker", timeout_s=60
    )
    await asyncio.to_thread(until, lambda: swarm.rolled(f"{STACK}_worker"), 500)
    over.set()
    calls = [one for several in await asyncio.gather(*talking) for one in several]
    assert len(calls) >= CALLS
    for made in calls:
        check_exact(made, most_concealed=0)
    assert sum(made.complete["reopened"] for made in calls if made.complete) > 0
    assert before.isdisjoint({task["ID"] for task in swarm.manager.tasks(f"{STACK}_worker")})
    assert len(swarm.gateways(WORKERS)) == 2


async def test_gateways_roll_and_callers_always_find_one(swarm: Swarm) -> None:
    """One gateway after the other: its calls get all their sound; new calls go to the other one."""
    first = swarm.gateways()[0]
    held = asyncio.create_task(talk(swarm, first, 240, "held"))
    await asyncio.sleep(3)
    await asyncio.to_thread(
        swarm.manager.docker, "service", "update", "--detach", "--force", f"{STACK}_gateway", timeout_s=60
    )
    served = 0
    while not swarm.rolled(f"{STACK}_gateway"):
        for node in await asyncio.to_thread(swarm.gateways):
            with suppress(CallError):  # it may leave just now
                served += (await talk(swarm, node, 1.0, f"new-{served}")).complete is not None
                break
        else:
            raise AssertionError("no gateway takes calls")
    assert served > 5
    made = await held
    assert made.close_code == 1001
    assert made.complete is not None
    heard_ms = made.complete["total_processed_ms"]
    assert len(made.output()) / 16 == pytest.approx(heard_ms + made.lead_ms, abs=1)
    await asyncio.to_thread(until, lambda: len(swarm.gateways(WORKERS)) == 2)
