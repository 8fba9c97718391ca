"""What happens in a session, for whoever watches one: metrics, statistics, a recorder."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from gateway.audio.resample import Pcm
from gateway.stream import Answer


class PayloadReceived(NamedTuple):
    """A message of sound came; `payload` is None for one that was lost on the way."""

    at: float  # loop time, as all times here
    payload: bytes | None
    audio_ms: float


class BlockSubmitted(NamedTuple):
    """A block went on its way to a worker: int16 at the link's rate."""

    at: float
    seq: int
    samples: Pcm


class AnswerSent(NamedTuple):
    """A block was answered to the caller."""

    at: float
    answer: Answer
    samples: Pcm  # as emitted, at the worker's rate, before the caller's codec
    messages: list[bytes]

    @property
    def latency_ms(self) -> float:
        """From the block being complete to its answer being sent."""
        return max(0.0, (self.at - self.answer.complete_at) * 1000)


class SessionEnded(NamedTuple):
    """The last event. `outcome` is "complete", "gone", "cut off" or an error code."""

    at: float
    outcome: str
    summary: dict[str, Any]


class SessionObserver(Protocol):
    """Told on the event loop; must neither block nor raise."""

    def on_payload(self, event: PayloadReceived) -> None: ...

    def on_block(self, event: BlockSubmitted) -> None: ...

    def on_answer(self, event: AnswerSent) -> None: ...

    def on_end(self, event: SessionEnded) -> None: ...
