"""`fast-vc config`: the configuration that would be used, and whether it can work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from shared.config import check_auth
from shared.curve import check_allowed, check_plain, load_keys
from shared.errors import ConfigError
from shared.options import Command, load_options, profile_options
from shared.settings import DEMO_KEY, Config
from tools.service.parts import is_installed

HIDDEN = "(hidden)"


@click.command("config", cls=Command)
@profile_options
@click.option("--show", "task", flag_value="show", default=True, help="Every key and its value. [without an option]")
@click.option("--check", "task", flag_value="check", help="What a start would refuse; then exit code 2.")
def config(file: Path | None, profile: str | None, task: str) -> None:
    """Show the configuration, secrets hidden, or check it without serving."""
    loaded = load_options(file, profile)
    if task == "check":
        for group in loaded.serve.groups:
            load_options(file, profile, worker_profile=group.profile)
        check(loaded)
        click.echo("the configuration can be used")
    else:
        click.echo(yaml.safe_dump(shown(loaded), sort_keys=False, allow_unicode=True).rstrip())


def check(config: Config) -> None:
    """What a gateway would refuse at its start, as far as files tell. Raises `ConfigError`."""
    check_auth(config)
    check_plain(config.link.host, config.link)
    if load_keys(config.link, need_server=False) is not None:
        check_allowed(config.link)
    if config.worker.voices_dir is not None and not config.worker.voices_dir.is_dir():
        raise ConfigError(f"worker.voices_dir: there is no folder {config.worker.voices_dir}")
    if is_installed("gateway"):
        from gateway.preflight import check_files

        check_files(config)


def shown(config: Config) -> dict[str, Any]:
    """All keys, as YAML has them; secrets hidden, but for the key that everybody knows."""
    content = config.model_dump(mode="json")
    content["auth"]["api_keys"] = [key if key == DEMO_KEY else HIDDEN for key in config.auth.api_keys]
    for server in content["webrtc"]["ice_servers"]:
        if server["credential"] is not None:
            server["credential"] = HIDDEN
    return content
