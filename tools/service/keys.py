"""`fast-vc keys`: keys of callers and of the link, made, listed and taken back."""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import ConfigError
from shared.options import Group, load_options, profile_options
from tools.service.access_keys import api, describe_keys, recording, revoke_access, tls
from tools.service.link_keys import describe_pairs, folder_option, link, revoke_worker


@click.group(cls=Group)
def keys() -> None:
    """Keys of callers, of the link between hosts, of recordings, and certificates."""


for command in (api, link, recording, tls):
    keys.add_command(command)


@keys.command("list")
@profile_options
@folder_option
def list_keys(file: Path | None, profile: str | None, folder: Path) -> None:
    """Every API key and every pair of the link: whose, and whether it is of use; never a secret."""
    config = load_options(file, profile)
    access, pairs = describe_keys(config.auth.keys_file), describe_pairs(folder)
    click.echo("\n".join(access) or f"no keys in {config.auth.keys_file}")
    click.echo("\n".join(pairs) or f"no keys of the link in {folder}/")


@keys.command()
@profile_options
@click.argument("name")
@folder_option
def revoke(file: Path | None, profile: str | None, name: str, folder: Path) -> None:
    """Take back the API keys of NAME (or the one with this id), and let a worker of that name join no more."""
    config = load_options(file, profile)
    revoked = revoke_access(config.auth.keys_file, name)
    for identity in revoked:
        click.echo(f"revoked {identity} ({name}): running calls end within seconds")
    if revoke_worker(folder, name):
        click.echo(f"{name} may not join any more; a gateway that knows it leaves it within seconds")
    elif not revoked:
        raise ConfigError(
            f"no key {name!r} in {config.auth.keys_file}, nor among the workers that may join ({folder}/)"
        )
