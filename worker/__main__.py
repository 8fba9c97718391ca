"""``python -m worker`` and ``fast-vc worker``. What converting needs is imported when it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shared.addresses import link_endpoint, parse_endpoint
from shared.curve import check_plain
from shared.options import Command, load_options, profile_options


@click.command("worker", cls=Command, extra="worker")
@profile_options
@click.option(
    "--gateway",
    "gateways",
    multiple=True,
    metavar="tcp://HOST:PORT",
    help="A gateway's link; repeatable. dns://NAME:PORT: all that the name has.",
)
@click.option("--device", metavar="cpu|cuda:0", help="[worker.device]")
@click.option("--profile", "kind", metavar="NAME", help="The worker section of config/NAME.yaml. [serve.workers]")
@click.option("--id", "worker_id", help="Name of this worker, unique in the pool. [HOST-PID]")
@click.option("--probe", is_flag=True, help="Only say whether the worker of this folder lives: exit code 0 or 1.")
def main(
    file: Path | None,
    profile: str | None,
    gateways: tuple[str, ...],
    device: str | None,
    kind: str | None,
    worker_id: str | None,
    probe: bool,
) -> None:
    """Run a worker alone, for one gateway or several."""
    config = load_options(file, profile, worker_profile=kind)
    if probe:
        from worker.probe import probe as look

        well, text = look(config.serve.state_dir)
        click.echo(text)
        sys.exit(0 if well else 1)
    endpoints = list(gateways) or [link_endpoint(config)]
    for endpoint in endpoints:  # at once, not after the seconds that torch takes
        check_plain(parse_endpoint(endpoint)[0], config.link)
    from worker.main import run

    sys.exit(run(config, endpoints, device, worker_id))


if __name__ == "__main__":
    main()
