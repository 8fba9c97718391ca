"""The shift engine puts words into another voice: at its pitch, whatever the neighbours, without seams."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tools.quality.evaluate_shift import (
    SENTENCES,
    VOICES,
    Pcm,
    active_level_db,
    median_f0_hz,
    read_pcm,
    whole,
    words_kept,
)
from tools.quality.seams import border_excess_db
from worker import pitch
from worker.engine import Batch, Engine, SessionOptions
from worker.engines.shift import psola
from worker.engines.shift.engine import DEFAULT_GEOMETRY, ShiftEngine
from worker.geometry import Geometry
from worker.streaming.pool import StreamPool
from worker.voices import Voice, VoiceError, list_voices

ROOT = Path(__file__).resolve().parents[3]
WOMAN = ROOT / "worker/assets/samples/sample.flac"
MAN = ROOT / "tests/data/male_english.flac"
ITALIAN_MAN = ROOT / "tests/data/male_italian.flac"
REFERENCES = ("carlo", "allison", "june")
PAIRS = [  # down, up and where it is
    (WOMAN, "carlo"),
    (WOMAN, "june"),
    (MAN, "carlo"),
    (MAN, "june"),
    (ITALIAN_MAN, "allison"),
]
FIRST_SENTENCE, FIRST_S = SENTENCES.partition(" and ")[0], 4.6  # and where it has ended in both recordings

Streamed = Callable[[Path, str], Pcm]  # of a recording and a voice


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def voices() -> list[Voice]:
    return [voice for voice in list_voices(VOICES) if voice.name in REFERENCES]


@pytest.fixture(scope="module")
def engine(voices: list[Voice]) -> ShiftEngine:
    return ShiftEngine(voices, 9)


@pytest.fixture(scope="module")
def streamed(engine: ShiftEngine) -> Streamed:
    """A recording through a session of its own, once for all who look at the same: all of them side by side."""
    outs = dict(zip(PAIRS, side_by_side(engine, PAIRS), strict=True))
    return lambda path, voice: outs[path, voice]


def side_by_side(engine: Engine, pairs: list[tuple[Path, str]], seconds: float | None = None) -> list[Pcm]:
    """What ``stream`` gives of each recording (of its first ``seconds``) in its voice, all in one pool."""
    pool = StreamPool(engine, len(pairs))
    waves = [read_pcm(path)[: None if seconds is None else int(seconds * 16_000)] for path, _ in pairs]
    size, delay = pool.geometry.block_samples_in, pool.geometry.delay_ms * 16
    count = -(-(max(map(len, waves)) + delay) // size)
    padded = [np.pad(wave, (0, count * size - len(wave))) for wave in waves]
    slots = [pool.open(voice) for _, voice in pairs]
    steps = [
        pool.step(slots, [wave[at : at + size] for wave in padded], steps=1) for at in range(0, count * size, size)
    ]
    for slot in slots:
        pool.close(slot)
    return [
        np.concatenate([step.blocks[row].samples for step in steps])[delay:][: len(wave)]
        for row, wave in enumerate(waves)
    ]


@pytest.fixture(scope="module")
def at_once(engine: ShiftEngine) -> Streamed:
    """A recording converted as a whole."""
    return cache(lambda path, voice: whole(engine, voice, read_pcm(path)))


@cache
def pitch_of(voice: str) -> float:
    return median_f0_hz(read_pcm(VOICES / f"{voice}.flac"))


def as_wave(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_pcm(path).astype(np.float32) / 32768)


def window_at(wave: torch.Tensor, end: int, geometry: Geometry = DEFAULT_GEOMETRY) -> torch.Tensor:
    """The window that ends at sample ``end``, with silence before the wave's start."""
    padded = torch.cat((torch.zeros(geometry.window_samples), wave))
    return padded[end : end + geometry.window_samples]


@pytest.mark.parametrize("path", [WOMAN, MAN, ITALIAN_MAN], ids=lambda path: path.stem)
def test_our_f0_agrees_with_praat(path: Path) -> None:
    correlation = pitch.correlate(as_wave(path)[None])
    f0, voiced = pitch.track(correlation, torch.zeros(1))
    usual = pitch.median_hz(pitch.histogram(f0, voiced))
    assert float(usual) == pytest.approx(median_f0_hz(read_pcm(path)), rel=0.03)


def test_a_steady_tone_is_tracked_to_a_third_of_a_percent() -> None:
    at = torch.arange(16_000) / 16_000
    hz = torch.tensor([70.0, 110.0, 223.0, 410.0])
    tones = sum(torch.sin(2 * torch.pi * hz[:, None] * k * at) / k for k in (1, 2, 3))
    f0, voiced = pitch.track(pitch.correlate(0.2 * tones), torch.zeros(4))
    assert voiced.all()
    assert torch.allclose(f0, hz[:, None].expand_as(f0), rtol=3e-3)


def test_noise_and_silence_are_unvoiced() -> None:
    noise = torch.stack((torch.randn(16_000, generator=torch.Generator().manual_seed(1)) * 0.1, torch.zeros(16_000)))
    _, voiced = pitch.track(pitch.correlate(noise), torch.zeros(2))
    assert voiced.float().mean() < 0.02


def test_unvoiced_sound_passes_unchanged_whatever_the_shift() -> None:
    noise = torch.randn(1, 9_600, generator=torch.Generator().manual_seed(1)) * 0.1
    frames = pitch.frames_of(9_600)
    shift = psola.Shift(torch.tensor([1.8]), torch.tensor([1.8]), (0, 1), torch.tensor([1.2]), torch.ones(1))
    f0 = torch.full((1, frames), 120.0)
    out, _ = psola.synthesise(noise, f0, f0 < 0, shift, torch.zeros(1), 3_000, 3_000, 9_000)
    assert torch.allclose(out, noise[:, 3_000:9_000], atol=1e-5)


@pytest.mark.parametrize(("path", "voice"), PAIRS)
def test_the_output_speaks_at_the_references_pitch(
    streamed: Streamed, at_once: Streamed, path: Path, voice: str
) -> None:
    assert median_f0_hz(streamed(path, voice)) == pytest.approx(pitch_of(voice), rel=0.10)
    assert median_f0_hz(at_once(path, voice)) == pytest.approx(pitch_of(voice), rel=0.05)


@pytest.mark.parametrize(("path", "voice"), [(WOMAN, "carlo"), (MAN, "june")])
def test_the_words_are_kept(streamed: Streamed, path: Path, voice: str) -> None:
    """Measured: all of the first sentence's twelve words in every voice."""
    assert words_kept(streamed(path, voice)[: int(FIRST_S * 16_000)], FIRST_SENTENCE) >= 0.85


@pytest.mark.parametrize("block_ms", [100, 200, 1000])
def test_block_borders_cannot_be_told_from_the_rest(voices: list[Voice], block_ms: int) -> None:
    geometry = Geometry.from_ms(block_ms=block_ms, left_ms=720)
    engine = ShiftEngine(voices, 2, geometry=geometry)
    for out in side_by_side(engine, [(WOMAN, "carlo"), (MAN, "allison")]):
        excess_db = border_excess_db(out, geometry)
        assert excess_db < 1.5
        cut_db = border_excess_db(with_cuts(out, geometry), geometry)
        assert cut_db > excess_db + 1.5, "the measure must see a gap of 4 ms"


def with_cuts(pcm: Pcm, geometry: Geometry) -> Pcm:
    cut, block = pcm.copy(), geometry.block_samples_in
    for border in range(2 * block - geometry.delay_ms * 16, len(cut) - 64, block):
        cut[border : border + 64] = 0
    return cut


def test_a_stream_sounds_like_the_whole_file_converted_at_once(streamed: Streamed, at_once: Streamed) -> None:
    settled = slice(2 * 16_000, None)  # the stream has learnt the caller's pitch and colour by then
    ours, wanted = streamed(WOMAN, "carlo")[settled], at_once(WOMAN, "carlo")[settled]
    assert active_level_db(ours) == pytest.approx(active_level_db(wanted), abs=1.0)
    assert median_f0_hz(ours) == pytest.approx(median_f0_hz(wanted), rel=0.03)
    difference = np.abs(bands_db(ours) - bands_db(wanted))
    assert difference.mean() < 1.0


def bands_db(pcm: Pcm) -> np.ndarray:
    """Level of each 500 Hz up to 7 kHz, over everything."""
    frames = pcm[: len(pcm) // 512 * 512].reshape(-1, 512) / 32768 * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0)
    return 10 * np.log10(power[: 16 * 14].reshape(14, 16).mean(axis=1))


def test_the_colour_moves_towards_the_reference(at_once: Streamed) -> None:
    target = bands_db(read_pcm(VOICES / "carlo.flac"))
    before, after = (bands_db(sound) - target for sound in (read_pcm(WOMAN), at_once(WOMAN, "carlo")))
    assert np.std(after) < 0.6 * np.std(before)


def test_loudness_is_kept_and_nothing_clips(streamed: Streamed) -> None:
    for path, voice in ((WOMAN, "carlo"), (MAN, "june")):
        pcm, out = read_pcm(path), streamed(path, voice)
        assert active_level_db(out) == pytest.approx(active_level_db(pcm), abs=1.0)
        assert np.abs(out.astype(int)).max() < 0.7 * 32768


def batch_of(slots: list[int], window: torch.Tensor) -> Batch:
    return Batch(torch.tensor(slots), window, torch.zeros(len(slots), dtype=torch.int64), steps=1)


def test_a_row_does_not_depend_on_its_neighbours(voices: list[Voice]) -> None:
    waves = [as_wave(path) for path in (WOMAN, MAN, ITALIAN_MAN)]
    together, alone = ShiftEngine(voices, 8), ShiftEngine(voices, 8)
    names = list(together.voices)
    for slot in range(7):
        together.open(slot, names[slot % 3], SessionOptions(), 0)
    alone.open(5, names[5 % 3], SessionOptions(), 0)
    block = DEFAULT_GEOMETRY.block_samples_in
    for step in range(1, 12):
        if step == 5:
            together.open(
                7, names[1], SessionOptions(), 0
            )  # a newcomer learns from its whole window, the others do not
        slots = [slot for slot in range(8) if slot < 7 or step >= 5]
        windows = torch.stack([window_at(waves[slot % 3], step * block + slot * 4_000) for slot in slots])
        batch, _ = together.convert(batch_of(slots, windows))
        single, _ = alone.convert(batch_of([5], windows[5:6]))
        assert batch.shape == (len(slots), DEFAULT_GEOMETRY.engine_samples)
        assert torch.allclose(batch[5], single[0], atol=1e-3)


def test_a_reopened_row_remembers_nothing(engine: ShiftEngine) -> None:
    window = window_at(as_wave(WOMAN), 16_000)[None]
    engine.open(3, "carlo", SessionOptions(), 0)
    first, _ = engine.convert(batch_of([3], window))
    engine.convert(batch_of([3], window_at(as_wave(MAN), 16_000)[None]))
    engine.close(3)
    engine.open(3, "carlo", SessionOptions(), 0)
    again, _ = engine.convert(batch_of([3], window))
    assert torch.equal(first, again)


def test_the_same_sound_in_two_windows_has_its_pulses_in_the_same_places(engine: ShiftEngine) -> None:
    """Settled, a window begins as the last one ended, up to a shift of some milliseconds: phase is carried over."""
    wave, geometry = as_wave(WOMAN), engine.geometry
    engine.open(0, "carlo", SessionOptions(), 0)
    overlap = geometry.crossfade_samples + geometry.search_samples
    agreement, last = [], None
    for step in range(1, 30):
        out, _ = engine.convert(batch_of([0], window_at(wave, step * geometry.block_samples_in)[None]))
        if last is not None and last.std() > 0.01:
            agreement.append(float(torch.nn.functional.cosine_similarity(last, out[0, :overlap], dim=0)))
        last = out[0, -overlap:]
    assert np.median(agreement) > 0.9


def test_silence_converts_to_silence(engine: ShiftEngine) -> None:
    engine.open(0, "carlo", SessionOptions(), 0)
    out, _ = engine.convert(batch_of([0], torch.zeros(1, engine.geometry.window_samples)))
    assert not out.any()


def test_hostile_sound_gives_finite_bounded_output(engine: ShiftEngine) -> None:
    samples = engine.geometry.window_samples
    at = torch.arange(samples)
    square = torch.where(at // 40 % 2 == 0, 1.0, -1.0)
    click = torch.zeros(samples).index_fill(0, torch.tensor([samples // 2]), 1.0)
    noise = torch.rand(samples, generator=torch.Generator().manual_seed(1)) * 2 - 1
    window = torch.stack((square, click, noise, torch.ones(samples), torch.sin(at * at / 2e4)))
    for slot in range(5):
        engine.open(slot, "june", SessionOptions(), 0)
    for _ in range(3):
        out, _ = engine.convert(batch_of([0, 1, 2, 3, 4], window))
        assert out.isfinite().all()
        assert out.abs().max() < 8


def test_a_voice_that_a_session_brings_is_its_own_alone(voices: list[Voice]) -> None:
    engine = ShiftEngine(voices, 3, guests=True)
    window = window_at(as_wave(WOMAN), 16_000)[None]
    engine.open(0, "carlo", SessionOptions(), 0)
    engine.open(1, "clip:1", SessionOptions(), 0, (VOICES / "carlo.flac").read_bytes())
    engine.open(2, "clip:2", SessionOptions(), 0, (VOICES / "june.flac").read_bytes())
    out, _ = engine.convert(batch_of([0, 1, 2], window.repeat(3, 1)))
    assert torch.allclose(out[0], out[1], atol=1e-4)
    assert not torch.allclose(out[1], out[2], atol=1e-2)
    with pytest.raises(VoiceError):
        engine.open(0, "clip:3", SessionOptions(), 0, b"no sound")


def test_unknown_voices_and_unfit_references_and_geometries_are_refused(
    tmp_path: Path, engine: ShiftEngine, voices: list[Voice]
) -> None:
    with pytest.raises(KeyError):
        engine.open(0, "nobody", SessionOptions(), 0)
    with pytest.raises(ValueError, match="puts out 16000 Hz"):
        ShiftEngine(voices, 1, geometry=Geometry.from_ms(block_ms=200, left_ms=720, output_rate=22_050))
    with pytest.raises(ValueError, match="left context"):
        ShiftEngine(voices, 1, geometry=Geometry.from_ms(block_ms=200, left_ms=40))
    soundfile.write(tmp_path / "hiss.wav", np.random.default_rng(1).standard_normal(32_000) * 0.1, 16_000)
    with pytest.raises(VoiceError, match="voice 'hiss': no voiced speech"):
        ShiftEngine([Voice("hiss", "", tmp_path / "hiss.wav")], 1)
