"""Seed-VC V2 through real processes, with networks of reduced size: a gateway, a worker of ``model: v2``, callers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

import worker.main
from shared.config import load
from tests.support.reduced import reduced_v2, write_hub
from tools.client.client import CallError
from worker.engines.v2 import engine
from worker.models.seedvc2.model import SeedVc2

from .test_model import SETTINGS, Pool, convert


def run_worker(link: str, name: str) -> int:
    """A worker whose networks are of reduced size."""
    engine.SeedVc2 = lambda: SeedVc2(reduced_v2())  # type: ignore[misc]
    return worker.main.run(load(), [link], "cpu", name)


class V2Pool(Pool):
    settings: ClassVar[dict[str, Any]] = SETTINGS | {
        "WORKER__MODEL": "v2",
        "WORKER__RIGHT_MS": 80,
        "WORKER__INTELLIGIBILITY": 0.5,
        "WORKER__SIMILARITY": 0.5,
        "WORKER__MAX_BATCH": 2,
        "GATEWAY__LATENCY_BUDGET_MS": 14_000,  # nothing here is about how fast this machine is
        "WORKER__STEPS": 1,
        "WORKER__MIN_STEPS": 1,
    }
    program = staticmethod(run_worker)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    checkpoints = tmp_path_factory.mktemp("hub")
    write_hub(checkpoints, reduced_v2())
    pool = V2Pool(tmp_path_factory.mktemp("pool"), workers=1).start_with(checkpoints)
    yield pool
    pool.end()


async def test_callers_get_all_their_sound(pool: Pool) -> None:
    made = await asyncio.gather(*(convert(pool, voice=voice) for voice in ("carlo", "june")))
    for one in made:
        assert one.close_code == 1000
        assert one.complete is not None
        assert one.complete["concealed_chunks"] == 0
        assert abs(len(one.output()) - 3 * 16_000) <= 0.5 * 16_000
        assert np.abs(one.output()).max() > 100


async def test_a_session_has_two_rates_within_limits(pool: Pool) -> None:
    made = await convert(pool, voice="june", options={"similarity": 0.0, "intelligibility": 2.0})
    assert np.abs(made.output()).max() > 100
    for options, words in (
        ({"similarity": 3.0}, "options.similarity must be within 0 and 2"),
        ({"guidance": 0.5}, "options.guidance: this model knows steps, intelligibility, similarity"),
    ):
        with pytest.raises(CallError, match="INVALID_CONFIG") as caught:
            await convert(pool, options=options)
        assert words in str(caught.value)
