"""``python -m gateway`` and ``fast-vc gateway``. What serving needs is imported when it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shared.options import Command, address_options, load_options, profile_options


@click.command("gateway", cls=Command, extra="gateway")
@profile_options
@address_options
@click.option("--number", type=click.IntRange(0), help="Of several that share the HTTP port: adds to the link's port.")
@click.option("--probe", is_flag=True, help="Only ask the gateway that runs here for /health: exit code 0 or 1.")
def main(
    file: Path | None, profile: str | None, host: str | None, port: int | None, number: int | None, probe: bool
) -> None:
    """Run a gateway alone; workers on any host connect to its link port."""
    config = load_options(file, profile, host, port)
    if probe:
        from shared.addresses import answers, base_url

        healthy = answers(base_url(config) + "/health", timeout_s=3.0)
        click.echo("healthy" if healthy else f"{base_url(config)}/health does not answer")
        sys.exit(0 if healthy else 1)
    from gateway.app import run

    sys.exit(run(config, number))


if __name__ == "__main__":
    main()
