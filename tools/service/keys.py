"""`fast-vc keys`: CURVE certificates of the link, made, listed and taken back.

A folder holds a pair a side, ``NAME.key`` and ``NAME.key_secret``, and in ``workers/`` the public certificates of the
workers that may join: the gateway's ``link.allowed_workers_dir``.
"""

from __future__ import annotations

import re
import shutil
import stat
import sys
from pathlib import Path

import click

from shared.curve import PUBLIC_SUFFIX, SECRET_SUFFIX, make_pair
from shared.errors import ConfigError
from shared.options import Group

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_folder = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("keys"), show_default=True
)


def _allowed(folder: Path) -> Path:
    return folder / "workers"


@click.group(cls=Group)
def keys() -> None:
    """Keys of the link between gateways and workers on other hosts."""


@keys.command()
@click.argument("name")
@click.option("--gateway", "is_gateway", is_flag=True, help="A gateway's own: it does not join as a worker.")
@_folder
def link(name: str, is_gateway: bool, folder: Path) -> None:
    """Make the pair of one side, and let a worker's join."""
    _check_name(name)
    try:
        public, secret = make_pair(folder, name)
        _allowed(folder).mkdir(exist_ok=True)
        if not is_gateway:
            shutil.copy(public, _allowed(folder))
    except OSError as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)
    click.echo(f"made {public} and {secret}, which only you can read")
    if is_gateway:
        click.echo(
            f"on the gateway's host:  link.secret_key_file: {secret}\n"
            f"                        link.allowed_workers_dir: {_allowed(folder)}\n"
            f"on every worker's host: a copy of {public}"
        )
    else:
        click.echo(
            f"on the worker's host:   link.secret_key_file: a copy of {secret}\n"
            f"                        link.server_key_file: a copy of the gateway's public key\n"
            f"on the gateway's host:  {_allowed(folder) / public.name} lets it join, from the gateway's next start"
        )


@keys.command("list")
@_folder
def list_keys(folder: Path) -> None:
    """Every pair, whether its secret is here, and which workers may join."""
    names = {path.stem for place in (folder, _allowed(folder)) for path in place.glob(f"*{PUBLIC_SUFFIX}")}
    if not names:
        click.echo(f"no keys in {folder}/")
    for name in sorted(names):
        joins = "may join" if (_allowed(folder) / f"{name}{PUBLIC_SUFFIX}").exists() else "-"
        click.echo(f"{name:<24}{_secret_state(folder / f'{name}{SECRET_SUFFIX}'):<34}{joins}")


@keys.command()
@click.argument("name")
@_folder
def revoke(name: str, folder: Path) -> None:
    """Let a worker join no more, from the gateway's next start."""
    _check_name(name)
    path = _allowed(folder) / f"{name}{PUBLIC_SUFFIX}"
    if not path.exists():
        click.echo(f"fast-vc: {name} is not among the workers that may join ({_allowed(folder)}/)", err=True)
        sys.exit(1)
    path.unlink()
    click.echo(f"{name} may not join any more once the gateway is started again")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"keys: {name!r}: a name has letters, digits, '_', '-', '.' beginning with a letter or digit")


def _secret_state(path: Path) -> str:
    if not path.exists():
        return "secret elsewhere"
    open_to_others = stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    return "secret here, OTHERS CAN READ IT" if open_to_others else "secret here"
