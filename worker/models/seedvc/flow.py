"""Flow matching: Euler steps from noise to mel along the estimator's velocity.

Lipman et al., "Flow Matching for Generative Modeling" (2022); Ho & Salimans, "Classifier-Free Diffusion Guidance"
(2022). Times, masks and both branches' conditions are prepared before the loop. With fixed shapes nothing in a call
waits for the device or depends on values, so a whole call can be captured as a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.seedvc.dit import Conditions, DiT, Times

Schedule = Literal["linear", "cosine"]


def time_span(steps: int, schedule: Schedule) -> Tensor:
    """The ``steps + 1`` times from 0 to 1 between which the solver steps, float32 on the CPU."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if schedule not in ("linear", "cosine"):
        raise ValueError(f"schedule must be linear or cosine, got {schedule!r}")
    span = torch.linspace(0, 1, steps + 1)
    return span if schedule == "linear" else 1 - torch.cos(math.pi / 2 * span)


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Where rows of one call differ."""

    steps: Tensor  # int64 [B], in 1 .. the solver's steps; a row of fewer steps is done early and then stays
    guidance: Tensor | None = None  # float32 [B], 0 or more; None: the solver's


class FlowSolver:
    """A solver with a fixed number of steps; make one for each number in use.

    guidance: rate ``r >= 0``; the velocity is ``(1 + r) v(condition) - r v(nothing)``. 0 leaves the second branch out.
    It follows ``dit`` neither to another device nor to another type: make it after moving the network.
    """

    @torch.inference_mode()
    def __init__(self, dit: DiT, *, steps: int, guidance: float = 0.7, schedule: Schedule = "cosine") -> None:
        if not 0 <= guidance < math.inf:
            raise ValueError(f"guidance must be 0 or more, got {guidance}")
        self.dit = dit
        self.steps = steps
        self.guidance = guidance
        self.schedule = schedule
        self._device = dit.cond_x_merge_linear.weight.device
        span = time_span(steps, schedule)
        self.sizes: list[float] = (span[1:] - span[:-1]).tolist()
        self.times = dit.times(span[:-1].to(self._device))
        self._shorter: tuple[Times, Tensor] | None = None

    @torch.inference_mode()
    def prepare_rows(self) -> None:
        """Compute what calls with ``RowOptions`` need; the first such call does it too."""
        if self._shorter is None:
            spans = [time_span(steps, self.schedule) for steps in range(1, self.steps + 1)]
            times = self.dit.times(torch.cat([span[:-1] for span in spans]).to(self._device))
            self._shorter = times, torch.cat([span.diff() for span in spans]).to(self._device)

    def _row_step(self, step: int, rows: RowOptions, branches: int) -> tuple[Times, Tensor]:
        """Times ``[R]`` of a step for all branches' rows, and its sizes ``[B, 1, 1]``: 0 where a row is done."""
        assert self._shorter is not None
        times, sizes = self._shorter
        index = rows.steps * (rows.steps - 1) // 2 + (rows.steps - 1).clamp(max=step)
        size = sizes[index] * (rows.steps > step)
        return times.rows(index.repeat(branches)), size[:, None, None]

    @torch.inference_mode()
    def __call__(
        self,
        noise: Tensor,
        mu: Tensor,
        prompt: Tensor,
        style: Tensor,
        lens: Tensor | None = None,
        prompt_lens: Tensor | None = None,
        rows: RowOptions | None = None,
    ) -> Tensor:
        """noise: ``[B, C, T]``, standard normal, overwritten by nobody. mu: ``[B, T, D]``, prompt then source content.
        prompt: mel ``[B, C, P]``. style: ``[B, 192]``. lens, prompt_lens: int64 ``[B]``, valid frames of each item;
        None: all ``T``, all ``P``. rows: steps and guidance of each item, in place of the solver's. Returns the mel
        ``[B, C, T]``, zero in the prompt and beyond an item's length.
        """
        length = noise.shape[-1]
        frames = torch.arange(length, device=noise.device)
        prompt_x = F.pad(prompt, (0, length - prompt.shape[-1]))
        free = frames >= prompt.shape[-1]
        if prompt_lens is not None:
            free = (frames >= prompt_lens[:, None])[:, None]
            prompt_x = prompt_x.masked_fill(free, 0)
        if lens is not None:
            free = free & (frames < lens[:, None])[:, None]

        def conditions(with_null: bool) -> Conditions:
            return self.dit.conditions(prompt_x, style, mu, lens, with_null=with_null)

        return self.along(noise, conditions, free, rows)

    @torch.inference_mode()
    def along(
        self, noise: Tensor, conditions: Callable[[bool], Conditions], free: Tensor, rows: RowOptions | None = None
    ) -> Tensor:
        """noise: ``[B, C, T]``. conditions: what the network is given, with or without the rows of the unconditional
        branch. free: bool, broadcast to ``noise``, frames that are made; the others are zero. rows: see ``__call__``.
        Returns ``[B, C, T]``."""
        rate: float | Tensor = self.guidance
        if rows is not None:
            self.prepare_rows()
            rate = self.guidance if rows.guidance is None else rows.guidance[:, None, None]
        guided = isinstance(rate, Tensor) or rate > 0
        given = conditions(guided)
        x = noise * free
        for step in range(self.steps):
            size: float | Tensor = self.sizes[step]
            if rows is None:
                times = self.times.at(step)
            else:
                times, size = self._row_step(step, rows, 2 if guided else 1)
            velocity = self.dit.velocity(x, times, given)
            if guided:
                conditional, null = velocity.chunk(2)
                velocity = (1 + rate) * conditional - rate * null
            x = (x + size * velocity).where(free, 0)
        return x
