"""The supervisor with small stand-ins for gateway and workers: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from loguru import logger

from shared.addresses import free_port, free_ports
from shared.config import Config, ConfigError, GatewayConfig, LinkConfig, ServeConfig
from shared.settings import WorkerGroup
from shared.state import ServeState, write_state
from tests.support.forked import Forked
from tests.support.waiting import PATIENCE_S, until
from tools.service import supervisor
from tools.service.supervisor import Child, PortTaken, Supervisor, check_link_ports, check_port, local_children

SLEEPS = "import time; time.sleep(600)"
POLITE = """
import os, signal, sys, time
def end(*_):
    os.write(1, (sys.argv[1] + " ends\\n").encode())
    sys.exit()
signal.signal(signal.SIGTERM, end)
os.write(1, (sys.argv[1] + " runs\\n").encode())
time.sleep(600)
"""
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, (sys.argv[1] + " runs\\n").encode())
time.sleep(600)
"""
READY_LATER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if Handler.asked > 4 else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


def supervise(folder: Path, port: int, grace_s: float, children: list[tuple[str, str, str]]) -> int:
    """Runs a Supervisor of (role, name, Python source)."""
    logger.remove()
    logger.add(sys.stderr, format="{message}")
    supervisor._AFTER_GRACE_S = 0.2
    gateway = GatewayConfig(port=port, shutdown_grace_s=grace_s)
    config = Config(gateway=gateway, serve=ServeConfig(state_dir=folder / "temp", ready_timeout_s=0.3))
    kept = [Child(role, name, [sys.executable, "-c", code, name]) for role, name, code in children]
    return Supervisor(config, kept, lambda: print("ready", flush=True)).run()


class Running:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, children: list[tuple[str, str, str]], port: int, grace_s: float = 0.2) -> None:
        self.folder, self.port = folder, port
        self.output = folder / "output.txt"
        environ = os.environ | {"http_proxy": "http://127.0.0.1:9"}  # nothing here may ask a proxy
        self.process = Forked(
            supervise, folder, port, grace_s, children, environ=environ, out=self.output, from_here=True
        )

    @property
    def state_file(self) -> Path:
        return self.folder / "temp" / f"serve-{self.port}.json"

    def pids(self) -> dict[str, int]:
        if not self.state_file.exists():
            return {}
        children = json.loads(self.state_file.read_text())["children"]
        return {child["name"]: child["pid"] for child in children}

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def make(*children: tuple[str, str, str], **settings: Any) -> Running:
        started.append(Running(tmp_path, list(children), settings.pop("port", None) or free_port(), **settings))
        return started[-1]

    yield make
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_child_that_dies_is_started_again(start: Start) -> None:
    running = start(("gateway", "gateway", SLEEPS), ("worker", "worker-0", SLEEPS))
    until(lambda: len(running.pids()) == 2)
    for name in ("worker-0", "gateway"):
        before = running.pids()
        os.kill(before[name], signal.SIGKILL)
        until(lambda before=before, name=name: running.pids().get(name, before[name]) != before[name])
        others = set(before) - {name}
        assert {other: running.pids()[other] for other in others} == {other: before[other] for other in others}
        assert f"{name} (pid {before[name]}) ended with SIGKILL" in running.text()


def test_a_child_that_always_dies_is_started_ever_more_rarely(start: Start) -> None:
    running = start(("worker", "worker-0", "raise SystemExit(3)"))
    until(lambda: running.text().count("ended with exit code 3") == 2)
    began = time.monotonic()
    until(lambda: running.text().count("ended with exit code 3") == 3)
    assert time.monotonic() - began > 0.8  # the second pause is a second long
    assert running.process.poll() is None


def test_a_configuration_that_cannot_work_ends_everything(start: Start) -> None:
    running = start(("worker", "worker-0", SLEEPS), ("gateway", "gateway", "raise SystemExit(2)"))
    assert running.process.wait(PATIENCE_S) == 2
    assert "gateway cannot start as configured" in running.text()
    assert not running.state_file.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_gateway_first_and_then_the_workers(start: Start, number: signal.Signals) -> None:
    running = start(("worker", "worker-0", POLITE), ("gateway", "gateway", POLITE), ("worker", "worker-1", POLITE))
    until(lambda: running.text().count("runs") == 3)
    pids = running.pids().values()
    running.process.send_signal(number)
    assert running.process.wait(PATIENCE_S) == 0
    ends = [line for line in running.text().splitlines() if line.endswith("ends")]
    assert ends[0] == "gateway ends"
    assert sorted(ends[1:]) == ["worker-0 ends", "worker-1 ends"]
    assert all(gone(pid) for pid in pids)
    assert not running.state_file.exists()


def test_what_does_not_end_is_killed_after_the_grace(start: Start) -> None:
    running = start(("gateway", "gateway", STUBBORN), ("worker", "worker-0", POLITE), grace_s=0.5)
    until(lambda: running.text().count("runs") == 2)
    pids = running.pids().values()
    began = time.monotonic()
    running.process.terminate()
    assert running.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began > 0.6
    assert "did not end in time" in running.text()
    assert all(gone(pid) for pid in pids)


def test_a_second_signal_kills_at_once(start: Start) -> None:
    running = start(("gateway", "gateway", STUBBORN), ("worker", "worker-0", STUBBORN), grace_s=60)
    until(lambda: running.text().count("runs") == 2)
    pids = running.pids().values()
    running.process.terminate()
    time.sleep(0.3)
    assert running.process.poll() is None
    running.process.terminate()
    assert running.process.wait(5) == 0
    assert all(gone(pid) for pid in pids)
    assert "was to end at once: killed" in running.text()
    assert "in time" not in running.text()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_children_do_not_outlive_a_killed_supervisor(start: Start) -> None:
    running = start(("gateway", "gateway", STUBBORN), ("worker", "worker-0", STUBBORN))
    until(lambda: running.text().count("runs") == 2)
    pids = running.pids().values()
    running.process.kill()
    running.process.wait()
    until(lambda: all(gone(pid) for pid in pids))


def test_a_terminal_s_interrupt_reaches_only_the_supervisor(start: Start) -> None:
    running = start(("gateway", "gateway", SLEEPS), ("worker", "worker-0", SLEEPS))
    until(lambda: len(running.pids()) == 2)
    own = os.getpgid(running.process.pid)
    assert own not in {os.getpgid(pid) for pid in running.pids().values()}


def test_ready_is_said_once_when_the_gateway_says_so(start: Start) -> None:
    port = free_port()
    running = start(("gateway", "gateway", READY_LATER.replace("{port}", str(port))), port=port)
    until(lambda: "ready\n" in running.text())
    time.sleep(0.3)
    assert running.text().splitlines().count("ready") == 1


def test_not_ready_in_time_is_said_once(start: Start) -> None:
    running = start(("gateway", "gateway", SLEEPS))
    until(lambda: "not ready after 0.3 s" in running.text())
    time.sleep(0.3)
    assert running.text().count("not ready after") == 1


def test_a_lost_state_file_comes_back(start: Start) -> None:
    running = start(("worker", "worker-0", SLEEPS))
    until(running.state_file.exists)
    running.state_file.unlink()
    until(running.state_file.exists)


def config_of(tmp_path: Path, host: str = "127.0.0.1", port: int = 8042) -> Config:
    return Config(gateway=GatewayConfig(host=host, port=port), serve=ServeConfig(state_dir=tmp_path))


def test_a_taken_port_is_named_with_its_owner(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} is already in use by another program"):
            check_port(config_of(tmp_path, port=port))
        write_state(tmp_path, ServeState(started=0.0, host="127.0.0.1", port=port, link_port=1, children=[]))
        with pytest.raises(PortTaken, match=rf"port {port} is already in use by fast-vc serve \(pid {os.getpid()}\)"):
            check_port(config_of(tmp_path, port=port))
    check_port(config_of(tmp_path, port=port))


def test_a_taken_port_of_the_link_is_noticed_before_anything_is_started(tmp_path: Path) -> None:
    first = free_ports(2)
    config = config_of(tmp_path).model_copy(update={"link": LinkConfig(port=first)})
    with socket.create_server(("127.0.0.1", first + 1)):
        check_link_ports(config, 1)
        said = f"port {first + 1}, of the link to workers, is already in use by another program.*FASTVC_LINK__PORT"
        with pytest.raises(PortTaken, match=said):
            check_link_ports(config, 2)
        write_state(tmp_path, ServeState(started=0.0, host="127.0.0.1", port=1, link_port=first + 1, children=[]))
        with pytest.raises(PortTaken, match=rf"in use by fast-vc serve \(pid {os.getpid()}\)"):
            check_link_ports(config, 2)


def test_an_address_of_another_machine_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway.host: cannot listen on 192\.0\.2\.1"):
        check_port(config_of(tmp_path, host="192.0.2.1"))


def test_the_children_of_serve_get_its_profile_and_address(tmp_path: Path) -> None:
    children = local_children(config_of(tmp_path), 1, [WorkerGroup(count=2)], ["--env", "prod"], ["--port", "9000"])
    assert [(child.role, child.name) for child in children] == [
        ("gateway", "gateway"),
        ("worker", "worker-0"),
        ("worker", "worker-1"),
    ]
    python = [sys.executable, "-P", "-m"]
    assert children[0].command == [*python, "gateway", "--env", "prod", "--port", "9000"]
    assert children[2].command == [
        *(*python, "worker", "--gateway", "tcp://127.0.0.1:5555", "--id", "worker-1", "--env", "prod"),
    ]


def test_several_gateways_have_a_number_each_and_every_worker_joins_them_all(tmp_path: Path) -> None:
    children = local_children(config_of(tmp_path), 2, [WorkerGroup()], [], [])
    assert [child.name for child in children] == ["gateway-0", "gateway-1", "worker-0"]
    assert list(children[1].command)[-2:] == ["--number", "1"]
    joined = [text for text in children[2].command if text.startswith("tcp://")]
    assert joined == ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"]


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_children_take_no_package_of_the_working_folder_for_ours(tmp_path: Path, role: str) -> None:
    for package in ("shared", "gateway", "worker", "config"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('a foreign package')")
    (tmp_path / "config" / "default.yaml").write_text("another: {program: 1}\n")
    command = next(
        child.command for child in local_children(config_of(tmp_path), 1, [WorkerGroup()], [], []) if child.role == role
    )
    help_text = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (help_text.returncode, help_text.stderr) == (0, "")
    assert "--env NAME" in help_text.stdout


def test_workers_of_several_kinds_have_each_their_profile_and_device(tmp_path: Path) -> None:
    groups = [WorkerGroup(profile="prod", device="cuda:0", count=2), WorkerGroup(profile="v2"), WorkerGroup()]
    children = local_children(config_of(tmp_path), 1, groups, ["--config", "mine.yaml"], [])
    told = [list(child.command[child.command.index("--id") + 1 :]) for child in children if child.role == "worker"]
    assert told == [
        ["worker-0", "--config", "mine.yaml", "--profile", "prod", "--device", "cuda:0"],
        ["worker-1", "--config", "mine.yaml", "--profile", "prod", "--device", "cuda:0"],
        ["worker-2", "--config", "mine.yaml", "--profile", "v2"],
        ["worker-3", "--config", "mine.yaml"],
    ]
