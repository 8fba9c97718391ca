"""V2 in real time with networks of reduced size: codes settle once, rows are strangers, time is absolute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from shared.config import ROOT
from tests.support.reduced import reduced_v2, write_hub
from worker.engine import SessionOptions
from worker.engines.v2.commit import NEVER, Places, settle
from worker.engines.v2.engine import Rows, V2Engine
from worker.engines.v2.hearing import MEMORY_S, remember
from worker.engines.v2.pipeline import V2Pipeline
from worker.geometry import Geometry
from worker.models.seedvc2.flow import Rates
from worker.models.seedvc2.model import SeedVc2, V2Networks
from worker.streaming.gates import EnergyGate
from worker.streaming.pool import StreamPool
from worker.voices import Voice, list_voices

TOLERANCE = 33  # of int16, 1e-3
STEPS = 2
SECONDS = {"carlo": 2.0, "june": 1.5}
Make = Callable[..., V2Engine]


def speech(seconds: float, begin: float = 0.3) -> Any:
    wave, rate = soundfile.read(ROOT / "worker/assets/samples/sample.flac", dtype="int16")
    return wave[int(begin * rate) :][: int(seconds * rate)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_CACHE", raising=False)
        folder = tmp_path_factory.mktemp("hub")
        write_hub(folder, reduced_v2())
        yield folder


@pytest.fixture(scope="module")
def networks(hub: Path) -> V2Networks:
    return SeedVc2(reduced_v2()).load(hub)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Voice]:
    folder = tmp_path_factory.mktemp("voices")
    for name, seconds in SECONDS.items():
        wave, rate = soundfile.read(ROOT / f"worker/assets/voices/{name}.flac")
        soundfile.write(folder / f"{name}.wav", wave[rate // 2 :][: int(seconds * rate)], rate)
    return list_voices(folder)


@pytest.fixture
def make(networks: V2Networks, voices: list[Voice]) -> Make:
    def make(*, block_ms: int = 240, right_ms: int = 80, rows: int = 3, rates: Rates | None = None) -> V2Engine:
        pipeline = V2Pipeline(networks, rates=rates or Rates(0.5, 0.5))
        geometry = Geometry.from_ms(block_ms=block_ms, left_ms=600, right_ms=right_ms, output_rate=22_050)
        return V2Engine(pipeline, voices, rows, geometry=geometry, dit_left_units=15, max_prompt_s=1.2, steps=STEPS)

    return make


def stream(pool: StreamPool, slots: list[int], waves: list[Any]) -> list[Any]:
    """Each slot's whole output for its wave."""
    size = pool.geometry.block_samples_in
    out: list[list[Any]] = [[] for _ in slots]
    for number in range(len(waves[0]) // size):
        step = pool.step(slots, [wave[number * size :][:size] for wave in waves], steps=STEPS)
        for row, block in zip(out, step.blocks, strict=True):
            assert block.error is None
            row.append(block.samples)
    return [np.concatenate(row).astype(int) for row in out]


def recorded(engine: V2Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rows, tuple[Tensor, ...]]]:
    """What every call reads and gives from now on."""
    calls: list[tuple[Rows, tuple[Tensor, ...]]] = []
    call = engine.call

    def heard(rows: Rows, steps: int, **settings: Any) -> tuple[Tensor, ...]:
        made = call(rows, steps, **settings)
        calls.append((rows, made))
        return made

    monkeypatch.setattr(engine, "call", heard)
    return calls


def test_a_session_does_not_notice_its_neighbours(make: Make) -> None:
    sessions = [
        ("carlo", SessionOptions(), 11),
        ("june", SessionOptions(steps=1, intelligibility=0.0), 2**61 + 5),
        ("carlo", SessionOptions(similarity=1.5), 7),
    ]
    waves = [speech(0.72, begin) for begin in (0.3, 1.0, 2.2)]
    together = StreamPool(make(), 3)
    slots = [together.open(voice, options=options, seed=seed) for voice, options, seed in sessions]
    outs = stream(together, slots, waves)
    alone = StreamPool(make(rows=1), 1)
    for (voice, options, seed), wave, out in zip(sessions, waves, outs, strict=True):
        slot = alone.open(voice, options=options, seed=seed)
        expected = stream(alone, [slot], [wave])[0]
        alone.close(slot)
        assert np.abs(expected).max() > 100
        assert np.abs(out - expected).max() <= TOLERANCE


@pytest.mark.parametrize("block_ms", [160, 500])
def test_a_settled_code_never_changes(make: Make, monkeypatch: pytest.MonkeyPatch, block_ms: int) -> None:
    engine = make(block_ms=block_ms)
    calls = recorded(engine, monkeypatch)
    pool = StreamPool(engine, 3, gate=EnergyGate(3, hangover_blocks=100))
    stream(pool, [pool.open("june", seed=9)], [speech(1.6)])
    certain = engine.geometry.window_units - engine.geometry.right_units
    settled: dict[int, int] = {}
    for rows, (_, codes, *_) in calls:
        first = int(rows.position) - engine.geometry.window_units
        for place, code in enumerate(codes[0, :certain].tolist()):
            unit = first + place
            assert settled.setdefault(unit, code) == code
    assert len(set(settled.values())) > 3


def test_a_stream_equals_all_its_windows_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given what the stream knew, one call for all windows makes what it made block by block."""
    engine = make(rows=1)
    calls = recorded(engine, monkeypatch)
    pool = StreamPool(engine, 1, gate=EnergyGate(1, hangover_blocks=100))
    stream(pool, [pool.open("carlo", seed=9)], [speech(1.7)])
    every = Rows(**{field.name: torch.cat([getattr(rows, field.name) for rows, _ in calls]) for field in fields(Rows)})
    with torch.inference_mode():
        whole = V2Engine.call(engine, every, STEPS, mixed=True)
    assert len(calls) > 5
    for number, (_, made) in enumerate(calls):
        assert torch.equal(whole[1][number], made[1][0])  # codes
        torch.testing.assert_close(whole[0][number], made[0][0], atol=1e-3, rtol=0)


def test_the_same_moment_has_the_same_place_in_every_window(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mel frames lie on one grid although a block is no whole number of them: where nothing else differs, two windows
    make the same sound of the same moment, to the sample."""
    engine = make()
    monkeypatch.setattr(engine.pipeline, "solve", lambda condition, prompts, noise, steps, rows: noise)
    monkeypatch.setattr(engine.pipeline, "vocode", lambda mel, f0, start, seed: mel[:, 0].repeat_interleave(256, dim=1))
    calls = recorded(engine, monkeypatch)
    pool = StreamPool(engine, 3, gate=EnergyGate(3, hangover_blocks=100))
    stream(pool, [pool.open("june", seed=9)], [speech(1.7)])
    step = engine.geometry.block_samples_out
    for (_, before), (_, after) in pairwise(calls):
        shared = before[0].shape[1] - step
        assert shared > 0
        assert torch.equal(before[0][0, step:], after[0][0, :shared])


def test_a_pause_leaves_settled_codes_where_they_were(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    calls = recorded(engine, monkeypatch)
    pool = StreamPool(engine, 3, gate=EnergyGate(3, hangover_blocks=0))
    size = engine.geometry.block_samples_in
    wave = np.concatenate([speech(4 * 0.24), np.zeros(2 * size, np.int16), speech(4 * 0.24, 2.0)])
    stream(pool, [pool.open("june", seed=9)], [wave])
    assert len(calls) == 8  # silence is not converted
    (earlier, (_, before, *_)), (later, (_, after, *_)) = calls[3], calls[4]
    moved = int(later.position - earlier.position)
    assert moved == 3 * engine.geometry.block_units
    certain = engine.geometry.window_units - engine.geometry.right_units
    assert torch.equal(after[0, : certain - moved], before[0, moved:certain])


def test_a_new_session_knows_nothing_of_the_last(make: Make) -> None:
    engine = make(rows=1)
    pool = StreamPool(engine, 1)
    outs = []
    for begin in (2.0, 0.3, 0.3):
        slot = pool.open("carlo", seed=4)
        outs.append(stream(pool, [slot], [speech(0.48, begin)])[0])
        pool.close(slot)
    assert np.array_equal(outs[1], outs[2])
    assert not np.array_equal(outs[0], outs[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_speaks(voices: list[Voice], hub: Path, dtype: torch.dtype) -> None:
    """The quantiser stays in float32 whatever the others are in, and what it hears is never coarser than float16."""
    pipeline = V2Pipeline(SeedVc2(reduced_v2()).load(hub), dtype=dtype)
    geometry = Geometry.from_ms(block_ms=240, left_ms=600, right_ms=80, output_rate=22_050)
    engine = V2Engine(pipeline, voices, 1, geometry=geometry, dit_left_units=15, max_prompt_s=1.2, steps=STEPS)
    assert pipeline.v2.wide.project_in.weight.dtype == torch.float32
    assert pipeline.v2.hubert.projection.weight.dtype == torch.float16
    assert pipeline.v2.dit.dtype == dtype
    pool = StreamPool(engine, 1)
    out = stream(pool, [pool.open("june", options=SessionOptions(steps=1))], [speech(0.48)])[0]
    assert np.abs(out).max() > 100


def test_options_within_limits(make: Make) -> None:
    engine = make(rates=Rates(0.5, 0.0))
    assert engine.limits.check({"intelligibility": 1.5}).intelligibility == 1.5
    with pytest.raises(ValueError, match=r"options\.intelligibility must be within 0 and 2"):
        engine.limits.check({"intelligibility": 2.5})
    with pytest.raises(ValueError, match=r"options\.similarity: this model knows steps, intelligibility"):
        engine.limits.check({"similarity": 0.5})  # the worker has none: it would cost everybody an evaluation
    with pytest.raises(ValueError, match=r"options\.guidance"):
        engine.limits.check({"guidance": 0.5})


def test_what_is_settled_stays_and_what_is_not_is_heard_anew() -> None:
    window, right = 8, 3
    before = torch.tensor([[1, 1, 1, 1, 1, 1, 1]])
    projected = torch.tensor([0.9, -0.1]).repeat(1, 7, 1)  # code 2 of two bits
    places = Places.of(torch.tensor([100]), torch.tensor([98]), window, right)
    assert settle(projected, before, places)[0].tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert places.newly[0].tolist() == [False, False, False, True, True, False, False]
    never = Places.of(torch.tensor([3]), torch.tensor([NEVER]), window, right)
    assert not never.newly.any()  # what was before the session's start counts for nothing
    assert settle(projected, before, never)[0].tolist() == [2] * 7


def test_memory_is_a_mean_of_everything_then_of_the_last_half_minute() -> None:
    known, frames = torch.zeros(1, 2), torch.zeros(1)
    for _ in range(100):
        known, frames = remember(known, frames, torch.tensor([[25.0, 50.0]]), torch.tensor([25.0]), 50.0)
    torch.testing.assert_close(known / frames, torch.tensor([[1.0, 2.0]]))
    assert frames.item() == pytest.approx(MEMORY_S * 50)


def test_geometries_that_do_not_fit_are_named(networks: V2Networks, voices: list[Voice], tmp_path: Path) -> None:
    pipeline = V2Pipeline(networks)
    with pytest.raises(ValueError, match="puts out 22050 Hz"):
        V2Engine(pipeline, voices, 1, geometry=Geometry.from_ms(block_ms=240, left_ms=600), dit_left_units=5)
    geometry = Geometry.from_ms(block_ms=240, left_ms=600, output_rate=22_050)
    with pytest.raises(ValueError, match="dit_left_ms"):
        V2Engine(pipeline, voices, 1, geometry=geometry, dit_left_units=31)
