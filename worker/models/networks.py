"""All networks of one model, behind the same few verbs whatever they are made of.

content (wave -> features)   style (wave -> vector)   f0 (wave -> Hz)   regulator   DiT   vocoder (mel -> wave)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import psutil
import torch
from torch import Tensor, nn

from worker.models.weights.checkpoints import CheckpointError

if TYPE_CHECKING:
    from worker.models.published.mel import MelConfig, MelSpectrogram
    from worker.models.seedvc.dit import DiT

F0_RATE = 100  # frames a second of every tracker
MEMORY_SHARE = 0.95  # of the free memory that weights may take
FRONT_END_BUFFERS = (
    "window",
    "filters",
    "area",
    "spread",
    "dead",
)  # of spectra, computed in float32 whatever the precision


class ContentFeatures(nn.Module):
    """Features at 50 frames a second of a wave ``[B, n]`` at 16 kHz: ``[B, N, width]``."""

    moment: int = 0  # of the width, at its end, numbers of the moment and not of what is said

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        """lens: int64 ``[B]``, valid samples of each item (None: all). Beyond ``frames(lens)`` nothing is meant."""
        raise NotImplementedError

    def frames(self, samples: Tensor) -> Tensor:
        """Content frames of so many samples."""
        raise NotImplementedError


class Vocoder(nn.Module):
    """Mel ``[B, C, T]`` to wave ``[B, hop T]``."""

    noise_rows: int = 0  # rows of noise that it wants for every sample
    phases: int = 0  # harmonics whose start phase it wants

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        """f0: Hz ``[B, T]``, 0 unvoiced, of models that track it. noise: standard normal ``[B, noise_rows, hop T]``.
        phase: of the harmonics, ``[B, phases, 1]`` in (-pi, pi)."""
        raise NotImplementedError


def lens_or_all(lens: Tensor | None, items: Tensor, full: int) -> Tensor:
    """Valid frames int64 ``[B]`` of ``items`` ``[B, ...]``: ``lens``, or where None, ``full`` for each."""
    return items.new_full((len(items),), full, dtype=torch.int64) if lens is None else lens


class Regulator(nn.Module):
    """Content and pitch to the mel frames' condition; called as ``LengthRegulator`` is."""


class Widths(Protocol):
    """Sizes of what a decoder is given."""

    @property
    def width(self) -> int: ...

    @property
    def style_width(self) -> int: ...


class OneStep(nn.Module):
    """A decoder that says the mel at once, where others are solved for it; what it hears of a reference is computed
    once a voice."""

    config: Widths
    memory_shape: tuple[int, int, int]  # of a reference's frame: depth, 2, width

    def remember(self, mel: Tensor, condition: Tensor, style: Tensor, lens: Tensor | None = None) -> Tensor:
        """A reference's memory ``[B, depth, 2, P, D]``: mel ``[B, C, P]``, condition ``[B, P, D]``, style ``[B, S]``.
        lens: int64 ``[B]``, valid frames; None: all."""
        raise NotImplementedError

    def forward(
        self,
        condition: Tensor,
        style: Tensor,
        memory: Tensor,
        memory_lens: Tensor | None = None,
        lens: Tensor | None = None,
    ) -> Tensor:
        """Mel ``[B, C, M]`` of a condition ``[B, M, D]``. The lens, int64 ``[B]``, are valid frames; None: all."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Networks:
    """One model. Modules are in evaluation mode on one device; ``tracker`` is None for models without f0."""

    name: str
    content: ContentFeatures
    style: nn.Module
    mel: MelSpectrogram
    regulator: Regulator
    dit: DiT | OneStep
    vocoder: Vocoder
    tracker: nn.Module | None

    @property
    def mel_config(self) -> MelConfig:
        return self.mel.config

    def parts(self) -> dict[str, nn.Module]:
        """Every network by its stage."""
        parts = {
            "content": self.content,
            "style": self.style,
            "f0": self.tracker,
            "regulator": self.regulator,
            "dit": self.dit,
            "vocoder": self.vocoder,
        }
        return {stage: part for stage, part in parts.items() if part is not None}

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> Networks:
        """Moved, and the heavy networks in ``dtype``: content encoder, transformer and vocoder. Style, pitch, mel and
        regulator stay in float32, as in the original. Raises ``CheckpointError`` if the device has too little memory.
        """
        try:
            for part in (self.style, self.mel, self.regulator, *((self.tracker,) if self.tracker else ())):
                part.to(device)
            for part in (self.content, self.vocoder, self.dit):
                for weight in part.parameters():  # of front ends there are none
                    weight.data = weight.data.to(device, dtype)
                for module in part.modules():
                    for name, buffer in module.named_buffers(recurse=False):
                        kept = buffer.dtype if name in FRONT_END_BUFFERS else dtype
                        setattr(module, name, buffer.to(device, kept))
        except torch.OutOfMemoryError as error:
            raise CheckpointError(
                f"{self.name} does not fit into the free memory of {device}: choose a smaller model, precision bf16, "
                "or another device."
            ) from error
        return self


def check_memory(name: str, wanted_bytes: int) -> None:
    """Raises ``CheckpointError`` if weights of this size do not fit into the free memory of the host."""
    free_bytes = int(psutil.virtual_memory().available)
    if wanted_bytes > MEMORY_SHARE * free_bytes:
        raise CheckpointError(
            f"{name} needs {wanted_bytes / 1e9:.1f} GB of memory for its weights and {free_bytes / 1e9:.1f} GB are "
            "free: choose a smaller model or free some."
        )
