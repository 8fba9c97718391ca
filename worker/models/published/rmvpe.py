"""RMVPE: pitch of the voice, also over music, from a mel spectrogram.

Wei et al., "RMVPE: A Robust Model for Vocal Pitch Estimation in Polyphonic Music" (2023): a deep U-Net and a
bidirectional GRU to 360 pitch classes of 20 cents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.published.mel import hann, mel_filters
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

RATE = 16_000
N_FFT = 1024
HOP = 160  # 100 frames a second
MEL_BINS = 128
LEVELS = 5
STRIDE = 2**LEVELS  # the U-Net's, in frames
CLASSES = 360
CENTS_OFFSET = 1997.3794084376191  # of class 0 above 10 Hz
UNVOICED = 0.03  # salience


@dataclass(frozen=True, slots=True)
class RmvpeConfig:
    channels: int = 16  # of the first level; each further one has twice as many
    hidden: int = 256  # of the GRU, each way
    blocks: int = 4  # of each level
    deepest: int = 4  # levels between encoder and decoder

    @property
    def levels(self) -> tuple[int, ...]:
        """Channels of each."""
        return tuple(self.channels << level for level in range(LEVELS))


class RmvpeMel(nn.Module):
    """Natural-log magnitude mel at 100 frames a second, HTK scale, 30-8000 Hz."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", hann(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(RATE, N_FFT, MEL_BINS, 30.0, 8000.0, "htk"), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1], n > 512. Returns float32 ``[B, 128, n // 160 + 1]``."""
        spectrum = torch.stft(wave.float(), N_FFT, HOP, window=self.window, center=True, return_complex=True)
        return (self.filters @ spectrum.abs()).clamp(min=1e-5).log()


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + self.shortcut(x)
        return out


def in_sequence(blocks: int, channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, out), *(ResidualBlock(out, out) for _ in range(blocks - 1)))


class Level(nn.Module):
    """Blocks under the name ``conv``, as in the published file."""

    def __init__(self, blocks: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv = in_sequence(blocks, channels, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Encoder(nn.Module):
    def __init__(self, blocks: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(1)
        self.layers = nn.ModuleList(Level(blocks, a, b) for a, b in zip((1, *levels), levels, strict=False))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the halved last level and every level's output before it was halved."""
        x = self.bn(x)
        levels = []
        for level in self.layers:
            levels.append(level(x))
            x = F.avg_pool2d(levels[-1], 2)
        return x, levels


class Intermediate(nn.Module):
    def __init__(self, blocks: int, count: int, top: int) -> None:
        super().__init__()
        further = (Level(blocks, 2 * top, 2 * top) for _ in range(count - 1))
        self.layers = nn.Sequential(Level(blocks, top, 2 * top), *further)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class UpLevel(nn.Module):
    def __init__(self, blocks: int, channels: int, out: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(channels, out, 3, 2, padding=1, output_padding=1, bias=False)
        self.conv1 = nn.Sequential(up, nn.BatchNorm2d(out), nn.ReLU())
        self.conv2 = in_sequence(blocks, 2 * out, out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.conv2(torch.cat([self.conv1(x), skip], dim=1))
        return out


class Decoder(nn.Module):
    def __init__(self, blocks: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(UpLevel(blocks, 2 * width, width) for width in reversed(levels))

    def forward(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        for layer, skip in zip(self.layers, reversed(levels), strict=True):
            x = layer(x, skip)
        return x


class UNet(nn.Module):
    def __init__(self, config: RmvpeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.blocks, config.levels)
        self.intermediate = Intermediate(config.blocks, config.deepest, config.levels[-1])
        self.decoder = Decoder(config.blocks, config.levels)

    def forward(self, x: Tensor) -> Tensor:
        x, levels = self.encoder(x)
        out: Tensor = self.decoder(self.intermediate(x), levels)
        return out


class Recurrence(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(x)[0]
        return out


class Rmvpe(nn.Module):
    def __init__(self, config: RmvpeConfig | None = None) -> None:
        super().__init__()
        config = config or RmvpeConfig()
        self.unet = UNet(config)
        self.cnn = nn.Conv2d(config.channels, 3, 3, padding=1)
        self.fc = nn.Sequential(Recurrence(3 * MEL_BINS, config.hidden), nn.Linear(2 * config.hidden, CLASSES))

    def forward(self, mel: Tensor) -> Tensor:
        """mel: of ``RmvpeMel``, ``[B, 128, T]``. Returns the salience of each pitch class, ``[B, T, 360]`` in [0, 1].

        The U-Net wants a multiple of 32 frames; as in training they are padded with zeros, which is loud, and reaches
        the last frames through the U-Net and the backward GRU.
        """
        frames = mel.shape[-1]
        padded = F.pad(mel.to(self.cnn.weight.dtype), (0, -frames % STRIDE)).transpose(1, 2)[:, None]
        x = self.cnn(self.unet(padded)).transpose(1, 2).flatten(2)
        salience: Tensor = self.fc(x)[:, :frames].sigmoid()
        return salience


def decode_f0(salience: Tensor, threshold: float = UNVOICED) -> Tensor:
    """Pitch in Hz, 0 where the highest salience is at most ``threshold``: ``[..., 360]`` to float32 ``[...]``.

    The mean of the cents of the highest class and its four neighbours on either side, weighted by salience.
    """
    index = salience.argmax(-1, keepdim=True) + torch.arange(9, device=salience.device)
    weights = F.pad(salience.float(), (4, 4)).gather(-1, index)
    # The original divides by a float32 sum, added in this order; 0.001 Hz hangs on it.
    a, b, c, d, e, f, g, h, last = weights.unbind(-1)
    total = ((a + b) + (c + d)) + ((e + f) + (g + h)) + last
    products = weights.double() * (20.0 * (index - 4).double() + CENTS_OFFSET)
    cents = products.sum(-1) / total.double().clamp(min=1e-12)
    voiced = salience.amax(-1) > threshold
    return (10.0 * torch.exp2(cents / 1200)).where(voiced, 0).float()


class RmvpeTracker(nn.Module):
    """f0 in Hz ``[B, n // 160 + 1]``, 0 where unvoiced, of a wave ``[B, n]`` at 16 kHz."""

    def __init__(self, network: Rmvpe) -> None:
        super().__init__()
        self.network = network
        self.mel = RmvpeMel()

    def forward(self, wave: Tensor) -> Tensor:
        return decode_f0(self.network(self.mel(wave)))


RMVPE = PublishedNetwork(
    "rmvpe",
    PublishedFile("lj1995/VoiceConversionWebUI", "rmvpe.pt", "MIT"),
    Rmvpe,
    as_published(RmvpeConfig()),
)
