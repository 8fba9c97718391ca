"""What several gateway processes on one port admit, and what they cost.

Callers knock one after another, more of them than the worker has places. Who is told that there is no place knocks
again, as a client should, until everybody's time is over. For each number of processes: how many were admitted at
their first knock and at last, how many there were at once, what each process's CPU did meanwhile, and how late answers
were. The worker copies, so that the gateways are what is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np

from shared.config import ROOT
from shared.ranges import FiniteRange
from tools.bench.service import KEY, Running, cpu_s, service
from tools.client.client import Call, CallConfig, CallError, call_with, encode_source, read_source

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
RATE = 48_000
_KNOCK_AGAIN_S = 0.5


@dataclass(slots=True)
class Knocks:
    """What became of the callers."""

    most_at_once: int = 0
    first_knock: int = 0
    refusals: int = 0
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of processes."""

    processes: int
    places: int
    callers: int
    admitted_at_first_knock: int
    admitted: int
    most_at_once: int
    refusals: int
    cpu_percent: list[float]  # of one core, by process
    cpu_ms_per_session_second: float
    worker_cpu_percent: float
    mean_latency_ms: float  # of blocks, as the gateways tell it: a packet of Opus holds back what comes after it
    max_latency_ms: float
    concealed: int


async def knock(url: str, callers: int, ramp_s: float, until_s: float, messages: list[tuple[bytes, float]]) -> Knocks:
    """Callers that come within `ramp_s` and give up after `until_s`."""
    result = Knocks()
    end = time.monotonic() + until_s

    async def one(number: int, http: aiohttp.ClientSession) -> None:
        await asyncio.sleep(number * ramp_s / callers)
        config = CallConfig(
            url, KEY, encoding="OPUS", encoding_out="OPUS", sample_rate=RATE, sample_rate_out=RATE, frame_ms=20
        )
        first = True
        while time.monotonic() < end:
            try:
                made = await call_with(http, config, messages)
            except CallError as error:
                if "OVERLOADED" not in str(error) and "503" not in str(error):
                    raise
                result.refusals += 1
                first = False
                await asyncio.sleep(_KNOCK_AGAIN_S)
            else:
                result.first_knock += first
                result.calls.append(made)
                return

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(one(number, http) for number in range(callers)))
    spans = [(made.sent[0].at, made.received[-1][0]) for made in result.calls if made.sent and made.received]
    result.most_at_once = max((sum(a <= at <= b for a, b in spans) for at, _ in spans), default=0)
    return result


def measure(running: Running, processes: int, places: int, callers: int, seconds: float) -> Row:
    """One service under its callers."""
    wave = np.resize(read_source(SAMPLE, RATE), round(RATE * seconds))
    config = CallConfig("", KEY, encoding="OPUS", sample_rate=RATE, frame_ms=20)
    messages = encode_source(wave, config)
    before = [cpu_s(process) for process in (*running.gateways, running.worker)]
    began = time.monotonic()
    knocks = asyncio.run(knock(running.url, callers, seconds / 2, seconds * 0.75, messages))
    took = time.monotonic() - began
    used = [cpu_s(p) - b for p, b in zip((*running.gateways, running.worker), before, strict=True)]
    spoken_s = sum(made.input_ms for made in knocks.calls) / 1000
    told = [made.complete or {} for made in knocks.calls]
    return Row(
        processes,
        places,
        callers,
        knocks.first_knock,
        len(knocks.calls),
        knocks.most_at_once,
        knocks.refusals,
        [round(100 * one / took, 1) for one in used[:-1]],
        round(1000 * sum(used[:-1]) / max(spoken_s, 1e-9), 2),
        round(100 * used[-1] / took, 1),
        round(sum(one.get("average_latency_ms", 0.0) for one in told) / max(1, len(told)), 1),
        max((one.get("max_latency_ms", 0.0) for one in told), default=0.0),
        sum(int(one.get("concealed_chunks", 0)) for one in told),
    )


def table(rows: list[Row]) -> str:
    """For people."""
    lines = [
        f"{'processes':>9}{'places':>8}{'callers':>9}{'first knock':>13}{'admitted':>10}{'at once':>9}{'refusals':>10}"
        f"{'ms/session s':>14}{'mean ms':>9}{'max ms':>8}{'concealed':>11}  CPU % of a core, each process"
    ]
    lines += [
        f"{row.processes:>9}{row.places:>8}{row.callers:>9}{row.admitted_at_first_knock:>13}{row.admitted:>10}"
        f"{row.most_at_once:>9}{row.refusals:>10}{row.cpu_ms_per_session_second:>14.1f}"
        f"{row.mean_latency_ms:>9.1f}{row.max_latency_ms:>8.1f}{row.concealed:>11}  "
        + " ".join(f"{percent:g}" for percent in row.cpu_percent)
        for row in rows
    ]
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--processes", default="1,2,4", show_default=True, help="Numbers of gateway processes, one run each.")
@click.option("--places", type=click.IntRange(1, 2000), default=16, show_default=True, help="Of the worker.")
@click.option("--callers", type=click.IntRange(1, 4000), default=20, show_default=True)
@click.option("--seconds", type=FiniteRange(2, 600), default=12, show_default=True, help="Of each call.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(processes: str, places: int, callers: int, seconds: float, json_file: Path | None) -> None:
    """Measure what 1, 2 and 4 gateway processes admit and cost, with Opus at 48 kHz both ways."""
    rows = []
    for count in [int(text) for text in processes.split(",")]:
        with service(places, count) as running:
            rows.append(measure(running, count, places, callers, seconds))
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": [asdict(row) for row in rows],
    }
    click.echo(f"{result['machine']}\n{table(rows)}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1), encoding="utf-8")
