"""What is kept of every call: figures and warnings of all, recordings of those that are to be recorded."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loguru import logger

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded, SessionObserver
from gateway.recording.figures import CallFigures
from gateway.recording.folder import CallInfo
from gateway.recording.recorder import Recorder
from gateway.recording.report import Call, report
from gateway.slowness import SlowIntervals

if TYPE_CHECKING:
    from loguru import Logger

_REMEMBERED_CALLS = 2000  # of this gateway, the latest
_REPORTED_CALLS = 100_000


class Traces:
    """Lives on one event loop."""

    def __init__(self, recorder: Recorder, *, record: bool) -> None:
        """record: whether calls are recorded whose principal does not say."""
        self.recorder = recorder
        self._record = record
        self._calls: deque[Call] = deque(maxlen=_REMEMBERED_CALLS)

    def follow(self, info: CallInfo, record: bool | None, log: Logger) -> list[SessionObserver]:
        """The observers of a call that begins."""
        figures = CallFigures(info.block_ms)
        observers: list[SessionObserver] = [figures, SlowIntervals(info.block_ms, log)]
        if self._record if record is None else record:
            observers.append(self.recorder.observe(info, figures))
        return [*observers, _Remember(self._calls, info.started, figures)]

    def calls(self, start: float, end: float) -> list[Call]:
        """This gateway's, since its start, that began in that time and are over."""
        return [call for call in self._calls if start <= call.started < end]

    async def report(self, start: float, end: float, others: Sequence[Call] = ()) -> dict[str, Any]:
        """Over the calls that began in that time: this gateway's, those of `others`, and recorded ones."""
        calls = [*self.calls(start, end), *others]
        known = {call.started for call in calls}
        try:
            entries = await asyncio.to_thread(self.recorder.index.of_others, start, end, _REPORTED_CALLS)
        except (OSError, sqlite3.Error) as error:
            logger.error("the index of recordings cannot be read: {}", error)
            entries = []
        calls += [
            Call(entry.started, entry.outcome or "", entry.figures or {})
            for entry in entries
            if entry.started not in known
        ]
        return await asyncio.to_thread(report, calls, start, end)


class _Remember:
    """An observer: the call's figures, once it is over."""

    def __init__(self, calls: deque[Call], started: float, figures: CallFigures) -> None:
        self._calls, self._started, self._figures = calls, started, figures

    def on_payload(self, event: PayloadReceived) -> None:
        pass

    def on_block(self, event: BlockSubmitted) -> None:
        pass

    def on_answer(self, event: AnswerSent) -> None:
        pass

    def on_end(self, event: SessionEnded) -> None:
        self._calls.append(Call(self._started, event.outcome, self._figures.as_json()))


def day_before(now: float | None = None) -> tuple[float, float]:
    """The last twenty-four hours."""
    end = time.time() if now is None else now
    return end - 86_400.0, end + 1.0
