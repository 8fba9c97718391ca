"""Lines as collectors of logs read them; each in a process of its own, because a process has one log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from shared.config import ROOT

_PROGRAM = """
import sys
from pathlib import Path
from shared.log import configure, for_session
from shared.settings import LogConfig
configure("gateway", LogConfig(format=sys.argv[1], to_file=sys.argv[2] == "file", dir=Path(sys.argv[3])))
for_session("call-1").info("heard {}", "straße\\nand more")
try:
    raise ValueError("no such voice")
except ValueError:
    for_session("call-1").exception("failed")
"""


def lines(form: str, to_file: bool, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM, form, "file" if to_file else "none", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)


def test_json_is_one_object_a_line_on_stdout(tmp_path: Path) -> None:
    done = lines("json", False, tmp_path / "logs")
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.stderr == ""
    assert (
        first.items()
        >= {
            "level": "INFO",
            "role": "gateway",
            "session_id": "call-1",
            "message": "heard straße\nand more",
        }.items()
    )
    assert "T" in first["time"]
    assert "ValueError: no such voice" in second["exception"]
    assert not (tmp_path / "logs").exists()


def test_text_goes_to_stderr_and_to_the_role_s_file(tmp_path: Path) -> None:
    done = lines("text", True, tmp_path / "logs")
    assert done.stdout == ""
    assert "gateway call-1 heard" in done.stderr
    assert "gateway call-1 heard" in (tmp_path / "logs" / "gateway.log").read_text()


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder belongs")
    done = lines("text", True, tmp_path / "logs")
    assert "no log file is written" in done.stderr
    assert "call-1 heard" in done.stderr
