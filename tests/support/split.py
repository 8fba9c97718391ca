"""``pytest -p tests.support.split --processes N``: collected once, run by processes that are forked from the collector.

A process of its own would take five seconds of a core to import what the tests need and to find 1,900 of them. Tests
marked ``serial`` have one process for themselves, at the priority of whoever started pytest; the others' files are
taken in turns by ``N`` processes that give way to it, but are not starved.
"""

from __future__ import annotations

import atexit
import gc
import io
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from itertools import groupby
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from _pytest._io import TerminalWriter
from _pytest.capture import CaptureManager, FDCapture

from tests.support.forked import start_server

GIVES_WAY = 10  # at 19 a slow machine let nothing else run for ten seconds, and links were given up as silent
_fork = multiprocessing.get_context("fork")

Items = list[pytest.Item]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=0, help="run the tests in so many processes; 0: in this one")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.processes:
        config.pluginmanager.register(Split(config.option.processes))


class Split:
    def __init__(self, processes: int) -> None:
        self.processes = processes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest's own loop does what is to be done
        serial = [item for item in session.items if item.get_closest_marker("serial")]
        others = [item for item in session.items if not item.get_closest_marker("serial")]
        files = [list(items) for _, items in groupby(others, key=lambda item: item.path)]
        # From both ends: the networks' compute, the services' wait, and small ones in the middle end it.
        files = [file for pair in zip(files[::-1], files, strict=True) for file in pair][: len(files)]
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one for all
        gc.collect()
        gc.freeze()  # what was imported is not looked through again in any of them
        read, write = os.pipe()  # numbers of files that nobody has taken yet, two bytes each
        os.write(write, b"".join(number.to_bytes(2) for number in range(len(files))))
        os.close(write)
        lanes: dict[Connection, BaseProcess] = {}
        begin(lanes, session, iter([serial] if serial else []), 0)
        for _ in range(self.processes):
            begin(lanes, session, taken(read, files), GIVES_WAY)
        os.close(read)
        try:
            replay(session, lanes)
        finally:
            for process in lanes.values():
                process.terminate()
        return True


def taken(read: int, files: list[Items]) -> Iterator[Items]:
    while number := os.read(read, 2):
        yield files[int.from_bytes(number)]


def begin(lanes: dict[Connection, BaseProcess], session: pytest.Session, files: Iterator[Items], nice: int) -> None:
    ours, theirs = _fork.Pipe(duplex=False)
    process = _fork.Process(target=run, args=(session, files, nice, len(lanes), theirs))
    process.start()
    theirs.close()
    lanes[ours] = process


def run(session: pytest.Session, files: Iterator[Items], nice: int, number: int, out: Connection) -> None:
    """What a forked process does."""
    os.nice(nice)
    config = session.config
    capture_anew(config.pluginmanager.getplugin("capturemanager"))
    factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = Path(factory.getbasetemp()) / f"process{number}"
    factory._basetemp.mkdir(mode=0o700)
    config.pluginmanager.getplugin("terminalreporter")._tw = TerminalWriter(io.StringIO())
    config.pluginmanager.register(Sender(config, out))
    start_server()
    items = next(files, None)
    while items is not None:
        for item, following in zip(items, [*items[1:], None], strict=True):
            later = items if following else next(files, None)
            upcoming = following or (later[0] if later else None)
            config.hook.pytest_runtest_protocol(item=item, nextitem=upcoming)
        items = later
    out.send(None)
    atexit._run_exitfuncs()


def capture_anew(manager: CaptureManager) -> None:
    """Into files that no other process has: the same objects and descriptors, since whoever logs may hold them."""
    capturing = manager._global_capturing
    manager.suspend_global_capture()
    for captured in (capturing.out, capturing.err) if capturing is not None else ():
        if isinstance(captured, FDCapture):
            with tempfile.TemporaryFile() as own:
                os.dup2(own.fileno(), captured.tmpfile.fileno())
    manager.resume_global_capture()


class Sender:
    """What the terminal of the process that collected would have been told of each test, sent there when it is over."""

    def __init__(self, config: pytest.Config, out: Connection) -> None:
        self.config, self.out = config, out
        self.reports: list[dict[str, Any]] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.out.send(nodeid)
        self.reports = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self.out.send((nodeid, location, self.reports))


def replay(session: pytest.Session, lanes: dict[Connection, BaseProcess]) -> None:
    """Hears all until they have ended. Raises ``Session.Failed`` if one ends before its tests do."""
    hook, config = session.config.hook, session.config
    running: dict[Connection, str] = {}
    while lanes:
        for lane in wait(list(lanes)):
            assert isinstance(lane, Connection)
            try:
                said = lane.recv()
            except EOFError:
                process = lanes.pop(lane)
                process.join()
                session.shouldfail = f"a process ended with {process.exitcode} in {running.get(lane, 'no test')}"
                continue
            if said is None:
                lanes.pop(lane).join()
            elif isinstance(said, str):
                running[lane] = said
            else:
                nodeid, location, reports = said
                hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
                for data in reports:
                    report = hook.pytest_report_from_serializable(config=config, data=data)
                    hook.pytest_runtest_logreport(report=report)
                hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
