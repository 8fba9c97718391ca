"""Gateways behind a name: they come and go, and lookups fail."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import zmq

from shared.config import LinkConfig
from shared.link import bind_router
from shared.messages import PROTOCOL_VERSION, Hello, VoiceInfo, decode_from_worker
from tests.support.waiting import until
from worker.serving import directory
from worker.serving.directory import Directory
from worker.serving.link import WorkerLink

NAME = "dns://gateways:5555"


def test_what_is_named_by_address_needs_no_lookup() -> None:
    fixed = Directory(["tcp://a:1", "tcp://b:2"], look_up=lambda name: pytest.fail(name))
    fixed.start()
    fixed.refresh()
    assert fixed.endpoints == ("tcp://a:1", "tcp://b:2")


def test_a_failing_lookup_changes_nothing() -> None:
    answers: list[Any] = [["tcp://x:1"], socket.gaierror(-2, "Name or service not known"), [], ["tcp://y:1"]]

    def look_up(name: str) -> list[str]:
        assert name == NAME
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    named = Directory(["tcp://a:1", NAME], look_up=look_up)
    assert named.endpoints == ("tcp://a:1",)
    seen = []
    for _ in range(4):
        named.refresh()
        seen.append(named.endpoints[1:])
    assert seen == [("tcp://x:1",), ("tcp://x:1",), (), ("tcp://y:1",)]


class Gateway:
    """A ROUTER that notes who says hello."""

    def __init__(self) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = bind_router(self.context, LinkConfig(port=0))
        port = bytes(self.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").rpartition(b":")[2].decode()
        self.endpoint = f"tcp://127.0.0.1:{port}"

    def greeted(self, timeout_ms: int) -> bool:
        while self.socket.poll(timeout_ms):
            if isinstance(decode_from_worker(self.socket.recv_multipart()[1]), Hello):
                return True
        return False

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


class NoScheduler:
    capacity, steps, queue_ms, refused = 4, 1, 0.0, 0

    def __init__(self) -> None:
        self.dropped = threading.Event()

    def sessions_of(self, gateway: int) -> int:
        return 0

    def stuck_for(self) -> float:
        return 0.0

    def drop_gateway(self, gateway: int) -> None:
        self.dropped.set()


def test_a_worker_joins_who_appears_and_keeps_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Gateway(), Gateway()
    answers = [[first.endpoint]]
    monkeypatch.setattr(directory, "LOOK_UP_EVERY_S", 0.05)
    monkeypatch.setattr(Directory.__init__, "__defaults__", (lambda name: answers[-1], None))
    hello = Hello(PROTOCOL_VERSION, "w", "here", 1, "cpu", "echo", 100, 20, 200, 16_000, [VoiceInfo("one", "")], 4)
    link, scheduler = WorkerLink([NAME], hello, None, 5.0), NoScheduler()
    link.start(scheduler)  # type: ignore[arg-type]
    try:
        assert first.greeted(20_000)
        answers.append([second.endpoint])  # the first is out of the name, and still there
        assert second.greeted(20_000)
        until(lambda: link.connected == 2)
        first.close()
        assert scheduler.dropped.wait(20)
        until(lambda: [one.endpoint for one in link._gateways] == [second.endpoint])
    finally:
        link.stop()
        second.close()
