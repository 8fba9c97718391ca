"""`fast-vc models`: published weights on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shared.errors import ConfigError
from shared.options import Group, load_options, profile_options


@click.group(cls=Group, extra="worker", invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """Show and fetch published models. Without a command: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list", extra="worker")
@profile_options
def list_models(file: Path | None = None, profile: str | None = None) -> None:
    """Every model's files, and which are on this machine."""
    config = load_options(file, profile)
    from worker.models.catalogue import table

    click.echo(table(config.worker.checkpoints_dir))


@models.command(extra="worker")
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


@models.command(extra="worker")
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
