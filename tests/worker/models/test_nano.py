"""The bundled model: its parts, its file, and what its conversions reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.quality.conversions import Files
from tools.train.corpus import read
from worker.engines.diffusion.offline import ConversionOptions, FileConverter
from worker.engines.diffusion.prompts import make_prompt
from worker.models.nano.content import LOUDNESS_SCALE
from worker.models.nano.decoder import NanoDecoder
from worker.models.nano.model import WEIGHTS, NanoNetworks, blank, load_nano, save_nano
from worker.models.nano.networks import load_bundled
from worker.models.nano.regulator import NanoRegulator, nearest
from worker.models.nano.vocoder import pulses
from worker.models.published.mel import NANO, MelSpectrogram
from worker.models.weights.checkpoints import CheckpointError
from worker.pitch import AutocorrelationTracker, histogram
from worker.pitch import median_hz as median_of
from worker.recordings import Recording
from worker.voices import Voice

ROOT = Path(__file__).parents[3]
MAN = ROOT / "tests/data/male_english.flac"  # a synthetic voice that the model has never heard
VOICES = ROOT / "worker/assets/voices"
MOST_BYTES = 40_000_000
BREATH_DBFS, QUIET_DBFS = -47.0, -45.0


@pytest.fixture(scope="module")
def nano() -> NanoNetworks:
    return load_nano()


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Two stretches of 2.4 s, ``[2, n]``."""
    wave = read(MAN)
    return torch.from_numpy(np.stack([wave[:38_400], wave[38_400:76_800]]))


def test_its_file_is_small(nano: NanoNetworks):
    assert WEIGHTS.stat().st_size <= MOST_BYTES
    assert all(not part.training for part in nano.parts().values())


@torch.inference_mode()
def test_shapes(nano: NanoNetworks, speech: Tensor):
    content = nano.content(speech)
    assert content.shape == (2, 120, nano.content.config.output)
    style = nano.style(speech)
    assert style.shape == (2, 256)
    assert torch.allclose(style.norm(dim=-1), torch.ones(2), atol=1e-5)
    mel = MelSpectrogram(NANO)(speech)
    wave = nano.vocoder(mel, torch.full((2, 150), 120.0), torch.randn(2, 38_400))
    assert wave.shape == (2, 38_400)


@torch.inference_mode()
def test_a_batch_gives_each_row_what_it_gets_alone(nano: NanoNetworks, speech: Tensor):
    mel, f0, noise = MelSpectrogram(NANO)(speech), torch.full((2, 150), 120.0), torch.randn(2, 38_400)
    for part, inputs in (
        (nano.content, (speech,)),
        (nano.style, (speech,)),
        (nano.vocoder, (mel, f0, noise)),
    ):
        together = part(*inputs)
        for row in range(2):
            alone = part(*(x[row : row + 1] for x in inputs))
            assert torch.allclose(together[row], alone[0], atol=1e-4), type(part).__name__


@torch.inference_mode()
def test_content_hears_little_of_the_future(nano: NanoNetworks, speech: Tensor):
    """A frame of 20 ms is the same once 160 ms after it are known, but for the window's loudest point."""
    whole, cut = nano.content(speech), nano.content(speech[:, :32_000])
    known = 100 - 8
    assert float((whole[:, :known] - cut[:, :known]).abs().mean()) < 0.02 * float(whole.abs().mean())


@torch.inference_mode()
def test_loudness_goes_beside_the_content(nano: NanoNetworks, speech: Tensor):
    loud, quiet = nano.content(speech)[..., -1], nano.content(0.1 * speech)[..., -1]
    assert float((loud - quiet).median()) == pytest.approx(2 / LOUDNESS_SCALE, abs=0.01)


def test_pulses_have_the_pitch_they_are_given():
    wave = pulses(torch.full((1, 125), 125.0))[0]
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    hz = torch.fft.rfftfreq(len(wave), 1 / NANO.rate)
    assert float(hz[spectrum.argmax()]) % 125 == pytest.approx(0, abs=0.5)
    assert float(wave.square().mean()) == pytest.approx(1, rel=0.05)
    assert not pulses(torch.zeros(1, 10)).any()


@torch.inference_mode()
def test_rows_of_unequal_length_get_what_they_get_alone():
    torch.manual_seed(0)
    regulator, decoder = NanoRegulator().eval(), NanoDecoder().eval()
    content, f0 = torch.randn(2, 40, 65), 200 * torch.rand(2, 80)
    lens, content_lens = torch.tensor([50, 35]), torch.tensor([40, 28])
    condition = regulator(content, 50, target_lens=lens, content_lens=content_lens, f0=f0, f0_lens=2 * content_lens)
    mel, heard, style = torch.randn(2, 80, 30), torch.randn(2, 30, 256), torch.randn(2, 256)
    memory_lens = torch.tensor([20, 30])
    memory = decoder.remember(mel, heard, style, memory_lens)
    together = decoder(condition, style, memory, memory_lens, lens)
    for row in range(2):
        one, length, known = slice(row, row + 1), int(lens[row]), int(memory_lens[row])
        units = int(content_lens[row])
        own = regulator(content[one, :units], length, f0=f0[one, : 2 * units])
        assert torch.allclose(condition[one, :length], own, atol=1e-5)
        remembered = decoder.remember(mel[one, :, :known], heard[one, :known], style[one])
        assert torch.allclose(memory[one, :, :, :known], remembered, atol=1e-4)
        alone = decoder(own, style[one], remembered)
        assert torch.allclose(together[one, :, :length], alone, atol=1e-4)


@torch.inference_mode()
def test_pitch_lies_where_the_frames_lie():
    regulator = NanoRegulator()
    f0 = torch.where(torch.arange(80) < 40, 100.0, 200.0)[None]
    at = nearest(f0, torch.tensor([80]), torch.tensor([50]), 50)
    assert at[0, :25].eq(100).all()
    assert at[0, 25:].eq(200).all()
    assert regulator(torch.zeros(1, 40, 65), 50).shape == (1, 50, 256)


def test_a_breath_stays_as_quiet_as_it_is(tmp_path: Path):
    """Not as loud as speech, which a norm over the window made of it."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.normal(size=32_000))
    spectrum[5000:] *= 0.1
    breath = np.fft.irfft(spectrum) * np.sin(np.linspace(0, np.pi, 32_000))
    breath *= 10 ** (BREATH_DBFS / 20) / np.sqrt((breath**2).mean())
    soundfile.write(tmp_path / "breath.wav", breath, 16_000)
    networks = load_bundled()
    files = Files(networks)
    converter = FileConverter(
        files.pipeline,
        make_prompt(files.pipeline, Voice("june", "", VOICES / "june.flac"), 3.0),
        ConversionOptions(steps=1, window_s=6.0, follow_loudness=False),
    )
    pieces: list[np.ndarray] = []
    converter.convert([Recording(tmp_path / "breath.wav")], lambda _, piece: pieces.append(piece))
    output = np.concatenate(pieces)
    assert 10 * np.log10((output**2).mean() + 1e-12) < QUIET_DBFS


@pytest.mark.parametrize("hz", [80, 150, 300, 450, 620])
def test_pitch_is_right_up_to_a_childs(hz: int):
    """A reference that it took for an octave lower would be spoken an octave lower."""
    wave = 0.1 * pulses(torch.full((1, 125), float(hz)))
    f0 = AutocorrelationTracker()(wave)[0]
    assert float(f0[f0 > 0].median()) == pytest.approx(hz, rel=0.02)
    counts = histogram(f0[None].clamp(min=60), f0[None] > 0)
    assert float(median_of(counts)) == pytest.approx(hz, rel=0.03)


def test_weights_survive_their_file(tmp_path: Path):
    networks = blank()
    save_nano(networks, tmp_path / "nano.safetensors")
    loaded = load_nano(tmp_path / "nano.safetensors")
    for name, part in networks.parts().items():
        for key, value in part.state_dict().items():
            assert torch.allclose(loaded.parts()[name].state_dict()[key], value, atol=2e-3), key


def test_a_file_of_other_weights_is_refused(tmp_path: Path):
    path = tmp_path / "nano.safetensors"
    save_nano(blank(), path)
    entries = load_file(path)
    entries.pop("vocoder.input.bias")
    save_file(entries, path)
    with pytest.raises(CheckpointError, match="vocoder"):
        load_nano(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a complete file"):
        load_nano(path)


def test_an_unknown_callers_conversion_has_the_targets_pitch_and_colour():
    source, target = read(MAN), read(VOICES / "june.flac")
    output = Files(load_bundled()).convert(MAN, VOICES / "june.flac")
    assert len(output) == len(source)
    assert np.isfinite(output).all()
    assert 0.01 < float(output.std()) < 0.5
    assert median_hz(output) == pytest.approx(median_hz(target), rel=0.1)
    assert distance(output, target) < distance(source, target)


def median_hz(wave: np.ndarray) -> float:
    f0 = AutocorrelationTracker()(torch.from_numpy(wave)[None])[0]
    return float(f0[f0 > 0].median())


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Of long-term spectra: mean log-mels of the louder half of the frames, level taken off."""
    spectra = []
    for wave in (one, other):
        mel = MelSpectrogram(NANO)(torch.from_numpy(wave)[None])[0]
        level = mel.mean(0)
        spectrum = mel[:, level >= level.median()].mean(1)
        spectra.append(spectrum - spectrum.mean())
    return float((spectra[0] - spectra[1]).abs().mean())
