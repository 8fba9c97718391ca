"""What holds for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from loguru import logger

# neither how long an example takes nor how long it takes to think of one says anything on a busy machine
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is thorough is run where it is asked for."""
    if not os.environ.get("TEST_THOROUGH"):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="make test-thorough runs it"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """What tests fork is forked from a process that has imported what they have, and nothing is open yet."""
    if "tests.support.forked" in sys.modules and not session.config.option.collectonly:
        sys.modules["tests.support.forked"].start_server()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What torch draws without a generator is the same whichever tests ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What the test's own process logs: ``LEVEL message``."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{level} {message}")
    yield lines
    logger.remove(sink)
