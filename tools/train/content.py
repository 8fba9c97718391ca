"""Stage ``content``: the student that names sound classes, whoever speaks.

It hears each stretch in another voice (resampled), through another microphone (equalised), in noise and at another
level, and must say the class that the clean original has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.train.features import COMPONENTS, PERCENTS, Store
from tools.train.loop import Budget, train
from worker.models.nano_content import NanoContent

BATCH, FRAMES = 16, 150
EDGE_LEFT, EDGE_RIGHT = 10, 3  # frames that see too little around them to be asked
QUIET = -11.5  # log-mel of silence
REGRESSION = 0.3  # weight of the teacher's components beside its classes


def build(out: Path, budget: Budget, warm: Path | None = None) -> None:
    """Train, write ``out/content.pt`` and the content of every recording, ``out/features/*.content*.npy``."""
    store, rng = Store(out), np.random.default_rng(0)
    torch.manual_seed(0)
    network = NanoContent()
    if warm is not None:
        start_from_prototype(network, warm)
    components = nn.Linear(network.config.bottleneck, COMPONENTS)
    modules = nn.ModuleDict({"content": network, "components": components})

    def loss(step: int) -> dict[str, Tensor]:
        mel, classes, target = batch(store, rng)
        narrow = network.narrow(perturb(mel))[:, EDGE_LEFT:-EDGE_RIGHT]
        logits = network.classes(narrow)
        classes, target = classes[:, EDGE_LEFT:-EDGE_RIGHT], target[:, EDGE_LEFT:-EDGE_RIGHT]
        entropy = F.cross_entropy(logits.flatten(0, 1), classes.flatten())
        regression = F.mse_loss(components(narrow), target)
        hit = (logits.argmax(-1) == classes).float().mean()
        return {"loss": entropy + REGRESSION * regression, "entropy": entropy, "components": regression, "hit": hit}

    trained = train("content", modules, loss, budget, out, rate=1.5e-3)
    write(out, store, trained["content"])  # type: ignore[arg-type]


def batch(store: Store, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mels ``[B, T, 80]`` of any version, classes ``[B, T]`` and components of the original's same moments."""
    mels, classes, components = [], [], []
    for name in rng.choice(store.names, BATCH, p=store.weights()):
        percent = int(rng.choice(PERCENTS))
        mel = store.get(name, f"heard{percent}")
        begin = int(rng.integers(0, max(1, len(mel) - FRAMES)))
        mels.append(cut(mel, begin, FRAMES, QUIET))
        labels, values = store.get(name, "classes"), store.get(name, "components")
        at = np.clip(np.round((begin + np.arange(FRAMES)) * percent / 100).astype(int), 0, len(labels) - 1)
        classes.append(labels[at])
        components.append(values[at])
    return (
        torch.from_numpy(np.stack(mels)).float(),
        torch.from_numpy(np.stack(classes)).long(),
        torch.from_numpy(np.stack(components)).float(),
    )


def cut(frames: np.ndarray, begin: int, count: int, fill: float) -> np.ndarray:  # type: ignore[type-arg]
    """``count`` frames from ``begin``, filled up at the end."""
    piece = frames[begin : begin + count].astype(np.float32)
    return np.pad(piece, ((0, count - len(piece)), *((0, 0),) * (piece.ndim - 1)), constant_values=fill)


def perturb(mel: Tensor) -> Tensor:
    """Another microphone, another voice's formants, level and noise: ``[B, T, 80]``."""
    rows, _, bins = mel.shape
    curve = F.interpolate(torch.randn(rows, 1, 7), size=bins, mode="linear", align_corners=True)
    mel = mel + 1.2 * curve + 0.8 * torch.randn(rows, 1, 1)
    # A warp of the frequency axis alone moves formants apart from pitch.
    warp = torch.empty(rows, 1, 1).uniform_(0.88, 1.14)
    at = (torch.arange(bins) * warp).clamp(max=bins - 1.001)
    low = at.long()
    share = at - low
    low = low.expand(-1, mel.shape[1], -1)
    mel = mel.gather(2, low) * (1 - share) + mel.gather(2, low + 1) * share
    noisy = torch.rand(rows, 1, 1) < 0.4
    floor = torch.empty(rows, 1, 1).uniform_(-9, -4) + 0.5 * torch.randn_like(mel)
    return torch.where(noisy, torch.logaddexp(mel, floor), mel).clamp(min=QUIET)


@torch.inference_mode()
def write(out: Path, store: Store, network: NanoContent) -> None:
    """The bottleneck of every version of every recording, in float16: the classes' logits are one layer away."""
    for name in store.names:
        for percent in PERCENTS:
            mel, pieces = store.get(name, f"heard{percent}"), []
            for begin in range(0, len(mel), 3000):
                first = max(0, begin - 80)
                heard = torch.from_numpy(mel[first : begin + 3040].astype(np.float32))[None]
                pieces.append(network.narrow(heard)[0, begin - first :][:3000].half().numpy())
            np.save(out / "features" / f"{name}.content{percent}.npy", np.concatenate(pieces))


def start_from_prototype(network: NanoContent, path: Path) -> None:
    """Take over what an earlier student knew; it heard more of the future, so its kernels are moved."""
    old = torch.load(path, weights_only=True, map_location="cpu")
    names = {"inp": "input", "n": "norm", "bo": "bottleneck"}
    weights = {
        f"{ours}.{part}": old[f"{theirs}.{part}"] for theirs, ours in names.items() for part in ("weight", "bias")
    }
    for index, look_ahead in enumerate(network.config.look_ahead):
        for theirs, ours in {"dw": "mix", "n": "norm", "a": "up", "b": "down"}.items():
            for part in ("weight", "bias"):
                weights[f"blocks.{index}.{ours}.{part}"] = old[f"bl.{index}.{theirs}.{part}"]
        kernel = weights[f"blocks.{index}.mix.weight"]
        moved = 3 - look_ahead
        weights[f"blocks.{index}.mix.weight"] = F.pad(kernel, (moved, 0))[..., : kernel.shape[-1]]
        weights[f"blocks.{index}.gain"] = old[f"bl.{index}.g"]
    network.load_state_dict(weights, strict=False)
