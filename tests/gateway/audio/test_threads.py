"""Codecs' threads: what they return and raise, in order, and what becomes of work that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gateway.audio.threads import CodecThreads


@pytest.fixture
def threads() -> Iterator[CodecThreads]:
    threads = CodecThreads(1)
    yield threads
    threads.stop()


async def test_what_is_made_comes_back_from_a_thread_that_says_its_trade(threads: CodecThreads) -> None:
    assert await threads.run(lambda: threading.current_thread().name) == "codec_0"


async def test_what_is_raised_is_raised_where_it_is_waited_for_and_the_thread_goes_on(threads: CodecThreads) -> None:
    with pytest.raises(RuntimeError, match="no codec"):
        await threads.run(lambda: (_ for _ in ()).throw(RuntimeError("no codec")))
    assert await threads.run(lambda: 1) == 1


async def test_jobs_are_begun_in_order_and_not_at_all_once_nobody_waits(threads: CodecThreads) -> None:
    begun: list[int] = []
    is_begun, go_on = threading.Event(), threading.Event()

    def job(number: int) -> int:
        begun.append(number)
        is_begun.set()
        go_on.wait(10)
        return number

    jobs = [asyncio.create_task(threads.run(lambda number=number: job(number))) for number in range(4)]
    await asyncio.to_thread(is_begun.wait, 10)
    jobs[0].cancel()  # it is begun: its end is heard by nobody
    jobs[2].cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert [await jobs[1], await jobs[3]] == [1, 3]
    assert begun == [0, 1, 3]


async def test_several_work_at_once_and_the_end_waits_for_what_is_begun() -> None:
    threads = CodecThreads(2)
    together = threading.Barrier(2)
    assert sorted(await asyncio.gather(*(threads.run(lambda: together.wait(10)) for _ in range(2)))) == [0, 1]
    done: list[int] = []
    job = asyncio.create_task(threads.run(lambda: done.append(1)))
    await asyncio.sleep(0)
    await asyncio.to_thread(threads.stop)
    assert done == [1]
    await job


def test_a_loop_that_is_gone_is_no_matter(threads: CodecThreads) -> None:
    go_on = threading.Event()

    async def leave() -> None:
        job = asyncio.create_task(threads.run(lambda: go_on.wait(10)))
        await asyncio.sleep(0)
        job.cancel()

    asyncio.run(leave())
    go_on.set()
    assert asyncio.run(threads.run(lambda: 2)) == 2
