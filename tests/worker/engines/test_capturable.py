"""A call of every engine, on a CUDA device that is not there, does nothing that a CUDA graph cannot hold: it neither
waits for the device nor moves anything between it and the host (`test_diffusion` runs real graphs where there is one).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.fake_cuda import HostWatch, fake_cuda, move_attributes, moved
from tests.support.reduced import reduced, reduced_nano, reduced_v2
from tools.bench import timing
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.retrieval import Index, IndexBank
from worker.models.nano import networks
from worker.models.seedvc import spec

STEPS = 2
pytestmark = pytest.mark.thorough


@pytest.fixture
def engine(model: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(timing, "SPECS", {name: reduced(name) for name in spec.SPECS})
    monkeypatch.setattr(timing, "V2Spec", reduced_v2)
    monkeypatch.setattr(networks, "load_nano", lambda path: reduced_nano())
    for name, value in {"PROMPT_S": 1.0, "BLOCK_MS": 100, "LEFT_MS": 400, "DIT_LEFT_UNITS": 10}.items():
        monkeypatch.setattr(
            timing, name, value
        )  # tensors without values cost a millisecond each, and a GRU one a frame
    guidance = 0.0 if model == "nano" else 0.7
    return timing.make_engine(timing.Setting(model, "cpu", torch.float32, STEPS, guidance, rows=3))


@pytest.mark.parametrize(
    ("model", "ragged"), [("nano", False), ("tiny", True), ("small", True), ("base", False), ("v2", False)]
)
def test_a_call_stays_on_the_device(engine: Any, ragged: bool) -> None:
    if isinstance(engine, DiffusionEngine) and engine.name == "nano":
        engine.indexes = IndexBank({"june": Index(torch.rand(9, 9), "")}, torch.device("cpu"), torch.float32)
    rows = timing.rows_of(engine, timing.fill(engine, 3))
    engine.bank.ragged = ragged
    pipeline, solver = engine.pipeline, None
    indexes = getattr(engine, "indexes", None)
    if engine.name != "nano":  # it has none
        solver = pipeline.solver(STEPS)
        solver.prepare_rows()
    with fake_cuda():
        for part in pipeline.networks.parts().values():
            moved(part)
        for owner in (solver, engine.bank, pipeline.mel_noise, pipeline.wave_noise, pipeline.phases, indexes):
            if owner is not None:
                move_attributes(owner)
        device_rows = moved(rows)
        with HostWatch() as watch:
            wave, *_ = engine.call(device_rows, STEPS, mixed=True)
    assert wave.device.type == "cuda"
    assert watch.operations > 400
    assert watch.seen == []
