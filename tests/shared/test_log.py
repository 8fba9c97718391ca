"""Lines as collectors of logs read them; each in a process of its own, because a process has one log."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Literal

from loguru import logger

from shared.log import configure, for_session
from shared.settings import LogConfig
from tests.support.forked import run_here


def _say(form: Literal["text", "json"], to_file: bool, folder: Path) -> None:
    configure("gateway", LogConfig(format=form, to_file=to_file, dir=folder))
    for_session("call-1").info("heard {}", "straße\nand more")
    try:
        raise ValueError("no such voice")
    except ValueError:
        for_session("call-1").exception("failed")


def lines(form: Literal["text", "json"], to_file: bool, folder: Path) -> subprocess.CompletedProcess[str]:
    done = run_here(_say, form, to_file, folder)
    assert done.returncode == 0, done.stderr
    return done


def test_json_is_one_object_a_line_on_stdout(tmp_path: Path) -> None:
    done = lines("json", False, tmp_path / "logs")
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.stderr == ""
    assert (
        first.items()
        >= {
            "level": "INFO",
            "role": "gateway",
            "session_id": "call-1",
            "message": "heard straße\nand more",
        }.items()
    )
    assert "T" in first["time"]
    assert "ValueError: no such voice" in second["exception"]
    assert not (tmp_path / "logs").exists()


def test_text_goes_to_stderr_and_to_the_role_s_file(tmp_path: Path) -> None:
    done = lines("text", True, tmp_path / "logs")
    assert done.stdout == ""
    assert "gateway call-1 heard" in done.stderr
    assert "gateway call-1 heard" in (tmp_path / "logs" / "gateway.log").read_text()


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder belongs")
    done = lines("text", True, tmp_path / "logs")
    assert "no log file is written" in done.stderr
    assert "call-1 heard" in done.stderr


def _say_many(config: LogConfig, line: str, well_again: bool) -> None:
    configure("gateway", config)
    for number in range(50):
        logger.info(line, number)
        if number == 24 and well_again:
            logger.complete()
            (config.dir / "gateway.log").unlink()
    logger.complete()


def many(folder: Path, line: str = "line {}", *, well_again: bool = False, **config: int) -> str:
    """What 50 lines leave on the console. well_again: the disk is, after half of them."""
    done = run_here(_say_many, LogConfig(dir=folder, **config), line, well_again)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_full_disk_is_said_once_and_every_line_still_comes_on_the_console(tmp_path: Path) -> None:
    (tmp_path / "gateway.log").symlink_to("/dev/full")
    said = many(tmp_path).splitlines()
    assert [line for line in said if "No space left on device" in line] == [
        f"log.dir: {tmp_path / 'gateway.log'}: [Errno 28] No space left on device; it goes on here alone"
    ]
    assert len(said) == 51


def test_the_file_goes_on_once_the_disk_is_well_again(tmp_path: Path) -> None:
    (tmp_path / "gateway.log").symlink_to("/dev/full")
    many(tmp_path, well_again=True)
    assert (tmp_path / "gateway.log").read_text().count("line ") == 25


def test_a_long_file_is_put_aside_and_so_many_stay(tmp_path: Path) -> None:
    many(tmp_path, "x" * 100_000, max_file_mb=1, keep_files=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.log", "gateway.log.1", "gateway.log.2"]
    assert all(path.stat().st_size <= 1_000_000 for path in tmp_path.iterdir())
