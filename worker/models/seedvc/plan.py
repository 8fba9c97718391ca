"""More from the same weights: where a solver steps, how, and where it is guided, each at its cost in evaluations.

Midpoint and Heun are the classical second-order methods; Karras et al., "Elucidating the Design Space of
Diffusion-Based Generative Models" (2022), for the last step, which Heun leaves to Euler. Guidance in an interval of
times: Kynkäänniemi et al. (arXiv 2404.07724). Searched positions: as in EPSS (arXiv 2505.19931), O3S (2510.07979).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from worker.models.seedvc.dit import Conditions, DiT
from worker.models.seedvc.flow import FlowSolver, RowOptions, Schedule, time_span

Method = Literal["euler", "midpoint", "heun"]
METHODS: tuple[Method, ...] = ("euler", "midpoint", "heun")


@dataclass(frozen=True, slots=True)
class Plan:
    """times: from 0 to 1, rising. guided: guidance counts where ``guided[0] <= t < guided[1]``."""

    times: tuple[float, ...]
    method: Method = "euler"
    guided: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        times = self.times
        if len(times) < 2 or times[0] != 0 or times[-1] != 1 or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"times must rise from 0 to 1, got {times}")
        if self.method not in METHODS:
            raise ValueError(f"method must be {', '.join(METHODS)}, got {self.method!r}")

    @classmethod
    def of(cls, steps: int, schedule: Schedule = "cosine", method: Method = "euler") -> Plan:
        """A named schedule."""
        return cls((*time_span(steps, schedule).tolist()[:-1], 1.0), method)

    @property
    def evaluated(self) -> tuple[float, ...]:
        """The times at which a velocity is asked for, in order."""
        times: list[float] = []
        for begin, end in pairwise(self.times):
            times.append(begin)
            if self.method == "midpoint":
                times.append((begin + end) / 2)
            elif self.method == "heun" and end < 1:
                times.append(end)
        return tuple(times)

    def is_guided(self, time: float) -> bool:
        return self.guided[0] <= time < self.guided[1]

    def evaluations(self, branches: int = 1) -> int:
        """Rows of the network that one row of the result costs. branches: of a guided velocity."""
        return sum(branches if self.is_guided(time) else 1 for time in self.evaluated)


#: x, the number of the evaluation and whether it is guided, to a velocity.
Velocity = Callable[[Tensor, int, bool], Tensor]


def integrate(x: Tensor, plan: Plan, velocity: Velocity, free: Tensor) -> Tensor:
    """From ``x [B, C, T]`` at time 0 to time 1. free: bool, broadcast to ``x``; where it is false ``x`` is 0."""
    asked = 0

    def ask(at: Tensor, time: float) -> Tensor:
        nonlocal asked
        asked += 1
        return velocity(at, asked - 1, plan.is_guided(time))

    def moved(by: Tensor) -> Tensor:
        return (x + by).where(free, 0)

    x = x * free
    for begin, end in pairwise(plan.times):
        size = end - begin
        slope = ask(x, begin)
        if plan.method == "midpoint":
            slope = ask(moved(size / 2 * slope), (begin + end) / 2)
        elif plan.method == "heun" and end < 1:
            slope = (slope + ask(moved(size * slope), end)) / 2
        x = moved(size * slope)
    return x


class PlannedSolver(FlowSolver):
    """A ``FlowSolver`` that follows a plan, the same one for every row."""

    @torch.inference_mode()
    def __init__(self, dit: DiT, plan: Plan, guidance: float = 0.7) -> None:
        super().__init__(dit, steps=len(plan.times) - 1, guidance=guidance, schedule="linear")
        self.plan = plan
        self.times = dit.times(torch.tensor(plan.evaluated, device=self._device))

    @torch.inference_mode()
    def along(
        self, noise: Tensor, conditions: Callable[[bool], Conditions], free: Tensor, rows: RowOptions | None = None
    ) -> Tensor:
        """As ``FlowSolver.along``. Raises ``ValueError`` for rows with steps or guidance of their own."""
        if rows is not None:
            raise ValueError("a plan is the same for all rows")
        given = {guided: conditions(guided) for guided in {self._guided(time) for time in self.plan.evaluated}}

        def velocity(x: Tensor, number: int, guided: bool) -> Tensor:
            guided = guided and self.guidance > 0
            made = self.dit.velocity(x, self.times.at(number), given[guided])
            if not guided:
                return made
            conditional, null = made.chunk(2)
            return (1 + self.guidance) * conditional - self.guidance * null

        return integrate(noise, self.plan, velocity, free)

    def _guided(self, time: float) -> bool:
        return self.guidance > 0 and self.plan.is_guided(time)
