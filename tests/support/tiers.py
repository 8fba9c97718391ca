"""Which tests are everybody's, and which are for a machine with time.

``make test`` is for four minutes on two slow cores. What it cannot afford there is marked ``thorough``: ``make
test-thorough`` runs that, and continuous integration runs both. Thorough are the networks in their published sizes, the
solver's whole tables, what a CUDA graph can hold, and a run of the training: who touches these runs both, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def by_size(names: Iterable[str], large: Collection[str]) -> list[Any]:
    """Fixtures of networks as parameters. Weights of the ``large`` ones are drawn one by one, 1.4 thousand million of
    them: these are ``thorough``."""
    names = list(names)
    assert set(large) <= set(names)
    return [pytest.param(name, marks=pytest.mark.thorough) if name in large else name for name in names]
