"""Calls over WebRTC whose line loses packets and lets them be late, both ways: what is missing, how old sound is, and
whether time is conserved.

The line is the callers' own: each packet is lost by chance, or delayed by a time between nothing and twice the jitter,
so that packets overtake each other. Of the way up the gateway counts what it had to conceal (of which a part comes from
the packet behind it, by in-band FEC); of the way down each missing packet counts, though its neighbour may bring it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from tools.bench.service import BLOCK_MS, KEY
from tools.client.client import Call, CallConfig
from tools.client.latency import summarise
from tools.client.webrtc import FRAME_MS, RATE, Packet, RtcCaller, call_over_webrtc

AGES = ("median", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Spoiled:
    """Calls over one line, all together."""

    loss: float  # share
    jitter_ms: float
    sessions: int
    concealed_up: float  # share of the packets that were sent
    missing_down: float  # share of the packets of the answers, and
    alone_down: float  # of these, share whose successor came: it brings them
    concealed_blocks: int  # by the worker or the gateway
    time_error_ms: float  # largest: the answer's length less that of the question, its lead and padding
    age_ms: dict[str, float]  # of packets of the answers that came


def _ages_ms(call: Call, packets: list[Packet]) -> list[float]:
    began = call.sent[0].due - call.sent[0].audio_ms / 1000 - _lead_ms(call) / 1000
    first = min(packet.number for packet in packets)
    last = first + round((call.input_ms + _lead_ms(call)) / FRAME_MS)
    ages = [(one.at - began - (one.number - first) * FRAME_MS / 1000) * 1000 for one in packets if one.number < last]
    return ages[round(_lead_ms(call) / FRAME_MS) :]


def _lead_ms(call: Call) -> float:
    return float(call.ready["prefill_ms"] + call.ready["delay_ms"])


def _time_error_ms(call: Call, packets: list[Packet]) -> float:
    assert call.complete is not None
    spans = [one.number for one in packets]
    answer_ms = (max(spans) - min(spans) + 1) * FRAME_MS
    return abs(answer_ms - call.input_ms - _lead_ms(call) - call.complete["padded_ms"])


async def _drive(
    url: str, sessions: int, payloads: list[bytes], loss: float, jitter_ms: float
) -> tuple[list[Call], list[list[Packet]]]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        callers: dict[int, RtcCaller] = {}

        async def one(number: int) -> Call:
            await asyncio.sleep(number * BLOCK_MS / 1000 / sessions)

            def spoil(caller: RtcCaller) -> None:
                callers[number] = caller
                if loss or jitter_ms:
                    caller.spoil(loss=loss, jitter_s=jitter_ms / 1000, seed=number)

            rates: dict[str, Any] = {"sample_rate": RATE, "sample_rate_out": RATE}
            config = CallConfig(url, KEY, f"lossy-{number}", encoding="OPUS", encoding_out="OPUS", **rates)
            return await call_over_webrtc(http, config, payloads, spoil)

        calls = await asyncio.gather(*(one(number) for number in range(sessions)))
        return calls, [callers[number].packets for number in range(sessions)]


def measure(url: str, sessions: int, payloads: list[bytes], loss: float, jitter_ms: float) -> Spoiled:
    """`sessions` callers in real time, each with a line of its own."""
    calls, heard = asyncio.run(_drive(url, sessions, payloads, loss, jitter_ms))
    ended = [call.complete or {} for call in calls]
    expected = missing = alone = 0
    for packets in heard:
        numbers = {one.number for one in packets}
        gone = [number for number in range(min(numbers), max(numbers) + 1) if number not in numbers]
        expected += max(numbers) - min(numbers) + 1
        missing += len(gone)
        alone += sum(number + 1 in numbers for number in gone)
    return Spoiled(
        loss,
        jitter_ms,
        sessions,
        sum(stats["lost_packets"] for stats in ended) / (len(payloads) * sessions),
        missing / expected,
        alone / max(1, missing),
        sum(stats["concealed_chunks"] for stats in ended),
        max(_time_error_ms(call, packets) for call, packets in zip(calls, heard, strict=True)),
        summarise(np.concatenate([_ages_ms(*pair) for pair in zip(calls, heard, strict=True)]).tolist(), AGES),
    )


def report(rows: list[Spoiled]) -> str:
    """A table for people."""
    ages = "".join(f"{name:>9}" for name in AGES)
    lines = [f"{'loss':>6}{'jitter':>8}{'up':>8}{'down':>8}{'alone':>8}{'blocks':>8}{'time':>8}{ages}"]
    for row in rows:
        ages = "".join(f"{row.age_ms[name]:>9.1f}" for name in AGES)
        shares = "".join(f"{share:>8.1%}" for share in (row.concealed_up, row.missing_down, row.alone_down))
        lines.append(
            f"{row.loss:>6.0%}{row.jitter_ms:>8.0f}{shares}{row.concealed_blocks:>8}{row.time_error_ms:>8.0f}{ages}"
        )
    return "\n".join(
        (
            *lines,
            "up: packets that the gateway concealed; down: that were missing in the answer; alone: of these, with a",
            "successor that brings them; blocks: concealed; time: error of an answer's length, ms. Ages in ms.",
        )
    )
