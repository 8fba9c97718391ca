"""What facing the internet costs: recordings, and people who guess keys.

1. Recording: the gateway's CPU a second of a real-time session, and its event loop's lag, with recording off, on, and
   on and encrypted, in one run after another. Callers and worker, which stand for other hosts, have a lower priority.
2. Guessing: block latency of calls beside so many wrong keys a minute from the same address, against those calls alone.

The service under test is started here, on free ports, with the passthrough engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np

from gateway.recording.vault import Vault
from shared.ranges import FiniteRange
from tools.bench.gateway import SAMPLE, drive
from tools.bench.service import Running, as_on_another_host, cpu_s, service
from tools.client.client import Call, Pcm, read_source
from tools.client.latency import answer_latencies_ms, summarise

_NAMES = ("mean", "median", "p95", "p99", "max")
_OPUS = {"encoding": "OPUS", "encoding_out": "OPUS", "sample_rate": 16_000, "sample_rate_out": 16_000}
_BLOCK_MS = 500  # as they are by default: a busy machine has places for a hundred sessions then
_WORKER = {"WORKER__BLOCK_MS": str(_BLOCK_MS), "WORKER__VAD": "energy"}  # which leaves the processor to the gateway
_LAG = re.compile(r'^fastvc_event_loop_lag_seconds_bucket\{.*?le="([^"]+)"\} (\S+)$', re.MULTILINE)


# --- recording ---------------------------------------------------------------------------------------------------


def measure_recording(sessions: int, wave: Pcm) -> list[dict[str, Any]]:
    """One row for each way to record."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        Vault(Path(folder, "keys")).make_key()
        on = {"RECORDING__ENABLED": "true", "RECORDING__DIR": f"{folder}/outputs"}
        ways: dict[str, dict[str, str]] = {
            "off": {},
            "on": on,
            "on, encrypted": {**on, "RECORDING__KEYS_DIR": f"{folder}/keys"},
        }
        for name, settings in ways.items():
            for config, sound in ((_OPUS, "Opus"), ({}, "PCM")):
                with service(sessions + 8, settings=_WORKER | settings) as running:
                    rows.append({"recording": name, "sound": sound, **_one(running, sessions, wave, config)})
    return rows


def _one(running: Running, sessions: int, wave: Pcm, config: dict[str, Any]) -> dict[str, Any]:
    gateway = running.gateways[0]
    lag_before, before = lag_of(running.url), cpu_s(gateway)
    call = drive(running.url, sessions, wave, config, _BLOCK_MS)
    calls = as_on_another_host(lambda: asyncio.run(call), running.worker)
    used, lag = cpu_s(gateway) - before, lag_of(running.url)
    lag.subtract(lag_before)
    seconds = sum(made.input_ms for made in calls) / 1000
    return {
        "sessions": sessions,
        "cpu_ms_per_session_second": round(used / seconds * 1000, 3),
        "lag_ms": {f"p{share:g}": quantile_ms(lag, share / 100) for share in (50, 99)},
        "latency_ms": _latency(calls),
        "concealed": sum((made.complete or {}).get("concealed_chunks", 0) for made in calls),
    }


def lag_of(url: str) -> Counter[float]:
    """Timers of the gateway's event loop by the upper end of their bucket, s."""
    with urllib.request.urlopen(_http(url) + "/metrics", timeout=10) as response:
        text = response.read().decode()
    counts: Counter[float] = Counter()
    before = 0.0
    for upper, count in _LAG.findall(text):
        counts[float(upper)] = float(count) - before  # type: ignore[assignment]
        before = float(count)
    return counts


def quantile_ms(counts: Counter[float], share: float) -> float:
    """The upper end of the bucket that holds it."""
    wanted, seen = share * sum(counts.values()), 0.0
    for upper in sorted(counts):
        seen += counts[upper]
        if seen >= wanted:
            return round(1000 * upper, 3)
    return float("inf")


# --- guessing ----------------------------------------------------------------------------------------------------


def measure_guessing(sessions: int, per_minute: int, wave: Pcm) -> dict[str, Any]:
    """The same calls alone, and beside somebody who guesses."""
    with service(sessions + 8) as running:
        gateway = running.gateways[0]
        before = cpu_s(gateway)
        alone = asyncio.run(drive(running.url, sessions, wave, {}))
        quiet = cpu_s(gateway) - before
        seconds = len(wave) / 16_000 + 1
        command = [sys.executable, "-m", "tools.bench_door", "--guess", running.url, str(per_minute), str(seconds)]
        guesser = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        before = cpu_s(gateway)
        beside = asyncio.run(drive(running.url, sessions, wave, {}))
        answered = json.loads(guesser.communicate(timeout=60)[0])
        busy = cpu_s(gateway) - before
    concealed = [sum((made.complete or {}).get("concealed_chunks", 0) for made in calls) for calls in (alone, beside)]
    return {
        "sessions": sessions,
        "wrong_keys_a_minute": round(sum(answered.values()) / seconds * 60),
        "answered": answered,
        "alone_ms": _latency(alone),
        "beside_ms": _latency(beside),
        "concealed": dict(zip(("alone", "beside"), concealed, strict=True)),
        "cpu_ms_per_guess": round((busy - quiet) / max(1, sum(answered.values())) * 1000, 3),
    }


async def guess(url: str, per_minute: int, seconds: float) -> Counter[str]:
    """Wrong keys over raw sockets, one a connection; how they were answered, by status."""
    host, _, port = url.removeprefix("ws://").partition("/")[0].partition(":")
    answered: Counter[str] = Counter()

    async def one(number: int) -> None:
        answer = "none"
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            reader, writer = await asyncio.open_connection(host, int(port))
            key = f"a-guess-{number}"
            writer.write(
                f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                f"Authorization: Bearer {key}\r\n\r\n".encode()
            )
            async with asyncio.timeout(20):
                answer = (await reader.readline()).decode().split(" ")[1]
            writer.close()
        answered[answer] += 1

    began, tasks = time.monotonic(), set()
    for number in range(int(per_minute * seconds / 60)):
        await asyncio.sleep(max(0.0, began + number * 60 / per_minute - time.monotonic()))
        tasks.add(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    return answered


def _latency(calls: list[Call]) -> dict[str, float]:
    return summarise([ms for made in calls for ms in answer_latencies_ms(made)[:-1]], _NAMES)


def _http(url: str) -> str:
    return url.replace("ws://", "http://", 1).removesuffix("/ws")


# --- the report --------------------------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> str:
    """Tables for people."""
    lines = [
        result["machine"],
        "",
        "recording: gateway CPU, ms a second of one real-time session; event loop's lag, ms",
    ]
    lines.append(
        f"{'recording':<15}{'sound':<7}{'sessions':>9}{'CPU':>9}{'ratio':>7}{'lag p50':>9}{'lag p99':>9}{'p99':>9}"
    )
    base = {row["sound"]: row["cpu_ms_per_session_second"] for row in result["recording"] if row["recording"] == "off"}
    for row in result["recording"]:
        cpu, lag = row["cpu_ms_per_session_second"], row["lag_ms"]
        lines.append(
            f"{row['recording']:<15}{row['sound']:<7}{row['sessions']:>9}{cpu:>9.2f}{cpu / base[row['sound']]:>7.2f}"
            f"{lag['p50']:>9g}{lag['p99']:>9g}{row['latency_ms']['p99']:>9.1f}"
        )
    guessing = result["guessing"]
    lines += ["", f"guessing: {guessing['wrong_keys_a_minute']} wrong keys a minute, answered {guessing['answered']}"]
    lines.append(f"block latency of {guessing['sessions']} calls, ms" + "".join(f"{name:>9}" for name in _NAMES))
    for name in ("alone", "beside"):
        lines.append(f"{name:<32}" + "".join(f"{value:>9.2f}" for value in guessing[f"{name}_ms"].values()))
    lines.append(f"concealed blocks {guessing['concealed']}; {guessing['cpu_ms_per_guess']} ms of CPU a guess")
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sessions", type=click.IntRange(1, 1000), default=100, show_default=True, help="With recordings.")
@click.option("--calls", type=click.IntRange(1, 1000), default=20, show_default=True, help="Beside who guesses.")
@click.option("--guesses", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="A minute.")
@click.option("--seconds", type=FiniteRange(2, 600), default=15, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--guess", "guesser", nargs=3, hidden=True)
def main(
    sessions: int,
    calls: int,
    guesses: int,
    seconds: float,
    json_file: Path | None,
    guesser: tuple[str, str, str] | None,
) -> None:
    """Measure what recordings cost the gateway, and what guessing costs its callers."""
    if guesser is not None:
        click.echo(json.dumps(asyncio.run(guess(guesser[0], int(guesser[1]), float(guesser[2])))))
        return
    wave = np.resize(read_source(SAMPLE, 16_000), round(16_000 * seconds))
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
        "recording": measure_recording(sessions, wave),
        "guessing": measure_guessing(calls, guesses, wave),
    }
    click.echo(report(result))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1), encoding="utf-8")
