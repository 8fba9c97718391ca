"""docker/swarm.yaml on three hosts: keys as secrets, everything spread, and rollouts: no call notices workers that are
replaced, and every call goes on when gateways are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config import ROOT

from .balancer import Balancer
from .conftest import TAG, until
from .marked import CALLERS, CHEAP, ENTRY, PATIENT, PROGRAM, keep_calling, report
from .nodes import Node, three_nodes

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="three hosts are made by root"),
]
WORKERS = 3
STACK = "fvc"
NEXT = f"fast-vc-gateway:{TAG}-next"
OVERRIDES = {
    "version": "3.9",
    "services": {
        "gateway": {
            "environment": {**CHEAP, **PATIENT},
            "deploy": {"update_config": {"delay": "3s", "monitor": "5s"}},  # less waiting between tasks
        },
        "worker": {
            "entrypoint": ENTRY,
            "configs": [{"source": "marking", "target": "/marking.py"}],
            "environment": CHEAP,
            "deploy": {"update_config": {"delay": "1s", "monitor": "5s"}},
        },
    },
    "configs": {"marking": {"file": "${KEYS}/../marking.py"}},
}
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
        (self.folder / "marking.py").write_text(PROGRAM)
        (self.folder / "overrides.yaml").write_text(yaml.safe_dump(OVERRIDES))
        files = ("-c", str(ROOT / "docker" / "swarm.yaml"), "-c", str(self.folder / "overrides.yaml"))
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

    def roll(self, service: str, *options: str) -> None:
        """Update all tasks of a service, to the end; it must not be undone."""
        service = f"{STACK}_{service}"
        before, tasks = self._update(service).get("StartedAt"), {task["ID"] for task in self.manager.tasks(service)}
        command = ("service", "update", "--detach", "--no-resolve-image", *options, service)
        self.manager.docker(*command, timeout_s=60)

        def over() -> bool:
            update = self._update(service)
            if update.get("StartedAt") == before:
                return False
            assert not update["State"].startswith(("rollback", "paused")), update
            return bool(update["State"] == "completed")

        until(over, 500)
        assert tasks.isdisjoint({task["ID"] for task in self.manager.tasks(service)})

    def _update(self, service: str) -> dict[str, Any]:
        said = self.manager.docker("service", "inspect", service, "--format", "{{json .UpdateStatus}}")
        update: dict[str, Any] = json.loads(said) or {}
        return update


@pytest.fixture(scope="module")
def swarm(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with three_nodes(Path("/var/tmp/fvc-swarm") / str(os.getpid()), IMAGES) as nodes:
        for node in nodes:
            node.docker("tag", IMAGES[0], NEXT)
        made = Swarm(nodes, tmp_path_factory.mktemp("swarm"))
        made.deploy()
        until(lambda: len(made.gateways(WORKERS)) == 2, 240)
        yield made


@pytest.fixture
async def balancer(swarm: Swarm) -> AsyncIterator[Balancer]:
    made = Balancer([node.address for node in swarm.nodes], 8042)
    await made.start()
    yield made
    await made.stop()


def test_gateways_and_workers_are_spread_and_all_know_each_other(swarm: Swarm) -> None:
    for service, count in (("gateway", 2), ("worker", WORKERS)):
        tasks = swarm.manager.tasks(f"{STACK}_{service}")
        assert len(tasks) == count
        assert len({task["Node"] for task in tasks}) == 1  # all engines have this machine's name
        assert len({task["Name"] for task in tasks}) == count
    assert sum(bool(node.docker("ps", "--quiet").split()) for node in swarm.nodes) == 3


async def test_workers_roll_and_no_call_notices(swarm: Swarm, balancer: Balancer) -> None:
    """Three workers are replaced, one after the other, under ten calls in real time: as long as that takes."""
    calls = await keep_calling(balancer.url, swarm.key, 20, lambda: swarm.roll("worker", "--force"))
    report("workers roll", calls)
    assert len(calls) >= CALLERS
    assert all(made.breaks == [] for made in calls)
    assert sum(made.complete["reopened"] for made in calls if made.complete) > 0
    assert len(swarm.gateways(WORKERS)) == 2


@pytest.mark.parametrize(
    "options",
    [("--force",), ("--update-order", "start-first", "--image", NEXT)],
    ids=["order of the file", "new image, new one first"],
)
async def test_gateways_roll_and_every_call_goes_on(swarm: Swarm, balancer: Balancer, options: tuple[str, ...]) -> None:
    """Both gateways are replaced, one after the other, under ten calls in real time: their callers come back through
    the balancer to a gateway that knows nothing of them, and no sample is missing, twice, or their own voice."""
    calls = await keep_calling(balancer.url, swarm.key, 20, lambda: swarm.roll("gateway", *options))
    report(f"gateways roll, {' '.join(options)}", calls)
    assert sum(len(made.breaks) for made in calls) > CALLERS // 2  # some may just have been between two calls
    assert all(gap.new_stream for made in calls for gap in made.breaks)
    assert balancer.turned_away == 0  # somebody took calls all the time
    until(lambda: len(swarm.gateways(WORKERS)) == 2)
    until(lambda: all((swarm.ready(node) or {"sessions": 0})["sessions"] == 0 for node in swarm.nodes))
