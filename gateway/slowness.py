"""Warnings of slow intervals: a caller whose sound stops coming, answers that stall, conversions that take too long.

Each kind is said at most once in a while, with how often it was true in between and how bad it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded

if TYPE_CHECKING:
    from loguru import Logger

_SAY_AGAIN_S = 10.0
_RECEIVE_SLACK_MS = 500.0  # of a caller's network and timers


class SlowIntervals:
    """An observer of one session. Milliseconds; times are the loop's."""

    def __init__(self, block_ms: float, log: Logger) -> None:
        self._block_ms, self._log = block_ms, log
        self._covered_until: float | None = None  # up to here the caller's sound lasts
        self._sent_at: float | None = None
        self._complete_at = 0.0
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self._worst: dict[str, float] = {}

    def on_payload(self, event: PayloadReceived) -> None:
        begins = event.at
        if (covered_until := self._covered_until) is not None:
            if covered_until >= begins:
                begins = covered_until
            else:
                self._look("receive", (begins - covered_until) * 1000, _RECEIVE_SLACK_MS, begins)
        self._covered_until = begins + event.audio_ms / 1000

    def on_block(self, event: BlockSubmitted) -> None:
        pass

    def on_answer(self, event: AnswerSent) -> None:
        self._look("convert", event.latency_ms, self._block_ms, event.at)
        complete_at = event.answer.complete_at
        if self._sent_at is not None:  # a caller who paused explains a gap between answers
            held_ms = (event.at - self._sent_at - max(0.0, complete_at - self._complete_at)) * 1000
            self._look("send", held_ms, self._block_ms, event.at)
        self._sent_at, self._complete_at = event.at, complete_at

    def on_end(self, event: SessionEnded) -> None:
        for kind in [kind for kind, count in self._unsaid.items() if count]:
            self._say(kind, event.at)

    def _look(self, kind: str, took_ms: float, allowed_ms: float, at: float) -> None:
        if took_ms <= allowed_ms:
            return
        self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
        self._worst[kind] = max(self._worst.get(kind, 0.0), took_ms)
        if at - self._said.get(kind, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._say(kind, at)

    def _say(self, kind: str, at: float) -> None:
        texts = {
            "receive": "slow receive: no sound of the caller for {:.0f} ms beyond what came",
            "send": "slow send: an answer came {:.0f} ms later after the one before than its block did",
            "convert": "slow conversion: {:.0f} ms from a block being complete to its answer being sent",
        }
        self._log.warning(texts[kind] + " (at worst of {})", self._worst.pop(kind), self._unsaid.pop(kind))
        self._said[kind] = at
