"""What a container's health check learns of a worker, from state files of living and stuck ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shared.state import write_state
from worker.probe import FRESH_S, probe


def told(folder: Path, **more: object) -> tuple[bool, str]:
    state = {"role": "worker", "worker_id": "worker-0", "pid": os.getpid(), "written": time.time(), **more}
    write_state(folder, f"worker-{os.getpid()}.json", state)
    return probe(folder)


def test_a_worker_that_beats_is_well_with_or_without_a_gateway(tmp_path: Path) -> None:
    well, text = told(tmp_path, sessions=3, capacity=16, connected=0, stuck=False)
    assert well
    assert text == "worker-0: 3 of 16 places taken, 0 gateways"


@pytest.mark.parametrize(
    ("state", "fault"), [({"stuck": True}, "stuck"), ({"written": time.time() - 2 * FRESH_S}, "no state")]
)
def test_one_that_is_stuck_or_silent_is_not(tmp_path: Path, state: dict[str, object], fault: str) -> None:
    well, text = told(tmp_path, **state)
    assert not well
    assert fault in text


def test_nor_is_one_that_has_not_begun_or_is_dead(tmp_path: Path) -> None:
    assert probe(tmp_path) == (False, f"no worker has begun to serve (state folder {tmp_path})")
    write_state(tmp_path, "worker-2.json", {"role": "worker", "pid": 2**22 + 1, "written": time.time()})
    assert not probe(tmp_path)[0]
