"""What a program says whose extra of setup.cfg is not installed. Only the standard library is imported."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import CONFIG_EXIT, ConfigError
from shared.version import PACKAGE

_OURS = ("config", "gateway", "shared", "tools", "worker")


def advice(error: ModuleNotFoundError, program: str, extra: str) -> str | None:
    """Which library `program` lacks and what brings it; None where it is a module of our own: a fault.

    extra: of setup.cfg, or several with commas.
    """
    library = (error.name or "").partition(".")[0]
    if not library or library in _OURS:
        return None
    return f"{program} needs {library}, which is not here: pip install '{_package()}[{extra}]'"


def _package() -> str:
    """What pip knows the program by: its folder, where it was never installed."""
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return str(Path(__file__).resolve().parents[1])
    return PACKAGE


@contextmanager
def needing(extra: str, program: str) -> Iterator[None]:
    """A program of ``python -m tools.PROGRAM`` is imported and runs within: what only an operator can mend becomes one
    line and `CONFIG_EXIT`."""
    try:
        yield
        return
    except ModuleNotFoundError as error:
        reason = advice(error, program, extra)
        if reason is None:
            raise
    except ConfigError as error:
        reason = f"{program}: {error}"
    print(reason, file=sys.stderr)
    sys.exit(CONFIG_EXIT)
