"""What a container's health check learns of a worker, from state files of living and stuck ones."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.state import WorkerState, write_state
from worker.probe import FRESH_S, probe

STATE = WorkerState(
    started=time.time(),
    host="here",
    worker_id="worker-0",
    gateways=["tcp://127.0.0.1:5555"],
    device="cpu",
    model="nano",
    sessions=3,
    capacity=16,
    connected=0,
    stuck=False,
)


def told(folder: Path, **more: Any) -> tuple[bool, str]:
    write_state(folder, replace(STATE, **({"written": time.time()} | more)))
    return probe(folder)


def test_a_worker_that_beats_is_well_with_or_without_a_gateway(tmp_path: Path) -> None:
    well, text = told(tmp_path)
    assert well
    assert text == "worker-0: 3 of 16 places taken, 0 gateways"


@pytest.mark.parametrize(
    ("state", "fault"), [({"stuck": True}, "stuck"), ({"written": time.time() - 2 * FRESH_S}, "no state")]
)
def test_one_that_is_stuck_or_silent_is_not(tmp_path: Path, state: dict[str, Any], fault: str) -> None:
    well, text = told(tmp_path, **state)
    assert not well
    assert fault in text


def test_nor_is_one_that_has_not_begun_or_is_dead(tmp_path: Path) -> None:
    assert probe(tmp_path) == (False, f"no worker has begun to serve (state folder {tmp_path})")
    write_state(tmp_path, replace(STATE, pid=2**22 + 1, written=time.time()))
    assert not probe(tmp_path)[0]
