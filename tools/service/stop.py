"""`fast-vc stop`: end everything that runs from this folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import click
import psutil

from shared.options import Command, load_options, port_option, profile_options
from shared.state import read_states
from tools.service.running import running

_AFTER_GRACE_S = 15.0  # what stopping may take once the sessions' grace is over
_PROGRESS_S = 5.0


@click.command(cls=Command)
@profile_options
@port_option
@click.option("-f", "--force", is_flag=True, help="Kill at once: sessions are cut off.")
def stop(file: Path | None, profile: str | None, port: int | None, force: bool) -> None:
    """Stop everything that runs from this folder; sessions get their audio, or another worker."""
    config = load_options(file, profile)
    states = running(config.serve.state_dir, port)
    if not states:
        click.echo(f"nothing is running from this folder ({config.serve.state_dir}/)")
        return
    named = _processes(state.pid for state in states)
    below = [child for process in named for child in _descendants(process)]
    everything = list(dict.fromkeys([*named, *below]))  # a supervisor before its children: it starts none again
    for process in everything if force else [p for p in named if p not in below]:
        with suppress(psutil.NoSuchProcess):
            if force:
                process.kill()
            else:
                process.terminate()
    names = ", ".join(f"{state.role} ({state.pid})" for state in states)
    click.echo(f"stopping {names}")
    grace_s = max(config.gateway.shutdown_grace_s, config.worker.shutdown_grace_s)
    alive = _wait(everything, grace_s + _AFTER_GRACE_S)
    if alive:
        click.echo(f"still running: {', '.join(str(p.pid) for p in alive)}; --force kills them", err=True)
        sys.exit(1)
    read_states(config.serve.state_dir)  # clears the files of what was killed
    click.echo("stopped")


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those of `processes` that live after `timeout_s`; says now and then who is being waited for."""
    began = said = time.monotonic()
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() - began < timeout_s:
        if time.monotonic() - said >= _PROGRESS_S:
            said = time.monotonic()
            click.echo(f"waiting for {', '.join(str(p.pid) for p in alive)}: {said - began:.0f} of {timeout_s:.0f} s")
        time.sleep(0.05)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    """A process that has ended but that its parent has not asked about is not alive."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _processes(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return found
