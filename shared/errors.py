"""What stops a start and only an operator can mend."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used. The text names file, variable or option, the key and what is allowed."""
