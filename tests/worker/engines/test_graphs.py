"""Captured calls: padded to buckets, captured when nobody waits, and given up without harm. The capture here records
the call and runs it again; a CUDA device does the same with a graph (see ``test_diffusion``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.engines.diffusion.graphs import GraphCache, Recorded


@dataclass(frozen=True)
class Rows:
    wave: Tensor  # [B, 3]
    gain: Tensor  # [B]


def call(rows: Rows, steps: int) -> tuple[Tensor, ...]:
    return rows.wave * rows.gain[:, None] * steps, rows.gain + steps


def rows(size: int) -> Rows:
    return Rows(torch.randn(size, 3), torch.arange(1.0, size + 1))


class Recorder:
    """A capture that keeps its results in place, as a graph does."""

    def __init__(self) -> None:
        self.captured = 0
        self.fails_in_replay = False

    def __call__(self, call: Callable[[], tuple[Tensor, ...]], memory: Any) -> Recorded:
        self.captured += 1
        results = call()

        def replay() -> None:
            if self.fails_in_replay:
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")
            for result, fresh in zip(results, call(), strict=True):
                result.copy_(fresh)

        return Recorded(replay, results, "pool")


def test_what_was_met_is_captured_when_nobody_waits_and_then_replayed() -> None:
    capture = Recorder()
    cache = GraphCache(call, capture)
    batch = rows(3)
    assert cache.replay(batch, 2) is None
    assert cache.replay(batch, 2) is None
    assert capture.captured == 0
    assert cache.capture_next(1e9)
    assert not cache.capture_next(1e9)  # met twice, captured once
    for fresh in (batch, rows(4), rows(3)):  # one bucket
        made = cache.replay(fresh, 2)
        assert made is not None
        for ours, expected in zip(made, call(fresh, 2), strict=True):
            assert torch.equal(ours, expected)
    assert cache.replay(batch, 3) is None  # other steps
    assert cache.replay(rows(5), 2) is None  # another bucket
    assert capture.captured == 1


def test_a_capture_that_may_take_too_long_waits() -> None:
    cache = GraphCache(call, Recorder())
    cache.replay(rows(1), 2)
    assert cache.capture_next(0.0)  # nothing is known of how long it takes
    cache.replay(rows(1), 3)
    assert not cache.capture_next(-1.0)
    assert cache.capture_next(1e9)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("operation not permitted when stream is capturing\nCompile with ..."), "not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    ],
)
def test_a_capture_that_raises_leaves_the_call_and_one_line(error: Exception, words: str, log: list[str]) -> None:
    def capture(call: object, memory: object) -> Recorded:
        raise error

    cache = GraphCache(call, capture)
    for steps in (2, 3):
        assert cache.replay(rows(2), steps) is None
    assert cache.capture_next(1e9)
    assert not cache.capture_next(1e9)
    assert cache.replay(rows(2), 2) is None
    assert len(log) == 1
    assert "capture of 2 rows, 2 steps failed" in log[0]
    assert words in log[0]
    assert len(log[0].splitlines()) == 1


def test_a_replay_that_raises_leaves_the_call_and_one_line(log: list[str]) -> None:
    capture = Recorder()
    cache = GraphCache(call, capture)
    cache.replay(rows(2), 2)
    cache.capture_next(1e9)
    assert cache.replay(rows(2), 2) is not None
    capture.fails_in_replay = True
    assert cache.replay(rows(2), 2) is None
    assert cache.replay(rows(2), 2) is None
    assert not cache.capture_next(1e9)
    assert len(log) == 1
    assert "illegal memory access" in log[0]
