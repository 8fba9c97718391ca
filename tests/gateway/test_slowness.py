"""Slow intervals are said once in a while, with their number and the worst of them."""

from __future__ import annotations

import numpy as np
from loguru import logger

from gateway.events import AnswerSent, PayloadReceived, SessionEnded
from gateway.slowness import SlowIntervals
from gateway.stream import Answer

BLOCK_MS = 500
SOUND = np.zeros(8000, np.int16)


def answer(slow: SlowIntervals, complete_at: float, sent_at: float) -> None:
    slow.on_answer(AnswerSent(sent_at, Answer(0, SOUND, None, complete_at), SOUND, [b""]))


def test_a_call_in_time_says_nothing(log: list[str]) -> None:
    slow = SlowIntervals(BLOCK_MS, logger)
    for number in range(200):
        slow.on_payload(PayloadReceived(number * 0.02, bytes(640), 20))
    for number in range(8):
        answer(slow, number * 0.5, number * 0.5 + 0.1)
    answer(slow, 60.0, 60.1)  # the caller paused
    slow.on_end(SessionEnded(61.0, "complete", {}))
    assert log == []


def test_each_kind_is_said_once_in_a_while_and_counted(log: list[str]) -> None:
    slow = SlowIntervals(BLOCK_MS, logger)
    for number in range(5):
        slow.on_payload(PayloadReceived(number * 1.0, bytes(640), 20))  # 980 ms late each time
    slow.on_end(SessionEnded(6.0, "gone", {}))
    assert log == [
        "WARNING slow receive: no sound of the caller for 980 ms beyond what came (at worst of 1)\n",
        "WARNING slow receive: no sound of the caller for 980 ms beyond what came (at worst of 3)\n",
    ]


def test_a_slow_conversion_and_a_stalled_answer(log: list[str]) -> None:
    slow = SlowIntervals(BLOCK_MS, logger)
    answer(slow, 0.0, 0.1)
    answer(slow, 0.5, 1.7)
    assert [line.split(":")[0] for line in log] == ["WARNING slow conversion", "WARNING slow send"]
    assert "1200 ms" in log[0]
    assert "1100 ms" in log[1]


def test_a_caller_who_is_ahead_is_not_slow(log: list[str]) -> None:
    slow = SlowIntervals(BLOCK_MS, logger)
    slow.on_payload(PayloadReceived(0.0, bytes(64_000), 2000))
    slow.on_payload(PayloadReceived(1.9, bytes(640), 20))
    slow.on_payload(PayloadReceived(2.4, bytes(640), 20))
    assert log == []
