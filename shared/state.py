"""State files: what runs here, for `fast-vc status` and `stop`.

Every process of a service keeps one small JSON file, ROLE-NUMBER.json, in the state folder while it lives. A file whose
process is gone is removed by whoever reads it. Files with other names are someone else's and are never touched.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_OUR_NAME = re.compile(r"(serve|gateway|worker)-\d+\.json")
_SAME_START_S = 2.0  # a file's own "process_started" against the system's: another process may have taken the pid


def write_state(folder: Path, name: str, content: Mapping[str, object]) -> None:
    """Replace ``folder/name`` by `content`, atomically; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.{os.getpid()}.part"
    own = {"process_started": psutil.Process().create_time()}
    part.write_text(json.dumps({**content, **own}, indent=1), encoding="utf-8")
    part.replace(folder / name)


def remove_state(folder: Path, name: str) -> None:
    """Remove ``folder/name`` if it is there."""
    (folder / name).unlink(missing_ok=True)


def read_states(folder: Path) -> list[dict[str, Any]]:
    """The states of all living processes, the supervisor first. Removes files of dead processes and broken ones."""
    order = {"serve": 0, "gateway": 1, "worker": 2}
    states = []
    for path in sorted(p for p in folder.glob("*.json") if _OUR_NAME.fullmatch(p.name)):
        state = _read(path)
        if state is not None and _lives(state):
            states.append(state)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(states, key=lambda state: order.get(state["role"], 3))


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        state = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(state, dict) and isinstance(state.get("pid"), int) and isinstance(state.get("role"), str):
            return state
    return None


def _lives(state: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(state["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - float(state.get("process_started", 0))) < _SAME_START_S
    except (psutil.Error, TypeError, ValueError):
        return False
