"""The `fast-vc` command. What a command needs is imported when it runs: the command line itself stays quick."""

from __future__ import annotations

import click

from gateway.__main__ import main as gateway
from shared.options import Group
from shared.version import version as current
from tools.service.clean import clean
from tools.service.config import config
from tools.service.doctor import doctor
from tools.service.keys import keys
from tools.service.migrate import migrate
from tools.service.models import models
from tools.service.serve import serve
from tools.service.status import status
from tools.service.stop import stop
from tools.service.voices import voices
from worker.__main__ import main as worker


@click.group(cls=Group)
def main() -> None:
    """Real-time voice conversion as a service."""


@click.command()
def version() -> None:
    """Print the version, the commit and when it was built."""
    click.echo(current())


for command in (serve, gateway, worker, status, stop, clean, models, voices, keys, config, doctor, migrate, version):
    main.add_command(command)

if __name__ == "__main__":
    main()
