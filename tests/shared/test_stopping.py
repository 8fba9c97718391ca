"""Which signals end a process in good order."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from shared.config import ROOT

ASKS = "from shared.stopping import stopping_signals; print(*[number.name for number in stopping_signals()])"


@pytest.mark.parametrize(
    ("action", "expected"), [(signal.SIG_DFL, "SIGTERM SIGINT SIGHUP"), (signal.SIG_IGN, "SIGTERM SIGINT")]
)
def test_a_closed_terminal_ends_it_but_under_nohup(action: signal.Handlers, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, action),
    )
    assert done.stdout.strip() == expected
