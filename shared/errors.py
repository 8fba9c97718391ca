"""What stops a start and only an operator can mend."""

from __future__ import annotations

LIBOPUS_ADVICE = "apt-get install libopus0 (macOS: brew install opus)"  # the one library that no package brings


class ConfigError(ValueError):
    """A configuration that cannot be used. The text names file, variable or option, the key and what is allowed."""
