"""Start-up: what a batch costs is learnt before the first caller, and what cannot work is said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from shared.config import ConfigError, WorkerConfig
from worker.engine import Batch, OptionLimits
from worker.engines.passthrough import PassthroughEngine
from worker.factory import make_engine, make_gate
from worker.geometry import Geometry
from worker.serving.warmup import warm_up
from worker.streaming.gates import EnergyGate, SileroGate
from worker.streaming.pool import StreamPool

GEOMETRY = Geometry.from_ms(block_ms=200, left_ms=200)


class Solver(PassthroughEngine):
    """Costs what it says: a price a call, and a price a row and step."""

    limits = OptionLimits(8, 1.0, 0.0)

    def __init__(self, memory_rows: int = 10**6, row_s: float = 0.0002) -> None:
        super().__init__(GEOMETRY)
        self.sizes: list[tuple[int, int]] = []
        self.now = 0.0
        self._memory_rows, self._row_s = memory_rows, row_s

    def convert(self, batch: Batch) -> Any:
        rows = len(batch.rows)
        if rows > self._memory_rows:
            raise torch.OutOfMemoryError("no")
        self.sizes.append((rows, batch.steps))
        self.now += 0.002 + self._row_s * rows * batch.steps
        return super().convert(batch)


def config(**settings: Any) -> WorkerConfig:
    given: dict[str, Any] = {"block_ms": 200, "steps": 8, "min_steps": 2, "max_batch": 8, "max_sessions": 50}
    return WorkerConfig(**(given | settings))


def test_every_bucket_is_run_with_the_fewest_and_the_most_steps() -> None:
    engine = Solver()
    pool = StreamPool(engine, 50)
    planner = warm_up(pool, config(max_batch=6), lambda: engine.now)
    assert {size for size, _ in engine.sizes} == {1, 2, 4, 6}
    assert {steps for _, steps in engine.sizes} == {2, 8}
    assert planner.max_batch == 6
    assert (planner.min_steps, planner.max_steps, planner.steps) == (2, 8, 8)
    assert pool.sessions == 0
    assert planner.cost.ms(6, 8) == pytest.approx(2 + 0.2 * 48)
    assert planner.cost.ms(6, 2) == pytest.approx(2 + 0.2 * 12)
    assert planner.capacity > 8


def test_a_batch_without_memory_lowers_the_limit() -> None:
    planner = warm_up(StreamPool(Solver(memory_rows=3), 50), config())
    assert planner.max_batch == 2
    with pytest.raises(ConfigError, match="smaller model"):
        warm_up(StreamPool(Solver(memory_rows=0), 50), config())


def test_a_slow_device_is_not_measured_for_ever() -> None:
    engine = Solver(row_s=0.02)
    wanted = config(warm_up_s=2.0, max_batch=1024, max_sessions=1024)
    planner = warm_up(StreamPool(engine, 1024), wanted, lambda: engine.now)
    assert engine.now < 4
    assert planner.max_batch <= 8
    assert planner.capacity <= 9  # 40 ms a row at the fewest steps, 200 ms a block


def test_a_device_too_slow_for_anyone_still_takes_one() -> None:
    engine = Solver(row_s=1.0)
    planner = warm_up(StreamPool(engine, 50), config(), lambda: engine.now)
    assert (planner.in_real_time, planner.capacity) == (0, 1)


def test_a_model_without_a_solver_has_no_choice_of_steps() -> None:
    planner = warm_up(StreamPool(PassthroughEngine(GEOMETRY), 4), config())
    assert planner.min_steps == planner.max_steps == 8


def test_the_gate_is_the_configured_one() -> None:
    assert isinstance(make_gate(config(vad="silero"), "cpu"), SileroGate)
    assert isinstance(make_gate(config(vad="energy"), "cpu"), EnergyGate)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "tiny"}, ["DiT_uvit_tat_xlsr_ema.pth is not here", "put a copy at"]),
        ({"model": "small", "dit_checkpoint_path": Path("nowhere.pth")}, ["is not here"]),
        ({"model": "tiny", "dit_config_path": Path("x.yml")}, ["dit_config_path needs dit_checkpoint_path"]),
        ({"model": "shift", "voices_dir": Path("nowhere")}, ["worker.voices_dir", "nowhere"]),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    settings: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(ConfigError) as caught:
        make_engine(config(checkpoints_dir=tmp_path, **settings), "cpu")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
