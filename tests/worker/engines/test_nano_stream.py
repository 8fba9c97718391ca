"""The bundled model as it is served: pitch, seams, and a stream against the whole recording at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from shared.config import ROOT, WorkerConfig, load
from tests.worker.engines.test_shift import side_by_side, with_cuts
from tools.quality.evaluate_shift import Pcm, active_level_db, median_f0_hz, read_pcm, stream
from tools.quality.seams import border_excess_db
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.offline import ConversionOptions, FileConverter
from worker.engines.diffusion.prompts import make_prompt
from worker.factory import make_engine
from worker.models.published.mel import NANO, MelSpectrogram
from worker.recordings import Recording
from worker.streaming.pool import StreamPool
from worker.voices import list_voices

WOMAN = ROOT / "worker/assets/samples/sample.flac"
MAN = ROOT / "tests/data/male_english.flac"
SERVED, SERVED_S = [(WOMAN, "carlo"), (MAN, "allison"), (MAN, "june")], 5.0
VOICES = {voice.name: voice for voice in list_voices(ROOT / "worker/assets/voices")}


@pytest.fixture(scope="module")
def config() -> WorkerConfig:
    return load(environ={}).worker.model_copy(update={"max_sessions": 3})


@pytest.fixture(scope="module")
def engine(config: WorkerConfig) -> Iterator[DiffusionEngine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = make_engine(config, "cpu")
    assert isinstance(made, DiffusionEngine)
    yield made
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def served(engine: DiffusionEngine) -> dict[tuple[Path, str], Pcm]:
    """The beginning of a recording in a voice, for all who look at it."""
    return dict(zip(SERVED, side_by_side(engine, SERVED, SERVED_S), strict=True))


@pytest.mark.parametrize(("path", "voice"), SERVED)
def test_the_output_speaks_at_the_references_pitch(served: dict[tuple[Path, str], Pcm], path: Path, voice: str) -> None:
    out = served[path, voice]
    assert median_f0_hz(out) == pytest.approx(median_f0_hz(read_pcm(VOICES[voice].path)), rel=0.1)
    assert active_level_db(out) > -40


def test_block_borders_cannot_be_told_from_the_rest(
    engine: DiffusionEngine, served: dict[tuple[Path, str], Pcm]
) -> None:
    for out in served.values():
        excess_db = border_excess_db(out, engine.geometry)
        assert excess_db < 2.0
        assert border_excess_db(with_cuts(out, engine.geometry), engine.geometry) > excess_db + 0.4


def test_a_stream_sounds_like_the_whole_recording_at_once(
    engine: DiffusionEngine, config: WorkerConfig, served: dict[tuple[Path, str], Pcm], tmp_path: Path
) -> None:
    """A stream hears no more than its context, and joins its blocks; it must still be nearer to the whole at once than
    a fraction of what conversion changes."""
    prompt = make_prompt(engine.pipeline, VOICES["carlo"], config.max_prompt_s)
    converter = FileConverter(engine.pipeline, prompt, ConversionOptions(steps=1))
    pieces: list[np.ndarray] = []  # type: ignore[type-arg]
    pcm = read_pcm(WOMAN)[: int(SERVED_S * 16_000)]
    soundfile.write(tmp_path / "beginning.wav", pcm, 16_000)
    converter.convert([Recording(tmp_path / "beginning.wav")], lambda number, wave: pieces.append(wave))
    whole, source, streamed = np.concatenate(pieces), pcm / 32768, served[WOMAN, "carlo"] / 32768
    settled = slice(2 * 16_000, min(len(whole), len(streamed), len(source)) - 8000)
    streamed_mel, whole_mel, source_mel = (mel(wave[settled]) for wave in (streamed, whole, source))
    apart = (streamed_mel - whole_mel).abs().mean()
    assert apart < 0.7 * (streamed_mel - source_mel).abs().mean()


def mel(wave: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    """Log-mel of a wave brought to one level, floored where nobody can hear."""
    level = np.sqrt(np.mean(np.square(wave)))
    return MelSpectrogram(replace(NANO, n_fft=1024))(torch.from_numpy(wave / level * 0.07).float()[None])[0].clamp(
        min=-6
    )


def loudness_db(pcm: Pcm) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm / 32768.0)) + 1e-12))


def followed(engine: DiffusionEngine, voice: str, pcm: Pcm) -> Pcm:
    """As ``served``, with the configured loudness, and each sample at the time it was heard."""
    pool = StreamPool(engine, 1, rms_mix_rate=0.9)
    step, delay = pool.step, engine.geometry.delay_ms * 16
    pool.step = lambda slots, blocks: step(slots, blocks, steps=1)  # type: ignore[method-assign]
    return stream(pool, voice, np.pad(pcm, (0, delay)))[delay:][: len(pcm)]


def test_a_second_talker_stays_as_far_away_as_they_are(engine: DiffusionEngine) -> None:
    """The same words 28 dB below: nothing on the way makes them as loud as the others."""
    near = read_pcm(WOMAN)[: 3 * 16_000]
    far = np.round(near * 10 ** (-28 / 20)).astype(np.int16)
    out = followed(engine, "carlo", np.concatenate([near, far]))
    apart = loudness_db(out[: len(near) - 8000]) - loudness_db(out[len(near) + 8000 :])
    wanted = loudness_db(near[:-8000]) - loudness_db(far[8000:])
    assert apart == pytest.approx(wanted, abs=2.0)


def test_a_breath_does_not_become_babble(engine: DiffusionEngine) -> None:
    """Through a gate that lets everything pass: what comes out of noise at -47 dBFS is no louder."""
    noise = np.random.default_rng(1).normal(0, 32768 * 10 ** (-47 / 20), 2 * 16_000)
    breath = np.round(noise).astype(np.int16)
    out = followed(engine, "june", np.concatenate([breath, read_pcm(WOMAN)[:8000]]))
    loudest = max(loudness_db(out[at : at + 1600]) for at in range(0, len(breath) - 3200, 800))
    assert loudest < -41
