"""The units of docker/systemd: systemd reads them, and their commands are ones that fast-vc knows."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.config import ROOT, load
from tools.service.cli import main

UNITS = sorted((ROOT / "docker" / "systemd").glob("*.service"))
PROGRAM = "/opt/fast-vc/bin/fast-vc"
INSTANCE = {"%i": "0", "%H": "host", "$GATEWAYS": "--gateway tcp://a:5555 --gateway tcp://a:5556"}


def values(unit: Path, key: str) -> list[str]:
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_its_command_line_is_understood(unit: Path) -> None:
    (line,) = values(unit, "ExecStart")
    for placeholder, value in INSTANCE.items():
        line = line.replace(placeholder, value)
    program, name, *arguments = shlex.split(line)
    assert program == PROGRAM
    context = main.commands[name].make_context(name, arguments)
    assert context.params["file"] == Path("/etc/fast-vc/fast-vc.yaml")
    if name == "worker":
        assert context.params["gateways"] == ("tcp://a:5555", "tcp://a:5556")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_waits_longer_than_the_service_takes_to_end(unit: Path) -> None:
    config = load()
    (seconds,) = map(int, values(unit, "TimeoutStopSec"))
    graces = {"gateway": config.gateway.shutdown_grace_s + 10, "worker": config.worker.shutdown_grace_s + 10}
    assert seconds >= next(grace for role, grace in graces.items() if role in unit.name)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_complain_about(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name.replace("@.", "@0.")
    copy.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if copy.name in line]) == (0, [])
