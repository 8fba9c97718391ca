"""``python -m tests.chaos.soak``: thousands of short sessions that end in every way, beside one long call in real time.

Memory, descriptors, threads and semaphores of each process are looked at all along, and plotted; they may grow while
the service warms up, and by less than 3 % after that. ``make soak`` is an hour.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import click
import numpy as np
import psutil

from tests.chaos.processes import KEY, Place, place
from tests.chaos.signals import check, voice_of
from tools.client.client import CallConfig
from tools.client.latency import answer_latencies_ms
from tools.client.resuming import ResumingCall, resuming_call

_WARM = 0.34  # of the time; then growth counts, and not before
_REMEMBERED = 2000  # calls were made, which the gateway remembers the figures of
_GROWTH = 0.03
_POOLS = 4  # threads of pools that are made when so many are needed at once
_AT_ONCE = 6
_PLACES = 32
_COMPLAINTS = ("leaked semaphore", "never awaited", "Task was destroyed", "Traceback")


@dataclass(frozen=True)
class Look:
    """At one process. Memory in MB: what is its own."""

    at_s: float
    name: str
    memory: float
    descriptors: int
    threads: int
    semaphores: int  # by name, that it has mapped
    done: int  # short sessions until then


def semaphores(pid: int) -> int:
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    return len({line.split()[-1] for line in maps if "/dev/shm/sem." in line})


def anonymous_mb(pid: int) -> float:
    """What the process made itself; pages of files are counted by how many others have them, which come and go."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e6


def looks(where: Place, began: float, done: int) -> list[Look]:
    found = []
    for name, process in where.running.items():
        one = psutil.Process(process.pid)
        memory = anonymous_mb(process.pid)
        at_s, named = time.monotonic() - began, semaphores(process.pid)
        found.append(Look(at_s, name, memory, one.num_fds(), one.num_threads(), named, done))
    return found


# --- short sessions -------------------------------------------------------------------------------------------------


async def short_session(http: aiohttp.ClientSession, where: Place, rng: random.Random) -> None:
    """Connects, talks for a moment, and is gone: politely, rudely, or not at all."""
    sound = rng.randbytes(rng.randrange(0, 16_000)) if rng.random() < 0.8 else b""
    end = rng.choice((say_end, close, abort, vanish_before_words, nonsense, come_back))
    with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
        async with asyncio.timeout(20):
            await end(http, where, sound)


async def _open(http: aiohttp.ClientSession, where: Place, **more: object) -> aiohttp.ClientWebSocketResponse:
    socket = await http.ws_connect(where.url)
    await socket.send_json({"type": "config", "api_key": KEY, **more})
    return socket


async def say_end(http: aiohttp.ClientSession, where: Place, sound: bytes) -> None:
    socket = await _open(http, where)
    await socket.send_bytes(sound)
    await socket.send_json({"type": "end"})
    async for _ in socket:
        pass


async def close(http: aiohttp.ClientSession, where: Place, sound: bytes) -> None:
    socket = await _open(http, where)
    await socket.receive()
    await socket.send_bytes(sound)
    await socket.close()


async def abort(http: aiohttp.ClientSession, where: Place, sound: bytes) -> None:
    socket = await _open(http, where)
    await socket.receive()
    await socket.send_bytes(sound)
    _cut(socket)


async def vanish_before_words(http: aiohttp.ClientSession, where: Place, sound: bytes) -> None:
    _cut(await http.ws_connect(where.url))


async def nonsense(http: aiohttp.ClientSession, where: Place, sound: bytes) -> None:
    socket = await _open(http, where, sample_rate=len(sound))
    await socket.send_bytes(b"RIFF" + sound)
    await socket.close()


async def come_back(http: aiohttp.ClientSession, where: Place, sound: bytes) -> None:
    socket = await _open(http, where)
    ready = await socket.receive_json()
    await socket.send_bytes(sound)
    _cut(socket)
    if "resume" in ready:
        again = await _open(http, where, session_id=ready["session_id"], resume=ready["resume"])
        await again.receive()
        await again.send_json({"type": "end"})
        async for _ in again:
            pass


def _cut(socket: aiohttp.ClientWebSocketResponse) -> None:
    if socket._response.connection is not None and socket._response.connection.transport is not None:
        socket._response.connection.transport.abort()


# --- the run --------------------------------------------------------------------------------------------------------


async def soak(
    folder: Path, seconds: float, sessions: int, seed: int
) -> tuple[list[Look], ResumingCall, list[str], int]:
    """What was seen, the long call, what did not hold, and how many short sessions there were."""
    rng = random.Random(seed)
    with place(folder, workers=1, settings={"WORKER__MAX_SESSIONS": _PLACES}) as where:
        await where.until(lambda: where.workers_at() == 1)
        began = time.monotonic()
        seen: list[Look] = []
        wave = voice_of(0, seconds)
        done = 0

        async def look_on() -> None:
            while True:
                seen.extend(await asyncio.to_thread(looks, where, began, done))
                await asyncio.sleep(max(1.0, seconds / 200))

        async def visitor(share: int) -> None:
            nonlocal done
            async with aiohttp.ClientSession() as http:
                for number in range(share):
                    due = began + 2 + (seconds - 8) * number / share
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    await short_session(http, where, rng)
                    done += 1

        async def long_call() -> ResumingCall:
            async with aiohttp.ClientSession() as http:
                return await resuming_call(http, CallConfig(where.url, KEY, session_id="long", timeout_s=30), wave)

        looking = asyncio.create_task(look_on())
        calling = asyncio.create_task(long_call())
        await asyncio.gather(*(visitor(len(range(number, sessions, _AT_ONCE))) for number in range(_AT_ONCE)))
        made = await calling
        await where.until(lambda: where.figure("fastvc_sessions") == 0, 60)
        looking.cancel()
        seen += looks(where, began, done)
        problems = check(0, 1, wave, made).faults
        problems += [f"long call: block {block} concealed" for block in check(0, 1, wave, made).concealed]
        problems += growth(seen) + drift(made)
        for name in ("gateway-0", "worker-0"):
            where.signal(name, signal.SIGTERM)
            code = await asyncio.to_thread(where.running[name].wait, 30)
            problems += [f"{name} ended with {code}"] if code else []
        said = where.logs()
        problems += [f"said at the end: {words}" for words in _COMPLAINTS if words in said]
    return seen, made, problems, done


def growth(seen: list[Look]) -> list[str]:
    """From the end of warming up to the end, as a straight line has it."""
    problems = []
    warm = warm_until(seen)
    for name in sorted({look.name for look in seen}):
        mine = [look for look in seen if look.name == name and look.at_s >= warm]
        at = np.array([look.at_s for look in mine])
        for what in ("memory", "descriptors", "threads", "semaphores"):
            values = np.array([getattr(look, what) for look in mine], dtype=float)
            slope, start = np.polyfit(at, values, 1)
            first, end = start + slope * at[0], start + slope * at[-1]
            if end > first * (1 + _GROWTH) and end - first > (1 if what in ("memory", "semaphores") else _POOLS):
                problems.append(f"{name}: {what} grew from {first:.1f} to {end:.1f}")
    return problems


def warm_until(seen: list[Look]) -> float:
    """Seconds from the start."""
    full = [look.at_s for look in seen if look.done >= _REMEMBERED]
    return max(_WARM * max(look.at_s for look in seen), min(full, default=0.0))


def drift(made: ResumingCall) -> list[str]:
    """Answers of the last third come no later than those of the middle one."""
    latencies = np.array(answer_latencies_ms(made))
    third = len(latencies) // 3
    middle, last = np.median(latencies[third : 2 * third]), np.median(latencies[2 * third :])
    return [f"latency went from {middle:.0f} to {last:.0f} ms"] if last > middle + 20 else []


def plot(seen: list[Look], made: ResumingCall, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 1, figsize=(9, 10), sharex=True)
    for axis, what in zip(axes, ("memory", "descriptors", "threads"), strict=False):
        for name in sorted({look.name for look in seen}):
            mine = [look for look in seen if look.name == name]
            axis.plot([look.at_s for look in mine], [getattr(look, what) for look in mine], label=name)
        axis.set_ylabel("MB of its own" if what == "memory" else what)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
    latencies = answer_latencies_ms(made)
    axes[3].plot(np.linspace(0, made.input_ms / 1000, len(latencies)), latencies, linewidth=0.6)
    axes[3].set_ylabel("latency of a block, ms")
    axes[3].set_ylim(bottom=0)
    axes[3].set_xlabel("seconds")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


@click.command()
@click.option("--seconds", type=float, default=3600.0, show_default=True, help="Of the long call.")
@click.option("--sessions", type=int, default=10_000, show_default=True)
@click.option("--seed", type=int, default=lambda: time.time_ns() % 1_000_000)
@click.option(
    "--plot", "plot_file", type=click.Path(path_type=Path), default=Path("outputs/soak.png"), show_default=True
)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(seconds: float, sessions: int, seed: int, plot_file: Path, json_file: Path | None) -> None:
    """Run a service for long, and see whether it stays as it was."""
    with tempfile.TemporaryDirectory() as folder:
        seen, made, problems, done = asyncio.run(soak(Path(folder), seconds, sessions, seed))
    last = max(look.at_s for look in seen)
    warm = warm_until(seen)
    rows = ["| | | warm | middle | end |", "|---|---|---|---|---|"]
    summary: dict[str, dict[str, list[float]]] = {}
    for name in sorted({look.name for look in seen}):
        mine = [look for look in seen if look.name == name]
        three = [min(mine, key=lambda look: abs(look.at_s - at)) for at in (warm, (warm + last) / 2, last)]
        for what in ("memory", "descriptors", "threads", "semaphores"):
            values = [round(float(getattr(look, what)), 1) for look in three]
            summary.setdefault(name, {})[what] = values
            rows.append(f"| {name} | {what} | {' | '.join(map(str, values))} |")
    click.echo("\n".join(rows))
    latencies = np.array(answer_latencies_ms(made))
    click.echo(
        f"seed {seed}: {done} short sessions, one call of {seconds:g} s: latency {np.median(latencies):.0f} ms, "
        f"p99 {np.percentile(latencies, 99):.0f} ms; {len(problems)} problems"
    )
    for problem in problems[:20]:
        click.echo(f"    {problem}")
    try:
        plot(seen, made, plot_file)
        click.echo(f"{plot_file}")
    except ImportError:
        click.echo("no plot: matplotlib is not installed")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        found = {"seed": seed, "sessions": done, "figures": summary, "problems": problems}
        points = {"looks": [asdict(look) for look in seen], "latencies_ms": [round(ms, 1) for ms in latencies]}
        json_file.write_text(json.dumps(found | points))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
