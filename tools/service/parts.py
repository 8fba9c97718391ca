"""Which parts of the service are installed here."""

from __future__ import annotations

from importlib.util import find_spec

PARTS = {"gateway": "prometheus_client", "worker": "torch"}  # and a library that no other part needs


def is_installed(part: str) -> bool:
    """Whether a part of `PARTS` can run."""
    return find_spec(PARTS[part]) is not None
