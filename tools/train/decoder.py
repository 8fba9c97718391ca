"""Stage ``decoder``: length regulator and diffusion transformer, by conditional flow matching.

Lipman et al., "Flow Matching for Generative Modeling" (2022). The target is a stretch of some speaker; its content is
that of a differently resampled version, so that what is left of a voice in it is another voice's; style and prompt
come from elsewhere in the speaker's recordings. A share of the steps starts from pure noise, where a solver of few
steps spends its largest one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.train.content import QUIET, cut
from tools.train.features import PERCENTS, Store
from tools.train.loop import Budget, train
from worker.models.nano.blocks import MEL_MEAN, MEL_SCALE
from worker.models.nano.model import NANO_DIT, NANO_REGULATOR
from worker.models.seedvc.dit import AdaptiveNorm, DiT, MlpHead
from worker.models.seedvc.regulator import F0_BINS, LengthRegulator

BATCH = 10
SOURCE_FRAMES = (100, 120, 140)  # of 16 ms: multiples of 5, so that content frames of 20 ms fit
PROMPT_FRAMES = (60, 95, 125)
PERCENT_SHARES = (1, 2, 8, 2, 1)  # of the targets
PURE_NOISE = 0.3
DROP_ALL, DROP_PROMPT, DROP_STYLE = 0.08, 0.08, 0.08
SAME_VOICE = 0.1  # share of sources whose content comes from the target itself
UNSURE, MOST_UNSURE = 0.5, 1.5  # share of sources whose logits get noise, its largest deviation
MOST_FRAMES = 25_000
BUNDLED = ("en", "es", "fr", "it", "ru", "flite_awb")
BUNDLED_BOOST = 3.0
F0_SCALE, STYLE_SCALE = 0.5, 8.0


def build(out: Path, budget: Budget) -> None:
    """Train and write ``out/decoder.pt``."""
    store, rng = Store(out), np.random.default_rng(0)
    torch.manual_seed(0)
    dit, regulator = DiT(NANO_DIT), LengthRegulator(NANO_REGULATOR)
    prepare(dit, regulator)
    sampler = Sampler(store, rng)

    def loss(step: int) -> dict[str, Tensor]:
        return flow_loss(dit, regulator, sampler.batch(), rng)

    modules = nn.ModuleDict({"dit": dit, "regulator": regulator})
    train("decoder", modules, loss, budget, out, rate=1.0e-3, average=0.999, warm_steps=150)


def prepare(dit: DiT, regulator: LengthRegulator) -> None:
    """Start where the adaptive norms do nothing, the output has the mean of log-mels, and sound classes, styles and
    pitch bins are heard equally well; neighbouring pitch bins are alike."""
    nn.init.normal_(regulator.content_in_proj.weight)  # shares of classes: small numbers that sum to one
    octaves = torch.arange(F0_BINS)[:, None] / F0_BINS * torch.logspace(0, 1.5, regulator.config.width // 2)
    with torch.no_grad():
        regulator.f0_embedding.weight.copy_(F0_SCALE * torch.cat([octaves.sin(), octaves.cos()], dim=1))
        regulator.f0_embedding.weight[:2] = F0_SCALE * torch.randn(2, regulator.config.width)  # unvoiced
        dit.cond_x_merge_linear.weight[:, -dit.config.style_width :] *= (
            STYLE_SCALE  # of unit length, so of small numbers
        )
    for module in dit.modules():
        if isinstance(module, AdaptiveNorm):
            width = module.norm.weight.shape[0]
            nn.init.normal_(module.project_layer.weight, std=0.005)
            nn.init.zeros_(module.project_layer.bias)
            module.project_layer.bias.data[:width] = 1.0
    assert isinstance(dit.output, MlpHead)
    last = dit.output.final_mlp[2]
    assert isinstance(last, nn.Linear)
    last.bias.data.fill_(MEL_MEAN)
    dit.cond_x_merge_linear.weight.data[:, : 2 * dit.config.mel_bins] /= MEL_SCALE


class Batch:
    """One batch: target and prompt mels ``[B, C, T]``, contents ``[B, N, K]``, f0 ``[B, 2 N]``, style ``[B, S]``."""

    def __init__(self, parts: list[list[np.ndarray]]) -> None:
        mel, prompt, heard, prompt_heard, f0, prompt_f0, style = (torch.from_numpy(np.stack(part)) for part in parts)
        self.mel, self.prompt = mel.transpose(1, 2).float(), prompt.transpose(1, 2).float()
        self.heard, self.prompt_heard = unsure(heard.float()).softmax(-1), prompt_heard.float().softmax(-1)
        self.f0, self.prompt_f0, self.style = f0.float(), prompt_f0.float(), style.float()


def unsure(logits: Tensor) -> Tensor:
    """Of some rows as if the content encoder knew the speaker less well: ``[B, N, classes]``."""
    rows = logits.shape[0]
    deviation = MOST_UNSURE * torch.rand(rows, 1, 1) * (torch.rand(rows, 1, 1) < UNSURE)
    return logits + deviation * torch.randn_like(logits)


class Sampler:
    def __init__(self, store: Store, rng: np.random.Generator) -> None:
        self.store, self.rng = store, rng
        weights = store.weights(MOST_FRAMES) * [BUNDLED_BOOST if name in BUNDLED else 1.0 for name in store.names]
        self.weights = weights / weights.sum()
        self.shares = np.array(PERCENT_SHARES) / sum(PERCENT_SHARES)

    def batch(self) -> Batch:
        source, prompt = int(self.rng.choice(SOURCE_FRAMES)), int(self.rng.choice(PROMPT_FRAMES))
        rows = [
            self.row(str(name), source, prompt) for name in self.rng.choice(self.store.names, BATCH, p=self.weights)
        ]
        return Batch([list(part) for part in zip(*rows, strict=True)])

    def row(self, name: str, source: int, prompt: int) -> tuple[np.ndarray, ...]:
        rng = self.rng
        percent = int(rng.choice(PERCENTS, p=self.shares))
        other = percent if rng.random() < SAME_VOICE else int(rng.choice([p for p in PERCENTS if p != percent]))
        mel = self.store.get(name, f"mel{percent}")
        begin, prompt_begin = self.place(len(mel), source), self.place(len(mel), prompt)
        styles = self.store.get(name, f"nano_style{percent}")
        gain = rng.uniform(-0.6, 0.3)
        return (
            cut(mel, begin, source, QUIET) + gain,
            cut(mel, prompt_begin, prompt, QUIET) + gain,
            self.heard(name, percent, other, begin, source),
            self.heard(name, percent, percent, prompt_begin, prompt),
            self.f0(name, percent, begin, source),
            self.f0(name, percent, prompt_begin, prompt),
            styles[int(rng.integers(len(styles)))],
        )

    def place(self, length: int, count: int) -> int:
        """A first frame, where a content frame begins too."""
        return 5 * int(self.rng.integers(0, max(1, (length - count) // 5)))

    def heard(self, name: str, percent: int, other: int, begin: int, count: int) -> np.ndarray:
        """Logits of version ``other`` at the moments of ``count`` mel frames of version ``percent``."""
        content = self.store.get(name, f"logits{other}")
        at = (begin * 4 // 5 + np.arange(count * 4 // 5)) * percent / other
        return content[np.clip(np.round(at).astype(int), 0, len(content) - 1)]

    def f0(self, name: str, percent: int, begin: int, count: int) -> np.ndarray:
        track = self.store.get(name, "f0")
        at = (begin * 8 // 5 + np.arange(count * 8 // 5)) * percent / 100
        return track[np.clip(np.round(at).astype(int), 0, len(track) - 1)] * np.float32(percent / 100)


def flow_loss(dit: DiT, regulator: LengthRegulator, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
    rows, _, source = batch.mel.shape
    prompt = batch.prompt.shape[-1]
    condition = regulator(batch.heard, source, f0=batch.f0)
    mu = torch.cat([regulator(batch.prompt_heard, prompt, f0=batch.prompt_f0), condition], dim=1)
    keep_all = (torch.rand(rows) >= DROP_ALL).float()
    keep_prompt = keep_all * (torch.rand(rows) >= DROP_PROMPT)
    keep_style = keep_all * (torch.rand(rows) >= DROP_STYLE)
    t = torch.rand(rows) * (torch.rand(rows) >= PURE_NOISE)
    noise = torch.randn_like(batch.mel)
    at = t[:, None, None]
    x = torch.cat([torch.zeros_like(batch.prompt), (1 - at) * noise + at * batch.mel], dim=2)
    prompt_x = torch.cat([batch.prompt, torch.zeros_like(batch.mel)], dim=2) * keep_prompt[:, None, None]
    velocity = dit(x, prompt_x, None, t, batch.style * keep_style[:, None], mu * keep_all[:, None, None])[..., prompt:]
    # Times what is left of the way, an error of the velocity is one of the mel that the network says.
    error = (1 - at) * (velocity - (batch.mel - noise)) / MEL_SCALE
    first = error[t == 0]
    report = {"first": first.abs().mean()} if len(first) else {}
    return {"loss": error.abs().mean() + 0.5 * error.square().mean(), "l1": error.abs().mean(), **report}
