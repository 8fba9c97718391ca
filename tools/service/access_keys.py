"""`fast-vc keys api, recording, tls`: who may come in, what recordings are encrypted with, a certificate to try."""

from __future__ import annotations

import time
from pathlib import Path

import click

from shared.options import Command, load_options, profile_options
from shared.ranges import FiniteRange

_DAY_S = 86_400.0


@click.command(cls=Command)
@profile_options
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="call, voices or admin; may be repeated. [call]"
)
@click.option("--days", type=FiniteRange(min=0, min_open=True), help="Until it expires. [never]")
@click.option("--sessions", type=click.IntRange(min=0), help="At once. [no limit]")
@click.option("--sessions-per-minute", type=click.IntRange(min=0), help="That may begin. [no limit]")
@click.option("--minutes-per-day", type=FiniteRange(min=0), help="Of all its calls together. [no limit]")
@click.option("--record/--no-record", default=None, help="Whether its calls are recorded. [recording.enabled]")
def api(
    file: Path | None,
    profile: str | None,
    name: str,
    scopes: tuple[str, ...],
    days: float | None,
    sessions: int | None,
    sessions_per_minute: int | None,
    minutes_per_day: float | None,
    record: bool | None,
) -> None:
    """Make an API key for NAME and print it: it cannot be shown again. A running gateway knows it within a second."""
    from gateway.auth.keys import add_key
    from gateway.auth.principal import Limits

    config = load_options(file, profile)
    limits = Limits(sessions, sessions_per_minute, minutes_per_day)
    lifetime_s = None if days is None else days * _DAY_S
    key = add_key(config.auth.keys_file, name, scopes or ("call",), limits, lifetime_s, record)
    click.echo(key)
    click.echo(f"kept as a salted hash in {config.auth.keys_file}; this is the only time it is shown", err=True)
    if not config.auth.takes_keys:
        click.echo(f"auth.mode = {config.auth.mode}: keys are of no use with it", err=True)


def describe_keys(path: Path) -> list[str]:
    """A line for every API key: its id, name, scopes, state and limits; never the key. Raises `ConfigError`."""
    from gateway.auth.keys import read_keys

    now, lines = time.time(), []
    for record in sorted(read_keys(path), key=lambda record: (record.name, record.created)):
        limits = {name: getattr(record.limits, name) for name in ("sessions", "sessions_per_minute", "minutes_per_day")}
        limited = ", ".join(f"{name} {value:g}" for name, value in limits.items() if value is not None)
        until = "" if record.expires is None else f" until {_date(record.expires)}"
        state = record.state(now) + (until if record.revoked is None else f" {_date(record.revoked)}")
        lines.append(f"{record.id}  {record.name:<20} {','.join(record.scopes):<18} {state}  {limited}".rstrip())
    return lines


def revoke_access(path: Path, name_or_id: str) -> list[str]:
    """Revoke the API keys of a name, or the one with this id; their ids. Raises `ConfigError`."""
    from gateway.auth.keys import read_keys, revoke_keys

    if not any(record.revoked is None and name_or_id in (record.id, record.name) for record in read_keys(path)):
        return []
    return [record.id for record in revoke_keys(path, name_or_id)]


@click.command(cls=Command, extra="gateway")
@profile_options
def recording(file: Path | None, profile: str | None) -> None:
    """Make a key that recordings are encrypted with from now on. Those before it stay, for what they encrypted."""
    from gateway.recording.vault import Vault
    from shared.config import ConfigError

    folder = load_options(file, profile).recording.keys_dir
    if folder is None:
        raise ConfigError("recording.keys_dir: name a folder, and recordings are encrypted with the newest key in it")
    made = Vault(folder).make_key()
    click.echo(f"{folder / made.id}.key: keep a copy, without it the recordings from now on cannot be read")


@click.command(cls=Command, extra="gateway")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="Name or address in it. [localhost, 127.0.0.1, ::1]"
)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("keys"), show_default=True)
def tls(hosts: tuple[str, ...], folder: Path) -> None:
    """Make a self-signed certificate for development, as tls.crt and tls.key; browsers warn of it."""
    from gateway.tls import make_self_signed

    certificate, key = make_self_signed(folder, hosts or ("localhost", "127.0.0.1", "::1"))
    click.echo(f"gateway:\n  tls_certificate: {certificate}\n  tls_key: {key}")


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
