"""The service's programs as real processes that import nothing again: forked from one that has imported all of it.

To import torch takes a worker longer than anything else that it does in most tests. Arguments, environment, output,
signals and exit codes are a process's own, as with ``python -m MODULE``; what a supervisor starts is forked from it in
turn. That the programs start by themselves is seen by tests/e2e/test_wheel.py and tests/test_extras.py.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loguru import logger

import tools.service.supervisor
from shared.stopping import stopping_signals

_from_here = multiprocessing.get_context("fork")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded"])
_server = multiprocessing.forkserver._forkserver


@atexit.register
def _stop_server() -> None:
    """It is waited for, so that its time counts as the tests'. What a test has left is told to end."""
    for process in multiprocessing.active_children():
        process.terminate()
    if _server._forkserver_pid is not None:
        os.kill(_server._forkserver_pid, signal.SIGTERM)
        os.waitpid(_server._forkserver_pid, 0)


def start_server() -> None:
    """The process that they are forked from, itself forked from this one, which has imported what its tests need. To
    be called before any test runs, while it has no threads. Where it is not called, one is started anew."""
    alive, held = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(multiprocessing.connection.arbitrary_address("AF_UNIX"))
        listener.listen()
        pid = os.fork()
        if not pid:
            try:
                os.close(held)
                _serve(listener.fileno(), alive)
            finally:
                os._exit(0)
        os.close(alive)
        _server._forkserver_address = listener.getsockname()
    _server._forkserver_alive_fd, _server._forkserver_pid = held, pid


def _serve(listener: int, alive: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):  # who waits for the tests to end shall not wait for what is forked
        if number not in (listener, alive, nothing):
            os.dup2(nothing, number, inheritable=number < 3)  # not closed: who holds it here may close it
    if (hub := sys.modules.get("huggingface_hub.constants")) is not None:
        hub.HF_HUB_OFFLINE = True  # nothing that is forked asks a network
    gc.collect()
    gc.freeze()  # what is here is not looked through again in any of them
    multiprocessing.forkserver.main(listener, alive, [])


class Forked:
    """As much of `subprocess.Popen` as tests ask for."""

    def __init__(
        self,
        run: Callable[..., object],
        *arguments: Any,
        environ: Mapping[str, str],
        out: Path,
        err: Path | None = None,
        from_here: bool = False,
    ) -> None:
        """run: of a module, with arguments that can be pickled; what it returns is its exit code, None is 0.
        out, err: what it prints goes there, after what is there already; to `out` alone where there is no `err`.
        from_here: forked from this process, which has imported what it needs; for what has neither threads nor sockets
        of its own, and wants none of this one's."""
        context = _from_here if from_here else _context
        self._process = context.Process(
            target=_in_own_environment,
            args=(dict(environ), out, err or out, run, arguments),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_module(module: str, *arguments: str, environ: Mapping[str, str], out: Path) -> Forked:
    """``python -m MODULE ARGUMENTS``."""
    return Forked(_run_module, module, arguments, environ=environ, out=out)


def run_module(module: str, *arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`start_module`, until it ends."""
    return run(_run_module, module, arguments, environ=environ)


def run_here(function: Callable[..., object], *arguments: Any) -> subprocess.CompletedProcess[str]:
    """In a process forked from this one, until it ends."""
    return run(function, *arguments, environ=os.environ, from_here=True)


def run(
    function: Callable[..., object], *arguments: Any, environ: Mapping[str, str], from_here: bool = False
) -> subprocess.CompletedProcess[str]:
    """Until it ends; as `Forked`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        code = Forked(function, *arguments, environ=environ, out=out, err=err, from_here=from_here).wait(100)
        return subprocess.CompletedProcess([str(function)], code, out.read_text(), err.read_text())


class _Child:
    """What a forked supervisor starts in place of `subprocess.Popen`."""

    def __init__(
        self, command: Sequence[str], start_new_session: bool = False, preexec_fn: Callable[[], None] | None = None
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        for number in stopping_signals():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if start_new_session:
            os.setsid()
        if preexec_fn is not None:
            preexec_fn()
        at = command.index("-m") + 1
        _to_the_end(_run_module, command[at], command[at + 1 :])

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        assert timeout is None
        return self._look(0)

    def _look(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _in_own_environment(
    environ: dict[str, str], out: Path, err: Path, run: Callable[..., object], arguments: Sequence[Any]
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    for number, path in ((1, out), (2, err)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    # not those of a pytest that it was forked from
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    _to_the_end(run, *arguments)


def _run_module(module: str, arguments: Sequence[str]) -> None:
    tools.service.supervisor.subprocess = SimpleNamespace(Popen=_Child)  # type: ignore[attr-defined]
    sys.argv = [module, *arguments]
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # the module was imported before
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _to_the_end(run: Callable[..., object], *arguments: Any) -> None:
    """Runs it, and ends the process as the interpreter would."""
    code: object = 1
    try:
        code = run(*arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        logger.remove()  # writes what waits
        if isinstance(code, str):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
