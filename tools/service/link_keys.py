"""`fast-vc keys link`: CURVE certificates of the link, made, listed and taken back.

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

from shared.curve import PUBLIC_SUFFIX, SECRET_SUFFIX, LinkError, fingerprint, make_pair, read_public
from shared.errors import ConfigError
from shared.options import Command

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
folder_option = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("keys"), show_default=True,
    help="Of the link's keys.",
)  # fmt: skip


def _allowed(folder: Path) -> Path:
    return folder / "workers"


@click.command(cls=Command)
@click.argument("name")
@click.option("--gateway", "is_gateway", is_flag=True, help="A gateway's own: it does not join as a worker.")
@folder_option
def link(name: str, is_gateway: bool, folder: Path) -> None:
    """Make the pair of one side, and let a worker's join."""
    _check_name(name)
    try:
        public, secret = make_pair(folder, name)
        _allowed(folder).mkdir(exist_ok=True, mode=0o700)
        if not is_gateway:
            shutil.copy(public, _allowed(folder))
    except OSError as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)
    click.echo(f"made {public} and {secret}, which only you can read: {fingerprint(read_public(public))}")
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
            f"on the gateway's host:  {_allowed(folder) / public.name} lets it join, within seconds"
        )


def describe_pairs(folder: Path) -> list[str]:
    """A line for every pair: whether its secret is here, and whether it may join."""
    found = [path for place in (folder, _allowed(folder)) for path in place.glob(f"*{PUBLIC_SUFFIX}")]
    names = {path.stem for path in found if not path.with_suffix(".crt").exists()}  # beside one lies the key of TLS
    lines = []
    for name in sorted(names):
        joins = "may join" if (_allowed(folder) / f"{name}{PUBLIC_SUFFIX}").exists() else "-"
        secret = _secret_state(folder / f"{name}{SECRET_SUFFIX}")
        lines.append(f"{name:<24}{secret:<34}{joins:<10}{_fingerprint_of(folder, name)}")
    return lines


def revoke_worker(folder: Path, name: str) -> bool:
    """Let a worker join no more; one that has is left within seconds. False where none of that name may."""
    path = _allowed(folder) / f"{name}{PUBLIC_SUFFIX}"
    if not _NAME.fullmatch(name) or not path.exists():
        return False
    path.unlink()
    return True


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"keys: {name!r}: a name has letters, digits, '_', '-', '.' beginning with a letter or digit")


def _fingerprint_of(folder: Path, name: str) -> str:
    for path in (_allowed(folder) / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{PUBLIC_SUFFIX}"):
        if path.exists():
            try:
                return fingerprint(read_public(path))
            except LinkError:
                return "no certificate"
    return "-"


def _secret_state(path: Path) -> str:
    if not path.exists():
        return "secret elsewhere"
    open_to_others = stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    return "secret here, OTHERS CAN READ IT" if open_to_others else "secret here"
