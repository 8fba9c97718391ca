"""``python -m tests``: everything that must hold before a change lands, and how long it took.

Lint and types run beside the tests, tests on two processes, file by file; those marked ``serial`` (calls in real time,
whose answers must not be late) run alone afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

PROCESSES = "2"
THREADS = "1"  # of torch in each: two processes share two cores
CHECKS = (
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("mypy", ["mypy"]),
)


def main() -> int:
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", THREADS)
    checks = [
        (name, subprocess.Popen([sys.executable, "-m", *command], text=True, stdout=-1, stderr=-2))
        for name, command in CHECKS
    ]
    pytest = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    failed = []
    if subprocess.run([*pytest, "-n", PROCESSES, "--dist", "loadfile", "-m", "not serial"], check=False).returncode:
        failed.append("tests")
    for name, process in checks:
        said, _ = process.communicate()
        if process.returncode:
            failed.append(name)
            print(said)
        else:
            print(f"{name}: passed")
    if subprocess.run([*pytest, "-m", "serial", "-rs"], check=False).returncode:
        failed.append("serial tests")
    print(f"total: {time.monotonic() - began:.0f} s{'; failed: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
