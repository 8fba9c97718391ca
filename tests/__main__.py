"""``python -m tests``: everything that must hold before a change lands, and how long it took.

Tests marked ``serial`` (calls in real time, whose answers must not be late) run one after another; they mostly wait.
What they leave of the processor goes to everything else, at the lowest priority: the other tests on three processes,
file by file, lint and types.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PROCESSES = "3"  # one more than cores: many tests wait for sockets
THREADS = "1"  # of torch in each: they share two cores
LOWEST = 19
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}


def start(module: list[str], *, quietly: bool = False, priority: int = 0) -> subprocess.Popen[str]:
    """``python -m`` what is named. quietly: what it says is kept for later. priority: above 0 gives way to others."""
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        text=True,
        stdout=subprocess.PIPE if quietly else None,
        stderr=subprocess.STDOUT if quietly else None,
        preexec_fn=lambda: os.nice(priority),
    )


def serial_files() -> list[str]:
    """Those that hold serial tests: the others need not be imported to see that they hold none."""
    return [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.serial" in path.read_text("utf-8")]


def main() -> int:
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", THREADS)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests and what they start are some hundred processes of the same
    pytest = ["pytest", *sys.argv[1:]]
    serial = start([*pytest, "-m", "serial", "-rs", *([] if sys.argv[1:] else serial_files())], quietly=True)
    checks = {name: start(command, quietly=True, priority=LOWEST) for name, command in CHECKS.items()}
    rest = start([*pytest, "-n", PROCESSES, "--dist", "loadfile", "-m", "not serial"], priority=LOWEST)
    failed = ["tests"] if rest.wait() else []
    for name, process in {**checks, "serial tests": serial}.items():
        said, _ = process.communicate()
        if process.returncode:
            failed.append(name)
        if process.returncode or process is serial:
            print(said)
        else:
            print(f"{name}: passed")
    used = os.times()
    cpu_s = used.children_user + used.children_system
    print(f"total: {time.monotonic() - began:.0f} s, of processors {cpu_s:.0f} s")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
