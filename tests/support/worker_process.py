"""Worker processes that do not import torch again: forked from a server that has it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from typing import Any

import worker.engines.passthrough
import worker.main
import worker.serving.link
from shared.config import load
from worker.engine import Batch

STALL_LEVEL = 7777  # int16 that makes the engine stall

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def start_worker(
    environ: dict[str, str], gateways: list[str], *, stall_s: float = 0.0, watch_s: float = 0.0
) -> BaseProcess:
    """A worker ``worker-test`` with the passthrough engine, in an environment of its own. stall_s: what a block that
    ends with `STALL_LEVEL` takes; watch_s: how late the worker begins to watch its socket."""
    process = _context.Process(target=_run, args=(environ, gateways, stall_s, watch_s))
    process.start()
    return process


def _run(environ: dict[str, str], gateways: list[str], stall_s: float, watch_s: float) -> None:
    os.environ.clear()
    os.environ.update(environ)
    watch, convert = worker.serving.link.monitor, worker.engines.passthrough.PassthroughEngine.convert

    def watch_late(*arguments: Any) -> Any:
        time.sleep(watch_s)
        return watch(*arguments)

    def stalling(self: Any, batch: Batch) -> Any:
        if (batch.window[:, -10:] == STALL_LEVEL / 32768).all():
            time.sleep(stall_s)
        return convert(self, batch)

    worker.serving.link.monitor = watch_late
    worker.engines.passthrough.PassthroughEngine.convert = stalling  # type: ignore[method-assign]
    sys.exit(worker.main.run(load(), gateways, "cpu", "worker-test"))
