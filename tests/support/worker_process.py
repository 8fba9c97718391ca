"""A worker process for a test that is its gateway."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tests.support.preloaded  # noqa: F401
import worker.engines.passthrough
import worker.main
import worker.serving.link
from shared.config import load
from tests.support.forked import Forked
from worker.engine import Batch

STALL_LEVEL = 7777  # int16 that makes the engine stall


def start_worker(
    environ: dict[str, str], gateways: list[str], out: Path, *, stall_s: float = 0.0, watch_s: float = 0.0
) -> Forked:
    """A worker ``worker-test`` with the passthrough engine, in an environment of its own. stall_s: what a block that
    ends with `STALL_LEVEL` takes; watch_s: how late the worker begins to watch its socket."""
    return Forked(_run, gateways, stall_s, watch_s, environ=environ, out=out)


def _run(gateways: list[str], stall_s: float, watch_s: float) -> int:
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
    return worker.main.run(load(), gateways, "cpu", "worker-test")
