"""``python -m gateway`` and ``fast-vc gateway``. What serving needs is imported when it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shared.options import Command, address_options, load_options, profile_options


@click.command("gateway", cls=Command)
@profile_options
@address_options
def main(file: Path | None, profile: str | None, host: str | None, port: int | None) -> None:
    """Run a gateway alone; workers on any host connect to its link port."""
    config = load_options(file, profile, host, port)
    from gateway.app import run

    sys.exit(run(config))


if __name__ == "__main__":
    main()
