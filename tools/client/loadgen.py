"""Many callers at once: streams recordings through the service in real time and reports what each caller got.

Writes ``clientN_result.json``, ``clientN_stats.json``, ``clientN_output.wav`` and ``summary.json`` below the output
folder and prints a table. Exit code 0 only if every client got all its audio. Latency is defined in
``tools.client.latency``. Clients of one process share an event loop; ``--max-workers`` spreads them over processes.
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

from tools.client.client import Call, CallConfig, CallError, call, read_source
from tools.client.latency import DEFAULT_BLOCK_MS, answer_latencies_ms, call_stats, summarise
from tools.client.ws_client import DEFAULT_URL, DEMO_KEY

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Client:
    """One caller of a run."""

    number: int
    source: Path
    config: CallConfig
    start_after_s: float


def plan(count: int, sources: list[Path], voices: list[str], config: CallConfig, delay_s: float) -> list[Client]:
    """Sources and voices go round; starts are `delay_s` apart."""
    return [
        Client(
            number,
            sources[number % len(sources)],
            replace(config, voice=voices[number % len(voices)] if voices else config.voice),
            number * delay_s,
        )
        for number in range(count)
    ]


def lost_audio(result: Call) -> str | None:
    """Why this is not all of the client's audio, or None: it may be a block short, not more."""
    if result.complete is None:
        return "no complete message"
    block_ms = float(result.ready.get("block_ms", DEFAULT_BLOCK_MS))
    if result.missing_ms > block_ms:
        return f"{result.missing_ms:.0f} ms of audio are missing"
    return None


async def run_client(http: aiohttp.ClientSession, client: Client, output: Path, progress: Progress) -> dict[str, Any]:
    """One caller, with its files. Never raises: what went wrong is in the result's `error`."""
    await asyncio.sleep(client.start_after_s)
    name = f"client{client.number}"
    result: dict[str, Any] = {"client": client.number, "source": str(client.source), "voice": client.config.voice}
    latencies: list[float] = []
    try:
        wave = await asyncio.to_thread(read_source, client.source, client.config.sample_rate)
        made = await call(http, client.config, wave, progress)
        error = lost_audio(made)
        stats, latencies = call_stats(made), answer_latencies_ms(made)
        await asyncio.to_thread(_write, output / f"{name}_stats.json", stats)
        rate = client.config.sample_rate_out
        await asyncio.to_thread(soundfile.write, output / f"{name}_output.wav", made.output(), rate)
        result |= {
            "session_id": made.ready.get("session_id"),
            "input_ms": made.input_ms,
            "output_ms": made.input_ms - made.missing_ms,
            "close_code": made.close_code,
            "complete": made.complete,
            "stats": stats,
        }
    except CallError as failure:
        error = str(failure)
    except Exception as failure:  # one client's fault must not end the others' measurement
        error = f"{type(failure).__name__}: {failure}"
    result |= {"success": error is None, "error": error}
    await asyncio.to_thread(_write, output / f"{name}_result.json", result)
    return result | {"latencies_ms": latencies}


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


def summarise_run(results: list[dict[str, Any]], wall_s: float, settings: dict[str, Any]) -> dict[str, Any]:
    """``summary.json``."""
    good = [result for result in results if result["success"]]
    latencies = [ms for result in results for ms in result["latencies_ms"]]
    chunk = summarise(latencies, ("mean", "median", "min", "max", "std", "p95", "p99"))
    firsts = [r["stats"]["first_token_latency_ms"] for r in good if r["stats"]["first_token_latency_ms"] is not None]
    return {
        "clients": len(results),
        "successful": len(good),
        "failed": len(results) - len(good),
        "errors": {str(r["client"]): r["error"] for r in results if not r["success"]},
        "real_time_clients": sum(bool(r["stats"]["is_real_time"]) for r in good),
        "concealed_blocks": sum((r["complete"] or {}).get("concealed_chunks") or 0 for r in good),
        "audio_s": round(sum(r["input_ms"] for r in good) / 1000, 3),
        "wall_s": round(wall_s, 3),
        "chunk_latency_stats": {f"{name}_ms": value for name, value in chunk.items()},
        "first_token_latency_stats": {f"{k}_ms": v for k, v in summarise(firsts, ("mean", "p95", "max")).items()},
        "settings": settings,
    }


def table(results: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """A line a client, then the whole."""
    lines = [
        f"{'client':>6}  {'voice':<12}{'audio s':>8}{'first ms':>10}{'mean ms':>9}{'p95 ms':>8}{'max ms':>8}{'RTF':>7}"
    ]
    for result in sorted(results, key=lambda r: r["client"]):
        if not result["success"]:
            lines.append(f"{result['client']:>6}  FAILED: {result['error']}")
            continue
        stats = result["stats"]
        chunk = stats["chunk_latency_stats"]
        lines.append(
            f"{result['client']:>6}  {result['voice'] or '-':<12}{result['input_ms'] / 1000:>8.2f}"
            f"{stats['first_token_latency_ms']:>10.1f}{chunk['mean_ms']:>9.1f}{chunk['p95_ms']:>8.1f}"
            f"{chunk['max_ms']:>8.1f}{stats['real_time_factor']['mean']:>7.3f}"
        )
    chunk = summary["chunk_latency_stats"]
    lines.append(
        f"{summary['successful']} of {summary['clients']} clients got all their audio, "
        f"{summary['real_time_clients']} in real time; {summary['concealed_blocks']} blocks concealed; "
        f"block latency mean {chunk['mean_ms']:.1f}, p95 {chunk['p95_ms']:.1f}, p99 {chunk['p99_ms']:.1f} ms"
    )
    return "\n".join(lines)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


_paths: dict[str, Any] = {"multiple": True, "required": True, "type": click.Path(path_type=Path)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", default=DEFAULT_URL, show_default=True)
@click.option("--api-key", envvar="FAST_VC_API_KEY", default=DEMO_KEY, show_default=True)
@click.option("--num-clients", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option("--delay-between-starts", type=click.FloatRange(0), default=0.1, show_default=True, help="Seconds.")
@click.option("--max-workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Client processes.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds without an answer."
)
@click.option("--source-wav-path", "first", **_paths, help="One or several: --source-wav-path a.wav b.wav.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path))
@click.option("--voice", "voices", multiple=True, help="Repeatable; voices go round.")
@click.option("--encoding", type=click.Choice(["PCM", "OPUS"]), default="PCM", show_default=True)
@click.option("--encoding-out", type=click.Choice(["PCM", "OPUS"]), default="PCM", show_default=True)
@click.option(
    "--chunk-time", type=click.IntRange(1, 2000), default=20, show_default=True, help="Milliseconds a message."
)
@click.option("--real-time/--no-real-time", default=True, show_default=True)
@click.option("--sample-rate", type=click.IntRange(8000, 48_000), default=16_000, show_default=True)
@click.option("--sample-rate-out", type=click.IntRange(8000, 48_000), default=16_000, show_default=True)
@click.option("--output-dir", type=click.Path(path_type=Path), default=Path("outputs/loadgen"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="The summary, a second time.")
def main(
    first: tuple[Path, ...],
    more: tuple[Path, ...],
    voices: tuple[str, ...],
    num_clients: int,
    delay_between_starts: float,
    max_workers: int,
    output_dir: Path,
    json_file: Path | None,
    **given: Any,
) -> None:
    """Stream recordings of many callers through the service and measure."""
    sources = [*first, *more]
    for source in sources:
        if not source.is_file():
            raise click.UsageError(f"--source-wav-path: {source} is not a file")
    config = CallConfig(chunk_ms=given.pop("chunk_time"), timeout_s=given.pop("timeout"), **given)
    output_dir.mkdir(parents=True, exist_ok=True)
    clients = plan(num_clients, sources, list(voices), config, delay_between_starts)
    lengths_s = {source: _duration_s(source) for source in sources}
    total_s = sum(lengths_s[client.source] for client in clients)
    began = time.monotonic()
    with tqdm(total=round(total_s, 1), unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio") as bar:
        progress = partial(_advance, bar)
        if max_workers == 1:
            results = asyncio.run(run_clients(clients, output_dir, progress))
        else:
            results = run_processes(clients, max_workers, output_dir, progress)
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
