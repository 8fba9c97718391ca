"""What both benchmarks of the models need: engines with synthetic weights, filled batches, and a device's ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.config import ROOT
from worker.engine import Batch, SessionOptions
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.pipeline import Pipeline
from worker.engines.v2.engine import V2Engine
from worker.engines.v2.pipeline import V2Pipeline
from worker.geometry import Geometry
from worker.models.nano.networks import load_bundled
from worker.models.networks import Networks
from worker.models.published.bigvgan import BigVganVocoder
from worker.models.published.campplus import CamPlusStyle
from worker.models.published.hift import HiftVocoder
from worker.models.published.mel import MelSpectrogram
from worker.models.published.rmvpe import Rmvpe, RmvpeTracker
from worker.models.published.whisper import WhisperFeatures
from worker.models.published.xlsr import XlsrFeatures
from worker.models.seedvc.spec import SPECS
from worker.models.seedvc2.flow import Rates
from worker.models.seedvc2.model import V2Networks, V2Spec
from worker.models.weights.published import PublishedNetwork
from worker.voices import list_voices

PROMPT_S = 3.0
BLOCK_MS, LEFT_MS, DIT_LEFT_UNITS = 500, 2500, 75
SPREAD = 0.95
V2_RIGHT_MS = 240  # as config/v2.yaml


@dataclass(frozen=True, slots=True)
class Setting:
    """One engine to be measured, in the geometry of the goals: blocks of 0.5 s, 2.5 s of context."""

    model: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    steps: int = 10
    guidance: float = 0.7
    rows: int = 8
    graphs: bool = True


def built_networks(wanted: Iterable[tuple[PublishedNetwork, Any]], device: str) -> dict[str, Any]:
    """Networks by name, of these sizes, with weights nobody trained: drawn where they will be used."""
    torch.manual_seed(0)
    with torch.device(device):
        return {network.name: network.build(sizes).eval().requires_grad_(False) for network, sizes in wanted}


def synthetic_networks(model: str, device: str = "cpu") -> Networks:
    """A published model of its published sizes with weights nobody trained, or ``nano`` as it is bundled."""
    if model == "nano":
        return load_bundled()
    spec = SPECS[model]
    built = built_networks(spec.networks_with_sizes, device)
    content = built[spec.content]
    vocoder = built[spec.vocoder]
    return Networks(
        name=model,
        content=(XlsrFeatures if spec.content == "xlsr" else WhisperFeatures)(content).eval(),
        style=CamPlusStyle(built["campplus"]).eval(),
        mel=MelSpectrogram(spec.mel),
        regulator=built[spec.length_regulator.name],
        dit=built[spec.cfm.name],
        vocoder=(HiftVocoder if spec.vocoder == "hift" else BigVganVocoder)(vocoder).eval(),
        tracker=RmvpeTracker(built["rmvpe"]).eval() if isinstance(built.get("rmvpe"), Rmvpe) else None,
    )


def synthetic_v2(device: str = "cpu") -> V2Networks:
    """V2's timbre path of its published sizes with weights nobody trained."""
    return V2Networks.of("v2", built_networks(V2Spec().timbre_networks, device))


def make_v2(setting: Setting) -> V2Engine:
    """Both rates on: three evaluations a step; without guidance one."""
    rates = Rates(setting.guidance, setting.guidance)
    pipeline = V2Pipeline(synthetic_v2(setting.device), device=setting.device, dtype=setting.dtype, rates=rates)
    return V2Engine(
        pipeline,
        list_voices(ROOT / "worker/assets/voices"),
        setting.rows,
        geometry=Geometry.from_ms(
            block_ms=BLOCK_MS, left_ms=LEFT_MS, right_ms=V2_RIGHT_MS, output_rate=pipeline.mel_config.rate
        ),
        dit_left_units=DIT_LEFT_UNITS,
        max_prompt_s=PROMPT_S,
        steps=setting.steps,
        graphs=setting.graphs,
    )


def make_engine(setting: Setting) -> DiffusionEngine | V2Engine:
    if setting.model == "v2":
        return make_v2(setting)
    pipeline = Pipeline(
        synthetic_networks(setting.model, setting.device),
        device=setting.device,
        dtype=setting.dtype,
        guidance=setting.guidance,
    )
    rate = pipeline.mel_config.rate
    geometry = Geometry.from_ms(
        block_ms=BLOCK_MS, left_ms=LEFT_MS, right_ms=60 if setting.model == "nano" else 20, output_rate=rate
    )
    return DiffusionEngine(
        pipeline,
        list_voices(ROOT / "worker/assets/voices"),
        setting.rows,
        geometry=geometry,
        dit_left_units=DIT_LEFT_UNITS,
        max_prompt_s=PROMPT_S,
        steps=setting.steps,
        graphs=setting.graphs,
    )


def fill(engine: DiffusionEngine | V2Engine, rows: int) -> Batch:
    """Open ``rows`` sessions of all voices and give each a window of noise of speech's level."""
    voices = list(engine.voices)
    for slot in range(rows):
        engine.open(slot, voices[slot % len(voices)], SessionOptions(), slot)
    device = engine.pipeline.device
    generator = torch.Generator().manual_seed(0)
    window = torch.randn(rows, engine.geometry.window_samples, generator=generator) * 0.07
    units = torch.full((rows,), engine.geometry.window_units, dtype=torch.int64)
    return Batch(torch.arange(rows, device=device), window.to(device), units.to(device), engine.max_steps)


def empty(engine: DiffusionEngine | V2Engine, rows: int) -> None:
    for slot in range(rows):
        engine.close(slot)


@dataclass(frozen=True, slots=True)
class Timing:
    """Of repeated calls: milliseconds of the median and the 95th percentile, and of the median of each stage."""

    median_ms: float
    p95_ms: float
    stages_ms: dict[str, float]


def time_calls(call: Callable[[], dict[str, float]], *, repeats: int, device: str) -> Timing:
    """``call`` returns its stages. The first run is not counted."""
    call()
    totals, stages = [], []
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        stages.append(call())
        synchronise(device)
        totals.append(1e3 * (time.perf_counter() - began))
    names = stages[0].keys()
    return Timing(
        float(np.median(totals)),
        float(np.quantile(totals, SPREAD)),
        {name: float(np.median([one[name] for one in stages])) for name in names},
    )


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matmul_ceiling(device: str, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """TFLOP/s of a large matrix product on this device now: what no network can exceed."""
    size = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    synchronise(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            a @ b
        synchronise(device)
        count += 4
    return 2 * size**3 * count / (time.perf_counter() - began) / 1e12


def rows_of(engine: DiffusionEngine | V2Engine, batch: Batch) -> Any:
    """What the engine makes of a batch before its call: a dataclass of tensors."""
    return engine.rows_of(batch, engine.max_steps)


class StageCounter:
    """Stands in for a call's clock: how much a counter has grown in each stage."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read, self._last = read, read()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = self._read()
        self.stages[stage] = now - self._last
        self._last = now
