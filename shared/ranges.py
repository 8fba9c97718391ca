"""Numbers that a command line takes."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of real numbers. ``nan``, which compares with no bound, and ``inf`` are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number within {self._describe_range()}.", param, ctx)
        return number
