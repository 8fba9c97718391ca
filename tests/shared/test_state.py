"""State files: written whole, typed, believed only while their process lives."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import state
from shared.state import (
    ChildState,
    GatewayState,
    PooledWorker,
    ServeState,
    StateReporter,
    WorkerState,
    as_json,
    read_states,
    write_state,
)

SERVE = ServeState(started=1.0, host="127.0.0.1", port=1, link_port=2, children=[ChildState("worker", "worker-0", 7)])
WORKER = WorkerState(
    started=1.0,
    host="h",
    worker_id="w",
    gateways=["tcp://h:2"],
    device="cpu",
    model="nano",
    sessions=3,
    capacity=8,
    connected=1,
    stuck=False,
)
GATEWAY = GatewayState(
    started=1.0,
    host="127.0.0.1",
    hostname="h",
    port=1,
    link_port=2,
    sessions=3,
    ready=True,
    workers=[PooledWorker("w", 7, "h", "cpu", "nano", 3, 8, False)],
    session_ids=["a", "b"],
)


def test_what_is_written_is_read_with_the_supervisor_first(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    for one in (WORKER, GATEWAY, SERVE):
        write_state(folder, one)
    assert read_states(folder) == [SERVE, GATEWAY, WORKER]
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["gateway-2.json", "serve-1.json", f"worker-{WORKER.pid}.json"]


@pytest.mark.parametrize("one", [SERVE, GATEWAY, WORKER])
def test_scripts_find_the_same_keys_in_every_state(one: state.State) -> None:
    assert list(as_json(one))[:5] == ["role", "pid", "host", "port", "sessions"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert read_states(tmp_path / "none") == []


def test_removed_is_gone(tmp_path: Path) -> None:
    reporter = StateReporter(tmp_path)
    reporter.remove()
    reporter.write(GATEWAY)
    assert read_states(tmp_path) == [GATEWAY]
    reporter.remove()
    reporter.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_dead_process_is_cleared(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from tests.shared.test_state import *\n"
    script += "write_state(Path(sys.argv[1]), ServeState(started=1.0, host='h', port=1, link_port=2, children=[]))"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=root)
    assert (tmp_path / "serve-1.json").exists()
    assert read_states(tmp_path) == []
    assert not (tmp_path / "serve-1.json").exists()


def test_another_process_under_the_same_pid_is_not_believed(tmp_path: Path) -> None:
    write_state(tmp_path, replace(SERVE, process_started=SERVE.process_started - 3600))
    assert read_states(tmp_path) == []
    assert not (tmp_path / "serve-1.json").exists()


def changed(**fields: Any) -> str:
    return json.dumps(as_json(WORKER) | fields)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1]",
        b"\xff\xfe",
        b'{"role": "worker"}',
        changed(role=7).encode(),
        changed(pid=-5).encode(),
        changed(pid="me").encode(),
        changed(process_started="soon").encode(),
        changed(gateways=None).encode(),
    ],
)
def test_nonsense_under_our_names_is_cleared(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "worker-1.json").write_bytes(text)
    assert read_states(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    names = {"package.json", ".hidden.json", "worker.json", "my-worker-1.json", "worker-1.json.bak", "serve-x.json"}
    for name in names:
        (tmp_path / name).write_text("{}")
    assert read_states(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    own = replace(GATEWAY, session_ids=["x" * 50] * 500)
    write_state(tmp_path, own)
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            write_state(tmp_path, own)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert read_states(tmp_path) == [own]
    writer.join()


def test_a_disk_that_refuses_costs_one_line_and_the_state_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    reporter = StateReporter(tmp_path)

    def full(folder: Path, one: state.State) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(state, "write_state", full)
        for _ in range(5):
            reporter.write(GATEWAY)
    assert [line for line in log if "No space left on device" in line] == log
    assert len(log) == 1
    assert str(tmp_path) in log[0]
    for _ in range(3):
        reporter.write(GATEWAY)
    assert read_states(tmp_path) == [GATEWAY]
    assert len(log) == 2


def test_a_failed_write_leaves_no_part_behind(tmp_path: Path) -> None:
    (tmp_path / GATEWAY.name).mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match=r"gateway-2\.json"):
        write_state(tmp_path, GATEWAY)
    assert [path.name for path in tmp_path.iterdir()] == [GATEWAY.name]
