"""`fast-vc status`: what runs from this folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from shared.options import Command, load_options, port_option, profile_options
from shared.state import GatewayState, PooledWorker, State, as_json
from tools.service.running import running

_SHOWN_IDS = 20


@click.command(cls=Command)
@profile_options
@port_option
@click.option("--json", "json_output", is_flag=True, help="For scripts.")
def status(file: Path | None, profile: str | None, port: int | None, json_output: bool) -> None:
    """Show processes, workers and sessions. Exit code 1 if nothing runs."""
    config = load_options(file, profile)
    states = running(config.serve.state_dir, port)
    workers = pooled([worker for state in states if isinstance(state, GatewayState) for worker in state.workers])
    if json_output:
        content = {
            "running": bool(states),
            "processes": [as_json(state) for state in states],
            "workers": [asdict(worker) for worker in workers],
        }
        click.echo(json.dumps(content, indent=1))
    elif not states:
        click.echo(f"nothing is running from this folder ({config.serve.state_dir}/)")
    else:
        _print_processes(states)
        _print_workers(workers)
        _print_sessions([i for state in states if isinstance(state, GatewayState) for i in state.session_ids])
    sys.exit(0 if states else 1)


def pooled(workers: Sequence[PooledWorker]) -> list[PooledWorker]:
    """Each worker once. What several gateways say of one is their part of its places, so it adds up."""
    known: dict[tuple[str, int, str], PooledWorker] = {}
    for one in workers:
        key = (one.host, one.pid, one.worker_id)
        if (other := known.get(key)) is not None:
            one = replace(
                one,
                sessions=one.sessions + other.sessions,
                capacity=one.capacity + other.capacity,
                draining=one.draining or other.draining,
            )
        known[key] = one
    return list(known.values())


def _print_processes(states: Sequence[State]) -> None:
    click.echo(f"{'role':<9}{'pid':>8}  {'host':<16}{'port':>6}  {'sessions':>8}  up")
    for state in states:
        up_s = max(0, round(time.time() - state.started))
        sessions = getattr(state, "sessions", "-")
        click.echo(
            f"{state.role:<9}{state.pid:>8}  {state.host:<16}{state.port or '-':>6}  "
            f"{sessions:>8}  {up_s // 3600}:{up_s // 60 % 60:02}:{up_s % 60:02}"
        )


def _print_workers(workers: Sequence[PooledWorker]) -> None:
    if workers:
        click.echo(f"\n{'worker':<24}{'pid':>8}  {'host':<16}{'device':<8}{'model':<12}sessions")
    for worker in workers:
        places = f"{worker.sessions}/{worker.capacity}{' (leaving)' if worker.draining else ''}"
        click.echo(
            f"{worker.worker_id:<24}{worker.pid:>8}  {worker.host:<16}{worker.device:<8}{worker.model:<12}{places}"
        )


def _print_sessions(ids: Sequence[str]) -> None:
    if ids:
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        click.echo(f"\nsessions: {', '.join(ids[:_SHOWN_IDS])}{more}")
