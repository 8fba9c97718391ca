"""BigVGAN v2: mel to waveform with anti-aliased periodic activations.

Lee et al., "BigVGAN: A Universal Neural Vocoder with Large-Scale Training" (2023). The alias-free activation is that of
Karras et al., "Alias-Free Generative Adversarial Networks" (2021): twice the rate, activate, half the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models import fused
from worker.models.networks import Vocoder
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

DILATIONS = (1, 3, 5)
TAPS = 12
CUTOFF = 0.25  # cycles a sample at the doubled rate
TRANSITION = 1.2  # width of the transition band, of the doubled Nyquist rate
ATTENUATION_DB = 2.285 * (TAPS / 2 - 1) * np.pi * TRANSITION + 7.95  # 51 dB (Kaiser, 1974)
KAISER_BETA = 0.1102 * (ATTENUATION_DB - 8.7)


@dataclass(frozen=True, slots=True)
class BigVganConfig:
    mel_bins: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    channels: int = 1536
    block_kernels: tuple[int, ...] = (3, 7, 11)  # of the residual blocks after each stage, side by side
    dilations: tuple[int, ...] = DILATIONS  # within a block, one after the other

    @property
    def hop(self) -> int:
        return int(np.prod(self.rates))

    @classmethod
    def from_published(cls, config: Mapping[str, object]) -> BigVganConfig:
        """From the ``config.json`` beside the weights. Raises ``ValueError`` naming what this network is not."""
        expected = {
            "activation": "snakebeta",
            "snake_logscale": True,
            "use_tanh_at_final": False,
            "use_bias_at_final": False,
            "resblock": "1",
        }
        for name, value in expected.items():
            if name in config and config[name] != value:
                raise ValueError(f"BigVGAN's {name} is {config[name]!r}, only {value!r} is known")
        missing = {"num_mels", "upsample_rates", "upsample_kernel_sizes", "upsample_initial_channel"} - set(config)
        if missing:
            raise ValueError(f"BigVGAN's configuration lacks {', '.join(sorted(missing))}")

        def numbers(name: str, values: object) -> tuple[int, ...]:
            if (
                not isinstance(values, list)
                or not values
                or not all(isinstance(value, int) and value > 0 for value in values)
            ):
                raise ValueError(f"BigVGAN's {name} must be a list of positive integers, got {values!r}")
            return tuple(values)

        def number(name: str) -> int:
            value = config[name]
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"BigVGAN's {name} must be a positive integer, got {value!r}")
            return value

        kernels = numbers("resblock_kernel_sizes", config.get("resblock_kernel_sizes", [3, 7, 11]))
        dilations = config.get("resblock_dilation_sizes", [list(DILATIONS)] * len(kernels))
        if not isinstance(dilations, list) or not dilations or dilations != dilations[:1] * len(kernels):
            raise ValueError(f"BigVGAN's resblock_dilation_sizes are {dilations!r}, not the same for each kernel")
        return cls(
            number("num_mels"),
            numbers("upsample_rates", config["upsample_rates"]),
            numbers("upsample_kernel_sizes", config["upsample_kernel_sizes"]),
            number("upsample_initial_channel"),
            kernels,
            numbers("resblock_dilation_sizes", dilations[0]),
        )


BIGVGAN_22K = BigVganConfig(mel_bins=80, rates=(4, 4, 2, 2, 2, 2), kernels=(8, 8, 4, 4, 4, 4))
BIGVGAN_44K = BigVganConfig(mel_bins=128, rates=(8, 4, 2, 2, 2, 2), kernels=(16, 8, 4, 4, 4, 4))


def kaiser_sinc() -> Tensor:
    """The low-pass of both resamplers, unit sum, float32 ``[TAPS]``."""
    time = np.arange(TAPS) - TAPS / 2 + 0.5
    taps = np.kaiser(TAPS, KAISER_BETA) * np.sinc(2 * CUTOFF * time)
    return torch.from_numpy((taps / taps.sum()).astype(np.float32))


class SnakeBeta(nn.Module):
    """``x + sin^2(x e^alpha) / e^beta``, both a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + (x * alpha).sin().square() / (beta + 1e-9)


class AliasFreeSnake(nn.Module):
    """Twice the rate, snake, half the rate. A channel is filtered as an item of its own, by one small kernel."""

    lowpass: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.register_buffer("lowpass", kaiser_sinc()[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if fused.usable(x):
            return fused.alias_free_snake(x, self.act.alpha, self.act.beta, self.lowpass[0, 0])
        shape = x.shape
        y = F.pad(x, (5, 5), mode="replicate").view(-1, 1, shape[-1] + 10)
        y = 2 * F.conv_transpose1d(y, self.lowpass, stride=2)[..., 15:-15]
        y = F.pad(self.act(y.view(*shape[:2], -1)), (5, 6), mode="replicate")
        return F.conv1d(y.view(-1, 1, y.shape[-1]), self.lowpass, stride=2).view(shape)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...] = DILATIONS) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2)) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in dilations)
        self.activations = nn.ModuleList(AliasFreeSnake(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.activations[::2], self.convs1, self.activations[1::2], self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in pairs:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class BigVgan(nn.Module):
    def __init__(self, config: BigVganConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels >> i for i in range(len(config.rates) + 1)]
        self.conv_pre = nn.Conv1d(config.mel_bins, widths[0], 7, padding=3)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose1d(widths[i], widths[i + 1], kernel, rate, padding=(kernel - rate) // 2))
            for i, (rate, kernel) in enumerate(zip(config.rates, config.kernels, strict=True))
        )
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, config.dilations) for width in widths[1:] for kernel in config.block_kernels
        )
        self.activation_post = AliasFreeSnake(widths[-1])
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: natural-log mel ``[B, C, T]``. Returns the wave ``[B, hop T]`` in [-1, 1]."""
        x = self.conv_pre(mel.to(self.conv_pre.weight.dtype))
        for stage, up in enumerate(self.ups):
            x = up(x)
            count = len(self.config.block_kernels)
            blocks = self.resblocks[count * stage :][:count]
            x = sum(block(x) for block in blocks) / count
        return self.conv_post(self.activation_post(x))[:, 0].clamp(-1, 1)


class BigVganVocoder(Vocoder):
    """The network as every pipeline asks for it."""

    def __init__(self, network: BigVgan) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        out: Tensor = self.network(mel)
        return out


def _published(name: str, repository: str, config: BigVganConfig) -> PublishedNetwork:
    layout = PublishedFile(
        repository,
        "bigvgan_generator.pt",
        "MIT",
        nesting=("generator",),
        ignore=(r"\.filter$",),
        config_file="config.json",
        needs_folder=True,
    )
    return PublishedNetwork(name, layout, BigVgan, as_published(config), BigVganConfig.from_published)


BIGVGAN_22K_NETWORK = _published("bigvgan_22k", "nvidia/bigvgan_v2_22khz_80band_256x", BIGVGAN_22K)
BIGVGAN_44K_NETWORK = _published("bigvgan_44k", "nvidia/bigvgan_v2_44khz_128band_512x", BIGVGAN_44K)
