"""A batch of unequal lengths gives each item what it gets alone. Small networks with random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from worker.models.published import bigvgan, campplus, fbank, hift, mel, rmvpe, whisper, xlsr
from worker.models.published.ragged import by_length
from worker.models.seedvc import dit, flow, regulator

LENS = [37, 23, 30]
PROMPTS = [11, 5, 8]
DITS = {
    "tokens": dit.DiTConfig(mel_bins=8, width=128, depth=3, tokens=True, wavenet=False),
    "adaptive": dit.DiTConfig(mel_bins=8, width=128, depth=3, tokens=False, wavenet=False),
    "wavenet": dit.DiTConfig(mel_bins=8, width=128, depth=3, tokens=False, wavenet=True),
}


def ready(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def close(ours: Tensor, expected: Tensor) -> None:
    assert_close(ours, expected, atol=2e-5, rtol=1e-4)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", DITS)
def test_dit(kind: str) -> None:
    config = DITS[kind]
    network = ready(dit.DiT(config))
    lens = torch.tensor(LENS)
    x, prompt = torch.randn(2, 3, 8, 37).unbind()
    style, mu, t = torch.randn(3, 192), torch.randn(3, 37, 128), torch.rand(3)
    batch = network(x, prompt, lens, t, style, mu)
    for i, n in enumerate(LENS):
        item = slice(i, i + 1)
        alone = network(x[item, :, :n], prompt[item, :, :n], None, t[item], style[item], mu[item, :n])
        close(batch[item, :, :n], alone)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("kind", DITS)
def test_solver(kind: str, guidance: float) -> None:
    solve = flow.FlowSolver(ready(dit.DiT(DITS[kind])), steps=3, guidance=guidance)  # type: ignore[arg-type]
    noise, mu, style = torch.randn(3, 8, 37), torch.randn(3, 37, 128), torch.randn(3, 192)
    prompt = torch.randn(3, 8, 11)
    batch = solve(noise, mu, prompt, style, torch.tensor(LENS), torch.tensor(PROMPTS))
    for i, (n, p) in enumerate(zip(LENS, PROMPTS, strict=True)):
        item = slice(i, i + 1)
        alone = solve(noise[item, :, :n], mu[item, :n], prompt[item, :, :p], style[item])
        close(batch[item, :, :n], alone)
        assert not batch[i, :, :p].any()
        assert not batch[i, :, n:].any()


def test_solver_leaves_its_noise_alone() -> None:
    solve = flow.FlowSolver(ready(dit.DiT(DITS["tokens"])), steps=2)  # type: ignore[arg-type]
    noise = torch.randn(1, 8, 20)
    before = noise.clone()
    solve(noise, torch.randn(1, 20, 128), torch.randn(1, 8, 4), torch.randn(1, 192))
    assert torch.equal(noise, before)


@pytest.mark.parametrize("pitch", [False, True])
def test_regulator(pitch: bool) -> None:
    network = ready(regulator.LengthRegulator(regulator.RegulatorConfig(16, 32, pitch)))
    content, f0 = torch.randn(3, 20, 16), torch.rand(3, 41) * 400
    sources, targets, f0_lens = [20, 13, 17], [34, 30, 11], [41, 26, 35]
    batch = network(
        content,
        34,
        target_lens=torch.tensor(targets),
        content_lens=torch.tensor(sources),
        f0=f0 if pitch else None,
        f0_lens=torch.tensor(f0_lens),
    )
    for i, (n, m, k) in enumerate(zip(sources, targets, f0_lens, strict=True)):
        item = slice(i, i + 1)
        alone = network(content[item, :n], m, f0=f0[item, :k] if pitch else None)
        close(batch[item, :m], alone)
        assert not batch[i, m:].any()


def test_regulator_bins() -> None:
    bins = regulator.f0_bins(torch.tensor([0.0, 50.0, 1100.0, 1102.0, 1105.0, 1200.0]))
    assert bins.tolist() == [1, 1, 255, 255, 0, 0]


def test_xlsr() -> None:
    config = xlsr.XlsrConfig(conv_width=16, width=32, heads=4, inner=64, depth=2)
    network = ready(xlsr.Xlsr(config))
    lens = torch.tensor([6400, 4321, 5440])
    wave = torch.randn(3, 6400) * torch.tensor([[0.1], [0.5], [1.0]]) + 0.3
    batch = network(wave, lens)
    for i, n in enumerate(lens.tolist()):
        alone = network(wave[i : i + 1, :n])
        assert alone.shape[1] == (n - 400) // 320 + 1
        close(batch[i : i + 1, : alone.shape[1]], alone)


def test_whisper() -> None:
    network = ready(whisper.WhisperEncoder(whisper.WhisperConfig(width=32, heads=4, inner=64, depth=2)))
    features = whisper.WhisperMel()
    lens = torch.tensor([6400, 4000])
    wave = torch.randn(2, 6400) * torch.tensor([[0.1], [0.9]])
    batch = network(features(wave, lens), 6400)
    for i, n in enumerate(lens.tolist()):
        alone = network(features(wave[i : i + 1, :n]), n)
        assert alone.shape[1] == n // 320 + 1
        close(batch[i : i + 1, : alone.shape[1]], alone)


def test_whisper_refuses_more_than_it_hears() -> None:
    with pytest.raises(ValueError, match="30 s"):
        whisper.WhisperMel()(torch.zeros(1, 30 * 16_000 + 1))


@pytest.mark.parametrize("config", [mel.TINY, mel.SMALL, mel.BASE], ids=["tiny", "small", "base"])
def test_front_ends_do_not_mix_items(config: mel.MelConfig) -> None:
    front = mel.MelSpectrogram(config)
    wave = torch.randn(3, 4000) * 0.1
    batch = front(wave)
    assert batch.shape == (3, config.bins, 4000 // config.hop)
    close(batch[1:2], front(wave[1:2]))


def test_fbank_does_not_mix_items() -> None:
    front = fbank.KaldiFbank()
    wave = torch.randn(3, 4000) * 0.1
    close(front.centred(wave)[1:2], front.centred(wave[1:2]))


def test_vocoders_do_not_mix_items() -> None:
    spectrum = torch.randn(2, 8, 6)
    gan = ready(bigvgan.BigVgan(bigvgan.BigVganConfig(8, rates=(4, 2), kernels=(8, 4), channels=32)))
    close(gan(spectrum)[1:], gan(spectrum[1:]))
    harmonic = ready(hift.Hift(hift.HiftConfig(mel_bins=8, channels=32)))
    draws = {"phase": torch.zeros(2, 9, 1), "noise": torch.randn(2, 9, 6 * 256), "f0": torch.full((2, 6), 150.0)}
    batch = harmonic(spectrum, **draws)
    assert batch.shape == (2, 6 * 256)
    close(batch[1:], harmonic(spectrum[1:], **{name: value[1:] for name, value in draws.items()}))


def test_by_length_runs_each_item_alone() -> None:
    network = ready(campplus.CamPlus(campplus.CamPlusConfig(channels=4, layers=(1, 2, 1))))
    features = torch.randn(3, 60, 80)
    lens = torch.tensor([60, 41, 60])
    batch = by_length(network, features, lens, dim=1)
    for i, n in enumerate(lens.tolist()):
        close(batch[i], network(features[i : i + 1, :n])[0])


def test_rmvpe_pads_any_length() -> None:
    assert rmvpe.RmvpeMel()(torch.randn(2, 1601)).shape == (2, 128, 11)
    assert rmvpe.decode_f0(torch.zeros(2, 3, 360)).tolist() == [[0.0] * 3] * 2
    salience = torch.zeros(1, 1, 360)
    salience[..., 0] = 1.0
    close(rmvpe.decode_f0(salience), torch.tensor([[10 * 2 ** (rmvpe.CENTS_OFFSET / 1200)]]))


@pytest.mark.parametrize(("steps", "schedule"), [(0, "linear"), (3, "sigmoid")])
def test_solver_refuses_what_it_does_not_know(steps: int, schedule: str) -> None:
    network = ready(dit.DiT(replace(DITS["tokens"], depth=1)))
    with pytest.raises(ValueError, match=r"steps|schedule"):
        flow.FlowSolver(network, steps=steps, schedule=schedule)  # type: ignore[arg-type]
