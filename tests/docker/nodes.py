"""Three engines, each in a network namespace of its own, as three hosts of a swarm. Root is needed, and Linux."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BRIDGE = "fvcswarm"
NETWORK = "10.213.7"
START_S = 60.0


def _let_through(action: str) -> None:
    """The engine of this machine has the kernel drop what it does not know, also between the ports of a bridge."""
    rule = ("FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
    subprocess.run(["iptables", "--wait", action, *rule], check=False, capture_output=True, timeout=30)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=30)


@dataclass
class Node:
    """One engine."""

    number: int
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"fvc-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = 180, **environ: str) -> str:
        done = subprocess.run(
            ["docker", "--host", f"unix://{self.folder}/docker.sock", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=os.environ | environ,
        )
        assert not check or done.returncode == 0, (
            f"{self.name}: docker {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
        return done.stdout

    def start(self) -> None:
        link = f"fvc{self.number}"
        _ip("netns", "add", self.name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", link, "master", BRIDGE, "up")
        inside = ("netns", "exec", self.name, "ip")
        _ip(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip(*inside, "link", "set", device, "up")
        _ip(*inside, "route", "add", "default", "via", f"{NETWORK}.254")
        self.folder.mkdir(parents=True)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.name}", "unshare", "--mount", "dockerd"),
                    *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
                    *("--pidfile", str(self.folder / "pid"), "--host", f"unix://{self.folder}/docker.sock"),
                    *("--cgroup-parent", f"/{self.name}", "--log-level", "warn"),
                ],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_S
        while subprocess.run(
            ["docker", "--host", f"unix://{self.folder}/docker.sock", "info"], capture_output=True, check=False
        ).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < end, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.3)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                self.docker("swarm", "leave", "--force", check=False)
                running = self.docker("ps", "--quiet", check=False).split()
                if running:
                    self.docker("kill", *running, check=False)
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        _ip("netns", "delete", self.name, check=False)
        _ip("link", "delete", f"fvc{self.number}", check=False)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mounted], capture_output=True, check=False)

    def tasks(self, service: str) -> list[dict[str, Any]]:
        """Those that ought to run."""
        listed = self.docker(
            "service", "ps", service, "--filter", "desired-state=running", "--format", "{{json .}}", check=False
        )
        return [json.loads(line) for line in listed.splitlines()]


@contextmanager
def three_nodes(folder: Path, images: list[str]) -> Iterator[list[Node]]:
    """A swarm of three managers that know `images`."""
    nodes = [Node(number, folder / f"node-{number}") for number in (1, 2, 3)]
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        _let_through("--insert")
        for node in nodes:
            node.start()
        archive = folder / "images.tar"
        subprocess.run(["docker", "save", "--output", str(archive), *images], check=True, timeout=300)
        with ThreadPoolExecutor(len(nodes)) as pool:  # mostly the disk's work
            list(pool.map(lambda node: node.docker("load", "--quiet", "--input", str(archive), timeout_s=400), nodes))
        archive.unlink()
        first = nodes[0]
        first.docker("swarm", "init", "--advertise-addr", first.address)
        token = first.docker("swarm", "join-token", "--quiet", "worker").strip()
        for node in nodes[1:]:
            node.docker("swarm", "join", "--token", token, "--advertise-addr", node.address, first.address)
        yield nodes
    finally:
        for node in reversed(nodes):
            node.stop()
        _let_through("--delete")
        _ip("link", "delete", BRIDGE, check=False)
        shutil.rmtree(folder, ignore_errors=True)
