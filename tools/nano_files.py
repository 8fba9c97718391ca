"""Whole recordings through the bundled model, for its evaluation: windows as long as those it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from worker.models.flow import FlowSolver
from worker.models.mel import MelSpectrogram
from worker.models.nano import NanoNetworks
from worker.models.networks import AutocorrelationTracker
from worker.pitch import MAX_F0_HZ, MIN_F0_HZ

RATE = 16_000
WINDOW_FRAMES, HOP_FRAMES, FADE_FRAMES = 140, 100, 10  # of 16 ms
PROMPT_FRAMES = 185
ROWS = 4
NOISE_SEED = 0

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model takes from a recording of ``T`` mel frames (a multiple of 5: 80 ms)."""

    content: Tensor  # [1, 4 T / 5, K]
    f0: Tensor  # Hz [1, 8 T / 5], 0 unvoiced
    mel: Tensor  # [1, 80, T]

    @property
    def median_hz(self) -> float:
        """0 without a voiced frame."""
        voiced = self.f0[self.f0 > 0]
        return float(voiced.log().median().exp()) if len(voiced) else 0.0


class NanoConverter:
    """Converts recordings with a fixed number of solver steps."""

    def __init__(self, networks: NanoNetworks, *, steps: int = 4, guidance: float = 0.0) -> None:
        self.networks, self.solver = networks, FlowSolver(networks.dit, steps=steps, guidance=guidance)
        self.spectrogram, self.tracker = MelSpectrogram(networks.mel), AutocorrelationTracker()

    @torch.inference_mode()
    def convert(self, source: Wave, target: Wave) -> Wave:
        """``source`` in the voice of ``target``, both 16 kHz; as long as ``source``, at its level."""
        heard, prompt = self.hear(source), self.hear(target)
        style = self.networks.style(torch.from_numpy(target)[None])
        f0 = heard.f0
        if heard.median_hz > 0 and prompt.median_hz > 0:
            moved = (f0 * prompt.median_hz / heard.median_hz).clamp(MIN_F0_HZ, MAX_F0_HZ)
            f0 = torch.where(f0 > 0, moved, 0.0)
        mel = self.solve(Heard(heard.content, f0, heard.mel), prompt, style)
        return self.vocode(mel, f0)[: len(source)]

    @torch.inference_mode()
    def copy(self, wave: Wave) -> Wave:
        """Copy synthesis: the recording from its own mel and pitch."""
        heard = self.hear(wave)
        return self.vocode(heard.mel, heard.f0)[: len(wave)]

    def hear(self, wave: Wave) -> Heard:
        padded = np.pad(wave, (0, -len(wave) % (5 * self.networks.mel.hop)))
        x = torch.from_numpy(padded)[None]
        count = len(padded) // 320
        return Heard(self.networks.content(x)[:, :count], self.tracker(x)[:, : 2 * count], self.spectrogram(x))

    def solve(self, heard: Heard, prompt: Heard, style: Tensor) -> Tensor:
        """The mel ``[1, 80, T]`` of a whole recording, from overlapping windows."""
        total = heard.mel.shape[2]
        length = min(WINDOW_FRAMES, total)
        starts = [*range(0, total - length, HOP_FRAMES), total - length]
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(1, heard.mel.shape[1], total, generator=generator)
        frames = min(PROMPT_FRAMES, prompt.mel.shape[2])
        regulate = self.networks.regulator
        said = regulate(prompt.content[:, : frames * 4 // 5], frames, f0=prompt.f0[:, : frames * 8 // 5])
        rows = []
        for begin in starts:
            units, ticks = slice(begin * 4 // 5, (begin + length) * 4 // 5), slice(begin * 8 // 5, None)
            mu = regulate(heard.content[:, units], length, f0=heard.f0[:, ticks][:, : length * 8 // 5])
            rows.append((torch.cat([said, mu], dim=1), noise[..., begin : begin + length]))
        pieces = []
        for first in range(0, len(rows), ROWS):
            mu, start = (torch.cat(part) for part in zip(*rows[first : first + ROWS], strict=True))
            count = len(mu)
            start = torch.nn.functional.pad(start, (frames, 0))
            known = prompt.mel[..., :frames].expand(count, -1, -1)
            pieces.append(self.solver(start, mu, known, style.expand(count, -1))[..., frames:])
        return joined(torch.cat(pieces), starts, total)

    def vocode(self, mel: Tensor, f0: Tensor) -> Wave:
        frames = mel.shape[2]
        at = (2 * torch.arange(frames) + 1) * f0.shape[1] // (2 * frames)
        noise = torch.randn(1, frames * self.networks.mel.hop, generator=torch.Generator().manual_seed(NOISE_SEED))
        return np.asarray(self.networks.vocoder(mel, f0[:, at], noise)[0].numpy(), np.float32)


def joined(pieces: Tensor, starts: list[int], total: int) -> Tensor:
    """Windows ``[R, C, L]`` that begin at ``starts``, crossfaded to ``[1, C, total]``."""
    length = pieces.shape[2]
    out, weight = pieces.new_zeros(pieces.shape[1], total), pieces.new_zeros(total)
    for row, begin in enumerate(starts):
        fade = torch.ones(length)
        ramp = (torch.arange(min(FADE_FRAMES, length)) + 0.5) / FADE_FRAMES
        lead = (starts[row - 1] + length - begin - FADE_FRAMES) // 2 if row else 0  # in the middle of the overlap
        if row:
            fade[: max(0, lead)] = 0
            fade[max(0, lead) : max(0, lead) + len(ramp)] = ramp[: length - max(0, lead)]
        if row + 1 < len(starts):
            tail = (begin + length - starts[row + 1] - FADE_FRAMES) // 2
            fade[length - max(0, tail) :] = 0
            end = length - max(0, tail)
            fade[end - len(ramp) : end] *= ramp.flip(0)
        out[:, begin : begin + length] += pieces[row] * fade
        weight[begin : begin + length] += fade
    return (out / weight.clamp(min=1e-3))[None]
