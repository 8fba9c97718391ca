"""State files: what runs here, for `fast-vc status` and `stop`.

Every process of a service keeps one small JSON file, ROLE-NUMBER.json, in the state folder while it lives. A file whose
process is gone is removed by whoever reads it. Files with other names are someone else's and are never touched.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from loguru import logger
from pydantic import Field, TypeAdapter, ValidationError

_OUR_NAME = re.compile(r"(serve|gateway|worker)-\d+\.json")
_SAME_START_S = 2.0  # a file's own "process_started" against the system's: another process may have taken the pid
_ORDER = ("serve", "gateway", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """What every state has. Times are seconds of the Unix epoch."""

    pid: int = field(default_factory=os.getpid)
    process_started: float = field(default_factory=lambda: process_start())
    started: float  # when the service in the process began
    written: float = field(default_factory=time.time)
    host: str


@dataclass(frozen=True, slots=True)
class ChildState:
    """A process that a supervisor keeps."""

    role: str
    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class PooledWorker:
    """A worker as a gateway knows it; it may run on another host."""

    worker_id: str
    pid: int
    host: str
    device: str
    model: str
    sessions: int
    capacity: int
    draining: bool
    local: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeState(_Process):
    """The supervisor. `host` and `port` are those of its gateway."""

    port: int
    link_port: int
    children: list[ChildState]
    role: Literal["serve"] = "serve"

    @property
    def name(self) -> str:
        return f"serve-{self.port}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState(_Process):
    """A gateway. `host` is the address it listens on, `hostname` the machine's."""

    hostname: str
    port: int
    link_port: int
    sessions: int
    ready: bool
    workers: list[PooledWorker]
    session_ids: list[str]
    number: int = 0  # among the processes that share the port
    own_port: int | None = None  # on loopback, where the others ask it; None where it is the only one
    role: Literal["gateway"] = "gateway"

    @property
    def name(self) -> str:
        return f"gateway-{self.link_port}.json"  # processes may share the HTTP port


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState(_Process):
    """A worker. `host` is the machine's name; it listens on no port."""

    worker_id: str
    gateways: list[str]
    device: str
    model: str
    sessions: int
    capacity: int
    connected: int  # gateways that it is joined to
    stuck: bool  # its engine has not come back for too long
    port: None = None
    role: Literal["worker"] = "worker"

    @property
    def name(self) -> str:
        return f"worker-{self.pid}.json"


State = ServeState | GatewayState | WorkerState
_ANY: TypeAdapter[State] = TypeAdapter(Annotated[State, Field(discriminator="role")])


def write_state(folder: Path, state: State) -> None:
    """Replace the file of `state` in `folder`, atomically; the folder is made. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{state.name}.{os.getpid()}.part"
    try:
        part.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        part.replace(folder / state.name)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


class StateReporter:
    """Writes a process's state again and again. A disk that refuses costs one line in the log, never the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name: str | None = None
        self._failed = False

    def write(self, state: State) -> None:
        """Try once. The first failure in a row is logged, and so is the first success after it."""
        self._name = state.name
        try:
            write_state(self._folder, state)
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "serve.state_dir: {}/ cannot be written ({}): fast-vc status and stop do not see this process; "
                    "it goes on and keeps trying",
                    self._folder,
                    error.strerror or error,
                )
            self._failed = True
        else:
            if self._failed:
                logger.info("serve.state_dir: {}/ can be written again", self._folder)
            self._failed = False

    def remove(self) -> None:
        """The process ends: its file goes."""
        if self._name is not None:
            with suppress(OSError):
                (self._folder / self._name).unlink()


def read_states(folder: Path) -> list[State]:
    """The states of all living processes, the supervisor first. Removes files of dead processes and broken ones."""
    states = []
    for path in sorted(p for p in folder.glob("*.json") if _OUR_NAME.fullmatch(p.name)):
        state = _read(path)
        if state is not None and process_lives(state.pid, state.process_started):
            states.append(state)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(states, key=lambda state: _ORDER.index(state.role))


def as_json(state: State) -> dict[str, Any]:
    """A state for scripts: `role`, `pid`, `host`, `port` and `sessions` come first and are always there."""
    content = asdict(state)
    first = ("role", "pid", "host", "port", "sessions")
    return {key: content.get(key) for key in first} | {key: content[key] for key in content if key not in first}


def _read(path: Path) -> State | None:
    try:
        return _ANY.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def process_start() -> float:
    """Of this process, as `process_lives` wants it."""
    return float(psutil.Process().create_time())


def process_lives(pid: int, started: float) -> bool:
    """Whether the process `pid` is the one that began at `started`, seconds of the Unix epoch, and is there."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - started) < _SAME_START_S
    except (psutil.Error, ValueError):
        return False
