"""`fast-vc doctor`: whether this machine can serve as configured, and what to do where it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import click

from shared.options import Command, load_options, profile_options
from shared.settings import Config
from tools.service.checkup.finding import Finding
from tools.service.checkup.host import check_clock, check_disk, check_limits, check_versions
from tools.service.checkup.model import check_device, check_opus, check_voices, check_weights
from tools.service.checkup.network import check_gateway, check_ports
from tools.service.checkup.secrets import check_secrets

_MARKS = {"ok": "ok", "note": "-", "warning": "!", "fault": "FAULT"}


@click.command(cls=Command)
@profile_options
@click.option(
    "--gateway", "gateways", multiple=True, metavar="tcp://HOST:PORT", help="A link that a worker here would join."
)
@click.option("--json", "json_output", is_flag=True, help="For scripts.")
def doctor(file: Path | None, profile: str | None, gateways: tuple[str, ...], json_output: bool) -> None:
    """Look at everything that a service needs, and say what to do. Exit code 1 if something keeps it from working."""
    config = load_options(file, profile)
    findings = list(examine(config, gateways))
    faults = sum(finding.level == "fault" for finding in findings)
    if json_output:
        click.echo(json.dumps({"faults": faults, "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        for line in report(findings):
            click.echo(line)
        click.echo("" if not faults else f"\n{faults} to be mended before it can serve", nl=bool(faults))
    sys.exit(1 if faults else 0)


def examine(config: Config, gateways: Iterable[str]) -> Iterator[Finding]:
    """Everything, one after the other; nothing is changed and nothing downloaded."""
    return chain(
        check_versions(),
        check_opus(),
        check_device(config),
        check_weights(config),
        check_voices(config),
        check_ports(config),
        *(check_gateway(config, endpoint) for endpoint in gateways),
        check_secrets(config),
        check_disk(config),
        check_limits(config),
        check_clock(),
    )


def report(findings: Iterable[Finding]) -> Iterator[str]:
    """Lines for people: a mark, what it is about, what was found, and below it what to do."""
    for one in findings:
        yield f"{_MARKS[one.level]:>5}  {one.subject:<16} {one.text}"
        if one.advice:
            yield f"{'':24}-> {one.advice}"
