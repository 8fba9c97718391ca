"""The page's modules that need no browser, tested in node: ``*.test.mjs`` beside this file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = sorted(str(path) for path in Path(__file__).parent.glob("*.test.mjs"))


def test_modules_of_the_page() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("the page's modules are NOT tested, there is no node. Install: apt-get install nodejs")
    script = "for (const file of process.argv.slice(1)) await import(file);"  # in one process, unlike ``node --test``
    command = [node, "--input-type=module", "--eval", script, *TESTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    (passed,) = re.findall(r"^\S* ?pass (\d+)$", done.stdout, re.MULTILINE)
    assert int(passed) >= len(TESTS)
