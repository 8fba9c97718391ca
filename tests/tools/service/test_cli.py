"""The command line: options, messages, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from shared.addresses import free_port
from shared.state import GatewayState, PooledWorker, ServeState, write_state
from tests.support.forked import Forked
from tests.support.waiting import until
from tools.service import cli, stop


def live(folder: Path, port: int, flags: tuple[str, ...]) -> None:
    """What a gateway is, as far as state files know. Says when it is up, and which process is below it."""
    if "stubborn" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    below = [subprocess.Popen(["sleep", "600"]).pid] if "parent" in flags else []
    state = GatewayState(
        started=time.time() - 3725,
        host="127.0.0.1",
        hostname="here",
        port=port,
        link_port=5555,
        sessions=2,
        ready=True,
        workers=[PooledWorker("far-1", 7, "far", "cuda:0", "shift", 2, 16, True)],
        session_ids=["alpha", "beta"],
    )
    write_state(folder, state)
    print("up", *below)
    time.sleep(600)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder whose `temp`, `logs` and `outputs` are a service's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FASTVC_")]:
        monkeypatch.delenv(name)
    return tmp_path


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), input=answer)


class Service:
    """Something that runs, as far as state files know."""

    def __init__(self, folder: Path, *flags: str, port: int = 8042) -> None:
        out = folder / f"gateway-{port}.out"
        self.process = Forked(live, folder / "temp", port, flags, environ=os.environ, out=out, from_here=True)
        until(lambda: out.exists() and out.read_text().endswith("\n"))
        up, *below = out.read_text().split()
        out.unlink()
        assert up == "up"
        self.below = [int(pid) for pid in below]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    made = Service(home)
    yield made
    made.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `gateway.app.run` and `worker.main.run` were called with; nothing heavy is imported."""
    calls: dict[str, Any] = {}

    def fake(module: str, key: str) -> None:
        def start(*arguments: Any) -> int:
            calls[key] = arguments
            return 7

        stand_in = types.ModuleType(module)
        stand_in.run = start  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, stand_in)

    fake("gateway.app", "gateway")
    fake("worker.main", "worker")
    return calls


def test_every_command_is_there() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("serve", "gateway", "worker", "status", "stop", "clean", "version"):
        assert f"\n  {command} " in result.output
        assert run(command, "--help").exit_code == 0


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = "[m for m in ('torch', 'aiohttp') if m in sys.modules]"
    script = f"import sys, tools.service.cli, tools.service.supervisor; print({heavy})"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_version() -> None:
    result = run("version")
    assert result.exit_code == 0
    assert result.output.startswith("fast-vc-pool ")


@pytest.mark.parametrize("command", ["serve", "gateway", "worker", "status", "stop", "clean"])
def test_file_and_profile_exclude_each_other(home: Path, command: str) -> None:
    result = run(command, "--config", "x.yaml", "--env", "prod")
    assert result.exit_code == 2
    assert "--config and --env exclude each other" in result.stderr


@pytest.mark.parametrize("command", ["serve", "gateway", "worker", "status", "stop", "clean"])
def test_a_wrong_configuration_is_one_message(home: Path, command: str) -> None:
    Path("x.yaml").write_text("gateway: {prot: 1}\n")
    result = run(command, "--config", "x.yaml")
    assert result.exit_code == 2
    assert "x.yaml: gateway.prot: unknown key (did you mean 'port'?)" in result.stderr
    assert "Traceback" not in result.stderr
    assert run(command, "--config", "none.yaml").exit_code == 2
    assert "no profile 'nome'" in run(command, "--env", "nome").stderr


@pytest.mark.parametrize("command", ["serve", "gateway"])
def test_an_address_of_everybody_s_needs_keys_of_one_s_own(home: Path, command: str) -> None:
    result = run(command, "--host", "0.0.0.0", "--port", str(free_port()))
    assert result.exit_code == 2
    assert "auth.api_keys: gateway.host = 0.0.0.0 is reached by other machines" in result.stderr


def test_gateway_gets_its_address(home: Path, started: dict[str, Any]) -> None:
    assert run("gateway", "--host", "0.0.0.0", "--port", "9001").exit_code == 7
    config, number = started["gateway"]
    assert number is None
    assert (config.gateway.host, config.gateway.port) == ("0.0.0.0", 9001)
    assert config.gateway.max_sessions == 64  # the rest is the profile's
    assert run("gateway", "--port", "65536").exit_code == 2


def test_worker_gets_its_gateways(home: Path, started: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--gateway", "tcp://a:1", "--gateway", "tcp://b:2", "--device", "cuda:1", "--id", "w")
    refused = run("worker", *arguments)  # a plain link to other hosts
    assert (refused.exit_code, started) == (2, {})
    assert "link: a is not loopback and no CURVE keys are named" in refused.stderr
    monkeypatch.setenv("FASTVC_LINK__ALLOW_PLAIN", "true")
    assert run("worker", *arguments).exit_code == 7
    assert started["worker"][1:] == (["tcp://a:1", "tcp://b:2"], "cuda:1", "w")
    monkeypatch.setenv("FASTVC_LINK__PORT", "6000")
    assert run("worker").exit_code == 7
    assert started["worker"][1:] == (["tcp://127.0.0.1:6000"], None, None)


def test_serve_refuses_a_taken_port(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("serve", "--port", str(port))
        assert result.exit_code == 1
        assert f"port {port} is already in use by another program" in result.stderr
        write_state(home / "temp", ServeState(started=0.0, host="127.0.0.1", port=port, link_port=1, children=[]))
        result = run("serve", "--port", str(port))
        assert result.exit_code == 1
        assert f"port {port} is already in use by fast-vc serve (pid {os.getpid()})" in result.stderr


def test_serve_needs_fixed_ports(home: Path) -> None:
    assert run("serve", "--port", "0").exit_code == 2


def test_status_of_nothing(home: Path) -> None:
    result = run("status")
    assert (result.exit_code, result.output) == (1, "nothing is running from this folder (temp/)\n")
    result = run("status", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {"running": False, "processes": [], "workers": []}


def test_status(home: Path, service: Service) -> None:
    result = run("status", "--json")
    assert result.exit_code == 0
    content = json.loads(result.output)
    assert content["running"]
    (process,) = content["processes"]
    expected = {"role": "gateway", "pid": service.process.pid, "host": "127.0.0.1", "port": 8042, "sessions": 2}
    assert {key: process[key] for key in expected} == expected
    assert content["workers"][0]["worker_id"] == "far-1"
    text = run("status").output
    for part in (
        "gateway",
        str(service.process.pid),
        "8042",
        "1:02:",
        "far-1",
        "cuda:0",
        "2/16 (leaving)",
        "alpha, beta",
    ):
        assert part in text


def test_stop_of_nothing(home: Path) -> None:
    result = run("stop")
    assert (result.exit_code, result.output) == (0, "nothing is running from this folder (temp/)\n")


def test_stop_ends_a_process_without_a_supervisor(home: Path, service: Service) -> None:
    result = run("stop")
    assert result.exit_code == 0
    assert f"stopping gateway ({service.process.pid})" in result.output
    assert service.process.wait(5) == -15
    assert run("status").exit_code == 1


def test_stop_says_what_does_not_end_and_force_kills_the_tree(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Service(home, "stubborn", "parent")
    monkeypatch.setattr(stop, "_AFTER_GRACE_S", 0.5)
    monkeypatch.setattr(stop, "_PROGRESS_S", 0.2)
    monkeypatch.setenv("FASTVC_GATEWAY__SHUTDOWN_GRACE_S", "0.1")
    monkeypatch.setenv("FASTVC_WORKER__SHUTDOWN_GRACE_S", "0.1")
    try:
        result = run("stop")
        assert result.exit_code == 1
        assert f"waiting for {made.process.pid}" in result.stdout
        assert "--force kills them" in result.stderr
        assert made.process.poll() is None
        result = run("stop", "--force")
        assert result.exit_code == 0, result.output
        assert made.process.wait(5) == -9
        for pid in made.below:
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert list((home / "temp").iterdir()) == []
    finally:
        made.close()


def test_a_service_is_chosen_by_its_port(home: Path, service: Service) -> None:
    other = Service(home, port=9042)
    try:
        (process,) = json.loads(run("status", "--json", "-p", "9042").output)["processes"]
        assert process["pid"] == other.process.pid
        assert run("status", "-p", "9043").exit_code == 1
        assert run("stop", "-f", "-p", "9042").exit_code == 0
        assert other.process.wait(5) == -9
        assert service.process.poll() is None
    finally:
        other.close()


def folders(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


@pytest.fixture
def used(home: Path) -> Path:
    for name in ("temp", "logs", "outputs", "mine"):
        (home / name).mkdir()
        (home / name / "file.txt").write_text("content")
    return home


@pytest.mark.parametrize(
    ("flags", "left"),
    [((), {"outputs", "mine"}), (("--logs",), {"outputs", "mine"}), (("--outputs",), {"mine"})],
)
def test_clean_removes_what_was_asked(used: Path, flags: tuple[str, ...], left: set[str]) -> None:
    result = run("clean", "-y", *flags)
    assert result.exit_code == 0
    assert folders(used) == left
    assert "temp/" in result.output


def test_clean_asks(used: Path) -> None:
    assert run("clean", answer="n\n").exit_code == 1
    assert (used / "temp").exists()
    assert run("clean", answer="y\n").exit_code == 0
    assert not (used / "temp").exists()
    assert not (used / "logs").exists()
    assert run("clean", answer="").output == "nothing to remove\n"


def test_clean_refuses_while_something_runs(home: Path, service: Service) -> None:
    result = run("clean", "-y")
    assert result.exit_code == 1
    assert f"gateway (pid {service.process.pid}) is running" in result.stderr
    assert (home / "temp").exists()


def test_clean_removes_no_folder_that_holds_more(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folders(used)
    (used / "link").symlink_to(used / "mine")
    monkeypatch.setenv("HOME", str(used / "mine" / "home"))  # nothing outside this test's folder is named
    for place in (".", "..", "mine", str(used), "link"):
        monkeypatch.setenv("FASTVC_SERVE__STATE_DIR", place)
        result = run("clean", "-y")
        assert result.exit_code == 2, place
        assert "kept" in result.stderr
    assert folders(used) == before | {"link"}
    assert (used / "mine" / "file.txt").exists()


@pytest.mark.parametrize("arguments", [(), ("serve",), ("models",), ("models", "fetch"), ("keys",), ("voices", "add")])
def test_minus_h_helps_everywhere(arguments: tuple[str, ...]) -> None:
    helped = run(*arguments, "-h")
    assert helped.exit_code == 0
    assert helped.output.startswith("Usage: ")
    assert helped.output == run(*arguments, "--help").output
