"""`fast-vc serve`: the gateway and its local workers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shared.addresses import base_url
from shared.config import check_auth
from shared.errors import ConfigError
from shared.log import configure
from shared.options import Command, address_options, as_arguments, load_options, profile_options
from shared.settings import Config
from tools.service.supervisor import PortTaken, Supervisor, check_port, local_children


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
    try:
        check_port(config)
    except PortTaken as error:
        click.echo(f"fast-vc: {error}", err=True)
        sys.exit(1)
    configure("serve", config.log)
    count = config.serve.workers if workers is None else workers
    processes = config.gateway.processes if gateways is None else gateways
    children = local_children(
        config, processes, count, as_arguments(config=file, env=profile), as_arguments(host=host, port=port)
    )
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
