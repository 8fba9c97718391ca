"""`fast-vc clean`: remove what a service has left, and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from shared.config import ROOT
from shared.errors import ConfigError
from shared.options import Command, load_options, profile_options
from shared.state import read_states


@click.command(cls=Command)
@profile_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--logs", is_flag=True, hidden=True, help="As without it: logs are always removed.")
@click.option("--outputs", is_flag=True, help="Recordings and reports, too.")
def clean(file: Path | None, profile: str | None, yes: bool, logs: bool, outputs: bool) -> None:
    """Remove logs and stale state, and if asked outputs."""
    config = load_options(file, profile)
    wanted = [config.serve.state_dir, config.log.dir, *([Path("outputs")] if outputs else [])]
    folders = [folder for folder in wanted if folder.is_dir()]
    for folder in folders:
        _check_removable(folder)
    if states := read_states(config.serve.state_dir):
        click.echo(f"refused: {states[0].role} (pid {states[0].pid}) is running; fast-vc stop first", err=True)
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
