"""Stage ``vocoder``: waves back from their own mels, by spectral distance at several resolutions.

Yamamoto, Song & Kim, "Parallel WaveGAN" (2020), for the distance. Pitch and noise are given, so there is no phase to
guess and nothing adversarial is needed to keep it from buzzing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.train.corpus import RATE, load
from tools.train.features import Store, resampled
from tools.train.loop import Budget, train
from worker.models.nano.vocoder import NanoVocoder, start_from_prototype
from worker.models.published.mel import NANO, MelSpectrogram, hann

BATCH, FRAMES = 10, 48
PERCENTS = (80, 90, 100, 100, 100, 110, 122)
GAIN_DB = (-12.0, 4.0)
RESOLUTIONS = (256, 512, 1024, 2048)
MARGIN_FRAMES = 3  # cut off at both ends, where windows see the crop's edge
FLOOR = 3e-4


def build(out: Path, budget: Budget, warm: Path | None = None) -> None:
    """Train and write ``out/vocoder.pt``. warm: weights of an earlier vocoder of the same form."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = NanoVocoder()
    if warm is not None:
        start_from_prototype(network, torch.load(warm, weights_only=True, map_location="cpu"))
    sampler = Sampler(out, rng)

    def loss(step: int) -> dict[str, Tensor]:
        wave, mel, f0 = sampler.batch()
        made = network(mel, f0, torch.randn_like(wave))
        inner = slice(MARGIN_FRAMES * NANO.hop, -MARGIN_FRAMES * NANO.hop)
        return {"loss": spectral_distance(made[:, inner], wave[:, inner])}

    rate = 1e-3 if warm is None else 3e-4
    train("vocoder", nn.ModuleDict({"vocoder": network}), loss, budget, out, rate=rate, average=0.995)


class Sampler:
    """Crops of any speaker, at any of the resampled pitches, at any level."""

    def __init__(self, out: Path, rng: np.random.Generator) -> None:
        self.store, self.rng, self.mel = Store(out), rng, MelSpectrogram(NANO)
        self.waves = {speaker.name: speaker.wave for speaker in load(out)}

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Waves ``[B, 256 T]``, their mels ``[B, 80, T]`` and f0 ``[B, T]`` in Hz."""
        rows = [self.row(str(name)) for name in self.rng.choice(self.store.names, BATCH, p=self.store.weights())]
        wave = torch.from_numpy(np.stack([row[0] for row in rows]))
        return wave, self.mel(wave), torch.from_numpy(np.stack([row[1] for row in rows]))

    def row(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        percent = int(self.rng.choice(PERCENTS))
        whole, count = self.waves[name], FRAMES * NANO.hop
        needed = count * percent // 100 + 1
        begin = int(self.rng.integers(0, max(1, len(whole) - needed)))
        wave = resampled(whole[begin : begin + needed], percent)[:count]
        wave = np.pad(wave, (0, count - len(wave))) * np.float32(10 ** (self.rng.uniform(*GAIN_DB) / 20))
        track = self.store.get(name, "f0")
        centres = begin + (np.arange(FRAMES) + 0.5) * NANO.hop * percent / 100
        at = np.clip(np.round(centres / (RATE / 100)).astype(int), 0, len(track) - 1)
        return wave.astype(np.float32), (track[at] * percent / 100).astype(np.float32)


def spectral_distance(made: Tensor, wave: Tensor) -> Tensor:
    """Mean distance of log and of linear magnitudes over ``RESOLUTIONS``, of waves ``[B, n]``."""
    total = wave.new_zeros(())
    for size in RESOLUTIONS:
        window = hann(size)
        a, b = (torch.stft(x, size, size // 4, window=window, return_complex=True).abs() for x in (made, wave))
        total = total + ((a + FLOOR).log() - (b + FLOOR).log()).abs().mean()
        total = total + (a - b).abs().mean() / (b.mean() + 1e-3)
    return total / len(RESOLUTIONS)
