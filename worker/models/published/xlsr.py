"""Content features of the tiny model: the first twelve layers of XLSR-300m, then the encoder's final layer norm.

Baevski et al., "wav2vec 2.0" (2020); Babu et al., "XLS-R" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.networks import ContentFeatures
from worker.models.published.encoder import EncoderLayer
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
POSITION_KERNEL = 128
POSITION_GROUPS = 16


@dataclass(frozen=True, slots=True)
class XlsrConfig:
    conv_width: int = 512
    width: int = 1024
    heads: int = 16
    inner: int = 4096
    depth: int = 12


def frame_count(samples: Tensor) -> Tensor:
    """Frames of so many samples at 16 kHz: 50 a second, the first after 25 ms."""
    return (samples - 400) // 320 + 1


def normalise(wave: Tensor, lens: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance over each item's valid samples, zero beyond; float32 ``[B, n]``."""
    wave = wave.float()
    if lens is None:
        centred = wave - wave.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt()
    valid = torch.arange(wave.shape[-1], device=wave.device) < lens[:, None]
    count = lens[:, None]
    centred = (wave - (wave * valid).sum(-1, keepdim=True) / count) * valid
    return centred / (centred.square().sum(-1, keepdim=True) / count + 1e-7).sqrt()


class ConvLayer(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, out, kernel, stride)
        self.layer_norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer_norm(self.conv(x).transpose(1, 2)).transpose(1, 2))


class Xlsr(nn.Module):
    def __init__(self, config: XlsrConfig | None = None) -> None:
        super().__init__()
        config = config or XlsrConfig()
        widths = [1, *[config.conv_width] * len(KERNELS)]
        self.conv_layers = nn.ModuleList(
            ConvLayer(widths[i], widths[i + 1], KERNELS[i], STRIDES[i]) for i in range(len(KERNELS))
        )
        self.conv_norm = nn.LayerNorm(config.conv_width)
        self.projection = nn.Linear(config.conv_width, config.width)
        self.position = nn.Conv1d(
            config.width, config.width, POSITION_KERNEL, padding=POSITION_KERNEL // 2, groups=POSITION_GROUPS
        )
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.inner, key_bias=True) for _ in range(config.depth)
        )
        self.layer_norm = nn.LayerNorm(config.width)

    def convolved(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        """As ``forward``; what the convolutions make of the wave, ``[B, frame_count(n), conv_width]``."""
        x = normalise(wave, lens)[:, None].to(self.projection.weight.dtype)
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)

    def projected(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        """As ``forward``; what enters the transformer, before positions, ``[B, frame_count(n), width]``."""
        out: Tensor = self.projection(self.conv_norm(self.convolved(wave, lens)))
        return out

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz, any level, at least 400 samples. lens: int64 ``[B]``, valid samples of each item
        (None: all); beyond an item's ``frame_count`` the result is meaningless. Returns ``[B, frame_count(n), width]``.
        """
        x = self.projected(wave, lens)
        key_mask = None
        if lens is not None:
            valid = torch.arange(x.shape[1], device=x.device) < frame_count(lens)[:, None]
            key_mask = valid[:, None, None]
            x = x * valid[..., None]  # the position convolution must see the zeros of an end
        x = x + F.gelu(self.position(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, key_mask)
        out: Tensor = self.layer_norm(x)
        return out


class XlsrFeatures(ContentFeatures):
    """The encoder as every pipeline asks for it."""

    def __init__(self, encoder: Xlsr) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        out: Tensor = self.encoder(wave, lens)
        return out

    def frames(self, samples: Tensor) -> Tensor:
        return frame_count(samples)


XLSR = PublishedNetwork(
    "xlsr",
    PublishedFile(
        "facebook/wav2vec2-xls-r-300m",
        "pytorch_model.bin",
        "Apache-2.0",
        prefixes=("wav2vec2.", ""),
        rename=(
            (r"^feature_extractor\.conv_layers\.", "conv_layers."),
            (r"^feature_projection\.layer_norm\.", "conv_norm."),
            (r"^feature_projection\.", ""),
            (r"^encoder\.pos_conv_embed\.conv\.", "position."),
            (r"^encoder\.", ""),
            (r"^(layers\.\d+)\.layer_norm\.", r"\1.attention_norm."),
            (r"^(layers\.\d+)\.final_layer_norm\.", r"\1.ffn_norm."),
            (r"\.feed_forward\.intermediate_dense\.", ".up."),
            (r"\.feed_forward\.output_dense\.", ".down."),
        ),
        ignore=(r"^masked_spec_embed$", r"^encoder\.layers\.(1[2-9]|2[0-3])\.", r"^(quantizer|project_\w+)\."),
    ),
    Xlsr,
    as_published(XlsrConfig()),
)
