"""`fast-vc serve`: the gateway and its local workers as children, kept alive, stopped in order.

The children are started in process groups of their own, so that a terminal's Ctrl-C reaches only this process, which
then ends the gateway first (its sessions get their audio) and the workers after it. A child that dies is started
again after a pause. If this process is killed, the kernel ends the children (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from loguru import logger

from shared.addresses import answers, base_url, bind_fault, link_endpoint
from shared.config import Config, ConfigError
from shared.errors import CONFIG_EXIT
from shared.options import as_arguments
from shared.settings import WorkerGroup
from shared.state import ChildState, ServeState, StateReporter, read_states
from shared.stopping import stopping_signals

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_SETTLED_S = 30.0  # a child that lived this long starts over with the first pause
_POLL_S = 0.1
_AFTER_GRACE_S = 5.0
_STATE_INTERVAL_S = 2.0  # written again this often, so that a lost file comes back
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Child:
    """One process to keep."""

    role: str
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    start_at: float = 0.0
    restarts: int = field(default=0)


def start_child(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A child in its own process group that does not outlive this process."""
    if sys.platform != "linux":  # the kernel's promise is Linux's; elsewhere a killed parent leaves its children
        return subprocess.Popen(command, start_new_session=True)
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent)


def check_port(config: Config) -> None:
    """Raises `PortTaken` if the HTTP port cannot be bound, and says by whom."""
    host, port = config.gateway.host, config.gateway.port
    if port == 0:
        return
    error = bind_fault(host, port)
    if error is None:
        return
    if error.errno != errno.EADDRINUSE:
        raise ConfigError(f"gateway.host: cannot listen on {host}:{port}: {error.strerror}")
    raise PortTaken(f"port {port} is already in use by {_who(config, port, '--port')}")


def check_link_ports(config: Config, gateways: int) -> None:
    """Raises `PortTaken` if the link's port of one of so many gateways is in use, and says by whom."""
    for port in range(config.link.port, config.link.port + gateways):
        error = bind_fault(config.link.host, port)
        if error is not None and error.errno == errno.EADDRINUSE:  # whatever else there is, a gateway says itself
            who = _who(config, port, "FASTVC_LINK__PORT")
            raise PortTaken(f"port {port}, of the link to workers, is already in use by {who}")


class PortTaken(RuntimeError):
    """A port is in use."""


def _who(config: Config, port: int, choice: str) -> str:
    for state in read_states(config.serve.state_dir):
        if port in (state.port, getattr(state, "link_port", None)):
            return f"fast-vc {state.role} (pid {state.pid}); `fast-vc status` shows it, `fast-vc stop` ends it"
    return f"another program, or a service of another folder; {choice} chooses another"


class Supervisor:
    """Keeps children alive until a signal."""

    def __init__(self, config: Config, children: list[Child], on_ready: Callable[[], None]) -> None:
        """`on_ready` is called once, when the gateway can take a session."""
        self._config = config
        self._children = children
        self._on_ready = on_ready
        self._signals = 0
        self._started = time.time()
        self._ready = False
        self._warned = False
        self._state_due = 0.0
        self._state = StateReporter(config.serve.state_dir)

    def run(self) -> int:
        """Until a signal of `stopping_signals`. Returns the exit code: 2 where a child cannot start as configured."""
        for number in stopping_signals():
            signal.signal(number, self._on_signal)
        try:
            while not self._signals:
                for child in self._children:
                    if self._keep(child) == CONFIG_EXIT and not self._ready:
                        logger.error("{} cannot start as configured: stopping", child.name)
                        return CONFIG_EXIT
                if time.monotonic() >= self._state_due:
                    self._write_state()
                self._look_whether_ready()
                time.sleep(_POLL_S)
            return 0
        finally:
            self._end()

    def _on_signal(self, number: int, frame: object) -> None:
        if number != signal.SIGHUP or not self._signals:  # of a terminal it may come twice
            self._signals += 1

    def _keep(self, child: Child) -> int | None:
        """Start a child whose time has come; note one that ended, and return its exit code."""
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                if child.restarts:
                    logger.info("starting {} again", child.name)
                child.process, child.started_at = start_child(child.command), now
                self._write_state()
            return None
        code = child.process.poll()
        if code is None:
            return None
        if now - child.started_at > _SETTLED_S:
            child.pause_s = _FIRST_PAUSE_S
        log = logger.info if code == 0 else logger.error  # 0: somebody asked it to leave, and it is to be replaced
        log("{} (pid {}) ended with {}", child.name, child.process.pid, _reason(code))
        child.process = None
        child.restarts += 1
        child.start_at = now + child.pause_s
        child.pause_s = min(_LONGEST_PAUSE_S, child.pause_s * 2)
        return code

    def _look_whether_ready(self) -> None:
        if self._ready:
            return
        if answers(base_url(self._config) + "/ready"):
            self._ready = True
            self._on_ready()
        elif not self._warned and time.time() - self._started > self._config.serve.ready_timeout_s:
            self._warned = True
            logger.warning("not ready after {:g} s: no worker has joined", self._config.serve.ready_timeout_s)

    def _write_state(self) -> None:
        self._state_due = time.monotonic() + _STATE_INTERVAL_S
        self._state.write(
            ServeState(
                started=self._started,
                host=self._config.gateway.host,
                port=self._config.gateway.port,
                link_port=self._config.link.port,
                children=[ChildState(c.role, c.name, c.process.pid) for c in self._children if c.process],
            )
        )

    def _end(self) -> None:
        """Gateways, then workers; what does not end in time is killed."""
        graces_s = {
            "gateway": self._config.gateway.shutdown_grace_s,
            "worker": 0.0,  # without gateways it has no sessions
        }
        for role, grace_s in graces_s.items():
            mine = [c.process for c in self._children if c.role == role and c.process is not None]
            for process in mine:
                process.terminate()
            end = time.monotonic() + grace_s + _AFTER_GRACE_S
            while any(p.poll() is None for p in mine) and time.monotonic() < end and self._signals < 2:
                time.sleep(0.02)
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                why = "was to end at once" if self._signals > 1 else "did not end in time"
                logger.warning("{} (pid {}) {}: killed", child.name, child.process.pid, why)
                child.process.kill()
            if child.process is not None:
                child.process.wait()
        self._state.remove()


def _reason(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def local_children(
    config: Config, gateways: int, workers: Sequence[WorkerGroup], profile: Sequence[str], address: Sequence[str]
) -> list[Child]:
    """The commands of gateways on one HTTP port and of workers by kind, each for all of them.

    profile: --config or --env; address: --host and --port.
    """
    module = [sys.executable, "-P", "-m"]  # -P: packages of the working folder that bear our names are not ours
    command = [*module, "gateway", *profile, *address]
    if gateways == 1:
        fronts = [Child("gateway", "gateway", command)]
    else:
        fronts = [Child("gateway", f"gateway-{i}", [*command, "--number", str(i)]) for i in range(gateways)]
    joined = [text for i in range(gateways) for text in ("--gateway", link_endpoint(config, i))]
    kinds = [as_arguments(profile=group.profile, device=group.device) for group in workers for _ in range(group.count)]
    return fronts + [
        Child("worker", f"worker-{i}", [*module, "worker", *joined, "--id", f"worker-{i}", *profile, *kind])
        for i, kind in enumerate(kinds)
    ]
