"""A real service: `fast-vc serve` with its child processes, on free ports, below a temporary folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import tests.support.preloaded  # noqa: F401
from shared.addresses import free_port
from shared.config import ROOT
from tests.support.forked import Forked, run_module, start_module
from tests.support.waiting import until

KEY = "an-end-to-end-key"
SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"


@dataclass
class Serve:
    """`fast-vc serve` as a user starts it."""

    folder: Path
    workers: int = 1
    kinds: list[dict[str, Any]] | None = None  # of workers, in place of so many of one

    def start(self, **settings: Any) -> Serve:
        self.port, self.link_port = free_port(), free_port()
        given = {
            "ENV": "shift",
            "GATEWAY__PORT": self.port,
            "LINK__PORT": self.link_port,
            "AUTH__API_KEYS": json.dumps([KEY]),
            "SERVE__STATE_DIR": self.folder / "temp",
            "LOG__DIR": self.folder / "logs",
            **settings,
        }
        self.environ = os.environ | {f"FASTVC_{key}": str(value) for key, value in given.items()}
        if self.kinds is None:
            self.process = self.spawn("serve", "--workers", str(self.workers))
        else:
            self.environ["FASTVC_SERVE__WORKERS"] = json.dumps(self.kinds)
            self.process = self.spawn("serve")
        try:
            self.until(lambda: self.is_ready() and self.ready_workers() == self.workers)
        except BaseException:
            self.process.kill()  # its children end with it
            raise
        return self

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def spawn(self, *arguments: str) -> Forked:
        out = self.folder / f"{arguments[0]}.out"
        return start_module("tools.service.cli", *arguments, environ=self.environ, out=out)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_module("tools.service.cli", *arguments, environ=self.environ)

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def is_ready(self) -> bool:
        with suppress(OSError):
            return self.get("/ready")[0] == 200
        return False

    def ready_workers(self) -> int:
        return int(self.get("/ready")[1]["workers"])

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return content

    def pids(self, *roles: str) -> list[int]:
        return [p["pid"] for p in self.status()["processes"] if p["role"] in roles]

    def until(self, true: Any, timeout_s: float = 60.0) -> None:
        def and_alive() -> Any:
            assert self.process.poll() is None, (self.folder / "serve.out").read_text()
            return true()

        until(and_alive, timeout_s, every_s=0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended may wait as a zombie for whoever adopted it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One service with the cheapest model, shared by the tests that leave it whole."""
    serve = Serve(tmp_path_factory.mktemp("service")).start()
    yield serve
    assert serve.stop() == 0
