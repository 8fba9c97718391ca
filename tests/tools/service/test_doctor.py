"""``fast-vc doctor``: what it finds on a machine that can serve and on machines that cannot, and what it advises."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner

from gateway.tls import make_self_signed
from shared.addresses import free_port
from shared.config import LinkConfig
from shared.curve import authenticator, make_pair
from shared.link import bind_router
from shared.state import GatewayState, write_state
from tools.service import parts
from tools.service.checkup import host, model
from tools.service.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and ports that nobody uses."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FASTVC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTVC_GATEWAY__PORT", str(free_port()))
    monkeypatch.setenv("FASTVC_LINK__PORT", str(free_port()))
    return tmp_path


def examine(*arguments: str, **settings: Any) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the worst finding of each subject."""
    environ = {f"FASTVC_{key}": str(value) for key, value in settings.items()}
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    content = json.loads(result.output)
    order = ["ok", "note", "warning", "fault"]
    worst: dict[str, dict[str, str]] = {}
    for one in sorted(content["findings"], key=lambda one: order.index(one["level"])):
        worst[one["subject"]] = one
    assert content["faults"] == sum(one["level"] == "fault" for one in content["findings"])
    assert all(one["advice"] for one in content["findings"] if one["level"] in ("warning", "fault"))
    return result.exit_code, worst


def test_a_machine_that_can_serve() -> None:
    code, found = examine()
    assert code == 0
    assert {"version", "libraries", "libopus", "device", "weights", "voices", "gateway.port", "link.port"} <= set(found)
    assert {"auth", "link keys", "serve.state_dir", "log.dir", "open files", "memory", "clock"} <= set(found)
    assert "frame goes through" in found["libopus"]["text"]


def test_libraries_of_a_client_are_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    there = parts.find_spec
    absent = ("torch", "prometheus_client", "uvloop", "samplerate")
    monkeypatch.setattr(parts, "find_spec", lambda name: None if name in absent else there(name))
    code, found = examine()
    assert (code, found["parts"]["level"]) == (1, "fault")
    assert "pip install 'fast-vc-pool[all]'" in found["parts"]["advice"]


def test_people_read_what_to_do_below_what_was_found() -> None:
    result = CliRunner().invoke(
        main, ["doctor"], env={"FASTVC_WORKER__MODEL": "tiny", "FASTVC_GATEWAY__HOST": "0.0.0.0"}
    )
    assert result.exit_code == 1
    assert "-> fast-vc models fetch tiny" in result.output
    assert "-> fast-vc keys api NAME" in result.output
    assert result.output.rstrip().endswith("1 to be mended before it can serve")


def test_a_port_in_use_is_said_and_one_of_ours_is_no_fault(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, found = examine(GATEWAY__PORT=port)
        assert (code, found["gateway.port"]["level"]) == (1, "fault")
        assert f":{port}'" in found["gateway.port"]["advice"]
        write_state(
            home / "temp",
            GatewayState(
                started=time.time(),
                host="127.0.0.1",
                hostname="here",
                port=port,
                link_port=5555,
                sessions=0,
                ready=True,
                workers=[],
                session_ids=[],
            ),
        )
        code, found = examine(GATEWAY__PORT=port)
        assert (code, found["gateway.port"]["level"]) == (0, "ok")


def test_every_gateway_process_needs_its_link_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, found = examine(LINK__PORT=taken.getsockname()[1] - 2, GATEWAY__PROCESSES=3)
    assert (code, found["link.port"]["level"]) == (1, "fault")


@contextmanager
def gateway(config: LinkConfig) -> Iterator[str]:
    """A link that answers handshakes; its endpoint."""
    context: zmq.Context[Any] = zmq.Context()
    guard = authenticator(context, config)
    router = bind_router(context, config)
    try:
        bound = bytes(router.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
        yield f"tcp://127.0.0.1:{bound.rpartition(':')[2]}"
    finally:
        router.close(0)
        if guard is not None:
            guard.stop()
        context.term()


def test_a_worker_s_way_to_its_gateway(home: Path) -> None:
    for name in ("gateway", "mine", "stranger"):
        make_pair(home, name)
    (home / "workers").mkdir()
    shutil.copy(home / "mine.key", home / "workers")
    keys = {"LINK__SERVER_KEY_FILE": "gateway.key", "LINK__SECRET_KEY_FILE": "mine.key_secret"}
    guarded = LinkConfig(port=0, secret_key_file=home / "gateway.key_secret", allowed_workers_dir=home / "workers")
    with gateway(guarded) as endpoint:
        code, found = examine("--gateway", endpoint, **keys)
        assert (code, found[endpoint]["level"]) == (0, "ok")
        assert "CURVE handshake succeeds" in found[endpoint]["text"]
        _, found = examine("--gateway", endpoint, **(keys | {"LINK__SECRET_KEY_FILE": "stranger.key_secret"}))
        assert "allowed_workers_dir" in found[endpoint]["advice"]
    with gateway(LinkConfig(port=0)) as endpoint:
        assert examine("--gateway", endpoint)[1][endpoint]["level"] == "ok"
    nobody = f"tcp://127.0.0.1:{free_port()}"
    code, found = examine("--gateway", nobody)
    assert code == 1
    assert "no connection" in found[nobody]["text"]
    far = "tcp://192.0.2.1:5555"
    assert "no CURVE keys are named" in examine("--gateway", far)[1][far]["text"]


def test_a_plain_worker_at_a_gateway_with_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.service.checkup.network._HANDSHAKE_S", 1.0)
    make_pair(home, "gateway")
    guarded = LinkConfig(port=0, secret_key_file=home / "gateway.key_secret", allowed_workers_dir=home)
    with gateway(guarded) as endpoint:
        assert "do not agree on keys" in examine("--gateway", endpoint)[1][endpoint]["text"]


def test_secrets_that_others_could_read(home: Path) -> None:
    make_pair(home, "gateway")
    (home / "gateway.key_secret").chmod(0o644)
    (home / ".env").write_text("")
    (home / ".env").chmod(0o640)
    code, found = examine(LINK__SECRET_KEY_FILE="gateway.key_secret", LINK__ALLOWED_WORKERS_DIR=".")
    assert code == 0
    assert found["gateway.key_secret"]["advice"] == "chmod 600 gateway.key_secret"
    assert found[".env"]["level"] == "warning"
    assert "1 workers may join: gateway" in found["link keys"]["text"]


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(model, "_DRIVER", home / "none")
    code, found = examine(WORKER__DEVICE="cuda:7")
    assert (code, found["device"]["level"]) == (1, "fault")


def test_weights_and_voices(home: Path) -> None:
    assert examine(WORKER__MODEL="tiny")[1]["weights"]["level"] == "warning"
    code, found = examine(WORKER__MODEL="shift")
    assert (code, found["weights"]["level"]) == (0, "ok")
    code, found = examine(WORKER__VOICES_DIR="nowhere", WORKER__DIT_CHECKPOINT_PATH="mine.pth")
    assert code == 1
    assert found["worker.voices_dir"]["level"] == found["worker.dit_checkpoint_path"]["level"] == "fault"


def test_disk_clock_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = examine(RECORDING__ENABLED="true", RECORDING__MAX_GB=100_000)
    assert (code, found["recording.dir"]["level"]) == (0, "warning")
    assert "recording.max_gb" in found["recording.dir"]["advice"]
    assert examine(GATEWAY__MAX_SESSIONS=100_000)[1]["open files"]["level"] == "warning"
    monkeypatch.setattr(host.os, "access", lambda path, mode: False)
    monkeypatch.setattr(host, "_clock_state", lambda: 5)
    code, found = examine()
    assert (code, found["serve.state_dir"]["level"], found["clock"]["level"]) == (1, "fault", "warning")
    monkeypatch.setattr(host.time, "time", lambda: 1e6)
    assert examine()[1]["clock"]["level"] == "fault"


def test_files_of_keys_that_a_gateway_could_not_use(home: Path) -> None:
    junk = home / "junk.json"
    junk.write_bytes(b"\xe7 no keys")
    code, found = examine(AUTH__MODE="keys", AUTH__KEYS_FILE="junk.json", GATEWAY__HOST="0.0.0.0")
    assert (code, found["auth"]["level"]) == (1, "fault")
    assert "junk.json: not a file of keys" in found["auth"]["text"]
    make_pair(home, "gateway")
    (home / "workers").mkdir()
    (home / "workers" / "one.key").write_bytes(junk.read_bytes())
    code, found = examine(LINK__SECRET_KEY_FILE="gateway.key_secret", LINK__ALLOWED_WORKERS_DIR="workers")
    assert (code, found["link keys"]["level"]) == (0, "warning")
    assert "one.key: no CURVE certificate" in found["link keys"]["text"]


def test_a_certificate_and_the_key_of_another(home: Path) -> None:
    for name in ("one", "two"):
        make_self_signed(home / name, ["localhost"])
    code, found = examine(GATEWAY__TLS_CERTIFICATE="one/tls.crt", GATEWAY__TLS_KEY="one/tls.key")
    assert (code, found["TLS"]["level"]) == (0, "ok")
    code, found = examine(GATEWAY__TLS_CERTIFICATE="one/tls.crt", GATEWAY__TLS_KEY="two/tls.key")
    assert (code, found["TLS"]["level"]) == (1, "fault")
    assert "two/tls.key" in found["TLS"]["text"]
