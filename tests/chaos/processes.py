"""Real processes that a run may kill, freeze and start again: gateways, and workers that mark what they convert."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shared.addresses import free_port, free_ports
from shared.config import ROOT
from tests.support.forked import Forked, start_module

KEY = "a-key-for-chaos"
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_SMALL_DISK_BYTES = 300_000  # of all files; recordings of twenty calls fill it within a second
_SMALL_FILE_BYTES = 20_000  # where nothing can be mounted: beyond which no file of a process grows


def faketime_is_there() -> bool:
    return _FAKETIME.exists()


@dataclass
class Place:
    """One service: its folder, its settings, and everything that was started."""

    folder: Path
    gateways: int = 1
    workers: int = 2
    small_disk: bool = False  # a real one where this user may mount, else a bound of files
    stepped_clock: bool = False
    slow_ms: float = 0.0  # that each call of the first worker's engine takes
    forked: bool = False  # not started anew: without what a process has from its first moment, a clock or a bound
    settings: dict[str, Any] = field(default_factory=dict)
    link_of: Callable[[int], int] | None = None  # where workers find the link of a gateway; None: where it is

    def __post_init__(self) -> None:
        self.port = free_port()
        self.link_port = free_ports(self.gateways)
        self.running: dict[str, subprocess.Popen[bytes] | Forked] = {}
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        self.has_disk = self.small_disk and _mount(self.disk)
        self.clock = self.folder / "clock"
        self.clock.write_text("+0")
        given = {
            "ENV": "shift",
            "WORKER__MODEL": "passthrough",
            "WORKER__RMS_MIX_RATE": 1,
            "WORKER__MAX_SESSIONS": 64,
            "WORKER__SHUTDOWN_GRACE_S": 10,
            "GATEWAY__PORT": self.port,
            "GATEWAY__MAX_SESSIONS": 200,
            "LINK__PORT": self.link_port,
            "AUTH__API_KEYS": json.dumps([KEY]),
            "SERVE__STATE_DIR": self.disk / "temp",
            "LOG__DIR": self.disk / "logs",
            "LOG__LEVEL": "WARNING",
            "RECORDING__DIR": self.disk / "outputs",
            **self.settings,
        }
        self.environ = os.environ | {f"FASTVC_{name}": str(value) for name, value in given.items()}
        self.environ |= {"OMP_NUM_THREADS": "1"}
        if self.stepped_clock:
            self.environ |= {
                "LD_PRELOAD": str(_FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    # --- processes --------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """``gateway-N`` or ``worker-N``."""
        role, number = name.split("-")
        if role == "gateway":
            module = ["gateway", "--number", number]
        else:
            where = self.link_of or (lambda gateway: self.link_port + gateway)
            links = [f"tcp://127.0.0.1:{where(gateway)}" for gateway in range(self.gateways)]
            slow_ms = self.slow_ms if number == "0" else 0.0
            module = ["tests.chaos.worker", name, str(slow_ms), str(self.folder), *links]
        path = self.folder / f"{name}.out"
        if self.forked:
            self.running[name] = start_module(*module, environ=self.environ, out=path)
            return
        with path.open("ab") as out:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self.environ,
                cwd=ROOT,
                stdout=out,
                stderr=out,
                preexec_fn=self._limit,
            )

    def _limit(self) -> None:
        if self.small_disk and not self.has_disk:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (_SMALL_FILE_BYTES, _SMALL_FILE_BYTES))

    def names(self, role: str) -> list[str]:
        return [f"{role}-{number}" for number in range(getattr(self, f"{role}s"))]

    def signal(self, name: str, number: int) -> None:
        self.running[name].send_signal(number)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    async def restart(self, name: str, after_s: float = 0.5) -> None:
        """As a supervisor does. One that does not end by itself is killed."""
        try:
            await asyncio.to_thread(self.running[name].wait, 15)
        except subprocess.TimeoutExpired:
            await asyncio.to_thread(self.kill, name)
        await asyncio.sleep(after_s)
        self.start(name)

    def workers_at(self) -> int:
        """That the gateways have together."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2) as response:
                return int(json.loads(response.read())["workers"])
        except (OSError, ValueError):
            return 0

    async def until(self, true: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """How long it took."""
        began = time.monotonic()
        while not await asyncio.to_thread(true):
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(self.logs()[-3000:])
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    # --- what is left -----------------------------------------------------------------------------------------

    def figure(self, name: str) -> float:
        """Of all gateways' metrics, summed."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def held(self) -> dict[str, tuple[int, int]]:
        """Descriptors and threads of each process."""
        found = {}
        for name, process in self.running.items():
            with suppress(psutil.Error):
                one = psutil.Process(process.pid)
                found[f"{name} {process.pid}"] = one.num_fds(), one.num_threads()
        return found

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.out")))


def _mount(folder: Path) -> bool:
    """A small disk there. Only root may, and not everywhere."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK_BYTES}", "tmpfs", str(folder)]
    try:
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextmanager
def place(folder: Path, **options: Any) -> Iterator[Place]:
    """Started; everything ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Place(folder, **options)
    try:
        for name in (*made.names("gateway"), *made.names("worker")):
            made.start(name)
        yield made
    finally:
        for process in made.running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        if made.has_disk:
            subprocess.run(["umount", str(made.disk)], check=True)
