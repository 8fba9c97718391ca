"""Which processes belong to the service on a port."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from shared.state import ChildState, ServeState, State, WorkerState
from tools.service import running as room
from tools.service.running import running


def serve(port: int, *children: int) -> ServeState:
    named = [ChildState("worker", f"worker-{pid}", pid) for pid in children]
    return ServeState(started=0.0, host="127.0.0.1", port=port, link_port=port + 1, children=named)


def worker(pid: int, *gateways: str) -> WorkerState:
    return WorkerState(
        pid=pid,
        process_started=psutil.Process(os.getpid()).create_time(),
        started=0.0,
        host="h",
        worker_id=f"w{pid}",
        gateways=list(gateways),
        device="cpu",
        model="nano",
        sessions=0,
        capacity=1,
        connected=1,
        stuck=False,
    )


def test_a_port_means_a_service_with_the_workers_that_are_its_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = serve(100, 7), serve(200)
    child, alone = worker(7, "tcp://127.0.0.1:101"), worker(8, "tcp://127.0.0.1:101")
    shared, others = worker(9, "tcp://127.0.0.1:101", "tcp://127.0.0.1:201"), worker(10, "tcp://127.0.0.1:201")
    everything: list[State] = [first, second, child, alone, shared, others]
    monkeypatch.setattr(room, "read_states", lambda folder: everything)
    assert running(tmp_path, None) == everything
    assert running(tmp_path, 100) == [first, child, alone]
    assert running(tmp_path, 200) == [second, others]
    assert running(tmp_path, 300) == []
