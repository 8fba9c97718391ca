"""A queue that wakes a thread which waits at sockets."""

from __future__ import annotations

import select
import threading

import pytest

from worker.serving.outbox import Outbox


def is_awake(outbox: Outbox[int]) -> bool:
    return bool(select.select([outbox.socket], [], [], 0)[0])


def test_many_items_wake_once_and_come_in_order() -> None:
    outbox: Outbox[int] = Outbox()
    assert not is_awake(outbox)
    for number in range(1000):
        outbox.put(number)
    assert is_awake(outbox)
    assert len(outbox.socket.recv(1000)) == 1, "one byte for all of them"
    outbox.hush()
    assert list(outbox.take()) == list(range(1000))
    assert not is_awake(outbox)
    outbox.put(7)
    assert is_awake(outbox), "after the hush it wakes again"
    outbox.close()


@pytest.mark.parametrize("items", [20_000])
def test_nothing_is_left_lying_between_two_threads(items: int) -> None:
    outbox: Outbox[int] = Outbox()
    taken: list[int] = []

    def wait() -> None:
        while len(taken) < items:
            if not select.select([outbox.socket], [], [], 10)[0]:
                return  # nobody woke it
            outbox.hush()
            taken.extend(outbox.take())

    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(items):
        outbox.put(number)
    thread.join(30)
    assert taken == list(range(items))
    outbox.close()
