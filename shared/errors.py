"""What stops a start and only an operator can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
