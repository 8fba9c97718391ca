"""Calls over WebRTC against calls over WebSocket, in one run: what a session costs the gateway, and how old sound is.

The same Opus packets go both ways through one service with a passthrough engine, first over WebSocket, then over
WebRTC. CPU is that of the gateway process, less what it uses idle. The age of a packet of the answer is the time from
when its sound was due to be spoken to when the packet is at the caller. Who listens hears without a gap what is as old
as the oldest packet, for all must be there in time: the 99th percentile, to which the listener's own buffer is added.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
import psutil

from shared.config import ROOT
from shared.ranges import FiniteRange
from tools.bench import webrtc_loss
from tools.bench.service import BLOCK_MS, KEY, cpu_s, service
from tools.client.client import Call, CallConfig, call_with, encode_source, read_source
from tools.client.latency import summarise
from tools.client.webrtc import FRAME_MS, call_over_webrtc

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
RATE = 48_000
_IDLE_S = 3.0
_AGES = ("median", "p95", "p99", "max")

Caller = Callable[[aiohttp.ClientSession, CallConfig, list[tuple[bytes, float]]], Awaitable[Call]]


@dataclass(frozen=True, slots=True)
class Row:
    """One transport."""

    transport: str
    sessions: int
    rate_out: int
    gateway_ms_per_session_second: float
    age_ms: dict[str, float]  # of packets
    lost_packets: int
    concealed: int


def ages_ms(call: Call) -> list[float]:
    """The age of each packet of the answer; those of its lead say nothing."""
    began = call.sent[0].due - call.sent[0].audio_ms / 1000
    spoken = [began + (number * FRAME_MS - call.lead_ms) / 1000 for number in range(len(call.received))]
    ages = [(at - was) * 1000 for (at, _), was in zip(call.received, spoken, strict=True) if was >= began]
    return ages[: round(call.input_ms / FRAME_MS)]


async def over_webrtc(http: aiohttp.ClientSession, config: CallConfig, messages: list[tuple[bytes, float]]) -> Call:
    return await call_over_webrtc(http, config, [payload for payload, _ in messages])


async def _drive(url: str, caller: Caller, sessions: int, messages: list[tuple[bytes, float]], rate_out: int) -> Any:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def one(number: int) -> Call:
            await asyncio.sleep(number * BLOCK_MS / 1000 / sessions)
            rates: dict[str, Any] = {"sample_rate": RATE, "sample_rate_out": rate_out}
            config = CallConfig(url, KEY, f"bench-{number}", encoding="OPUS", encoding_out="OPUS", **rates)
            return await caller(http, config, messages)

        return await asyncio.gather(*(one(number) for number in range(sessions)))


def measure(
    url: str, gateway: psutil.Process, transport: str, sessions: int, messages: list[tuple[bytes, float]], rate_out: int
) -> Row:
    """`sessions` callers in real time over one transport."""
    caller = over_webrtc if transport == "WebRTC" else call_with
    before, began = cpu_s(gateway), time.monotonic()
    time.sleep(_IDLE_S)
    idle = (cpu_s(gateway) - before) / (time.monotonic() - began)
    before, began = cpu_s(gateway), time.monotonic()
    calls: list[Call] = asyncio.run(_drive(url, caller, sessions, messages, rate_out))
    used = cpu_s(gateway) - before - idle * (time.monotonic() - began)
    ended = [call.complete or {} for call in calls]
    return Row(
        transport,
        sessions,
        rate_out,
        round(used / sum(call.input_ms for call in calls) * 1e6, 2),
        summarise([age for call in calls for age in ages_ms(call)], _AGES),
        sum(stats.get("lost_packets", 0) for stats in ended),
        sum(stats.get("concealed_chunks", 0) for stats in ended),
    )


def report(rows: list[Row]) -> str:
    """A table for people."""
    ages = "".join(f"{name:>9}" for name in _AGES)
    lines = [f"{'':<11}{'sessions':>9}{'out':>8}{'CPU':>9}{ages}{'lost':>7}{'concealed':>11}"]
    for row in rows:
        ages = "".join(f"{row.age_ms[name]:>9.1f}" for name in _AGES)
        cpu = row.gateway_ms_per_session_second
        lines.append(
            f"{row.transport:<11}{row.sessions:>9}{row.rate_out:>8}{cpu:>9.2f}{ages}"
            f"{row.lost_packets:>7}{row.concealed:>11}"
        )
    return "\n".join(
        (*lines, "CPU: ms of the gateway's a second of a session. Ages of packets in ms, from mouth to ear.")
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sessions", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--seconds", type=FiniteRange(2, 600), default=10, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=2, show_default=True, help="Of both, in turns.")
@click.option("--rate-out", type=click.Choice(["16000", "24000", "48000"]), default="48000", show_default=True)
@click.option("--loss", type=FiniteRange(0, 0.5), default=0.0, show_default=True, help="Instead: share of packets.")
@click.option("--jitter-ms", type=FiniteRange(0, 500), default=100, show_default=True, help="With --loss.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    sessions: int, seconds: float, rounds: int, rate_out: str, loss: float, jitter_ms: float, json_file: Path | None
) -> None:
    """Measure WebRTC against WebSocket; with --loss, WebRTC over lines that are bad against lines that are good."""
    wave = np.resize(read_source(SAMPLE, RATE), round(RATE * seconds))
    messages = encode_source(wave, CallConfig("", KEY, encoding="OPUS", sample_rate=RATE))
    with service(sessions + 2) as running:
        if loss:
            payloads = [payload for payload, _ in messages]
            lines = [(0.0, 0.0), (loss, jitter_ms)] * rounds
            spoiled = [webrtc_loss.measure(running.url, sessions, payloads, *line) for line in lines]
            rows: list[Row] | list[webrtc_loss.Spoiled] = spoiled
            table = webrtc_loss.report(spoiled)
        else:
            rows = compared = [
                measure(running.url, running.gateways[0], transport, sessions, messages, int(rate_out))
                for _ in range(rounds)
                for transport in ("WebSocket", "WebRTC")
            ]
            table = report(compared)
    click.echo(table)
    if json_file is not None:
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "seconds": seconds,
            "block_ms": BLOCK_MS,
            "rows": [asdict(row) for row in rows],
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1), encoding="utf-8")
