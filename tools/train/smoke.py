"""Stand-ins that let every stage run where neither corpora nor teachers are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import worker
from tools.train.corpus import RATE, Speaker, Wave, read, save, squeeze
from worker.models.published.mel import MelConfig, MelSpectrogram

ASSETS = Path(worker.__file__).parent / "assets"
SPEECH_S = 12


def speakers(out: Path) -> None:
    """The bundled recordings as speakers, a few seconds each."""
    for path in sorted(ASSETS.glob("*/*.flac")):
        wave = squeeze(read(path))
        if wave is not None:
            save(out, Speaker(path.stem, wave[: SPEECH_S * RATE]))


class Teacher:
    """Frames as a Whisper encoder's in number and width, with nothing learnt in them."""

    def __init__(self) -> None:
        self._mel = MelSpectrogram(MelConfig(rate=RATE, n_fft=1024, hop=320, bins=80, fmax=8000.0))
        self._mix = np.random.default_rng(0).normal(size=(80, 384)).astype(np.float32)

    def features(self, wave: Wave) -> Wave:
        mel = self._mel(torch.from_numpy(wave)[None])[0].T.numpy()
        return np.asarray(np.tanh(0.1 * (mel + 5) @ self._mix), np.float32)


class Judge:
    """A unit vector of the mean spectrum instead of a speaker embedding."""

    def __init__(self) -> None:
        self._mel = MelSpectrogram(MelConfig(rate=RATE, n_fft=1024, hop=320, bins=256, fmax=8000.0))

    def embed(self, wave: Wave) -> Wave:
        mean = self._mel(torch.from_numpy(wave)[None])[0].mean(dim=-1).numpy()
        return np.asarray(mean / np.linalg.norm(mean), np.float32)
