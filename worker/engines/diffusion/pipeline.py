"""Wave to wave through one model: the steps that streaming and file conversion share.

    content -> regulator (+ f0) -> [prompt | source] -> solver -> mel -> vocoder

A decoder of one step needs neither solver nor noise, and looks at the prompt's memory instead of the prompt.

Every step takes a batch. What varies between rows are lengths and values, never the code that runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engines.diffusion.noise import NoiseTape, PhaseTable
from worker.geometry import UNITS_A_SECOND
from worker.models import fused
from worker.models.networks import F0_RATE, Networks, OneStep
from worker.models.seedvc.flow import FlowSolver, RowOptions, Schedule
from worker.models.seedvc.plan import Method, Plan, PlannedSolver

MEL_TAPE_FRAMES = 1 << 14
WAVE_TAPE_SAMPLES = 1 << 18


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model takes from one reference recording of ``P`` mel frames."""

    condition: Tensor  # [P, D]
    mel: Tensor  # [C, P]
    style: Tensor  # [S]
    f0_hz: float  # median over voiced frames, 0 where the model tracks none or found none
    memory: Tensor | None = None  # [depth, 2, P, D], of a decoder of one step


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of ``B`` rows, padded to one length. ``lens`` is None where all are of that length."""

    condition: Tensor  # [B, P, D]
    mel: Tensor  # [B, C, P]
    style: Tensor  # [B, S]
    f0_hz: Tensor  # [B]
    lens: Tensor | None  # int64 [B]
    memory: Tensor | None = None  # [B, depth, 2, P, D]

    @classmethod
    def of(cls, prompts: list[Prompt]) -> Prompts:
        """Pads with zeros, which nothing reads."""
        lens = [prompt.mel.shape[1] for prompt in prompts]
        condition = torch.nn.utils.rnn.pad_sequence([prompt.condition for prompt in prompts], batch_first=True)
        mel = torch.nn.utils.rnn.pad_sequence([prompt.mel.T for prompt in prompts], batch_first=True).transpose(1, 2)
        device = mel.device
        memory = None
        if prompts[0].memory is not None:
            room = max(lens)
            memory = torch.stack([F.pad(p.memory, (0, 0, 0, room - p.memory.shape[2])) for p in prompts])  # type: ignore[union-attr,arg-type]
        return cls(
            condition,
            mel,
            torch.stack([prompt.style for prompt in prompts]),
            torch.tensor([prompt.f0_hz for prompt in prompts], device=device),
            torch.tensor(lens, device=device) if len(set(lens)) > 1 else None,
            memory,
        )


class Pipeline:
    """One model on one device, with its solvers and its noise."""

    def __init__(
        self,
        networks: Networks,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        guidance: float = 0.7,
        schedule: Schedule = "cosine",
        method: Method = "euler",
    ) -> None:
        """guidance, schedule: of every solver, see ``FlowSolver``. method: another than Euler's is for calls whose rows
        do not differ, see ``Plan``. Raises ``CheckpointError`` if memory is short."""
        self.networks = networks.to(device, dtype)
        fused.try_out(torch.device(device), dtype)
        self.mel_config = networks.mel_config
        self.device = torch.device(device)
        self.guidance, self.schedule, self.method = guidance, schedule, method
        self._solvers: dict[int, FlowSolver] = {}
        self.mel_noise = NoiseTape(self.mel_config.bins, MEL_TAPE_FRAMES, device)
        rows = networks.vocoder.noise_rows
        self.wave_noise = NoiseTape(rows, WAVE_TAPE_SAMPLES, device, seed=1) if rows else None
        self.phases = PhaseTable(networks.vocoder.phases, device=device) if networks.vocoder.phases else None

    def solver(self, steps: int) -> FlowSolver:
        """The solver of so many steps, made on first use."""
        if steps not in self._solvers:
            self._solvers[steps] = self._made(steps)
        return self._solvers[steps]

    def _made(self, steps: int) -> FlowSolver:
        dit = self.networks.dit
        assert not isinstance(dit, OneStep), "there is nothing to solve"
        if self.method == "euler":
            return FlowSolver(dit, steps=steps, guidance=self.guidance, schedule=self.schedule)
        return PlannedSolver(dit, Plan.of(steps, self.schedule, self.method), self.guidance)

    def mel_frames(self, units: int) -> int:
        """Mel frames that cover so many content frames, rounded up."""
        return -(-units * self.mel_config.rate // (UNITS_A_SECOND * self.mel_config.hop))

    @property
    def one_step(self) -> bool:
        """Whether the mel is said at once, whatever the number of steps, and without noise."""
        return isinstance(self.networks.dit, OneStep)

    @torch.inference_mode()
    def prompt(self, wave: Tensor, fine: Tensor) -> Prompt:
        """The prompt of one recording: ``wave [n]`` at 16 kHz and ``fine``, the same at the model's rate."""
        networks = self.networks
        wave, fine = wave.to(self.device)[None], fine.to(self.device)[None]
        mel = networks.mel(fine)
        f0 = None if networks.tracker is None else networks.tracker(wave)
        condition = networks.regulator(networks.content(wave), mel.shape[-1], f0=f0)
        median = 0.0
        if f0 is not None and bool((f0 > 0).any()):
            median = float(f0[f0 > 0].log().median().exp())
        style: Tensor = networks.style(wave)
        memory = None
        if isinstance(networks.dit, OneStep):
            memory = networks.dit.remember(mel, condition, style)[0]
        return Prompt(condition[0], mel[0], style[0].float(), median, memory)

    def condition(
        self,
        content: Tensor,
        length: int,
        f0: Tensor | None = None,
        lens: Tensor | None = None,
        content_lens: Tensor | None = None,
    ) -> Tensor:
        """Content ``[B, N, width]`` and f0 in Hz ``[B, F]`` over the same time, to ``[B, length, D]``.

        lens, content_lens: int64 ``[B]``, valid frames of the result and of the content.
        """
        f0_lens = None
        if f0 is not None and content_lens is not None:
            f0_lens = (content_lens * (F0_RATE // UNITS_A_SECOND)).clamp(max=f0.shape[1])
        out: Tensor = self.networks.regulator(
            content, length, target_lens=lens, content_lens=content_lens, f0=f0, f0_lens=f0_lens
        )
        return out

    def solve(
        self,
        condition: Tensor,
        prompts: Prompts,
        noise: Tensor | None,
        steps: int,
        lens: Tensor | None = None,
        rows: RowOptions | None = None,
    ) -> Tensor:
        """Mel ``[B, C, M]`` of the source alone. condition: ``[B, M, D]``. noise: ``[B, C, M]``, of ``mel_noise_at``.
        lens: valid frames."""
        if isinstance(self.networks.dit, OneStep):
            assert prompts.memory is not None
            mel: Tensor = self.networks.dit(condition, prompts.style, prompts.memory, prompts.lens, lens)
            return mel
        assert noise is not None
        length, room = condition.shape[1], prompts.mel.shape[-1]
        mu = torch.cat([prompts.condition, condition], dim=1)
        total = torch.cat([noise.new_zeros(*noise.shape[:2], room), noise], dim=2)
        if prompts.lens is None:
            own = None if lens is None else lens + room
            return self.solver(steps)(total, mu, prompts.mel, prompts.style, own, None, rows)[..., room:]
        # Each row's source follows its own prompt without a gap; the frames left over are masked.
        prompt_lens = prompts.lens[:, None]
        frames = torch.arange(room + length, device=mu.device)
        index = torch.where(frames < prompt_lens, frames, frames - prompt_lens + room).clamp(max=room + length - 1)
        mu = mu.gather(1, index[..., None].expand(-1, -1, mu.shape[-1]))
        total = total.gather(2, index[:, None].expand(-1, total.shape[1], -1))
        own = prompts.lens + (length if lens is None else lens)
        mel = self.solver(steps)(total, mu, prompts.mel, prompts.style, own, prompts.lens, rows)
        back = prompt_lens + torch.arange(length, device=mu.device)
        return mel.gather(2, back[:, None].expand(-1, mel.shape[1], -1))

    def mel_noise_at(self, start: Tensor, length: int) -> Tensor | None:
        """What the solver starts from, ``[B, C, length]``, from frames ``start [B]`` of the tape; None where nothing is
        solved."""
        return None if self.one_step else self.mel_noise.take(start, length)

    def vocode(self, mel: Tensor, f0: Tensor | None, start: Tensor, seed: Tensor) -> Tensor:
        """Wave ``[B, hop T]`` of a mel ``[B, C, T]``. f0: Hz ``[B, T]``. start: int64 ``[B]``, the stream's sample at
        which the mel begins. seed: int64 ``[B]``."""
        noise = None
        if self.wave_noise is not None:
            noise = self.wave_noise.take(start + seed, self.mel_config.hop * mel.shape[-1])
        phase = None if self.phases is None else self.phases.take(seed)
        wave: Tensor = self.networks.vocoder(mel, f0, noise, phase)
        return wave.float()
