"""Who may open a session."""

from __future__ import annotations

import hmac

from shared.config import AuthConfig


def is_allowed(api_key: str, config: AuthConfig) -> bool:
    """Whether `api_key` is one of the configured keys. Compared in constant time, and always with every key."""
    if not config.required:
        return True
    given = api_key.encode()
    matches = [hmac.compare_digest(given, key.encode()) for key in config.api_keys]
    return any(matches)
