"""What a call's timing came to, in a form that can be added up over many calls."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded


@dataclass(slots=True)
class Spread:
    """Number, mean and standard deviation of values, and the largest."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.squares += value * value
        if value > self.largest:
            self.largest = value

    def merge(self, other: Spread) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def std(self) -> float:
        return math.sqrt(max(0.0, self.squares / self.count - self.mean**2)) if self.count else 0.0


@dataclass(slots=True)
class CallFigures:
    """An observer of one session. Latencies are counted by whole milliseconds, so that calls add up exactly."""

    block_ms: float
    latencies_ms: Counter[int] = field(default_factory=Counter)  # from a block being complete to its answer being sent
    latency: Spread = field(default_factory=Spread)  # the same, ms
    gaps: Spread = field(default_factory=Spread)  # between two answers, less a block: its deviation is the jitter, ms
    late: Spread = field(default_factory=Spread)  # a caller's message after the sound before it was over, ms
    first_token_ms: float | None = None  # from the first sound to the first answer
    end_to_end_ms: float | None = None  # from the last sound to the last answer
    input_ms: float = 0.0
    concealed: int = 0
    first_at: float | None = None
    heard_at: float = 0.0
    heard_ms: float = 0.0
    sent_at: float | None = None

    def on_payload(self, event: PayloadReceived) -> None:
        if self.first_at is None:
            self.first_at = event.at
        else:
            late_ms = (event.at - self.heard_at) * 1000 - self.heard_ms
            self.late.add(late_ms if late_ms > 0 else 0.0)
        self.heard_at, self.heard_ms = event.at, event.audio_ms
        self.input_ms += event.audio_ms

    def on_block(self, event: BlockSubmitted) -> None:
        pass

    def on_answer(self, event: AnswerSent) -> None:
        self.latencies_ms[round(event.latency_ms)] += 1
        self.latency.add(event.latency_ms)
        self.concealed += event.answer.concealed_by is not None
        if self.first_token_ms is None and self.first_at is not None:
            self.first_token_ms = (event.at - self.first_at) * 1000
        if self.sent_at is not None:
            self.gaps.add((event.at - self.sent_at) * 1000 - self.block_ms)
        self.sent_at = event.at

    def on_end(self, event: SessionEnded) -> None:
        if self.sent_at is not None and self.first_at is not None:
            self.end_to_end_ms = max(0.0, (self.sent_at - self.heard_at) * 1000)

    def as_json(self) -> dict[str, Any]:
        """For the index and the report."""
        return {
            "block_ms": self.block_ms,
            "latencies_ms": {str(ms): count for ms, count in sorted(self.latencies_ms.items())},
            **{name: _numbers(getattr(self, name)) for name in ("latency", "gaps", "late")},
            "first_token_ms": _rounded(self.first_token_ms),
            "end_to_end_ms": _rounded(self.end_to_end_ms),
            "input_ms": round(self.input_ms, 3),
            "concealed": self.concealed,
        }


def read_spread(numbers: list[float]) -> Spread:
    return Spread(int(numbers[0]), *numbers[1:])


def _numbers(spread: Spread) -> list[float]:
    return [spread.count, round(spread.total, 3), round(spread.squares, 3), round(spread.largest, 3)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
