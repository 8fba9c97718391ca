"""The threads on which codecs work, off the event loop.

Every block of every call goes there twice: `ThreadPoolExecutor` with its two futures, locks and conditions a job would
be a tenth of what the event loop does.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class CodecThreads:
    """Start with the first job, end with `stop`. Jobs are begun in the order in which they come."""

    def __init__(self, count: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._count = count
        self._threads: list[threading.Thread] = []

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, on one of the threads. Cancelled before it is begun, it never is."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        if not self._threads:
            self._start()
        return await future

    def stop(self) -> None:
        """Blocks until what is begun is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        for number in range(self._count):
            self._threads.append(threading.Thread(target=self._work, name=f"codec_{number}", daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job[1].cancelled():
                _do(*job)
            del job


def _do(work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
    loop = future.get_loop()
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        try:
            made = work()
        except BaseException as error:
            loop.call_soon_threadsafe(_settle, future, None, error)
        else:
            loop.call_soon_threadsafe(_settle, future, made, None)


def _settle(future: asyncio.Future[Any], made: Any, error: BaseException | None) -> None:
    if future.done():
        return  # cancelled meanwhile
    if error is None:
        future.set_result(made)
    else:
        future.set_exception(error)
