"""CUDA graphs of one call: a graph a bucket and step count, so that launching thousands of kernels costs one launch.

Batches are padded to buckets with copies of their first row. What has no graph yet runs without one and is captured
later, off the callers' time. Graphs only save time: whatever goes wrong with them, the call itself still works.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from loguru import logger
from torch import Tensor

from worker.buckets import bucket_of
from worker.engine import is_out_of_memory

WARM_RUNS = 1  # before a capture, on its stream: what a library sets up on first use was set up when the call was met

T = TypeVar("T")  # a dataclass of tensors [B, ...]
Results = tuple[Tensor, ...]
Call = Callable[[T, int], Results]
Key = tuple[int, int]  # bucket, steps


class Recorded(NamedTuple):
    """A captured call over fixed tensors."""

    replay: Callable[[], object]
    results: Results
    memory: Any  # handle of the pool it allocates from


Capture = Callable[[Callable[[], Results], Any], Recorded]  # of a call, in a pool of memory (None: a new one)


class GraphCache(Generic[T]):
    """Captured calls by bucket and steps. Not thread safe: it belongs to the engine's thread."""

    def __init__(self, call: Call[T], capture: Capture | None = None) -> None:
        self._call = call
        self._capture = capture or CudaCapture()
        self.captured_s: dict[Key, float] = {}  # how long each capture took
        self._graphs: dict[Key, tuple[T, Recorded]] = {}
        self._wanted: dict[Key, T] = {}  # met and not captured yet, with a row to capture them with
        self._memory: Any = None  # shared by all graphs: they never run at once
        self._longest_s = 0.0  # of the captures so far
        self._on = True

    def replay(self, rows: T, steps: int) -> Results | None:
        """What the call gives for ``rows``, valid until the next replay; None if it has no graph."""
        size = _size(rows)
        key = bucket_of(size), steps
        if not self._on:
            return None
        if key not in self._graphs:
            self._wanted.setdefault(key, _map(rows, lambda tensor: tensor[:1].clone()))
            return None
        static, recorded = self._graphs[key]
        try:
            for field in fields(static):  # type: ignore[arg-type]
                target, source = getattr(static, field.name), getattr(rows, field.name)
                target[:size].copy_(source)
                target[size:].copy_(source[:1])
            recorded.replay()
            return tuple(result[:size].clone() for result in recorded.results)
        except Exception as error:
            self._give_up(f"replay of {key[0]} rows, {steps} steps", error)
            return None

    def capture_next(self, budget_s: float) -> bool:
        """Capture one of the calls that were met, if the longest so far took no more than ``budget_s``; whether one was
        tried."""
        if not self._on or not self._wanted or self._longest_s > budget_s:
            return False
        key = next(iter(self._wanted))
        row, (bucket, steps) = self._wanted.pop(key), key
        static = _map(row, lambda tensor: tensor.expand(bucket, *tensor.shape[1:]).contiguous())
        began = time.monotonic()
        try:
            recorded = self._capture(lambda: self._call(static, steps), self._memory)
        except Exception as error:
            self._give_up(f"capture of {bucket} rows, {steps} steps", error)
            return True
        self._memory = recorded.memory
        self._graphs[key] = static, recorded
        self.captured_s[key] = time.monotonic() - began
        self._longest_s = max(self._longest_s, self.captured_s[key])
        return True

    def _give_up(self, what: str, error: Exception) -> None:
        """Everything runs without graphs from now on; their memory is free for the calls."""
        self._on = False
        self._graphs.clear()
        self._wanted.clear()
        self._memory = None
        reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}".splitlines()[0]
        logger.error("CUDA graphs: {} failed ({}); the model runs without them from now on", what, reason)


class CudaCapture:
    """Makes CUDA graphs of calls, whose tensors must not be freed while these are in use. All on one stream of its own:
    libraries keep a workspace for every stream they have seen."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, call: Callable[[], Results], memory: Any) -> Recorded:
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        side = self._stream
        side.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        # A capture that fails may leave its stream current; leaving this one puts the caller's back.
        with torch.cuda.stream(side):
            for _ in range(WARM_RUNS):
                call()
            side.synchronize()
            with torch.cuda.graph(graph, pool=memory, stream=side):
                results = call()
        torch.cuda.current_stream().wait_stream(side)
        return Recorded(graph.replay, results, graph.pool())


def _size(rows: Any) -> int:
    first: Tensor = getattr(rows, fields(rows)[0].name)
    return first.shape[0]


def _map(rows: T, change: Callable[[Tensor], Tensor]) -> T:
    """Every tensor changed."""
    return type(rows)(**{field.name: change(getattr(rows, field.name)) for field in fields(rows)})  # type: ignore[arg-type]
