"""Which of the processes that run from this folder a command means."""

from __future__ import annotations

from pathlib import Path

from shared.addresses import parse_endpoint
from shared.state import GatewayState, ServeState, State, WorkerState, read_states


def running(folder: Path, port: int | None) -> list[State]:
    """Everything that runs; with `port`, the service on that HTTP port: supervisor, gateway and its own workers."""
    states = read_states(folder)
    if port is None:
        return states
    fronts = [state for state in states if isinstance(state, ServeState | GatewayState) and state.port == port]
    children = {child.pid for state in fronts if isinstance(state, ServeState) for child in state.children}
    links = {state.link_port for state in fronts}
    workers = [
        state
        for state in states
        if isinstance(state, WorkerState)
        and (state.pid in children or {parse_endpoint(endpoint)[1] for endpoint in state.gateways} <= links)
    ]
    return [*fronts, *workers]
