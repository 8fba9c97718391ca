"""Stage ``style``: the small speaker encoder learns what the large one says of the same stretch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.train.content import QUIET, cut
from tools.train.features import PERCENTS, STYLE_S, Store
from tools.train.loop import Budget, train
from worker.models.nano.style import STYLE_MEL, NanoStyle

BATCH = 24
SHORTEST_FRAMES = 80


def build(out: Path, budget: Budget) -> None:
    """Train, write ``out/style.pt`` and the embeddings of every sampled stretch, ``out/features/*.nano_style*.npy``."""
    store, rng = Store(out), np.random.default_rng(0)
    torch.manual_seed(0)
    network = NanoStyle()

    def loss(step: int) -> dict[str, Tensor]:
        mel, target = batch(store, rng)
        similarity = F.cosine_similarity(network.embed(mel), target).mean()
        return {"loss": 1 - similarity, "similarity": similarity}

    trained = train("style", nn.ModuleDict({"style": network}), loss, budget, out, rate=2e-3)
    write(out, store, trained["style"])  # type: ignore[arg-type]


def stretches(store: Store, name: str, percent: int) -> list[np.ndarray]:
    """Mels of the stretches that the large encoder has heard."""
    mel, count = store.get(name, f"heard{percent}"), int(STYLE_S * STYLE_MEL.rate / STYLE_MEL.hop)
    return [cut(mel, int(at) // STYLE_MEL.hop, count, QUIET) for at in store.get(name, f"style_at{percent}")]


def batch(store: Store, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mels ``[B, T, 80]``, a little equalised and of any length, and the teacher's embeddings ``[B, 256]``."""
    mels, targets = [], []
    for name in rng.choice(store.names, BATCH, p=store.weights()):
        percent = int(rng.choice(PERCENTS))
        styles = store.get(name, f"style{percent}")
        index = int(rng.integers(len(styles)))
        mels.append(stretches(store, name, percent)[index])
        targets.append(styles[index])
    mel = torch.from_numpy(np.stack(mels))
    curve = F.interpolate(torch.randn(BATCH, 1, 5), size=mel.shape[-1], mode="linear", align_corners=True)
    length = int(rng.integers(SHORTEST_FRAMES, mel.shape[1] + 1))
    return (mel + 0.4 * curve)[:, :length], torch.from_numpy(np.stack(targets)).float()


@torch.inference_mode()
def write(out: Path, store: Store, network: NanoStyle) -> None:
    for name in store.names:
        for percent in PERCENTS:
            mels = torch.from_numpy(np.stack(stretches(store, name, percent)))
            np.save(out / "features" / f"{name}.nano_style{percent}.npy", network.embed(mels).numpy())
