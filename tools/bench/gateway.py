"""What the gateway costs and adds, as ratios within one run.

1. CPU: user+system seconds of the gateway process per second of a real-time Opus session, against bare libopus and
   resampling of the same audio in a plain loop (the floor).
2. Latency: block latency of `--sessions` callers through gateway, link and a passthrough engine, against a bare aiohttp
   WebSocket server that answers the same messages on the same schedule at once. Both are driven by the same client.

The service under test is started here, on free ports, with the passthrough engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
import opuslib
import psutil

from gateway.audio.codec import AudioFormat
from gateway.audio.table import find_codec
from shared.addresses import free_port
from shared.config import ROOT
from shared.ranges import FiniteRange
from tools.bench.service import BLOCK_MS, KEY, cpu_s, service
from tools.client.client import Call, CallConfig, Pcm, call_with, encode_source, read_source
from tools.client.latency import answer_latencies_ms, summarise

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
FLOOR_REPEATS = 7


# --- the floor ---------------------------------------------------------------------------------------------------


def floor_cpu(wave: Pcm, config: CallConfig) -> float:
    """CPU seconds per second of audio that libopus and resampling alone need; the median of several runs."""
    packets = [payload for payload, _ in encode_source(wave, config)]
    seconds = len(wave) / config.sample_rate
    runs = []
    for _ in range(FLOOR_REPEATS):
        before = time.process_time()
        _bare_codec(packets, config)
        runs.append((time.process_time() - before) / seconds)
    return statistics.median(runs)


def _bare_codec(packets: list[bytes], config: CallConfig) -> None:
    """The gateway's own codec calls, without a gateway."""
    opus, out = find_codec("OPUS"), find_codec(config.encoding_out)
    assert opus is not None
    assert out is not None
    decoder = opus.decoder(AudioFormat("OPUS", config.sample_rate))
    encoder = out.encoder(AudioFormat(config.encoding_out, config.sample_rate_out), 16_000)
    for start in range(0, len(packets), BLOCK_MS // 20):
        for packet in packets[start : start + BLOCK_MS // 20]:
            decoder.push(packet)
        encoder.encode(decoder.decode(last=False), last=False)


# --- the load ----------------------------------------------------------------------------------------------------


async def drive(url: str, sessions: int, wave: Pcm, config: dict[str, Any], block_ms: float = BLOCK_MS) -> list[Call]:
    """`sessions` callers in real time, their starts spread over one block of the service's, as those of callers who
    know nothing of each other are. What they say is encoded once, before."""
    messages = encode_source(wave, CallConfig(url, KEY, **config))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def one(number: int) -> Call:
            await asyncio.sleep(number * block_ms / 1000 / sessions)
            return await call_with(http, CallConfig(url, KEY, session_id=f"bench-{number}", **config), messages)

        return await asyncio.gather(*(one(number) for number in range(sessions)))


def measure_cpu(url: str, gateway: psutil.Process, sessions: int, wave: Pcm, encoding_out: str) -> dict[str, Any]:
    """The gateway's CPU for Opus sessions, and the floor of the same run."""
    config: dict[str, Any] = {"encoding": "OPUS", "encoding_out": encoding_out, "sample_rate": 48_000}
    config["sample_rate_out"] = 48_000
    sample = CallConfig(url, KEY, **config)
    floor = floor_cpu(wave, sample)
    idle_before, idle_began = cpu_s(gateway), time.monotonic()
    time.sleep(3)
    idle = (cpu_s(gateway) - idle_before) / (time.monotonic() - idle_began)
    before, began = cpu_s(gateway), time.monotonic()
    calls = asyncio.run(drive(url, sessions, wave, config))
    used = cpu_s(gateway) - before - idle * (time.monotonic() - began)
    session_seconds = sum(made.input_ms for made in calls) / 1000
    return {
        "output": encoding_out,
        "sessions": sessions,
        "gateway_ms_per_session_second": round(used / session_seconds * 1000, 3),
        "floor_ms_per_session_second": round(floor * 1000, 3),
        "ratio": round(used / session_seconds / floor, 2),
        "idle_ms_per_second": round(idle * 1000, 2),
    }


# --- latency -----------------------------------------------------------------------------------------------------


def measure_latency(url: str, sessions: int, wave: Pcm) -> dict[str, Any]:
    """Block latency through the service, against the echo, PCM at 16 kHz."""
    through = _latencies(asyncio.run(drive(url, sessions, wave, {})))
    with echo_server() as echo_url:
        bare = _latencies(asyncio.run(drive(echo_url, sessions, wave, {})))
    names = ("mean", "median", "p95", "p99", "max")
    service_ms, echo_ms = summarise(through, names), summarise(bare, names)
    added = {name: round(service_ms[name] - echo_ms[name], 3) for name in names}
    return {
        "sessions": sessions,
        "answers": len(through),
        "service_ms": service_ms,
        "echo_ms": echo_ms,
        "added_ms": added,
    }


def _latencies(calls: list[Call]) -> list[float]:
    return [ms for made in calls for ms in answer_latencies_ms(made)[:-1]]  # the tail is computed after the end


@contextmanager
def echo_server() -> Iterator[str]:
    """A bare aiohttp process that answers a block when the block's last message has come."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tools.bench_gateway", "--echo", str(port)])
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.1)
        yield f"ws://127.0.0.1:{port}/ws"
    finally:
        process.terminate()
        process.wait(10)


def run_echo(port: int) -> None:
    """The echo's process."""
    import uvloop
    from aiohttp import web

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        await ws.receive()
        await ws.send_json(
            {"type": "ready", "session_id": "echo", "block_ms": BLOCK_MS, "prefill_ms": 0, "delay_ms": 0}
        )
        block, held = BLOCK_MS * 32, b""
        async for message in ws:
            if message.type == aiohttp.WSMsgType.BINARY:
                held += message.data
                if len(held) >= block:
                    await ws.send_bytes(held[:block])
                    held = held[block:]
            else:
                if held:
                    await ws.send_bytes(held)
                await ws.send_json({"type": "complete", "session_id": "echo", "stats": {}})
                await ws.close()
        return ws

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/ws", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        uvloop.run(serve())


# --- the report --------------------------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> str:
    """A table for people."""
    lines = [f"{result['machine']}", "", "gateway CPU, ms per second of one real-time Opus session (48 kHz both ways)"]
    lines.append(f"{'output':<8}{'gateway':>9}{'bare codecs':>13}{'ratio':>7}")
    for row in result["cpu"]:
        gateway, floor = row["gateway_ms_per_session_second"], row["floor_ms_per_session_second"]
        lines.append(f"{row['output']:<8}{gateway:>9.2f}{floor:>13.2f}{row['ratio']:>7.2f}")
    latency = result["latency"]
    lines += ["", f"block latency of {latency['sessions']} sessions, ms, {latency['answers']} answers"]
    lines.append(f"{'':<10}" + "".join(f"{name:>9}" for name in latency["service_ms"]))
    for name in ("service", "echo", "added"):
        lines.append(f"{name:<10}" + "".join(f"{value:>9.2f}" for value in latency[f"{name}_ms"].values()))
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sessions", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cpu-sessions", type=click.IntRange(1, 1000), default=16, show_default=True)
@click.option("--seconds", type=FiniteRange(2, 600), default=15, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--echo", "echo_port", type=int, hidden=True)
def main(sessions: int, cpu_sessions: int, seconds: float, json_file: Path | None, echo_port: int | None) -> None:
    """Measure the gateway against bare codecs and a bare echo."""
    if echo_port is not None:
        run_echo(echo_port)
        return
    opuslib.Decoder(16_000, 1)  # fails here, not in the middle, without libopus
    waves = {rate: _long(read_source(SAMPLE, rate), rate, seconds) for rate in (16_000, 48_000)}
    with service(max(sessions, cpu_sessions) + 8) as running:
        url, gateway = running.url, running.gateways[0]
        cpu = [measure_cpu(url, gateway, cpu_sessions, waves[48_000], out) for out in ("PCM", "OPUS")]
        latency = measure_latency(url, sessions, waves[16_000])
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
        "cpu": cpu,
        "latency": latency,
    }
    click.echo(report(result))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1), encoding="utf-8")


def _long(wave: Pcm, rate: int, seconds: float) -> Pcm:
    return np.resize(wave, round(rate * seconds))
