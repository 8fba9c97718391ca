"""Content features that ASTRAL quantises: HuBERT-large cut to 18 layers, without the encoder's final layer norm.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units" (2021). The
network is XLSR's; what differs is that its residual stream leaves it bare, with values up to about 20.
"""

from __future__ import annotations

from torch import Tensor, nn

from worker.models.published.xlsr import XLSR, Xlsr, XlsrConfig, frame_count
from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

LARGE = XlsrConfig(depth=18)
SAMPLES_A_FRAME = 320


class Hubert(Xlsr):
    """As ``Xlsr``: wave ``[B, n]`` at 16 kHz, lens int64 ``[B]``, to ``[B, frame_count(n), width]``."""

    def __init__(self, config: XlsrConfig = LARGE) -> None:
        super().__init__(config)
        self.layer_norm = nn.Identity()  # type: ignore[assignment]


def content_lens(lens: Tensor, frames: int) -> Tensor:
    """The original's lengths of a batch of ``frames``: of an item shorter than the batch, one frame may be padding."""
    return (lens // SAMPLES_A_FRAME).clamp(max=frames)


__all__ = ["LARGE", "SAMPLES_A_FRAME", "Hubert", "content_lens", "frame_count"]


HUBERT = PublishedNetwork(
    "hubert_v2",
    PublishedFile(
        "facebook/hubert-large-ll60k",
        "pytorch_model.bin",
        "Apache-2.0",
        prefixes=("hubert.", ""),
        rename=XLSR.layout.rename,
        ignore=(r"^masked_spec_embed$", r"^encoder\.layers\.(1[89]|2[0-3])\.", r"^encoder\.layer_norm\."),
        needs_folder=True,
    ),
    Hubert,
    as_published(LARGE),
)
