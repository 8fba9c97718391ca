"""CUDA graphs of one call: a graph a bucket and step count, so that launching thousands of kernels costs one launch.

Batches are padded to buckets 1, 2, 4, 8, ... with copies of their first row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from worker.buckets import bucket_of

WARM_RUNS = 3  # before a capture, for what a library sets up on first use

T = TypeVar("T")  # a dataclass of tensors [B, ...]
Call = Callable[[T, int], tuple[Tensor, ...]]


class GraphCache(Generic[T]):
    """Captured calls by (bucket, steps); captures what it has not met."""

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, T, tuple[Tensor, ...]]] = {}
        self._memory: Any = None  # shared by all graphs: they never run at once

    def run(self, rows: T, steps: int) -> tuple[Tensor, ...]:
        """What the call gives for ``rows``; valid until the next run."""
        first = getattr(rows, fields(rows)[0].name)  # type: ignore[arg-type]
        size = first.shape[0]
        key = bucket_of(size), steps
        if key not in self._graphs:
            self._graphs[key] = self._capture(rows, *key)
        graph, static, results = self._graphs[key]
        for field in fields(static):  # type: ignore[arg-type]
            target, source = getattr(static, field.name), getattr(rows, field.name)
            target[:size].copy_(source)
            target[size:].copy_(source[:1])
        graph.replay()
        return tuple(result[:size].clone() for result in results)

    def _capture(self, rows: T, bucket: int, steps: int) -> tuple[torch.cuda.CUDAGraph, T, tuple[Tensor, ...]]:
        def widened(tensor: Tensor) -> Tensor:
            return tensor[:1].expand(bucket, *tensor.shape[1:]).contiguous()

        static = type(rows)(**{field.name: widened(getattr(rows, field.name)) for field in fields(rows)})  # type: ignore[arg-type]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_RUNS):
                self._call(static, steps)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            results = self._call(static, steps)
        self._memory = graph.pool()
        return graph, static, results
