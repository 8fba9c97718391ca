"""CAM++: a speaker embedding from filter-bank features.

Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking" (2023):
a small 2-d ResNet, then densely connected time-delay layers whose outputs are masked by their context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.published.fbank import KaldiFbank
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

GROWTH = 32
BOTTLENECK = 128
SEGMENT = 100  # frames of local context
EMBEDDING = 192
DILATIONS = (1, 2, 2)


@dataclass(frozen=True, slots=True)
class CamPlusConfig:
    channels: int = 32  # of the front
    layers: tuple[int, int, int] = (12, 24, 16)  # of each dense block


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            conv = nn.Conv2d(channels, channels, 1, (stride, 1), bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Head(nn.Module):
    """Time-frequency front: ``[B, 80, T]`` to ``[B, 10 channels, T]``; an eighth of the bins, all channels of each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(ResidualBlock(channels, 2), ResidualBlock(channels, 1))
        self.layer2 = nn.Sequential(ResidualBlock(channels, 2), ResidualBlock(channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, (2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x[:, None])))
        y = F.relu(self.bn2(self.conv2(self.layer2(self.layer1(y)))))
        return y.flatten(1, 2)


class ContextMask(nn.Module):
    """A dilated convolution, masked by the mean over all time plus the mean over its segment of 100 frames."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(BOTTLENECK, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(BOTTLENECK, BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(BOTTLENECK // 2, GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        segments = F.avg_pool1d(x, SEGMENT, ceil_mode=True).repeat_interleave(SEGMENT, dim=-1)[..., : x.shape[-1]]
        context = x.mean(-1, keepdim=True) + segments
        return self.linear_local(x) * self.linear2(F.relu(self.linear1(context))).sigmoid()


class DenseLayer(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(channels)
        self.linear1 = nn.Conv1d(channels, BOTTLENECK, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(BOTTLENECK)
        self.cam_layer = ContextMask(dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm2(self.linear1(F.relu(self.norm1(x)))))
        return torch.cat([x, self.cam_layer(y)], dim=1)


class Transit(nn.Module):
    """Halve the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(F.relu(self.norm(x)))
        return out


class TimeDelay(nn.Module):
    """Entry to the dense part: half the frame rate."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, out, 5, 2, padding=2, bias=False)
        self.norm = nn.BatchNorm1d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(x)))


class Dense(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, EMBEDDING, 1, bias=False)
        self.norm = nn.BatchNorm1d(EMBEDDING, affine=False)

    def forward(self, statistics: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(statistics[..., None]))[..., 0]
        return out


class XVector(nn.Module):
    """Names follow the published file: layers count from one."""

    def __init__(self, config: CamPlusConfig) -> None:
        super().__init__()
        channels = 128
        self.tdnn = TimeDelay(10 * config.channels, channels)
        for block, (layers, dilation) in enumerate(zip(config.layers, DILATIONS, strict=True), start=1):
            dense = {f"tdnnd{i + 1}": DenseLayer(channels + i * GROWTH, dilation) for i in range(layers)}
            self.add_module(f"block{block}", nn.Sequential())
            for name, layer in dense.items():
                self.get_submodule(f"block{block}").add_module(name, layer)
            channels += layers * GROWTH
            self.add_module(f"transit{block}", Transit(channels))
            channels //= 2
        self.out_norm = nn.BatchNorm1d(channels)
        self.dense = Dense(2 * channels)

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        x = self.tdnn(x)
        for block in (1, 2, 3):
            x = self.get_submodule(f"transit{block}")(self.get_submodule(f"block{block}")(x))
        out: Tensor = self.dense(statistics(F.relu(self.out_norm(x)), lens))
        return out


def statistics(x: Tensor, lens: Tensor | None) -> Tensor:
    """Mean and unbiased standard deviation over the first ``lens`` frames of ``x [B, C, T]``: ``[B, 2 C]``."""
    if lens is None:
        return torch.cat([x.mean(-1), x.std(-1)], dim=-1)
    valid = torch.arange(x.shape[-1], device=x.device) < lens[:, None, None]
    count = lens[:, None]
    mean = (x * valid).sum(-1) / count
    variance = ((x - mean[..., None]) * valid).square().sum(-1) / (count - 1)
    return torch.cat([mean, variance.sqrt()], dim=-1)


class CamPlus(nn.Module):
    def __init__(self, config: CamPlusConfig | None = None) -> None:
        super().__init__()
        config = config or CamPlusConfig()
        self.head = Head(config.channels)
        self.xvector = XVector(config)

    def forward(self, fbank: Tensor, statistics_lens: Tensor | None = None) -> Tensor:
        """fbank: ``[B, T, 80]``, less its mean over time (see ``fbank``). statistics_lens: int64 ``[B]``,
        frames at half rate that count in the final statistics alone, as Seed-VC V2 does; the layers before still see
        the padding, so utterances of unequal length that should not notice each other go through
        ``worker.models.published.ragged.by_length``. Returns ``[B, 192]``.
        """
        out: Tensor = self.xvector(self.head(fbank.transpose(1, 2)), statistics_lens)
        return out


class CamPlusStyle(nn.Module):
    """Speaker embedding ``[B, 192]`` of a wave ``[B, n]`` at 16 kHz."""

    def __init__(self, network: CamPlus) -> None:
        super().__init__()
        self.network = network
        self.fbank = KaldiFbank()

    def forward(self, wave: Tensor) -> Tensor:
        out: Tensor = self.network(self.fbank.centred(wave))
        return out


CAMPPLUS = PublishedNetwork(
    "campplus",
    PublishedFile(
        "funasr/campplus",
        "campplus_cn_common.bin",
        "Apache-2.0",
        rename=((r"^dense\.", "xvector.dense."), (r"nonlinear(\d?)\.batchnorm\.", r"norm\1.")),
    ),
    CamPlus,
    as_published(CamPlusConfig()),
)
