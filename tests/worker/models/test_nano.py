"""The bundled model: its parts, its file, and what its conversions reach."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.quality.conversions import Files
from tools.train.corpus import read
from worker.models.nano.model import NANO_DIT, WEIGHTS, NanoNetworks, blank, load_nano, save_nano
from worker.models.nano.networks import load_bundled
from worker.models.nano.vocoder import pulses
from worker.models.published.mel import NANO, MelSpectrogram
from worker.models.seedvc.dit import DiT
from worker.models.weights.checkpoints import CheckpointError
from worker.pitch import AutocorrelationTracker

ROOT = Path(__file__).parents[3]
MAN = ROOT / "tests/data/male_english.flac"  # a synthetic voice that the model has never heard
VOICES = ROOT / "worker/assets/voices"
MOST_BYTES = 20_000_000


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
    assert content.shape == (2, 120, 256)
    assert torch.allclose(content.sum(-1), torch.ones(2, 120), atol=1e-5)
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
    """A frame of 20 ms is the same once 120 ms after it are known, but for the window's loudest point."""
    whole, cut = nano.content(speech), nano.content(speech[:, :32_000])
    known = 100 - 6
    assert float((whole[:, :known] - cut[:, :known]).abs().sum(-1).mean()) < 0.02


def test_pulses_have_the_pitch_they_are_given():
    wave = pulses(torch.full((1, 125), 125.0))[0]
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    hz = torch.fft.rfftfreq(len(wave), 1 / NANO.rate)
    assert float(hz[spectrum.argmax()]) % 125 == pytest.approx(0, abs=0.5)
    assert float(wave.square().mean()) == pytest.approx(1, rel=0.05)
    assert not pulses(torch.zeros(1, 10)).any()


def test_a_direct_network_says_the_mel_and_the_velocity_leads_there():
    torch.manual_seed(0)
    direct = DiT(NANO_DIT).eval()
    plain = DiT(replace(NANO_DIT, direct=False)).eval()
    plain.load_state_dict(direct.state_dict())
    x, prompt, style = torch.randn(2, 80, 9), torch.randn(2, 80, 9), torch.randn(2, 256)
    mu, t = torch.randn(2, 9, 192), torch.tensor([0.0, 0.6])
    with torch.inference_mode():
        velocity = direct(x, prompt, None, t, style, mu)
        mel = plain(x, prompt, None, t, style, mu)
    assert torch.allclose(x + (1 - t)[:, None, None] * velocity, mel, atol=1e-5)


@torch.inference_mode()
def test_convolutions_start_as_nothing_and_see_no_padding():
    torch.manual_seed(0)
    mixing, plain = DiT(NANO_DIT).eval(), DiT(replace(NANO_DIT, kernel=0)).eval()
    plain.load_state_dict({key: value for key, value in mixing.state_dict().items() if ".mix." not in key})
    x, prompt, style = torch.randn(2, 80, 12), torch.randn(2, 80, 12), torch.randn(2, 256)
    mu, t, lens = torch.randn(2, 12, 192), torch.tensor([0.3, 0.6]), torch.tensor([12, 7])
    assert torch.allclose(mixing(x, prompt, None, t, style, mu), plain(x, prompt, None, t, style, mu), atol=1e-4)
    for block in mixing.transformer.layers:
        torch.nn.init.normal_(block.mix.conv.weight, std=0.3)
    together = mixing(x, prompt, lens, t, style, mu)
    for row, length in enumerate(lens.tolist()):
        one = slice(row, row + 1)
        alone = mixing(x[one, :, :length], prompt[one, :, :length], None, t[one], style[one], mu[one, :length])
        assert torch.allclose(together[row, :, :length], alone[0], atol=1e-4)


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
    began = time.perf_counter()
    output = Files(load_bundled()).convert(MAN, VOICES / "june.flac")
    assert time.perf_counter() - began < 15
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
