"""Tools that compute, asked for a device that is not there: one line, before anything is read."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from shared.errors import ConfigError
from tools.bench.engine import main as bench_engine
from tools.bench.models import main as bench_models
from tools.quality.evaluate_chunks import main as evaluate_chunks
from tools.quality.search_schedule import main as search_schedule


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (bench_engine, []),
        (bench_models, []),
        (evaluate_chunks, ["nothing.wav"]),
        (search_schedule, ["nothing.wav", "--reference", "nobody.wav"]),
    ],
    ids=["bench_engine", "bench_models", "evaluate_chunks", "search_schedule"],
)
def test_a_device_that_is_not_there(tool: click.Command, arguments: list[str]) -> None:
    """`shared.extras.needing` makes a line of it."""
    result = CliRunner().invoke(tool, [*arguments, "--device", "cuda:99"])
    assert isinstance(result.exception, ConfigError)
    assert "cuda:99 is not there" in str(result.exception)
