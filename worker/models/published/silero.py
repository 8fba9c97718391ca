"""Silero's voice activity detector at 16 kHz (Silero Team, "Silero VAD", 2020; MIT licence)."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parents[2] / "assets" / "silero" / "silero_vad_16k.safetensors"
FRAME = 512  # samples a decision
CONTEXT = 64  # samples of the frame before it that the network also hears
PAD = 64
WIDTH = 128


class SileroVad(nn.Module):
    """Speech probability of 32 ms frames: a spectrum, four convolutions, an LSTM over the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, 2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, 2, padding=1)
        self.conv4 = nn.Conv1d(64, WIDTH, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(WIDTH, WIDTH)
        self.final_conv = nn.Conv1d(WIDTH, 1, 1)

    @classmethod
    def bundled(cls) -> SileroVad:
        """With the published weights, which come with the package."""
        vad = cls()
        vad.load_state_dict(load_file(WEIGHTS))
        return vad.eval().requires_grad_(False)

    def features(self, frames: Tensor) -> Tensor:
        """frames: ``[M, CONTEXT + FRAME]`` at 16 kHz in [-1, 1]. Returns ``[M, WIDTH]``; no state is involved."""
        x = self.stft_conv(F.pad(frames[:, None], (0, PAD), mode="reflect"))
        x = (x[:, :129].square() + x[:, 129:].square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        return x[..., 0]

    def forward(self, features: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One frame of each row: features ``[B, WIDTH]``. Returns the probability of speech ``[B]`` and the state."""
        h, c = self.lstm_cell(features, state)
        probability = self.final_conv(F.relu(h)[..., None]).sigmoid()[:, 0, 0]
        return probability, (h, c)
