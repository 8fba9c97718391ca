"""Tests that are run by several processes end as they would in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shared.config import ROOT

SEVERAL = """
import os, pathlib, pytest
def test_passes(capfd): os.system("echo heard"); assert capfd.readouterr().out == "heard\\n"
def test_fails(): print("what it said"); os.system("echo and its child"); assert not "wrong"
@pytest.mark.parametrize("number", range(3))
def test_others(number, tmp_path): assert list(tmp_path.parent.iterdir())
@pytest.fixture
def broken(): yield; raise OSError("put away")
def test_is_cleared_away(broken): pass
"""
SERIAL = """
import os, pytest
pytestmark = pytest.mark.serial
def test_first(): assert os.nice(0) == int(os.environ["NICE"])
@pytest.mark.skip(reason="not today")
def test_second(): pass
"""
DYING = "import os\ndef test_alive(): pass\ndef test_dies(): os._exit(7)\n"


def run(folder: Path, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "tests.support.split", "--processes", "2"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", "."],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name}
        | {"PYTHONPATH": str(ROOT), "NICE": str(os.nice(0))},
        text=True,
        capture_output=True,
        check=False,
    )


def test_what_passes_fails_and_is_skipped(tmp_path: Path) -> None:
    ended = run(tmp_path, several=SEVERAL, serial=SERIAL)
    assert ended.returncode == 1
    for line in ("what it said\nand its child\n", "FAILED test_several.py::test_fails - ", "not today", "put away"):
        assert line in ended.stdout, ended.stdout
    assert "1 failed, 6 passed, 1 skipped" in ended.stdout
    assert "1 error" in ended.stdout


def test_a_process_that_dies_is_named_with_its_test(tmp_path: Path) -> None:
    ended = run(tmp_path, dying=DYING)
    assert ended.returncode == 1
    assert "a process ended with 7 in test_dying.py::test_dies" in ended.stdout
