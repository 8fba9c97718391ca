"""``python -m worker --probe``: whether a worker of this state folder lives, for a container's health check.

A worker writes its state with every heartbeat, so an old file means a process that does nothing. A worker without a
gateway is healthy: starting it again would not bring the gateway back.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from shared.state import read_states

FRESH_S = 5.0  # ten beats: a probe must not fail because a busy machine was slow once


def probe(state_dir: Path) -> tuple[bool, str]:
    """Whether every worker here is well, and a line that says so. None at all is not well: it starts, or it died."""
    states = [state for state in read_states(state_dir) if state["role"] == "worker"]
    if not states:
        return False, f"no worker has begun to serve (state folder {state_dir})"
    faults = [fault for state in states if (fault := _fault(state)) is not None]
    return not faults, "; ".join(faults or map(_line, states))


def _fault(state: dict[str, Any]) -> str | None:
    name = state.get("worker_id", state["pid"])
    age_s = time.time() - float(state.get("written", 0))
    if age_s > FRESH_S:
        return f"{name}: has written no state for {age_s:.0f} s"
    if state.get("stuck"):
        return f"{name}: its engine is stuck"
    return None


def _line(state: dict[str, Any]) -> str:
    return (
        f"{state.get('worker_id')}: {state.get('sessions')} of {state.get('capacity')} places taken, "
        f"{state.get('connected')} gateways"
    )
