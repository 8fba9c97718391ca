"""Command-line options that choose a configuration, for every program that needs one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shared.config import load
from shared.dotenv import read_dotenv
from shared.errors import CONFIG_EXIT, ConfigError
from shared.extras import advice
from shared.settings import Config


class _Explained(click.Command):
    """Turns what only an operator can mend into one message and `CONFIG_EXIT`: a wrong configuration, a package that
    this installation was made without. ``-h`` helps as ``--help`` does."""

    def __init__(self, *arguments: Any, extra: str = "all", **options: Any) -> None:
        """extra: of setup.cfg, which brings what the command needs."""
        options.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*arguments, **options)
        self._extra = extra

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            reason = str(error)
        except ModuleNotFoundError as error:
            missing = advice(error, str(ctx.info_name), self._extra)
            if missing is None:
                raise
            reason = missing
        click.echo(f"fast-vc: {reason}", err=True)
        sys.exit(CONFIG_EXIT)


class Command(_Explained):
    """One command."""


class Group(_Explained, click.Group):
    """Commands under one name, which may do something by itself."""

    command_class = Command


def profile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-c/--config FILE`` and ``--env NAME``, given as `file` and `profile`."""
    command = click.option("--env", "profile", metavar="NAME", help="Profile config/NAME.yaml. [FASTVC_ENV, default]")(
        command
    )
    file = click.Path(path_type=Path)
    return click.option("-c", "--config", "file", type=file, metavar="FILE", help="A YAML file.")(command)


def address_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--host H`` and ``-p/--port P``."""
    command = click.option("-p", "--port", type=click.IntRange(0, 65_535), help="HTTP and WebSocket port.")(command)
    return click.option("--host", help="HTTP and WebSocket address.")(command)


def port_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-p/--port P`` to choose one of several services that run."""
    help_text = "Only the service on this HTTP port."
    return click.option("-p", "--port", type=click.IntRange(1, 65_535), help=help_text)(command)


def load_options(
    file: Path | None = None,
    profile: str | None = None,
    host: str | None = None,
    port: int | None = None,
    worker_profile: str | None = None,
) -> Config:
    """The configuration that the options name, once ``.env`` is read. Raises `ConfigError`, `click.UsageError`."""
    read_dotenv(Path(".env"), os.environ)
    if file is not None and profile is not None:
        raise click.UsageError("--config and --env exclude each other")
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    return load(file, profile, options={"gateway": given}, worker_profile=worker_profile)


def as_arguments(**options: object) -> list[str]:
    """The options that are not None, as a child's command line takes them."""
    return [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]
