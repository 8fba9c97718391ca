"""A real worker process on the link; the test is its gateway."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from shared.config import LinkConfig, load
from shared.curve import authenticator, fingerprint, make_pair, read_public
from shared.link import bind_router
from shared.messages import (
    PROTOCOL_VERSION,
    Audio,
    Chunk,
    Close,
    Failed,
    GatewayHeartbeat,
    Goodbye,
    Heartbeat,
    Hello,
    Open,
    Opened,
    decode_from_worker,
    encode,
)
from tests.support.forked import Forked, run_module
from tests.support.worker_process import STALL_LEVEL, start_worker

BLOCK = 3200


class Gateway:
    """A ROUTER that keeps a worker happy."""

    def __init__(self, port: int = 0, **keys: Path) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        config = LinkConfig(port=port, **keys)
        self.guard = authenticator(self.context, config)
        self.socket = bind_router(self.context, config)
        self.port = int(self.socket.getsockopt(zmq.LAST_ENDPOINT).rsplit(b":", 1)[1].rstrip(b"\0"))
        self.identity = b""
        self.beat_at = 0.0
        self.beats = True

    def receive(self, timeout_s: float = 20.0) -> Any:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.beats and self.identity and time.monotonic() > self.beat_at:
                self.send(GatewayHeartbeat(PROTOCOL_VERSION, known=True))
                self.beat_at = time.monotonic() + 0.3
            if self.socket.poll(50):
                self.identity, frame = self.socket.recv_multipart()
                return decode_from_worker(frame)
        raise TimeoutError

    def expect(self, kind: type[Any], timeout_s: float = 20.0) -> Any:
        return self.when(lambda message: isinstance(message, kind), timeout_s)

    def when(self, true: Callable[[Any], bool], timeout_s: float = 20.0) -> Any:
        end = time.monotonic() + timeout_s
        while True:
            message = self.receive(end - time.monotonic())
            if true(message):
                return message

    def send(self, message: Any) -> None:
        self.socket.send_multipart([self.identity, message if isinstance(message, bytes) else encode(message)])

    def close(self) -> None:
        if self.guard is not None:
            self.guard.stop()
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    if not gateway.socket.closed:
        gateway.close()


@pytest.fixture
def start(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    started: list[Forked] = []

    def start(stall_s: float = 0.0, watch_s: float = 0.0, **settings: Any) -> Forked:
        given = {
            "ENV": "shift",
            "WORKER__MODEL": "passthrough",
            "WORKER__RMS_MIX_RATE": 1,
            "WORKER__MAX_SESSIONS": 2,
            "SERVE__STATE_DIR": tmp_path / "temp",
            "LOG__DIR": tmp_path / "logs",
            **settings,
        }
        environ = {f"FASTVC_{key}": str(value) for key, value in given.items()}
        gateways = [f"tcp://127.0.0.1:{gateway.port}"]
        started.append(start_worker(environ, gateways, tmp_path / "out", stall_s=stall_s, watch_s=watch_s))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def chunk(session: str, seq: int, level: int = 1000, deadline_ms: float = 5000.0) -> Chunk:
    return Chunk(session, 0, seq, np.full(BLOCK, level, "<i2").tobytes(), deadline_ms)


def test_a_worker_says_hello_and_answers_in_order(gateway: Gateway, start: Any) -> None:
    start()
    hello = gateway.expect(Hello)
    config = load(profile="shift", environ={}).worker
    assert (hello.protocol, hello.worker_id, hello.model) == (PROTOCOL_VERSION, "worker-test", "passthrough")
    assert (hello.block_ms, hello.delay_ms, hello.capacity) == (config.block_ms, 80, 2)
    assert hello.history_ms == config.left_ms + 80
    gateway.send(Open("s", 0, "none"))
    assert gateway.expect(Opened).session == "s"
    for seq in range(6):
        gateway.send(chunk("s", seq))
        answer = gateway.expect(Audio)
        assert (answer.session, answer.epoch, answer.seq, len(answer.samples)) == ("s", 0, seq, 2 * BLOCK)
        assert answer.stats.batch_size == 1
        assert "sola" in answer.stats.stages_ms
    gateway.send(Close("s", 0))
    assert gateway.when(lambda m: isinstance(m, Heartbeat) and m.sessions == 0)


def test_refusals_and_nonsense_do_not_stop_it(gateway: Gateway, start: Any) -> None:
    start()
    gateway.expect(Hello)
    for frame in (b"", b"\xc1", msgpack.packb({"kind": "chunk"}), msgpack.packb([1]), b"\x00" * 1000):
        gateway.send(frame)
    gateway.send(chunk("nobody", 0))
    gateway.send(Close("nobody", 0))
    gateway.send(Open("x", 0, "nobody"))
    assert gateway.expect(Failed).code == "INVALID_CONFIG"
    for name in "abc":
        gateway.send(Open(name, 0, "none"))
    failed = gateway.expect(Failed)
    assert (failed.session, failed.code) == ("c", "OVERLOADED")
    gateway.send(chunk("a", 0))
    assert gateway.expect(Audio).session == "a"


def test_a_gateway_that_comes_back_gets_a_new_connection(gateway: Gateway, start: Any) -> None:
    start()
    gateway.expect(Hello)
    gateway.send(Open("s", 0, "none"))
    gateway.expect(Opened)
    first, port = gateway.identity, gateway.port
    gateway.close()
    gateway.__init__(port)  # type: ignore[misc]
    assert gateway.expect(Hello).worker_id == "worker-test"
    assert gateway.identity != first
    assert gateway.expect(Heartbeat).sessions == 0


def test_a_worker_whose_key_is_not_listed_tries_on_and_joins_once_it_is(
    gateway: Gateway, start: Any, tmp_path: Path
) -> None:
    (tmp_path / "workers").mkdir()
    for name in ("gateway", "worker"):
        make_pair(tmp_path, name)
    port = gateway.port
    gateway.close()
    own = {"secret_key_file": tmp_path / "gateway.key_secret", "allowed_workers_dir": tmp_path / "workers"}
    gateway.__init__(port, **own)  # type: ignore[misc]
    start(
        LINK__SECRET_KEY_FILE=tmp_path / "worker.key_secret",
        LINK__SERVER_KEY_FILE=tmp_path / "gateway.key",
    )
    with pytest.raises(TimeoutError):
        gateway.receive(2)
    (log,) = (tmp_path / "logs").glob("worker*.log")
    assert f"{fingerprint(read_public(tmp_path / 'worker.key'))} is not allowed" in log.read_text()
    shutil.copy(tmp_path / "worker.key", tmp_path / "workers")
    assert gateway.guard is not None
    gateway.guard.reload()
    assert gateway.expect(Hello).worker_id == "worker-test"


def test_a_handshake_is_never_missed(gateway: Gateway, start: Any) -> None:
    """However long a busy host takes between making the socket and watching it."""
    start(watch_s=1.0)
    assert gateway.expect(Hello).worker_id == "worker-test"


def test_a_silent_gateway_is_left_and_tried_again(gateway: Gateway, start: Any) -> None:
    start()
    gateway.expect(Hello)
    first = gateway.identity
    gateway.beats = False
    began = time.monotonic()
    gateway.when(lambda message: isinstance(message, Hello) and gateway.identity != first)
    assert time.monotonic() - began > 1.0


def test_it_says_hello_again_when_asked(gateway: Gateway, start: Any) -> None:
    start()
    gateway.expect(Hello)
    gateway.send(GatewayHeartbeat(PROTOCOL_VERSION, known=False))
    assert gateway.expect(Hello)


def test_a_stuck_engine_stops_the_heartbeat(gateway: Gateway, start: Any) -> None:
    start(stall_s=4.0, WORKER__STUCK_AFTER_S=0.5)
    gateway.expect(Hello)
    gateway.send(Open("s", 0, "none"))
    gateway.expect(Opened)
    began = time.monotonic()
    gateway.send(chunk("s", 0, level=STALL_LEVEL))
    beats: list[float] = []
    while not isinstance(message := gateway.receive(), Audio):
        if isinstance(message, Heartbeat):
            beats.append(time.monotonic() - began)
    assert time.monotonic() - began > 3.5
    assert all(at < 3 for at in beats)  # where it is not noticed they go on for 4 s
    assert gateway.expect(Heartbeat)


def test_sigterm_says_goodbye_and_waits_for_its_sessions(gateway: Gateway, start: Any) -> None:
    process = start()
    gateway.expect(Hello)
    gateway.send(Open("s", 0, "none"))
    gateway.expect(Opened)
    process.terminate()
    assert gateway.expect(Goodbye).reason
    gateway.send(chunk("s", 0))
    assert gateway.expect(Audio)
    gateway.send(Close("s", 0))
    assert process.wait(10) == 0


def test_a_worker_that_leaves_says_so_to_who_asks_and_goes_when_its_grace_is_over(gateway: Gateway, start: Any) -> None:
    process = start(WORKER__SHUTDOWN_GRACE_S=1)
    gateway.expect(Hello)
    gateway.send(Open("s", 0, "none"))
    gateway.expect(Opened)
    process.terminate()
    gateway.expect(Goodbye)
    gateway.send(GatewayHeartbeat(PROTOCOL_VERSION, known=False))  # as one that was started anew
    gateway.expect(Hello)
    assert gateway.expect(Goodbye).reason
    assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"WORKER__DEVICE": "cuda:7"}, "cuda:7 is not there"),
        ({"WORKER__MODEL": "shift", "WORKER__VOICES_DIR": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path: Path, settings: dict[str, str], text: str) -> None:
    environ = {f"FASTVC_{key}": value for key, value in settings.items()} | {"FASTVC_LOG__DIR": str(tmp_path)}
    command = ["worker", "--gateway", "tcp://127.0.0.1:9"]
    if "WORKER__DEVICE" in settings:
        command += ["--device", settings["WORKER__DEVICE"]]
    result = run_module("tools.service.cli", *command, environ=environ)
    assert result.returncode == 2
    assert text in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("127.0.0.1:5555", "write tcp://HOST:PORT"),
        ("tcp://10.9.8.7:5555", "not loopback"),
        ("tcp://x", "tcp://HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(tmp_path: Path, endpoint: str, text: str) -> None:
    environ = {"FASTVC_LOG__DIR": str(tmp_path)}
    result = run_module("tools.service.cli", "worker", "--gateway", endpoint, environ=environ)
    assert (result.returncode, text in result.stderr) == (2, True), result.stderr
