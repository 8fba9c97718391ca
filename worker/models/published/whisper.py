"""Content features of the small and base models: the encoder of Whisper-small.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022). It always hears thirty seconds,
however short the audio; only the frames of the audio are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.networks import ContentFeatures
from worker.models.published.encoder import EncoderLayer
from worker.models.published.mel import hann, mel_filters
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

RATE = 16_000
N_FFT = 400
HOP = 160
MEL_BINS = 80
POSITIONS = 1500
SAMPLES_A_FRAME = 320


@dataclass(frozen=True, slots=True)
class WhisperConfig:
    width: int = 768
    heads: int = 12
    inner: int = 3072
    depth: int = 12
    positions: int = POSITIONS  # of 20 ms: what it always hears; fewer only in tests

    @property
    def samples(self) -> int:
        return self.positions * SAMPLES_A_FRAME


class WhisperMel(nn.Module):
    """Base-10 log-mel power of all that the encoder hears, thirty seconds, within 80 dB of its loudest point, scaled
    to about [-1, 1]."""

    window: Tensor
    filters: Tensor

    def __init__(self, samples: int = POSITIONS * SAMPLES_A_FRAME) -> None:
        super().__init__()
        self.samples = samples
        self.register_buffer("window", hann(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(RATE, N_FFT, MEL_BINS, 0.0, 8000.0), persistent=False)

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1], at most ``samples``. lens: int64 ``[B]``, valid samples (None: all).
        Returns float32 ``[B, 80, samples // 160]``. Raises ``ValueError`` if it is longer."""
        samples = wave.shape[-1]
        if samples > self.samples:
            raise ValueError(f"Whisper hears {self.samples / RATE:g} s at a time, got {samples / RATE:.2f} s")
        if lens is not None:
            wave = wave * (torch.arange(samples, device=wave.device) < lens[:, None])
        wave = F.pad(wave.float(), (0, self.samples - samples))
        spectrum = torch.stft(wave, N_FFT, HOP, window=self.window, center=True, return_complex=True)[..., :-1]
        log_mel = (self.filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
        log_mel = log_mel.maximum(log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log_mel + 4.0) / 4.0


class WhisperEncoder(nn.Module):
    def __init__(self, config: WhisperConfig | None = None) -> None:
        super().__init__()
        config = config or WhisperConfig()
        self.samples = config.samples
        self.conv1 = nn.Conv1d(MEL_BINS, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, 2, padding=1)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.inner, key_bias=False) for _ in range(config.depth)
        )
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, log_mel: Tensor, samples: int) -> Tensor:
        """log_mel: of ``WhisperMel``, ``[B, 80, 3000]``. samples: length of the longest audio in it. Returns
        ``[B, samples // 320 + 1, width]`` (at most 1500 frames): of a shorter item the first ``its samples // 320 + 1``
        are what it gives alone."""
        x = F.gelu(self.conv1(log_mel.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2) + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.layer_norm(x)
        return out[:, : samples // SAMPLES_A_FRAME + 1]


class WhisperFeatures(ContentFeatures):
    """The encoder as every pipeline asks for it."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.mel = WhisperMel(encoder.samples)

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        out: Tensor = self.encoder(self.mel(wave, lens), wave.shape[-1])
        return out

    def frames(self, samples: Tensor) -> Tensor:
        return samples // SAMPLES_A_FRAME + 1


WHISPER = PublishedNetwork(
    "whisper",
    PublishedFile(
        "openai/whisper-small",
        "model.safetensors",
        "Apache-2.0",
        prefixes=("model.encoder.", "encoder."),
        rename=(
            (r"\.self_attn\.", ".attention."),
            (r"\.self_attn_layer_norm\.", ".attention_norm."),
            (r"\.final_layer_norm\.", ".ffn_norm."),
            (r"\.fc1\.", ".up."),
            (r"\.fc2\.", ".down."),
        ),
    ),
    WhisperEncoder,
    as_published(WhisperConfig()),
)
