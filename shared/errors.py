"""What stops a start and only an operator can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

CONFIG_EXIT = 2  # exit code for a configuration that cannot work: trying again is of no use
LIBOPUS_ADVICE = "apt-get install libopus0 (macOS: brew install opus)"  # the one library that no package brings


class ConfigError(ValueError):
    """A configuration that cannot be used. The text names file, variable or option, the key and what is allowed."""


@contextmanager
def of_key(key: str) -> Iterator[None]:
    """A `ConfigError` about what the configuration's `key` names says which key that is."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(f"{key}: {error}") from None


@contextmanager
def naming_libopus() -> Iterator[None]:
    """``opuslib``, imported within, raises a bare ``Exception`` without libopus: it becomes a `ConfigError`."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ConfigError(f"libopus: {error} {LIBOPUS_ADVICE}") from None
