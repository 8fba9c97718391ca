"""The machine: versions, clock, disk, memory, open files."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import zmq

from shared.settings import Config
from shared.version import PACKAGE, version
from tools.service.checkup.finding import Finding, fault, note, ok, warning
from tools.service.parts import PARTS, is_installed

_CLOCK_UNKNOWN, _CLOCK_UNSYNCHRONISED = -1, 5  # adjtimex(2): refused, TIME_ERROR
_TIMEX_BYTES = 512  # more than struct timex has anywhere; all zero: only asks
_LONG_AGO = 1_735_689_600  # 2025: a clock before it was never set
_FILES_A_SESSION, _FILES_A_PROCESS = 3, 128  # descriptors: socket, recording; everything else
_SPARE_DISK_GB = 1.0
_MEMORY_GB = 1.5  # of a worker with the bundled model


def check_versions() -> Iterator[Finding]:
    """Python, this program, and libraries against what it asks for."""
    if sys.version_info[:2] != (3, 11):
        yield fault("python", platform.python_version(), "Python 3.11 is needed: make PYTHON=/path/to/python3.11")
    yield ok("version", f"{version()}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    parts = [part for part in PARTS if is_installed(part)]
    if not parts:
        yield fault("parts", "neither gateway nor worker is installed", f"pip install '{PACKAGE}[all]'")
    missing = sorted(PARTS.keys() - set(parts))
    if parts and missing:
        yield note("parts", f"this installation is a {parts[0]}: {missing[0]} is not installed")
    if not zmq.has("curve"):
        yield fault("libzmq", f"{zmq.zmq_version()} without CURVE", "pip install pyzmq from a wheel, which brings it")
    yield from _check_ranges(parts)


def _check_ranges(parts: list[str]) -> Iterator[Finding]:
    if find_spec("packaging") is None:
        return
    from packaging.requirements import Requirement

    wrong, known = [], 0
    for text in importlib.metadata.requires(PACKAGE) or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": part}) for part in ("", *parts)):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        known += 1
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, not {wanted.specifier}")
    if wrong:
        advice = f"pip install -c constraints.txt '{PACKAGE}[{','.join(parts)}]'"
        yield warning("libraries", "; ".join(wrong), advice)
    else:
        yield ok("libraries", f"{known} of the versions that are asked for")


def check_clock() -> Iterator[Finding]:
    """Whether the clock is set and kept: recordings, tokens' lifetimes and logs of several hosts go by it."""
    if time.time() < _LONG_AGO:
        yield fault("clock", time.strftime("%F %T"), "set it: systemctl enable --now systemd-timesyncd, or chrony")
        return
    state = _clock_state()
    if state == _CLOCK_UNSYNCHRONISED:
        advice = "systemctl enable --now systemd-timesyncd, or chrony: tokens expire and recordings are found by it"
        yield warning("clock", "no time server keeps it", advice)
    elif state == _CLOCK_UNKNOWN:
        yield note("clock", f"{time.strftime('%F %T %Z')}; whether it is kept cannot be told from in here")
    else:
        yield ok("clock", f"{time.strftime('%F %T %Z')}, kept by a time server")


def _clock_state() -> int:
    if sys.platform != "linux":
        return _CLOCK_UNKNOWN
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))


def check_disk(config: Config) -> Iterator[Finding]:
    """Folders that are written to: state, logs, recordings."""
    wanted = {"serve.state_dir": (config.serve.state_dir, 0.0)}
    if config.log.to_file:
        wanted["log.dir"] = (config.log.dir, config.log.max_file_mb * config.log.keep_files * 4e-3)
    if config.recording.enabled:
        wanted["recording.dir"] = (config.recording.dir, config.recording.max_gb)
    for key, (folder, needed_gb) in wanted.items():
        there = _first_that_exists(folder)
        if not os.access(there, os.W_OK | os.X_OK):
            yield fault(key, f"{folder}/ cannot be written by uid {os.getuid()}", f"chown it, or name another in {key}")
            continue
        used_gb = _size_gb(folder) if key == "recording.dir" else 0.0
        free_gb = shutil.disk_usage(there).free / 1e9
        if free_gb < max(_SPARE_DISK_GB, needed_gb - used_gb):
            wants = f", and it may grow to {needed_gb:g} GB" if needed_gb > _SPARE_DISK_GB else ""
            advice = f"free some, or name another folder in {key}"
            if key == "recording.dir":
                advice += ", or lower recording.max_gb"
            yield warning(key, f"{folder}/: {free_gb:.1f} GB are free{wants}", advice)
        else:
            yield ok(key, f"{folder}/ can be written, {free_gb:.0f} GB are free")


def _first_that_exists(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _size_gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def check_limits(config: Config) -> Iterator[Finding]:
    """Open files and memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.gateway.max_sessions * _FILES_A_SESSION + _FILES_A_PROCESS
    if soft < needed:
        advice = f"ulimit -n {needed} (LimitNOFILE= of a unit; the hard limit is {hard})"
        text = f"{soft} for gateway.max_sessions = {config.gateway.max_sessions}"
        yield warning("open files", text, advice)
    else:
        yield ok("open files", f"{soft} for gateway.max_sessions = {config.gateway.max_sessions}")
    available_gb = _memory_available() / 1e9
    needed_gb = _MEMORY_GB * max(1, config.serve.worker_count)
    if is_installed("worker") and available_gb < needed_gb:
        advice = f"about {_MEMORY_GB} GB a worker with the bundled model; fewer serve.workers"
        yield warning("memory", f"{available_gb:.1f} GB are available", advice)
    else:
        yield ok("memory", f"{available_gb:.1f} GB are available, {os.cpu_count()} cores")


def _memory_available() -> float:
    """Bytes; of the container, where there is one with a limit."""
    available = float(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
    except OSError:
        return available
    return min(available, float(limit) - float(used)) if re.fullmatch(r"\d+", limit) else available
