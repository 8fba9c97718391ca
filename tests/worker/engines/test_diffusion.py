"""The streaming Seed-VC engine on models of reduced size: rows alone and together, streaming against the whole at once,
options of a session, silence, voices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants

from shared.config import ROOT
from tests.support.reduced import reduced, write_hub
from worker import pitch
from worker.buckets import bucket_of, buckets
from worker.engine import Batch, PoolFull, SessionOptions
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.graphs import GraphCache
from worker.engines.diffusion.pipeline import Pipeline, Prompts
from worker.engines.diffusion.pitches import learn_pitch, transpose_pitch
from worker.geometry import Geometry
from worker.models.catalogue import load_model
from worker.models.seedvc import spec
from worker.streaming.crossfade import sola
from worker.streaming.gates import EnergyGate
from worker.streaming.pool import OutOfMemory, StreamPool, UnknownVoice
from worker.voices import Voice, VoiceError, list_voices

SECONDS = {"carlo": 1.6, "allison": 1.1, "june": 1.3}  # of reference
STEPS = 2
TOLERANCE = 1e-3 * 32768

Make = Callable[..., DiffusionEngine]


def speech(seconds: float, begin: float = 0.3) -> np.ndarray[Any, np.dtype[np.int16]]:
    wave, rate = soundfile.read(ROOT / "worker/assets/samples/sample.flac", dtype="int16")
    assert rate == 16_000
    repeated = np.concatenate([wave, wave[::-1], wave])
    return repeated[int(begin * rate) : int((begin + seconds) * rate)]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pipeline]]:
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.delenv("HF_HUB_CACHE", raising=False)
        for name in spec.SPECS:
            folder = tmp_path_factory.mktemp(name)
            patch.setitem(spec.SPECS, name, reduced(name))  # type: ignore[arg-type]
            write_hub(folder, spec.SPECS[name])
            made[name] = Pipeline(load_model(name, folder))
        # a pitch tracker without training says much the same of everybody
        networks = replace(made["base"].networks, tracker=pitch.AutocorrelationTracker())
        made["pitched"] = Pipeline(networks)
        yield made


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Voice]:
    folder = tmp_path_factory.mktemp("voices")
    for name, seconds in SECONDS.items():
        wave, rate = soundfile.read(ROOT / f"worker/assets/voices/{name}.flac")
        soundfile.write(folder / f"{name}.wav", wave[rate // 2 :][: int(seconds * rate)], rate)
    return list_voices(folder)


@pytest.fixture
def make(pipelines: dict[str, Pipeline], voices: list[Voice]) -> Make:
    def make(name: str = "tiny", *, block_ms: int = 240, rows: int = 4, **settings: Any) -> DiffusionEngine:
        pipeline = pipelines[name]
        geometry = Geometry.from_ms(block_ms=block_ms, left_ms=600, output_rate=pipeline.mel_config.rate)
        given: dict[str, Any] = {"dit_left_units": 15, "max_prompt_s": 1.0, "steps": STEPS} | settings
        return DiffusionEngine(pipeline, voices, rows, geometry=geometry, **given)

    return make


def stream(pool: StreamPool, slots: list[int], waves: list[Any], steps: int = STEPS) -> list[Any]:
    """Each slot's whole output for its wave."""
    size = pool.geometry.block_samples_in
    out: list[list[Any]] = [[] for _ in slots]
    for number in range(len(waves[0]) // size):
        step = pool.step(slots, [wave[number * size :][:size] for wave in waves], steps=steps)
        for row, block in zip(out, step.blocks, strict=True):
            assert block.error is None
            assert block.speech  # nothing of what is compared is a gate's silence
            row.append(block.samples)
    return [np.concatenate(row).astype(int) for row in out]


@pytest.mark.parametrize(
    ("name", "max_prompt_s"),
    [("tiny", 1.0), ("tiny", 1.7), ("small", 1.0), ("small", 1.7), ("base", 1.0), ("pitched", 1.7)],
)
def test_a_session_does_not_notice_its_neighbours(make: Make, name: str, max_prompt_s: float) -> None:
    sessions = [
        ("carlo", SessionOptions(), 11),
        ("june", SessionOptions(steps=1), 2**61 + 5),
        ("allison", SessionOptions(guidance=0.0, f0_shift=3.0), 7),
        ("carlo", SessionOptions(), 11),
    ]
    waves = [speech(0.48, begin) for begin in (0.3, 1.0, 2.2, 3.1)]
    waves[1], _ = soundfile.read(ROOT / "tests/data/male_english.flac", dtype="int16", start=8_000, frames=7_680)
    engine = make(name, max_prompt_s=max_prompt_s)
    assert engine.bank.ragged == (max_prompt_s > 1)
    together = StreamPool(engine, 4)
    slots = [together.open(voice, options=options, seed=seed) for voice, options, seed in sessions]
    outs = stream(together, slots, waves)
    alone = StreamPool(make(name, max_prompt_s=max_prompt_s, rows=1), 1)
    for session in range(4) if name == "tiny" else (1, 2):
        (voice, options, seed), wave, out = sessions[session], waves[session], outs[session]
        slot = alone.open(voice, options=options, seed=seed)
        expected = stream(alone, [slot], [wave])[0]
        alone.close(slot)
        assert np.abs(expected).max() > 300
        assert np.abs(out - expected).max() <= TOLERANCE
    assert np.abs(outs[0] - outs[3]).max() > TOLERANCE  # the same voice and seed, other words


@pytest.mark.parametrize(("name", "block_ms"), [("tiny", 160), ("small", 500), ("tiny", 1000)])
def test_streaming_equals_the_whole_at_once(make: Make, name: str, block_ms: int) -> None:
    """All windows of a file in one call, joined afterwards, against block by block; the last block is half silence.

    Both run the same arithmetic in batches of another size, so only float32 rounding may differ.
    """
    engine = make(name, block_ms=block_ms, rows=9)
    geometry, size = engine.geometry, engine.geometry.block_samples_in
    wave = speech(1.2 + 0.4 * block_ms / 1000)
    wave = np.pad(wave, (0, -len(wave) % size))
    pool = StreamPool(engine, 9, gate=EnergyGate(9, hangover_blocks=100))
    streamed = stream(pool, [pool.open("june", seed=9)], [wave])[0]

    count = len(wave) // size
    padded = torch.from_numpy(np.pad(wave, (geometry.history_samples, 0)).astype(np.float32) / 32768)
    for slot in range(1, count):
        engine.open(slot, "june", SessionOptions(), 9)
    window = padded.unfold(0, geometry.window_samples, size)
    position = (torch.arange(count) + 1) * geometry.block_units
    made, _ = engine.convert(Batch(torch.arange(count), window, position, STEPS))
    tail = torch.zeros(1, geometry.crossfade_samples)
    whole = []
    for row in made:
        block, tail = sola(row[None], tail, geometry)
        whole.append((block[0] * 32768).round().clamp(-32768, 32767).int().numpy())
    assert len(streamed) == count * geometry.block_samples_out
    assert np.abs(streamed - np.concatenate(whole)).max() <= 1e-4 * 32768


def test_a_frame_keeps_its_noise_as_windows_move_on(make: Make) -> None:
    """Overlapping windows of one stream see the same noise at the same time; another seed sees another."""
    tape = make().pipeline.mel_noise
    first = tape.take(torch.tensor([100, -7]), 60)
    later = tape.take(torch.tensor([117, 2**61]), 43)
    assert torch.equal(first[0, :, 17:], later[0])
    assert not torch.equal(first[0], first[1])
    assert first.mean().abs() < 0.1
    assert abs(first.std() - 1) < 0.1


def test_sessions_are_reproducible_and_seeds_differ(make: Make) -> None:
    def once(seed: int) -> Any:
        pool = StreamPool(make(rows=1), 1)
        return stream(pool, [pool.open("carlo", seed=seed)], [speech(0.48)])[0]

    first = once(3)
    assert np.array_equal(first, once(3))
    assert np.abs(first - once(4)).max() > 50


def test_fewer_steps_are_fewer(make: Make) -> None:
    """A row's own limit, and the call's, give what a worker of so many steps gives."""
    wave, engine = speech(0.48), make(rows=1, steps=3)

    def once(engine: DiffusionEngine, options: SessionOptions, steps: int) -> Any:
        pool = StreamPool(engine, 1)
        slot = pool.open("carlo", options=options)
        out = stream(pool, [slot], [wave], steps)[0]
        pool.close(slot)
        return out

    two = once(make(rows=1, steps=2), SessionOptions(), 10)
    assert np.abs(once(engine, SessionOptions(steps=2), 10) - two).max() <= 2
    assert np.abs(once(engine, SessionOptions(), 2) - two).max() <= 2
    assert np.abs(once(engine, SessionOptions(), 10) - two).max() > 50


def test_silence_is_skipped_and_speech_before_it_stays_as_context(make: Make) -> None:
    engine = make()
    calls: list[tuple[int, torch.Tensor]] = []
    convert = engine.convert

    def watched(batch: Batch) -> Any:
        calls.append((len(batch.rows), batch.window.clone()))
        return convert(batch)

    engine.convert = watched  # type: ignore[method-assign]
    pool = StreamPool(engine, 4, gate=EnergyGate(4, hangover_blocks=0))
    talks, quiet = pool.open("carlo"), pool.open("june")
    size, left = engine.geometry.block_samples_in, engine.geometry.left_units * 320
    wave, silence = speech(0.96), np.zeros(size, np.int16)
    for number in range(4):
        step = pool.step([talks, quiet], [wave[number * size :][:size], silence], steps=STEPS)
        assert [block.speech for block in step.blocks] == [True, False]
    before = calls[-1][1]
    for _ in range(20):
        assert not pool.step([talks], [silence], steps=STEPS).blocks[0].speech
    assert [rows for rows, _ in calls] == [1] * 4
    pool.step([talks], [wave[:size]], steps=STEPS)
    after = calls[-1][1]
    # The left context has moved on by the block of news, and still ends where speech ended.
    assert torch.equal(after[0, : left - size], before[0, size:left])
    assert float(after[0, left:-size].abs().max()) == 0
    assert torch.equal(after[0, -size:], torch.from_numpy(wave[:size].astype(np.float32) / 32768))


def test_the_pitch_of_a_caller_moves_to_the_references() -> None:
    counts = pitch.histogram(torch.full((2, 50), 110.0), torch.ones(2, 50, dtype=torch.bool))
    counts[1] = 0  # not known yet
    nothing = torch.zeros(2, 1, 1)
    prompts = Prompts(nothing, nothing, nothing[:, 0], torch.tensor([220.0, 220.0]), None)
    moved = transpose_pitch(torch.tensor([[0.0, 110.0, 55.0]] * 2), counts, prompts, torch.tensor([0.0, 12.0]))
    np.testing.assert_allclose(moved[0].numpy(), [0, 220, 110], rtol=0.02)
    np.testing.assert_allclose(moved[1].numpy(), [0, 220, 110], rtol=1e-5)


def test_a_caller_is_listened_to_for_pitch() -> None:
    """At first the whole window counts, then each block once; silence and whisper do not."""
    f0, newest = torch.full((1, 60), 150.0), 24
    f0[:, :30] = 0
    first = learn_pitch(f0, torch.zeros(1, pitch.HISTOGRAM_BINS), newest)
    assert float(first.sum()) == 30
    np.testing.assert_allclose(float(pitch.median_hz(first)), 150, rtol=0.02)
    then = learn_pitch(f0, first, newest)
    assert 0.95 * (30 + newest) < float(then.sum()) <= 30 + newest
    assert torch.equal(learn_pitch(torch.zeros(1, 60), then, newest), then)


def test_voices_come_and_go_within_the_bound(make: Make) -> None:
    engine = make(max_prompts=2, rows=4)
    assert engine.bank.names == ["allison", "carlo"]
    pool = StreamPool(engine, 4)
    first = pool.open("carlo")
    second = pool.open("june")
    assert set(engine.bank.names) == {"carlo", "june"}
    with pytest.raises(PoolFull, match="all 2 rows for voices"):
        pool.open("allison")
    assert pool.sessions == 2
    pool.close(first)
    third = pool.open("allison")
    out = stream(pool, [second, third], [speech(0.48)] * 2)
    fresh = StreamPool(make(rows=4), 4)
    expected = stream(fresh, [fresh.open("june"), fresh.open("allison")], [speech(0.48)] * 2)
    assert np.abs(out[0] - expected[0]).max() <= TOLERANCE
    assert np.abs(out[1] - expected[1]).max() <= TOLERANCE


def test_a_voice_that_a_session_brings_sounds_as_one_of_the_workers_own(make: Make, voices: list[Voice]) -> None:
    """In room that was there from the start: no tensor that a captured call reads is replaced."""
    june = next(voice for voice in voices if voice.name == "june")
    engine = make(rows=4, guest_voices=2)
    assert engine.guest_prompt_s == 1.0
    before = [id(part) for part in (engine.bank._condition, engine.bank._mel, engine.bank._lens)]
    pool = StreamPool(engine, 4)
    guest = pool.open("clip:1", seed=3, reference=june.path.read_bytes())
    again = pool.open("clip:1", seed=3, reference=june.path.read_bytes())
    own = pool.open("june", seed=3)
    assert {"clip:1", "june"} <= set(engine.bank.names)
    assert "clip:1" not in engine.voices
    out = stream(pool, [guest, own, again], [speech(0.48)] * 3)
    assert np.abs(out[0]).max() > 300
    assert np.abs(out[0] - out[1]).max() <= TOLERANCE
    assert np.abs(out[0] - out[2]).max() <= TOLERANCE
    assert [id(part) for part in (engine.bank._condition, engine.bank._mel, engine.bank._lens)] == before
    with pytest.raises(UnknownVoice, match="takes no recordings"):
        StreamPool(make(), 4).open("clip:1", reference=june.path.read_bytes())


def test_guests_of_every_length_share_one_mask(make: Make, voices: list[Voice]) -> None:
    """Prompts of 1.1 and 1.6 s in a bank of 1.7 s: each as if it were alone, in a bank of its own length."""
    sounds = {voice.name: voice.path.read_bytes() for voice in voices}
    together = StreamPool(make(rows=4, max_prompt_s=1.7, guest_voices=3), 4)
    slots = [together.open(f"clip:{name}", reference=sounds[name]) for name in ("carlo", "allison")]
    outs = stream(together, slots, [speech(0.48)] * 2)
    for name, out in zip(("carlo", "allison"), outs, strict=True):
        alone = StreamPool(make(rows=1, max_prompt_s=SECONDS[name]), 1)
        expected = stream(alone, [alone.open(name)], [speech(0.48)])[0]
        assert np.abs(out - expected).max() <= TOLERANCE


def test_what_is_no_voice_ends_its_own_session_alone(make: Make) -> None:
    pool = StreamPool(make(guest_voices=1), 4)
    for sound in (b"no sound", b""):
        with pytest.raises(VoiceError, match="cannot read recording"):
            pool.open("clip:x", reference=sound)
    assert pool.sessions == 0
    stream(pool, [pool.open("june")], [speech(0.48)])


def test_a_session_that_cannot_begin_costs_no_row(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory for its prompt, or for what follows, everything that it took is free again."""
    engine = make(max_prompts=2, rows=4)
    pool = StreamPool(engine, 4)
    first = pool.open("carlo")
    prompt = engine.pipeline.prompt

    def no_memory(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(engine.pipeline, "prompt", no_memory)
            with pytest.raises(OutOfMemory, match="one more session of voice 'june'"):
                pool.open("june")
        with monkeypatch.context() as patch:
            patch.setattr(pool._gate, "open", no_memory)
            with pytest.raises(OutOfMemory):
                pool.open("allison")
    assert engine.pipeline.prompt == prompt
    assert pool.sessions == 1
    second = pool.open("june")  # in the row that allison's failed sessions have given back
    assert set(engine.bank.names) == {"carlo", "june"}
    pool.close(first)
    pool.close(second)
    assert pool.sessions == 0


def test_graphs_that_fail_leave_a_working_engine(make: Make) -> None:
    """Whatever a capture raises: the answer is that of an engine without graphs."""
    engine, plain = make(), make()

    def capture(call: object, memory: object) -> Any:
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    engine._graphs = GraphCache(engine._captured_call, capture)
    outs = []
    for one in (engine, plain):
        pool = StreamPool(one, 4)
        slot = pool.open("carlo", seed=5)
        first = stream(pool, [slot], [speech(0.48)])[0]
        assert one.prepare(float("inf")) == (one is engine)
        outs.append(np.concatenate([first, stream(pool, [slot], [speech(0.48, 0.48)])[0]]))
    assert np.array_equal(*outs)
    assert not engine.prepare(float("inf"))


def test_a_reference_of_no_use_is_refused_by_name(pipelines: dict[str, Pipeline], tmp_path: Path) -> None:
    path = tmp_path / "hum.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    voice = Voice("hum", "noise", path)
    geometry = Geometry.from_ms(block_ms=240, left_ms=600, output_rate=44_100)
    with pytest.raises(VoiceError, match="'hum': no voiced speech"):
        DiffusionEngine(pipelines["pitched"], [voice], 1, geometry=geometry, dit_left_units=10)


def test_geometries_that_do_not_fit_are_named(make: Make, voices: list[Voice]) -> None:
    with pytest.raises(ValueError, match="dit_left_ms"):
        make(dit_left_units=31)
    pipeline, geometry = make().pipeline, Geometry.from_ms(block_ms=200, left_ms=600)
    with pytest.raises(ValueError, match="22050 Hz"):
        DiffusionEngine(pipeline, voices, 1, geometry=geometry, dit_left_units=5)


def test_buckets() -> None:
    assert [bucket_of(n) for n in (1, 2, 3, 4, 5, 8, 9, 100)] == [1, 2, 4, 4, 8, 8, 16, 128]
    assert buckets(12) == [1, 2, 4, 8, 16]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_batches_equal_eager_ones(
    voices: list[Voice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(spec.SPECS, "tiny", reduced("tiny"))  # type: ignore[arg-type]
    write_hub(tmp_path, spec.SPECS["tiny"])
    geometry = Geometry.from_ms(block_ms=240, left_ms=600, output_rate=22_050)
    outs = []
    for graphs in (False, True):
        pipeline = Pipeline(load_model("tiny", tmp_path), device="cuda:0")
        engine = DiffusionEngine(
            pipeline, voices, 4, geometry=geometry, dit_left_units=15, max_prompt_s=3.0, steps=STEPS, graphs=graphs,
            guest_voices=1,
        )  # fmt: skip
        pool = StreamPool(engine, 4, device="cuda:0")
        slots = [pool.open(voice, seed=number) for number, voice in enumerate(("carlo", "june", "allison"))]
        outs.append(stream(pool, slots, [speech(0.96, begin) for begin in (0.3, 1.0, 2.2)]))
        pool.close(slots[0])  # a guest who comes later finds the graphs as they are
        slots[0] = pool.open("clip:1", reference=voices[0].path.read_bytes())
        outs[-1] += stream(pool, slots, [speech(0.96, begin) for begin in (0.3, 1.0, 2.2)])
    for eager, captured in zip(*outs, strict=True):
        assert np.abs(eager - captured).max() <= TOLERANCE
