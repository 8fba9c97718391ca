"""HiFT: mel to waveform through a harmonic source and an inverse short-time Fourier transform.

Li et al., "HiFTNet" (2023), after Kong et al., "HiFi-GAN" (2020), and Kaneko et al., "iSTFTNet" (2022); the source is
the neural source-filter model of Wang et al. (2019); the activation is Ziyin et al.'s snake (2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models import fused
from worker.models.networks import Vocoder
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

RATE = 22_050
HOP = 256
HARMONICS = 9
N_FFT = 16
FFT_HOP = 4
FFT_BINS = N_FFT // 2 + 1
DILATIONS = (1, 3, 5)
SOURCE_KERNELS = (7, 11)
SINE_LEVEL = 0.1
NOISE_LEVEL = 0.003  # beside a voiced sine; an unvoiced frame gets a third of the sine's level
VOICED_HZ = 10.0
MAX_MAGNITUDE = 100.0
MAX_LEVEL = 0.99


@dataclass(frozen=True, slots=True)
class HiftConfig:
    mel_bins: int = 80
    channels: int = 512
    block_kernels: tuple[int, ...] = (3, 7, 11)  # of the residual blocks after each stage, side by side
    dilations: tuple[int, ...] = DILATIONS  # within a block, one after the other


class Snake(nn.Module):
    """``x + sin^2(alpha x) / alpha`` with an alpha a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if fused.usable(x):
            return fused.snake(x, self.alpha)
        alpha = self.alpha[:, None]
        return x + (x * alpha).sin().square() / (alpha + 1e-9)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...] = DILATIONS) -> None:
        super().__init__()
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2)) for d in dilations
        )
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class F0Predictor(nn.Module):
    """Pitch in Hz of each mel frame."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        widths = [config.mel_bins, *[config.channels] * 5]
        layers = [(nn.Conv1d(a, b, 3, padding=1), nn.ELU()) for a, b in pairwise(widths)]
        self.condnet = nn.Sequential(*(part for layer in layers for part in layer))
        self.classifier = nn.Linear(config.channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: ``[B, C, T]``. Returns ``[B, T]``."""
        out: Tensor = self.classifier(self.condnet(mel).transpose(1, 2))[..., 0]
        return out.abs()


class HarmonicSource(nn.Module):
    """Nine harmonics of the pitch with noise, mixed to one excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(self, f0: Tensor, phase: Tensor, noise: Tensor) -> Tensor:
        """f0: Hz ``[B, T]``. phase: ``[B, 9, 1]`` in (-pi, pi), the fundamental's is taken as 0. noise: standard normal
        ``[B, 9, 256 T]``. Returns ``[B, 1, 256 T]`` in (-1, 1)."""
        pitch = f0.repeat_interleave(HOP, dim=-1)[:, None]
        harmonics = torch.arange(1, HARMONICS + 1, device=f0.device)[:, None]
        # Summed in float64 on any device, as a CPU does for float32: otherwise the phase drifts within a second.
        cycles = (pitch.float() * harmonics / RATE).cumsum(-1, dtype=torch.float64).float()
        theta = (2 * math.pi) * cycles.frac()
        overtone = harmonics > 1
        voiced = (pitch > VOICED_HZ).float()
        sines = SINE_LEVEL * (theta + phase.float() * overtone).sin() * voiced
        level = voiced * NOISE_LEVEL + (1 - voiced) * SINE_LEVEL / 3
        mixed = (sines + level * noise.float()).to(self.l_linear.weight.dtype)
        out: Tensor = self.l_linear(mixed.transpose(1, 2)).tanh()
        return out.transpose(1, 2)


class ShortFourier(nn.Module):
    """A 16-point short-time Fourier transform and its inverse as convolutions: no complex numbers, no host checks."""

    analysis: Tensor
    synthesis: Tensor
    envelope: Tensor

    def __init__(self) -> None:
        super().__init__()
        n, k = np.arange(N_FFT), np.arange(FFT_BINS)[:, None]
        window = np.hanning(N_FFT + 1)[:-1]
        angle = 2 * np.pi * k * n / N_FFT
        basis = np.concatenate([np.cos(angle), -np.sin(angle)])
        twice = np.where((k == 0) | (k == N_FFT // 2), 1.0, 2.0)  # the bins between stand for their conjugates too
        inverse = basis * np.concatenate([twice, twice]) / N_FFT

        def kernel(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[:, None].astype(np.float32))

        self.register_buffer("analysis", kernel(basis * window), persistent=False)
        self.register_buffer("synthesis", kernel(inverse * window), persistent=False)
        self.register_buffer("envelope", kernel(np.square(window)[None]), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """``[B, 1, n]`` to real and imaginary parts ``[B, 18, n / 4 + 1]``, centred and reflected."""
        return F.conv1d(F.pad(wave, (N_FFT // 2,) * 2, mode="reflect"), self.analysis, stride=FFT_HOP)

    def inverse(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        """``[B, 9, m]`` each to ``[B, 4 (m - 1)]``."""
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        wave = F.conv_transpose1d(spectrum, self.synthesis, stride=FFT_HOP)
        weight = F.conv_transpose1d(torch.ones_like(spectrum[:1, :1]), self.envelope, stride=FFT_HOP)
        inside = slice(N_FFT // 2, -(N_FFT // 2))
        return (wave[..., inside] / weight[..., inside])[:, 0]


class Hift(nn.Module):
    def __init__(self, config: HiftConfig | None = None) -> None:
        super().__init__()
        config = config or HiftConfig()
        widths = [config.channels, config.channels // 2, config.channels // 4]
        self.f0_predictor = F0Predictor(config)
        self.m_source = HarmonicSource()
        self.fourier = ShortFourier()
        self.conv_pre = nn.Conv1d(config.mel_bins, widths[0], 7, padding=3)
        self.ups = nn.ModuleList(nn.ConvTranspose1d(a, b, 16, 8, padding=4) for a, b in pairwise(widths))
        source_down = nn.Conv1d(2 * FFT_BINS, widths[1], 16, 8, padding=4)
        self.source_downs = nn.ModuleList([source_down, nn.Conv1d(2 * FFT_BINS, widths[2], 1)])
        kernels, dilations = config.block_kernels, config.dilations
        self.source_resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations) for width, kernel in zip(widths[1:], SOURCE_KERNELS, strict=True)
        )
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations) for width in widths[1:] for kernel in kernels
        )
        self.blocks_a_stage = len(kernels)
        self.conv_post = nn.Conv1d(widths[2], 2 * FFT_BINS, 7, padding=3)

    def forward(
        self, mel: Tensor, *, f0: Tensor | None = None, phase: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """mel: ``[B, C, T]``. f0: Hz ``[B, T]``; None: predicted. phase, noise: see ``HarmonicSource``; None: drawn.
        Returns the wave ``[B, 256 T]`` at 22 050 Hz in [-0.99, 0.99]."""
        batch, _, frames = mel.shape
        mel = mel.to(self.conv_pre.weight.dtype)
        if f0 is None:
            f0 = self.f0_predictor(mel)
        if phase is None:
            phase = (torch.rand(batch, HARMONICS, 1, device=mel.device) * 2 - 1) * math.pi
        if noise is None:
            noise = torch.randn(batch, HARMONICS, HOP * frames, device=mel.device)
        return self.decode(mel, self.m_source(f0, phase, noise))

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel ``[B, C, T]`` and excitation ``[B, 1, 256 T]`` to wave ``[B, 256 T]``."""
        spectrum = self.fourier(source)
        x = self.conv_pre(mel)
        for stage, (up, down) in enumerate(zip(self.ups, self.source_downs, strict=True)):
            x = up(F.leaky_relu(x, 0.1))
            if stage == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")  # the centred transform has one frame more
            x = x + self.source_resblocks[stage](down(spectrum))
            blocks = self.resblocks[self.blocks_a_stage * stage :][: self.blocks_a_stage]
            x = sum(block(x) for block in blocks) / len(blocks)
        log_magnitude, phase = self.conv_post(F.leaky_relu(x, 0.01)).chunk(2, dim=1)
        wave = self.fourier.inverse(log_magnitude.exp().clamp(max=MAX_MAGNITUDE), phase.sin())
        return wave.clamp(-MAX_LEVEL, MAX_LEVEL)


class HiftVocoder(Vocoder):
    """The network as every pipeline asks for it."""

    noise_rows = HARMONICS
    phases = HARMONICS

    def __init__(self, network: Hift) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        out: Tensor = self.network(mel, noise=noise, phase=phase)  # it predicts a pitch of its own
        return out


HIFT = PublishedNetwork(
    "hift",
    PublishedFile("FunAudioLLM/CosyVoice-300M", "hift.pt", "Apache-2.0", mirrors=("model-scope/CosyVoice-300M",)),
    Hift,
    as_published(HiftConfig()),
)
