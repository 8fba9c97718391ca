"""State files: written whole, believed only while their process lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from shared.state import read_states, remove_state, write_state


def test_what_is_written_is_read_with_the_supervisor_first(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    for role in ("worker", "gateway", "serve"):
        write_state(folder, f"{role}-1.json", {"role": role, "pid": os.getpid(), "sessions": 3})
    states = read_states(folder)
    assert [state["role"] for state in states] == ["serve", "gateway", "worker"]
    assert all(state["sessions"] == 3 for state in states)
    assert sorted(path.name for path in folder.iterdir()) == ["gateway-1.json", "serve-1.json", "worker-1.json"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert read_states(tmp_path / "none") == []
    remove_state(tmp_path / "none", "gateway-1.json")


def test_removed_is_gone(tmp_path: Path) -> None:
    write_state(tmp_path, "gateway-1.json", {"role": "gateway", "pid": os.getpid()})
    remove_state(tmp_path, "gateway-1.json")
    remove_state(tmp_path, "gateway-1.json")
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_dead_process_is_cleared(tmp_path: Path) -> None:
    script = "import os, sys; from pathlib import Path; from shared.state import write_state\n"
    script += "write_state(Path(sys.argv[1]), 'worker-1.json', {'role': 'worker', 'pid': os.getpid()})"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert (tmp_path / "worker-1.json").exists()
    assert read_states(tmp_path) == []
    assert not (tmp_path / "worker-1.json").exists()


def test_another_process_under_the_same_pid_is_not_believed(tmp_path: Path) -> None:
    write_state(tmp_path, "worker-1.json", {"role": "worker", "pid": os.getpid()})
    content = json.loads((tmp_path / "worker-1.json").read_text())
    content["process_started"] -= 3600
    (tmp_path / "worker-1.json").write_text(json.dumps(content))
    assert read_states(tmp_path) == []
    assert not (tmp_path / "worker-1.json").exists()


def test_nonsense_under_our_names_is_cleared(tmp_path: Path) -> None:
    for number, text in enumerate(
        (
            "",
            "[1]",
            '{"role": "worker"}',
            '{"role": 7, "pid": 1}',
            '{"role": "worker", "pid": 1, "process_started": "soon"}',
            '{"role": "worker", "pid": -5}',
        )
    ):
        (tmp_path / f"worker-{number}.json").write_text(text)
    (tmp_path / "gateway-1.json").write_bytes(b"\xff\xfe")
    assert read_states(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    names = {"package.json", ".hidden.json", "worker.json", "my-worker-1.json", "worker-1.json.bak", "serve-x.json"}
    for name in names:
        (tmp_path / name).write_text("{}")
    assert read_states(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    own = {"role": "gateway", "pid": os.getpid(), "session_ids": ["x" * 50] * 500}
    write_state(tmp_path, "gateway-1.json", own)
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            write_state(tmp_path, "gateway-1.json", own)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert len(read_states(tmp_path)) == 1
    writer.join()
