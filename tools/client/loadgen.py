"""Many callers at once: streams recordings through the service in real time and reports what each caller got.

Writes ``clientN_result.json``, ``clientN_stats.json``, ``clientN_output.wav`` and ``summary.json`` below the output
folder and prints a table. Exit code 0 only if every client got all its audio. The figures of a client are defined in
``tools.client.stats``; the table and the summary count latency from when audio was due. Clients of one process share an
event loop; ``--max-workers`` spreads them over processes.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import aiohttp
import click
import soundfile
from tqdm import tqdm

from shared.config import ROOT
from shared.ranges import FiniteRange
from shared.settings import DEMO_KEY
from tools.client.client import DEFAULT_URL, CallConfig, CallError, call, read_source
from tools.client.latency import answer_latencies_ms
from tools.client.stats import call_stats
from tools.client.summary import summarise_run, table

Progress = Callable[[float], None]
SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
MOST_PROCESSES = 8  # where --max-workers does not say
NO_ANSWER_S = 60.0  # a call in which nothing comes for so long has failed


@dataclass(frozen=True, slots=True)
class Client:
    """One caller of a run."""

    number: int
    source: Path
    config: CallConfig
    start_after_s: float
    timeout_s: float  # of the whole call
    save_output: bool = True


def plan(
    count: int,
    sources: list[Path],
    voices: list[str],
    config: CallConfig,
    *,
    delay_s: float,
    timeout_s: float,
    save_output: bool,
) -> list[Client]:
    """Sources and voices go round; starts are `delay_s` apart."""
    return [
        Client(
            number,
            sources[number % len(sources)],
            replace(config, voice=voices[number % len(voices)] if voices else config.voice),
            number * delay_s,
            timeout_s,
            save_output,
        )
        for number in range(count)
    ]


async def run_client(http: aiohttp.ClientSession, client: Client, output: Path, progress: Progress) -> dict[str, Any]:
    """One caller, with its files. Never raises: what went wrong is in the result's `error`."""
    await asyncio.sleep(client.start_after_s)
    name = f"client{client.number}"
    result: dict[str, Any] = {
        "client": client.number,
        "client_id": client.number,
        "source": str(client.source),
        "voice": client.config.voice,
    }
    latencies: list[float] = []
    try:
        wave = await asyncio.to_thread(read_source, client.source, client.config.sample_rate)
        async with asyncio.timeout(client.timeout_s):
            made = await call(http, client.config, wave, progress)
        error = made.lost_audio
        stats, latencies = call_stats(made), answer_latencies_ms(made)
        await asyncio.to_thread(_write, output / f"{name}_stats.json", stats)
        rate = client.config.sample_rate_out
        if client.save_output:
            await asyncio.to_thread(soundfile.write, output / f"{name}_output.wav", made.output(), rate)
        result |= {
            "session_id": made.ready.get("session_id"),
            "input_ms": made.input_ms,
            "output_ms": made.input_ms - made.missing_ms,
            "close_code": made.close_code,
            "complete": made.complete,
            "stats": stats,
            "send_timeline": made.send_timeline(),
            "recv_timeline": made.recv_timeline(),
        }
    except CallError as failure:
        error = str(failure)
    except TimeoutError:
        error = f"not done within {client.timeout_s:g} s"
    except Exception as failure:  # one client's fault must not end the others' measurement
        error = f"{type(failure).__name__}: {failure}"
    result |= {"success": error is None, "error": error}
    await asyncio.to_thread(_write, output / f"{name}_result.json", result)
    events = ("send_timeline", "recv_timeline")  # they stay in the file
    return {key: value for key, value in result.items() if key not in events} | {"latencies_ms": latencies}


async def run_clients(clients: list[Client], output: Path, progress: Progress) -> list[dict[str, Any]]:
    """All callers of one process."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        return await asyncio.gather(*(run_client(http, client, output, progress) for client in clients))


def _process(clients: list[Client], output: Path, queue: Any, results: Any) -> None:
    results.put(asyncio.run(run_clients(clients, output, queue.put)))


def run_processes(clients: list[Client], processes: int, output: Path, progress: Progress) -> list[dict[str, Any]]:
    """The callers dealt out to `processes`."""
    context = multiprocessing.get_context("spawn")
    queue, results = context.Queue(), context.Queue()
    shares = [clients[i::processes] for i in range(processes)]
    workers = [context.Process(target=_process, args=(share, output, queue, results)) for share in shares if share]
    for worker in workers:
        worker.start()
    finished: list[dict[str, Any]] = []
    pending = len(workers)
    while pending:
        while not queue.empty():
            progress(queue.get())
        try:
            finished += results.get(timeout=0.1)
            pending -= 1
        except Empty:
            if not any(worker.is_alive() for worker in workers) and results.empty():
                break  # a process died; its clients are reported as failed below
    for worker in workers:
        worker.join()
    known = {result["client"] for result in finished}
    for client in clients:
        if client.number not in known:
            lost = {"client": client.number, "success": False, "error": "its process died", "latencies_ms": []}
            finished.append(lost)
    return finished


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


_milliseconds = click.IntRange(1, 2000)
_rate = click.IntRange(8000, 48_000)
_path: Any = click.Path(path_type=Path)
_encoding = click.Choice(["PCM", "OPUS"], case_sensitive=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--url", default=DEFAULT_URL)
@click.option("--api-key", envvar="FAST_VC_API_KEY", default=DEMO_KEY)
@click.option("-c", "--num-clients", type=click.IntRange(1, 10_000), default=5)
@click.option("-d", "--delay-between-starts", type=FiniteRange(0), default=0.0, help="Seconds.")
@click.option("-w", "--max-workers", type=click.IntRange(1, 64), help="Client processes; min(8, clients) without it.")
@click.option("-t", "--timeout", type=FiniteRange(0.1), default=420.0, help="Seconds for the whole of a call.")
@click.option("--source-wav-path", "first", type=_path, multiple=True, help="Several may follow; the bundled sample.")
@click.argument("more", nargs=-1, type=_path)
@click.option("--voice", "voices", multiple=True, help="Repeatable; voices go round.")
@click.option("--encoding", type=_encoding, default="PCM")
@click.option("--encoding-out", type=_encoding, default="PCM")
@click.option("--chunk-time", type=_milliseconds, default=20, help="Milliseconds a message.")
@click.option("--frame-duration", "frame_ms", type=int, help="Milliseconds of an Opus packet; --chunk-time without it.")
@click.option("--bitrate", type=click.IntRange(6000, 510_000), help="Of Opus that is sent; libopus decides without it.")
@click.option("--real-time/--no-real-time", default=True)
@click.option("--sample-rate", type=_rate, default=16_000)
@click.option("--sample-rate-out", type=_rate, default=16_000)
@click.option("--output-dir", "--output-wav-dir", "output_dir", type=_path, default=Path("outputs/loadgen"))
@click.option("--save-output/--no-save-output", default=True, help="Whether clientN_output.wav is written.")
@click.option("--json", "json_file", type=_path, help="The summary, a second time.")
def main(
    first: tuple[Path, ...],
    more: tuple[Path, ...],
    voices: tuple[str, ...],
    num_clients: int,
    delay_between_starts: float,
    max_workers: int | None,
    timeout: float,
    save_output: bool,
    output_dir: Path,
    json_file: Path | None,
    **given: Any,
) -> None:
    """Stream recordings of many callers through the service and measure."""
    sources = [*first, *more] or [SAMPLE]
    for source in sources:
        if not source.is_file():
            raise click.UsageError(f"--source-wav-path: {source} is not a file")
    try:
        config = CallConfig(chunk_ms=given.pop("chunk_time"), timeout_s=min(NO_ANSWER_S, timeout), **given)
    except CallError as error:
        raise click.UsageError(str(error)) from None
    output_dir.mkdir(parents=True, exist_ok=True)
    ends = {"delay_s": delay_between_starts, "timeout_s": timeout}
    clients = plan(num_clients, sources, list(voices), config, **ends, save_output=save_output)
    processes = max_workers or min(MOST_PROCESSES, num_clients)
    lengths_s = {source: _duration_s(source) for source in sources}
    total_s = sum(lengths_s[client.source] for client in clients)
    began = time.monotonic()
    with tqdm(total=round(total_s, 1), unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio") as bar:
        progress = partial(_advance, bar)
        if processes == 1:
            results = asyncio.run(run_clients(clients, output_dir, progress))
        else:
            results = run_processes(clients, processes, output_dir, progress)
    shown = {key: value for key, value in asdict(config).items() if key != "api_key"}
    summary = summarise_run(results, time.monotonic() - began, shown)
    for path in filter(None, (output_dir / "summary.json", json_file)):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, summary)
    click.echo(table(results, summary))
    sys.exit(0 if summary["failed"] == 0 else 1)


def _advance(bar: Any, ms: float) -> None:
    bar.update(min(ms / 1000, bar.total - bar.n))


def _duration_s(source: Path) -> float:
    try:
        return float(soundfile.info(source).duration)
    except soundfile.LibsndfileError as error:
        raise click.UsageError(f"--source-wav-path: {source}: {error}") from None
