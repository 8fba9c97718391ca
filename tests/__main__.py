"""``python -m tests``: everything that must hold before a change lands, and how long it took.

Tests marked ``serial`` (calls in real time, whose answers must not be late) run one after another; they mostly wait.
What they leave of the processor goes to everything else: the other tests on two processes,
file by file (`tests.support.split`), lint and types.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

PROCESSES = "2"  # beside the serial tests and the checks: a third would spend more on taking turns than it gains
TESTS = ["pytest", "-p", "tests.support.split", "--processes", PROCESSES, "-rs"]
LOWEST = 19
THREADS = "1"  # of torch in each: they share two cores
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}


def start(module: list[str]) -> subprocess.Popen[str]:
    """``python -m`` what is named, which gives way to others; what it says is kept for later."""
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: os.nice(LOWEST),
    )


def main() -> int:
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", THREADS)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests and what they start are some hundred processes of the same
    checks = {name: start(command) for name, command in CHECKS.items()}
    tests = subprocess.run([sys.executable, "-m", *TESTS, *sys.argv[1:]], check=False)
    failed = ["tests"] if tests.returncode else []
    for name, process in checks.items():
        said, _ = process.communicate()
        if process.returncode:
            failed.append(name)
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
