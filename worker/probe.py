"""``python -m worker --probe``: whether a worker of this state folder lives, for a container's health check.

A worker writes its state with every heartbeat, so an old file means a process that does nothing. A worker without a
gateway is healthy: starting it again would not bring the gateway back.
"""

from __future__ import annotations

import time
from pathlib import Path

from shared.state import WorkerState, read_states

FRESH_S = 5.0  # ten beats: a probe must not fail because a busy machine was slow once


def probe(state_dir: Path) -> tuple[bool, str]:
    """Whether every worker here is well, and a line that says so. None at all is not well: it starts, or it died."""
    states = [state for state in read_states(state_dir) if isinstance(state, WorkerState)]
    if not states:
        return False, f"no worker has begun to serve (state folder {state_dir})"
    faults = [fault for state in states if (fault := _fault(state)) is not None]
    return not faults, "; ".join(faults or map(_line, states))


def _fault(state: WorkerState) -> str | None:
    age_s = time.time() - state.written
    if age_s > FRESH_S:
        return f"{state.worker_id}: has written no state for {age_s:.0f} s"
    return f"{state.worker_id}: its engine is stuck" if state.stuck else None


def _line(state: WorkerState) -> str:
    return f"{state.worker_id}: {state.sessions} of {state.capacity} places taken, {state.connected} gateways"
