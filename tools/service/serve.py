"""`fast-vc serve`: the gateway and its local workers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shared.addresses import base_url
from shared.config import check_auth, default_model
from shared.errors import ConfigError
from shared.log import configure
from shared.options import Command, address_options, as_arguments, load_options, profile_options
from shared.settings import Config, WorkerGroup
from tools.service.supervisor import PortTaken, Supervisor, check_link_ports, check_port, local_children


@click.command(cls=Command)
@profile_options
@address_options
@click.option("--workers", type=click.IntRange(0, 64), help="Local workers. [serve.workers]")
@click.option("--gateways", type=click.IntRange(1, 64), help="Gateway processes on one port. [gateway.processes]")
def serve(
    file: Path | None,
    profile: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    gateways: int | None,
) -> None:
    """Run the gateway and its local workers; restart what dies."""
    config = load_options(file, profile, host, port)
    if config.gateway.port == 0 or config.link.port == 0:
        raise ConfigError("serve: gateway.port and link.port must be numbers other than 0")
    check_auth(config)
    processes = config.gateway.processes if gateways is None else gateways
    try:
        check_port(config)
        check_link_ports(config, processes)
    except PortTaken as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)
    configure("serve", config.log)
    groups = config.serve.groups
    if workers is not None:
        groups = [WorkerGroup(count=workers)] if workers else []
    models = [_model(file, profile, group) for group in groups]
    default_model(config)
    children = local_children(
        config, processes, groups, as_arguments(config=file, env=profile), as_arguments(host=host, port=port)
    )
    sys.exit(Supervisor(config, children, lambda: _welcome(config, groups, models)).run())


def _model(file: Path | None, profile: str | None, group: WorkerGroup) -> str:
    """What the workers of a group serve. Raises `ConfigError` where they cannot be as configured."""
    return load_options(file, profile, worker_profile=group.profile).worker.model


def _welcome(config: Config, groups: list[WorkerGroup], models: list[str]) -> None:
    url = base_url(config)
    workers = sum(group.count for group in groups)
    served = ", ".join(dict.fromkeys(models)) or "of workers elsewhere"
    click.echo(
        f"\nFast-VC Pool is ready: {workers} local worker{'' if workers == 1 else 's'}, model {served}\n"
        f"  browser    {url}/\n"
        f"  WebSocket  {url.replace('http', 'ws', 1)}/ws\n"
        f"  voices     {url}/voices\n"
        f"  logs       {config.log.dir}/\n"
        f"  stop       Ctrl-C, or fast-vc stop\n"
    )
