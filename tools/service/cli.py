"""The `fast-vc` command. What a command needs is imported when it runs: the command line itself stays quick."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psutil

from gateway.__main__ import main as gateway_command
from shared.addresses import base_url
from shared.config import ROOT, Config, ConfigError, check_auth
from shared.options import Command, address_options, as_arguments, load_options, profile_options
from shared.state import read_states
from worker.__main__ import main as worker_command

_AFTER_GRACE_S = 15.0  # what stopping may take once the sessions' grace is over
_PROGRESS_S = 5.0


class _Group(click.Group):
    """Its commands turn a wrong configuration into one message and exit code 2."""

    command_class = Command
    group_class = type


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Real-time voice conversion as a service."""


@main.command()
@profile_options
@address_options
@click.option("--workers", type=click.IntRange(0, 64), help="Local workers. [serve.workers]")
def serve(file: Path | None, profile: str | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Run the gateway and its local workers; restart what dies."""
    from shared.log import configure
    from tools.service.supervisor import PortTaken, Supervisor, check_port, local_children

    config = load_options(file, profile, host, port)
    if config.gateway.port == 0 or config.link.port == 0:
        raise ConfigError("serve: gateway.port and link.port must be numbers other than 0")
    check_auth(config)
    try:
        check_port(config)
    except PortTaken as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)
    configure("serve", config.log)
    count = config.serve.workers if workers is None else workers
    children = local_children(config, count, as_arguments(config=file, env=profile), as_arguments(host=host, port=port))
    sys.exit(Supervisor(config, children, lambda: _welcome(config, count)).run())


def _welcome(config: Config, workers: int) -> None:
    url = base_url(config)
    click.echo(
        f"\nFast-VC Pool is ready: {workers} local worker{'' if workers == 1 else 's'}, model {config.worker.model}\n"
        f"  browser    {url}/\n"
        f"  WebSocket  {url.replace('http', 'ws', 1)}/ws\n"
        f"  voices     {url}/voices\n"
        f"  logs       {config.log.dir}/\n"
        f"  stop       Ctrl-C, or fast-vc stop\n"
    )


main.add_command(gateway_command)
main.add_command(worker_command)


@main.command()
@profile_options
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(file: Path | None, profile: str | None, as_json: bool) -> None:
    """Show processes, workers and sessions. Exit code 1 if nothing runs."""
    states = read_states(load_options(file, profile).serve.state_dir)
    workers = [w for state in states if state["role"] == "gateway" for w in state.get("workers", [])]
    if as_json:
        known = ("role", "pid", "host", "port", "sessions")
        processes = [{**{key: state.get(key) for key in known}, **_without(state, known)} for state in states]
        click.echo(json.dumps({"running": bool(states), "processes": processes, "workers": workers}, indent=1))
    elif not states:
        click.echo("nothing is running")
    else:
        _print_status(states, workers)
    sys.exit(0 if states else 1)


def _without(state: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in keys}


def _print_status(states: list[dict[str, Any]], workers: list[dict[str, Any]]) -> None:
    click.echo(f"{'role':<9}{'pid':>8}  {'host':<16}{'port':>6}  {'sessions':>8}  up")
    for state in states:
        up_s = max(0, round(time.time() - float(state.get("started", time.time()))))
        sessions = state.get("sessions")
        click.echo(
            f"{state['role']:<9}{state['pid']:>8}  {state.get('host', '')!s:<16}{state.get('port') or '-':>6}  "
            f"{'-' if sessions is None else sessions:>8}  {up_s // 3600}:{up_s // 60 % 60:02}:{up_s % 60:02}"
        )
    if workers:
        click.echo(f"\n{'worker':<24}{'pid':>8}  {'host':<16}{'device':<8}{'model':<12}sessions")
        for w in workers:
            load_text = f"{w['sessions']}/{w['capacity']}{' (leaving)' if w['draining'] else ''}"
            click.echo(f"{w['worker_id']:<24}{w['pid']:>8}  {w['host']:<16}{w['device']:<8}{w['model']:<12}{load_text}")
    ids = [i for state in states for i in state.get("session_ids", [])]
    if ids:
        more = f" and {len(ids) - 20} more" if len(ids) > 20 else ""
        click.echo(f"\nsessions: {', '.join(ids[:20])}{more}")


@main.command()
@profile_options
@click.option("--force", is_flag=True, help="Kill at once: sessions are cut off.")
def stop(file: Path | None, profile: str | None, force: bool) -> None:
    """Stop everything that runs from this folder; sessions get their audio."""
    config = load_options(file, profile)
    states = read_states(config.serve.state_dir)
    if not states:
        click.echo("nothing is running")
        return
    named = _processes(state["pid"] for state in states)
    below = [child for process in named for child in _descendants(process)]
    everything = list(dict.fromkeys([*named, *below]))  # a supervisor before its children: it starts none again
    for process in everything if force else [p for p in named if p not in below]:
        with suppress(psutil.NoSuchProcess):
            if force:
                process.kill()
            else:
                process.terminate()
    names = ", ".join(f"{state['role']} ({state['pid']})" for state in states)
    click.echo(f"stopping {names}")
    alive = _wait(everything, config.gateway.shutdown_grace_s + _AFTER_GRACE_S)
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


@main.command()
@profile_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--logs", is_flag=True, help="The log files, too.")
@click.option("--outputs", is_flag=True, help="Recordings and reports, too.")
def clean(file: Path | None, profile: str | None, yes: bool, logs: bool, outputs: bool) -> None:
    """Remove the service's state, and if asked its logs and outputs."""
    config = load_options(file, profile)
    wanted = [(True, config.serve.state_dir), (logs, config.log.dir), (outputs, Path("outputs"))]
    folders = [folder for asked, folder in wanted if asked and folder.is_dir()]
    for folder in folders:
        _check_removable(folder)
    if states := read_states(config.serve.state_dir):
        click.echo(f"refused: {states[0]['role']} (pid {states[0]['pid']}) is running; fast-vc stop first", err=True)
        sys.exit(1)
    if not folders:
        click.echo("nothing to remove")
        return
    click.echo("\n".join(f"  {folder}/" for folder in folders))
    if not yes:
        click.confirm("Remove these?", abort=True)
    for folder in folders:
        shutil.rmtree(folder)
    click.echo("removed")


def _check_removable(folder: Path) -> None:
    """Refuse a folder that holds more than this service's files, and a link, which may lead anywhere."""
    kept = [Path.cwd(), ROOT, Path.home()]
    if folder.is_symlink() or any(path.resolve().is_relative_to(folder.resolve()) for path in kept):
        raise ConfigError(f"clean: {folder} is a link or holds this project, the working folder or your home: kept")


@main.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """Show and fetch published models. Without a command: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
@profile_options
def list_models(file: Path | None = None, profile: str | None = None) -> None:
    """Every model's files, and which are on this machine."""
    config = load_options(file, profile)
    from worker.models.catalogue import table

    click.echo(table(config.worker.checkpoints_dir))


@models.command()
@profile_options
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Accept the licences without being asked.")
def fetch(file: Path | None, profile: str | None, names: tuple[str, ...], yes: bool) -> None:
    """Download what is missing of models, with progress bars, once their licences are accepted."""
    config = load_options(file, profile)
    from worker.models.catalogue import model_named
    from worker.models.weights import hub
    from worker.models.weights.checkpoints import CheckpointError

    folder = config.worker.checkpoints_dir
    try:
        wanted = {name: hub.files(model_named(name).networks, folder) for name in names}
        missing = dict.fromkeys(state for states in wanted.values() for state in states if state.path is None)
        for state in missing:
            click.echo(f"  {f'{state.repository}: {state.file}':<86} {state.licence}")
        if missing and not yes:
            click.confirm(f"Download these {len(missing)} files under their licences?", abort=True)
        for name in names:
            states = hub.fetch(model_named(name).networks, folder)
            click.echo(f"{name}: {len(states)} files, {sum(state.size_bytes for state in states) / 1e6:.0f} MB")
    except CheckpointError as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)


@models.command()
@profile_options
@click.argument("name", metavar="NAME")
def check(file: Path | None, profile: str | None, name: str) -> None:
    """Say what a model's files hold and what of it is used, and convert a second of speech."""
    config = load_options(file, profile).worker.model_copy(update={"model": name})
    from worker.check import check_model
    from worker.factory import ENGINES
    from worker.main import check_device
    from worker.models.weights.checkpoints import CheckpointError

    try:
        if name not in ENGINES:
            raise CheckpointError(f"unknown model {name!r}; known are {', '.join(ENGINES)}")
        check_device(config.device)
        check_model(config, config.device, click.echo)
    except (CheckpointError, ConfigError) as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"fast-vc-pool {importlib.metadata.version('fast-vc-pool')}")


if __name__ == "__main__":
    main()
