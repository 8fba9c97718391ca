"""Tells recorded mels from made ones, patch by patch, in four bands (Isola et al., "Image-to-Image Translation with
Conditional Adversarial Networks", 2017; Mao et al., "Least Squares GAN", 2017; for the style, Miyato & Koyama, "cGANs
with Projection Discriminator", 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.nano.blocks import MEL_MEAN, MEL_SCALE

BANDS = ((0, 80), (0, 32), (20, 56), (44, 80))
Said = list[tuple[Tensor, list[Tensor]]]  # a band: scores, and what its layers say


class Patches(nn.Module):
    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        sizes = ((1, width, 5, 1), (width, width, 5, 2), (width, 2 * width, 5, 2), (2 * width, 2 * width, 3, 1))
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(given, made, kernel, stride, kernel // 2))
            for given, made, kernel, stride in sizes
        )
        self.score = nn.Conv2d(2 * width, 1, 3, padding=1)
        self.style = nn.Linear(style, 2 * width)

    def forward(self, x: Tensor, style: Tensor) -> tuple[Tensor, list[Tensor]]:
        said = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            said.append(x)
        fits = (x * self.style(style)[:, :, None, None]).mean(1, keepdim=True)
        return self.score(x) + fits, said


class Critic(nn.Module):
    def __init__(self, width: int = 48, style: int = 256) -> None:
        super().__init__()
        self.bands = nn.ModuleList(Patches(width, style) for _ in BANDS)

    def forward(self, mel: Tensor, style: Tensor) -> Said:
        """mel: ``[B, 80, T]``. style: ``[B, style]``."""
        x = ((mel - MEL_MEAN) / MEL_SCALE)[:, None]
        return [band(x[:, :, low:high], style) for band, (low, high) in zip(self.bands, BANDS, strict=True)]


def critic_loss(recorded: Said, made: Said) -> Tensor:
    return mean(
        (1 - real.float()).square().mean() + fake.float().square().mean()
        for (real, _), (fake, _) in zip(recorded, made, strict=True)
    )


def mean(values: object) -> Tensor:
    parts: list[Tensor] = list(values)  # type: ignore[call-overload]
    return sum(parts[1:], parts[0]) / len(parts)


def fooling_loss(made: Said) -> Tensor:
    return mean((1 - score.float()).square().mean() for score, _ in made)


def likeness_loss(recorded: Said, made: Said) -> Tensor:
    """How differently its layers see both (Larsen et al., 2016), of as many rows as ``recorded`` has."""
    parts = []
    for (_, theirs), (_, ours) in zip(recorded, made, strict=True):
        for real, fake in zip(theirs, ours, strict=True):
            away = (fake[: len(real)].float() - real.float()).abs().mean()
            parts.append(away / real.float().abs().mean().clamp(min=1e-3))
    return mean(parts)
