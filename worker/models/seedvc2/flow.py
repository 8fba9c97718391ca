"""The solver of V2: Euler steps along a velocity with two guidance rates.

*Intelligibility* ``a`` moves away from what the network makes of nothing, *similarity* ``s`` away from what it makes of
the content alone:

    (1 + a + s) full  -  a null  -  s text          anonymous: (1 + a) text  -  a null

A branch whose weight is zero is not evaluated: one rate costs two evaluations a step, both cost three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.seedvc.flow import Schedule, time_span
from worker.models.seedvc.plan import Plan, integrate
from worker.models.seedvc2.dit import Branch, DiT2, Times2

BRANCHES: tuple[Branch, ...] = ("full", "text", "null")


@dataclass(frozen=True, slots=True)
class Rates:
    """Of guidance, each 0 or more. anonymous: nobody's voice, without prompt and style; similarity is ignored."""

    intelligibility: float = 0.7
    similarity: float = 0.7
    anonymous: bool = False

    def __post_init__(self) -> None:
        for name in ("intelligibility", "similarity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @property
    def weights(self) -> dict[Branch, float]:
        """Of each branch's velocity; they add up to 1."""
        a, s = self.intelligibility, self.similarity
        if self.anonymous:
            return {"full": 0.0, "text": 1 + a, "null": -a}
        return {"full": 1 + a + s, "text": -s, "null": -a}

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Those that must be evaluated."""
        return tuple(branch for branch in BRANCHES if self.weights[branch] != 0)


@dataclass(frozen=True, slots=True)
class RowOptions2:
    """Where rows of one call differ. A rate that the solver has at 0 stays 0 for all rows."""

    steps: Tensor  # int64 [B], in 1 .. the solver's steps; a row of fewer steps is done early and then stays
    intelligibility: Tensor | None = None  # float32 [B]; None: the solver's
    similarity: Tensor | None = None  # float32 [B]


class FlowSolver2:
    """A solver with a fixed number of steps; make one for each number in use, after moving the network."""

    @torch.inference_mode()
    def __init__(
        self,
        dit: DiT2,
        *,
        steps: int,
        rates: Rates | None = None,
        schedule: Schedule = "cosine",
        plan: Plan | None = None,
    ) -> None:
        """plan: in place of ``steps`` and ``schedule``, for calls whose rows do not differ."""
        self.dit, self.steps, self.schedule, self.plan = dit, steps, schedule, plan
        self.rates = rates or Rates()
        self._device = dit.cond_x_merge_linear.weight.device
        span = time_span(steps, schedule)
        self.sizes: list[float] = span.diff().tolist()
        self.times = dit.times(span[:-1].to(self._device))
        self._planned = None if plan is None else dit.times(torch.tensor(plan.evaluated, device=self._device))
        self._shorter: tuple[Times2, Tensor] | None = None

    @torch.inference_mode()
    def prepare_rows(self) -> None:
        """Compute what calls with ``RowOptions2`` need; the first such call does it too."""
        if self._shorter is None:
            spans = [time_span(steps, self.schedule) for steps in range(1, self.steps + 1)]
            times = self.dit.times(torch.cat([span[:-1] for span in spans]).to(self._device))
            self._shorter = times, torch.cat([span.diff() for span in spans]).to(self._device)

    def _row_step(self, step: int, steps: Tensor, branches: int) -> tuple[Times2, Tensor]:
        """Times ``[R]`` of a step for all branches' rows, and its sizes ``[B, 1, 1]``: 0 where a row is done."""
        assert self._shorter is not None
        times, sizes = self._shorter
        index = steps * (steps - 1) // 2 + (steps - 1).clamp(max=step)
        size = sizes[index] * (steps > step)
        return times.rows(index.repeat(branches)), size[:, None, None]

    def _weights(self, rows: RowOptions2 | None) -> list[float | Tensor]:
        """Of each evaluated branch, a number or ``[B, 1, 1]``."""
        rates = self.rates
        if rows is None:
            return [rates.weights[branch] for branch in rates.branches]

        def rate(of_rows: Tensor | None, of_solver: float) -> Tensor:
            given = (
                rows.steps.new_full(rows.steps.shape, of_solver, dtype=torch.float32) if of_rows is None else of_rows
            )
            return given[:, None, None] if of_solver else torch.zeros_like(given)[:, None, None]

        a, s = rate(rows.intelligibility, rates.intelligibility), rate(rows.similarity, rates.similarity)
        of: dict[Branch, Tensor] = {"full": 1 + a + s, "text": -s, "null": -a}
        if rates.anonymous:
            of = {"full": torch.zeros_like(a), "text": 1 + a, "null": -a}
        return [of[branch] for branch in rates.branches]

    @torch.inference_mode()
    def __call__(
        self,
        noise: Tensor,
        mu: Tensor,
        prompt: Tensor,
        style: Tensor,
        lens: Tensor | None = None,
        prompt_lens: Tensor | None = None,
        rows: RowOptions2 | None = None,
    ) -> Tensor:
        """noise: ``[B, C, T]``, standard normal, overwritten by nobody. mu: ``[B, T, D]``, prompt then source content.
        prompt: mel ``[B, C, P]``. style: ``[B, 192]``. lens, prompt_lens: int64 ``[B]``, valid frames of each item;
        None: all ``T``, all ``P``. rows: steps and rates of each item, in place of the solver's. Returns the mel
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
        if self.plan is not None and self._planned is not None:
            return self._follow(self.plan, self._planned, noise, (prompt_x, style, mu, lens), free, rows)
        if rows is not None:
            self.prepare_rows()
        branches, weights = self.rates.branches, self._weights(rows)
        conditions = self.dit.conditions(prompt_x, style, mu, lens, branches)
        x = noise * free
        for step in range(self.steps):
            size: float | Tensor = self.sizes[step]
            times = self.times.at(step)
            if rows is not None:
                times, size = self._row_step(step, rows.steps, len(branches))
            parts = self.dit.velocity(x, times, conditions).chunk(len(branches))
            velocity = sum(weight * part for weight, part in zip(weights, parts, strict=True))
            x = (x + size * velocity).where(free, 0)
        return x

    def _follow(
        self,
        plan: Plan,
        times: Times2,
        noise: Tensor,
        given: tuple[Tensor, Tensor, Tensor, Tensor | None],
        free: Tensor,
        rows: RowOptions2 | None,
    ) -> Tensor:
        """As a plan says; where it is not guided, with the conditional branch alone."""
        if rows is not None:
            raise ValueError("a plan is the same for all rows")
        plain: tuple[Branch, ...] = ("text",) if self.rates.anonymous else ("full",)
        weights = self.rates.weights
        conditions = {
            guided: self.dit.conditions(*given, self.rates.branches if guided else plain)
            for guided in {plan.is_guided(time) for time in plan.evaluated}
        }

        def velocity(x: Tensor, number: int, guided: bool) -> Tensor:
            made = self.dit.velocity(x, times.at(number), conditions[guided])
            if not guided:
                return made
            branches = self.rates.branches
            parts = zip(branches, made.chunk(len(branches)), strict=True)
            return torch.stack([weights[branch] * part for branch, part in parts]).sum(0)

        return integrate(noise, plan, velocity, free)
