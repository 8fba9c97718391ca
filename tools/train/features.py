"""Stage ``features``: what the networks are trained on, computed once and kept as memory maps.

Of each speaker, and of each of its resampled versions (pitch and formants moved together, which makes new speakers):
log-mels at both frame rates, and speaker embeddings. Of the original: f0, and the classes and principal components of
a Whisper encoder's features, from which the speaker's mean has been taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr
import torch
from loguru import logger
from tqdm import tqdm

from tools.train.corpus import RATE, Speaker, load
from tools.train.teachers import SpeakerEncoder, WhisperTiny
from worker.models.nano.style import STYLE_MEL
from worker.models.published.mel import NANO, MelConfig, MelSpectrogram
from worker.pitch import AutocorrelationTracker

PERCENTS = (80, 90, 100, 110, 122)  # of the original's pitch
CLASSES = 256
COMPONENTS = 64
ROUNDS = 15  # of k-means
SAMPLE_EVERY = 5  # frames
STYLE_SAMPLES, STYLE_S = 10, 3.2
CHUNK_FRAMES = 4000
MARGIN_FRAMES = 8

Array = npt.NDArray[np.float32]


class Teacher(Protocol):
    def features(self, wave: Array) -> Array: ...


class Judge(Protocol):
    def embed(self, wave: Array) -> Array: ...


def build(out: Path, teacher: Teacher | None = None, judge: Judge | None = None) -> None:
    """Write ``out/features/SPEAKER.*.npy`` and ``out/classes.npz``. None: Whisper-tiny, Resemblyzer."""
    folder = out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    teacher, judge = teacher or WhisperTiny(), judge or SpeakerEncoder()
    for speaker in tqdm(load(out), desc="features"):
        path = folder / f"{speaker.name}.f0.npy"
        if path.exists():
            continue
        for percent in PERCENTS:
            wave = resampled(speaker.wave, percent)
            np.save(folder / f"{speaker.name}.mel{percent}.npy", mel_frames(wave, NANO))
            np.save(folder / f"{speaker.name}.heard{percent}.npy", mel_frames(wave, STYLE_MEL))
            starts, styles = style_samples(judge, wave)
            np.save(folder / f"{speaker.name}.style{percent}.npy", styles)
            np.save(folder / f"{speaker.name}.style_at{percent}.npy", starts)
        np.save(folder / f"{speaker.name}.teacher.npy", teacher.features(speaker.wave).astype(np.float16))
        np.save(path, track_f0(speaker.wave))
    if not (out / "classes.npz").exists():
        classify(out)


def resampled(wave: Array, percent: int) -> Array:
    """Faster and higher, or slower and lower: a recording at ``percent`` of its pitch."""
    if percent == 100:
        return wave
    return np.asarray(soxr.resample(wave, RATE * percent / 100, RATE), np.float32)


def mel_frames(wave: Array, config: MelConfig) -> npt.NDArray[np.float16]:
    """Log-mel ``[T, bins]``, in pieces with margins."""
    spectrogram = MelSpectrogram(config)
    pieces = []
    for begin in range(0, len(wave) // config.hop, CHUNK_FRAMES):
        first = max(0, begin - MARGIN_FRAMES)
        piece = torch.from_numpy(wave[first * config.hop : (begin + CHUNK_FRAMES + MARGIN_FRAMES) * config.hop])
        if len(piece) <= config.n_fft:
            break
        pieces.append(spectrogram(piece[None])[0].T[begin - first :][:CHUNK_FRAMES].half().numpy())
    return np.concatenate(pieces)


def track_f0(wave: Array) -> Array:
    """Hz at 100 frames a second, by the tracker that serves."""
    tracker, pieces, piece = AutocorrelationTracker(), [], 60 * RATE
    for begin in range(0, len(wave), piece):
        first = max(0, begin - RATE)
        f0 = tracker(torch.from_numpy(wave[first : begin + piece + RATE])[None])[0].numpy()
        pieces.append(f0[(begin - first) // 160 :][: min(piece, len(wave) - begin) // 160])
    return np.concatenate(pieces)


def style_samples(judge: Judge, wave: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """Embeddings of stretches of 3.2 s, and the samples at which they begin."""
    length = int(STYLE_S * RATE)
    count = min(STYLE_SAMPLES, max(1, len(wave) // length))
    starts = np.linspace(0, max(0, len(wave) - length), count).astype(np.int64)
    return starts, np.stack([judge.embed(wave[start : start + length]) for start in starts])


def classify(out: Path) -> None:
    """Principal components and k-means of the teacher's features, each speaker's mean taken from them."""
    paths = sorted((out / "features").glob("*.teacher.npy"))
    centred = {path.name.split(".")[0]: np.load(path).astype(np.float32) for path in paths}
    for name, features in centred.items():
        centred[name] = features - features.mean(axis=0)
    sample = np.concatenate([features[::SAMPLE_EVERY] for features in centred.values()])
    scale = sample.std(axis=0)
    sample /= scale
    values, vectors = np.linalg.eigh(np.cov(sample.T))
    basis = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
    logger.info("{} components hold {:.0%} of the variance", COMPONENTS, values[::-1][:COMPONENTS].sum() / values.sum())
    points = sample @ basis
    rng = np.random.default_rng(0)
    centres = points[rng.choice(len(points), CLASSES, replace=len(points) < CLASSES)]
    for _ in tqdm(range(ROUNDS), desc="k-means"):
        nearest = assign(points, centres)
        for index in range(CLASSES):
            own = points[nearest == index]
            centres[index] = own.mean(axis=0) if len(own) else points[rng.integers(len(points))]
    deviation = np.sqrt(values[::-1][:COMPONENTS]).astype(np.float32)
    for name, features in centred.items():
        projected = features / scale @ basis
        np.save(out / "features" / f"{name}.classes.npy", assign(projected, centres).astype(np.int16))
        np.save(out / "features" / f"{name}.components.npy", (projected / deviation).astype(np.float16))
    np.savez(out / "classes.npz", centres=centres, basis=basis, scale=scale)


def assign(points: Array, centres: Array) -> npt.NDArray[np.int64]:
    """Index of the nearest centre of each point."""
    pieces = np.array_split(points, max(1, len(points) // 20_000))
    return np.concatenate([((centres**2).sum(axis=1) - 2 * piece @ centres.T).argmin(axis=1) for piece in pieces])


class Store:
    """Features of all speakers, opened once."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "features"
        self.names = [path.name.split(".")[0] for path in sorted(self._folder.glob("*.f0.npy"))]
        self._open: dict[str, npt.NDArray[np.generic]] = {}

    def get(self, name: str, kind: str) -> npt.NDArray[np.generic]:
        key = f"{name}.{kind}"
        if key not in self._open:
            self._open[key] = np.load(self._folder / f"{key}.npy", mmap_mode="r")
        return self._open[key]

    def weights(self, most_frames: int = 10**9) -> npt.NDArray[np.float64]:
        """How often each speaker is drawn: by the root of its length."""
        sizes = np.array([min(len(self.get(name, "f0")), most_frames) for name in self.names], np.float64) ** 0.5
        return sizes / sizes.sum()


__all__ = ["PERCENTS", "Speaker", "Store", "build"]
