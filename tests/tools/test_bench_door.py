"""The measurement of recordings and guessing: that it measures what it says, not what comes out."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tools.bench.door import guess, quantile_ms


def test_a_quantile_is_the_end_of_the_bucket_that_holds_it() -> None:
    counts: Counter[float] = Counter({0.001: 90, 0.005: 9, float("inf"): 1})
    assert [quantile_ms(counts, share) for share in (0.5, 0.9, 0.99)] == [1.0, 1.0, 5.0]


async def test_guesses_come_at_their_rate_and_are_counted_by_their_answer() -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answered = await guess(f"ws://127.0.0.1:{port}/ws", per_minute=1200, seconds=0.5)
    server.close()
    assert answered == {"429": 10}
    keys = {line for request in asked for line in request.split(b"\r\n") if line.startswith(b"Authorization")}
    assert len(keys) == 10
    assert await guess("ws://127.0.0.1:9/ws", per_minute=600, seconds=0.2) == pytest.approx({"none": 2})
