"""The steps that V2's streaming and file conversion share.

content -> codes -> regulator -> [prompt | source] -> two-rate solver -> mel -> vocoder
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from worker.engines.diffusion.pipeline import Pipeline, Prompt
from worker.models.seedvc.flow import Schedule
from worker.models.seedvc.plan import Method, Plan
from worker.models.seedvc2.astral import without_runs
from worker.models.seedvc2.flow import FlowSolver2, Rates
from worker.models.seedvc2.hubert import frame_count
from worker.models.seedvc2.model import V2Networks

MIN_SAMPLES = 400  # at 16 kHz, that the content encoder makes its first frame of


@dataclass(frozen=True, slots=True)
class Codes:
    """Of one recording, int64 ``[N]``, 50 a second. ``narrow`` where the networks of the style path are there."""

    wide: Tensor
    narrow: Tensor | None = None

    @property
    def spoken(self) -> Tensor:
        """Narrow codes without how long each lasts: what is said."""
        assert self.narrow is not None
        return without_runs(self.narrow)


class V2Pipeline(Pipeline):
    """V2 on one device. It has the verbs of ``Pipeline``; its ``networks`` are ``v2``."""

    def __init__(
        self,
        networks: V2Networks,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        rates: Rates | None = None,
        schedule: Schedule = "cosine",
        method: Method = "euler",
    ) -> None:
        """rates, schedule, method: of every solver. Raises ``CheckpointError`` if memory is short."""
        super().__init__(
            cast(Any, networks), device=device, dtype=dtype, guidance=0.0, schedule=schedule, method=method
        )
        self.v2 = networks
        self.rates = rates or Rates()
        self._solvers2: dict[int, FlowSolver2] = {}

    def solver(self, steps: int) -> FlowSolver2:  # type: ignore[override]
        """The solver of so many steps, made on first use."""
        if steps not in self._solvers2:
            plan = None if self.method == "euler" else Plan.of(steps, self.schedule, self.method)
            self._solvers2[steps] = FlowSolver2(
                self.v2.dit, steps=steps, rates=self.rates, schedule=self.schedule, plan=plan
            )
        return self._solvers2[steps]

    @torch.inference_mode()
    def codes(self, waves: list[Tensor]) -> list[Codes]:
        """Codes of recordings ``[n]`` at 16 kHz, each of at most about 30 s, as if each were alone."""
        lens = torch.tensor([max(len(wave), MIN_SAMPLES) for wave in waves], device=self.device)
        batch = torch.zeros(len(waves), int(lens.max()), device=self.device)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = wave
        equal = len(set(lens.tolist())) == 1
        features = self.v2.hubert(batch, None if equal else lens)
        frames = frame_count(lens)
        own = None if equal else frames
        wide = self.v2.wide(features, own)
        narrow = None if self.v2.ar is None else self.v2.ar.narrow(features, own)
        return [
            Codes(wide[row, :count], None if narrow is None else narrow[row, :count])
            for row, count in enumerate(frames.tolist())
        ]

    @torch.inference_mode()
    def prompt(self, wave: Tensor, fine: Tensor) -> Prompt:
        """The prompt of one recording: ``wave [n]`` at 16 kHz and ``fine``, the same at the model's rate."""
        (codes,) = self.codes([wave.to(self.device)])
        return self.prompt_of(codes, wave, fine)

    @torch.inference_mode()
    def prompt_of(self, codes: Codes, wave: Tensor, fine: Tensor) -> Prompt:
        """As ``prompt``, of a recording whose codes are known."""
        mel = self.v2.mel(fine.to(self.device)[None])
        condition = self.v2.regulator(codes.wide[None], mel.shape[-1])
        style: Tensor = self.v2.style(wave.to(self.device)[None])
        return Prompt(condition[0], mel[0], style[0].float(), 0.0)

    def vocode(self, mel: Tensor, f0: Tensor | None, start: Tensor, seed: Tensor) -> Tensor:
        """Wave ``[B, hop T]`` of a mel ``[B, C, T]``; V2 takes neither pitch nor noise."""
        wave: Tensor = self.v2.vocoder(mel, None, None, None)
        return wave.float()
