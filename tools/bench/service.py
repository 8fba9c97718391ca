"""A service for a measurement: gateway processes and one passthrough worker, on free ports, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import psutil

from shared.addresses import free_port, free_ports, wait_until_ready

KEY = "bench-gateway-key"
BLOCK_MS = 200
READY_TIMEOUT_S = 60.0
_STATES_TIMEOUT_S = 20.0
_OTHERS_NICE = 10
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Running:
    """What a measurement needs to know of the service."""

    url: str
    gateways: list[psutil.Process]
    worker: psutil.Process


@contextmanager
def service(places: int, processes: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`processes` gateways on one port, and a passthrough worker of `places` places; `settings` as SECTION__KEY."""
    port, link = free_port(), free_ports(processes)
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "GATEWAY__PORT": port,
            "GATEWAY__PROCESSES": processes,
            "GATEWAY__MAX_SESSIONS": places + 8,
            "LINK__PORT": link,
            "AUTH__API_KEYS": json.dumps([KEY]),
            "ENV": "shift",
            "WORKER__MODEL": "passthrough",
            "WORKER__BLOCK_MS": BLOCK_MS,
            "WORKER__MAX_SESSIONS": places,
            "WORKER__MAX_BATCH": places,
            "SERVE__STATE_DIR": f"{folder}/temp",
            "LOG__DIR": f"{folder}/logs",
            "LOG__LEVEL": "WARNING",
            **(settings or {}),
        }
        environ = os.environ | {f"FASTVC_{key}": str(value) for key, value in given.items()}
        command = [sys.executable, "-m", "tools.service.cli", "serve", "--workers", "1"]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            if not wait_until_ready(f"http://127.0.0.1:{port}", lambda: process.poll() is None, READY_TIMEOUT_S):
                raise click.ClickException("the service did not become ready")
            yield Running(
                f"ws://127.0.0.1:{port}/ws",
                [psutil.Process(pid) for pid in _pids(Path(folder, "temp"), "gateway", processes)],
                psutil.Process(_pids(Path(folder, "temp"), "worker", 1)[0]),
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def as_on_another_host(work: Callable[[], T], *processes: psutil.Process) -> T:
    """`work`, which shares no host with the gateway where a gateway is busy, so that it and `processes` leave the
    processor to whatever wants it: a lower priority for a thread of its own, and for theirs."""

    def beside() -> T:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _OTHERS_NICE)
        return work()

    for process in processes:
        for thread in process.threads():
            os.setpriority(os.PRIO_PROCESS, thread.id, _OTHERS_NICE)
    with ThreadPoolExecutor(1) as thread_of_its_own:
        return thread_of_its_own.submit(beside).result()


def cpu_s(process: psutil.Process) -> float:
    """User and system seconds so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _pids(folder: Path, role: str, count: int) -> list[int]:
    """Of the processes whose state files, which follow within a second or two, are there."""
    end = time.monotonic() + _STATES_TIMEOUT_S
    while time.monotonic() < end:
        found = sorted(folder.glob(f"{role}-*.json"))
        if len(found) == count:
            return [json.loads(path.read_text())["pid"] for path in found]
        time.sleep(0.1)
    raise click.ClickException(f"{len(found)} of {count} {role} processes serve")
