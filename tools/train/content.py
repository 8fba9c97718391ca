"""Stage ``content``: the student that names sound classes, whoever speaks.

It starts from the teacher's own first layers and hears each stretch in another voice (resampled; formants moved apart
from pitch), through another microphone (equalised), in noise and at another level, and must say the class that the
clean original has.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.train.corpus import RATE, load
from tools.train.features import COMPONENTS, PERCENTS, Store, resampled
from tools.train.loop import Budget, train
from tools.train.whisper_weights import start_from_whisper
from worker.models.nano.content import NanoContent
from worker.models.published.whisper import POSITIONS, SAMPLES_A_FRAME

BATCH, FRAMES = 12, 150
EDGE_LEFT, EDGE_RIGHT = 8, 2  # frames that see too little around them to be asked
QUIET = -11.5  # natural-log mel of silence
REGRESSION = 0.3  # weight of the teacher's components beside its classes
PITCHES, AS_IT_IS = (0.78, 1.28), 0.25  # range of resampling, share left alone
FROM_START = 0.6  # share of crops whose first frame has position 0, as in serving
LOG10_OF_MAGNITUDE = 2 / math.log(10)  # natural log of magnitude to base-10 log of power
PIECE_FRAMES, MARGIN_FRAMES = 500, 60


def build(out: Path, budget: Budget, whisper: dict[str, Tensor] | None, start: dict[str, Tensor] | None = None) -> None:
    """Train, write ``out/content.pt`` and the logits of every version of every recording.

    whisper: the teacher's encoder to start from (None: random). start: a content encoder's own weights instead.
    """
    torch.manual_seed(0)
    network = NanoContent()
    if start is not None:
        network.load_state_dict(start)
    elif whisper is not None:
        start_from_whisper(network, whisper)
    sampler = Sampler(out, np.random.default_rng(0))
    components = nn.Linear(network.config.width, COMPONENTS)
    modules = nn.ModuleDict({"content": network, "components": components})

    def loss(step: int) -> dict[str, Tensor]:
        wave, classes, target = sampler.batch()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            heard = perturb(network.listen(wave))
        features = network.features(heard, sampler.first())[:, EDGE_LEFT:-EDGE_RIGHT]
        logits = network.classes(features).float()
        classes, target = classes[:, EDGE_LEFT:-EDGE_RIGHT], target[:, EDGE_LEFT:-EDGE_RIGHT]
        entropy = F.cross_entropy(logits.flatten(0, 1), classes.flatten())
        regression = F.mse_loss(components(features).float(), target)
        hit = (logits.argmax(-1) == classes).float().mean()
        return {"loss": entropy + REGRESSION * regression, "entropy": entropy, "components": regression, "hit": hit}

    trained = train("content", modules, loss, budget, out, rate=8e-4, average=0.995)
    write(out, trained["content"])  # type: ignore[arg-type]


class Sampler:
    def __init__(self, out: Path, rng: np.random.Generator) -> None:
        self.store, self.rng = Store(out), rng
        self.waves = {speaker.name: speaker.wave for speaker in load(out)}

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Waves ``[B, n]`` of any version, classes ``[B, N]`` and components of the original's same moments."""
        rows = [self.row(str(name)) for name in self.rng.choice(self.store.names, BATCH, p=self.store.weights())]
        wave, classes, components = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return wave, classes.long(), components.float()

    def row(self, name: str) -> tuple[np.ndarray, ...]:
        low, high = (math.log(bound) for bound in PITCHES)
        percent = 100 if self.rng.random() < AS_IT_IS else round(100 * math.exp(self.rng.uniform(low, high)))
        whole, count = self.waves[name], FRAMES * SAMPLES_A_FRAME
        needed = count * percent // 100 + SAMPLES_A_FRAME
        begin = int(self.rng.integers(0, max(1, len(whole) - needed)))
        wave = resampled(whole[begin : begin + needed], percent)[:count]
        labels, values = self.store.get(name, "classes"), self.store.get(name, "components")
        moments = begin / SAMPLES_A_FRAME + np.arange(FRAMES) * percent / 100
        at = np.clip(np.round(moments).astype(int), 0, len(labels) - 1)
        return np.pad(wave, (0, count - len(wave))), labels[at], values[at]

    def first(self) -> int:
        """Position of a batch's first frame."""
        return 0 if self.rng.random() < FROM_START else int(self.rng.integers(0, POSITIONS - FRAMES))


def perturb(log_mel: Tensor) -> Tensor:
    """Another microphone, another voice's formants, level and noise: base-10 log-mel power ``[B, 80, T]``."""
    rows, bins, _ = log_mel.shape
    curve = F.interpolate(torch.randn(rows, 1, 7), size=bins, mode="linear", align_corners=True).transpose(1, 2)
    log_mel = log_mel + LOG10_OF_MAGNITUDE * (curve + 0.8 * torch.randn(rows, 1, 1))
    # A warp of the frequency axis alone moves formants apart from pitch.
    warp = torch.empty(rows, 1, 1).uniform_(0.88, 1.14)
    at = (torch.arange(bins)[:, None] * warp).clamp(max=bins - 1.001)
    low = at.long()
    share = at - low
    low = low.expand(-1, -1, log_mel.shape[2])
    log_mel = log_mel.gather(1, low) * (1 - share) + log_mel.gather(1, low + 1) * share
    noisy = torch.rand(rows, 1, 1) < 0.4
    floor = log_mel.amax(dim=(1, 2), keepdim=True) - torch.empty(rows, 1, 1).uniform_(3, 6)
    power = 10**log_mel + 10 ** (floor + 0.3 * torch.randn_like(log_mel))
    return torch.where(noisy, power.log10(), log_mel).clamp(min=-10)


def cut(frames: np.ndarray, begin: int, count: int, fill: float) -> np.ndarray:
    """``count`` frames from ``begin``, filled up at the end."""
    piece = frames[begin : begin + count].astype(np.float32)
    return np.pad(piece, ((0, count - len(piece)), *((0, 0),) * (piece.ndim - 1)), constant_values=fill)


@torch.inference_mode()
def write(out: Path, network: NanoContent) -> None:
    """``out/features/SPEAKER.logits*.npy``: of every version of every recording, ``[N, classes]`` in float16."""
    for speaker in load(out):
        for percent in PERCENTS:
            wave, pieces = resampled(speaker.wave, percent), []
            for begin in range(0, len(wave) // SAMPLES_A_FRAME, PIECE_FRAMES):
                first = max(0, begin - MARGIN_FRAMES)
                last = begin + PIECE_FRAMES + MARGIN_FRAMES
                heard = torch.from_numpy(wave[first * SAMPLES_A_FRAME : last * SAMPLES_A_FRAME])[None]
                if heard.shape[1] < RATE // 50:
                    break
                logits = network.classes(network.features(network.listen(heard)))[0]
                pieces.append(logits[begin - first :][:PIECE_FRAMES].half().numpy())
            np.save(out / "features" / f"{speaker.name}.logits{percent}.npy", np.concatenate(pieces))
