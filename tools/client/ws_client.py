"""One call: stream a recording through the service, save the answer, print how long things took."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import click
import soundfile
from tqdm import tqdm

from shared.ranges import FiniteRange
from shared.settings import DEMO_KEY
from tools.client.client import DEFAULT_URL, Call, CallConfig, CallError, call, read_source
from tools.client.resuming import ResumingCall, resuming_call
from tools.client.stats import call_stats


async def list_voices(url: str) -> list[dict[str, Any]]:
    """What GET /voices says. Raises `CallError`."""
    base = url.replace("ws", "http", 1).removesuffix("/ws").rstrip("/")
    try:
        async with aiohttp.ClientSession() as http, http.get(base + "/voices") as response:
            content = await response.json()
            return list(content["voices"])
    except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
        raise CallError(f"cannot get {base}/voices: {error}") from None


async def run(config: CallConfig, source: Path, reconnect: bool = False) -> Call:
    """The call, with a progress bar. `reconnect`: it outlives its connection. Raises `CallError`."""
    wave = read_source(source, config.sample_rate)
    total_s = len(wave) / config.sample_rate
    with tqdm(
        total=round(total_s, 2), unit="s", desc=source.name, bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} s"
    ) as bar:
        async with aiohttp.ClientSession() as http:
            talk = resuming_call if reconnect else call
            result = await talk(http, config, wave, lambda ms: _advance(bar, ms / 1000))
    return result


def _advance(bar: Any, seconds: float) -> None:
    bar.update(min(seconds, bar.total - bar.n))


def save(result: Call, output: Path, keep_lead: bool) -> None:
    """The answer as a WAV file; without the leading silence it lies sample over sample on the source."""
    rate = result.config.sample_rate_out
    wave = result.output()
    output.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(output, wave if keep_lead else wave[result.lead_ms * rate // 1000 :], rate)


def report(result: Call, stats: dict[str, Any]) -> str:
    """A few lines for people."""
    chunk = stats["from_due"]["chunk_latency_stats"]
    complete = result.complete or {}
    breaks, concealed = [], complete.get("concealed_chunks")
    if isinstance(result, ResumingCall):
        breaks, concealed = result.breaks, result.concealed
    block = f"mean {chunk['mean_ms']:.1f} ms, p95 {chunk['p95_ms']:.1f} ms, max {chunk['max_ms']:.1f} ms"
    return "\n".join(
        (
            f"session {result.ready.get('session_id')}: {result.input_ms / 1000:.2f} s of speech, "
            f"{stats['from_due']['answers']} blocks of {result.ready.get('block_ms', '?')} ms",
            f"  latency of a block   {block} (and {result.ready.get('delay_ms', 0)} ms of look-ahead)",
            f"  first answer         {stats['first_token_latency_ms'] or 0:.1f} ms after the first packet",
            f"  real-time factor     {stats['from_due']['real_time_factor']['mean']:.3f}, "
            f"jitter {stats['from_due']['arrival_jitter_ms']:.1f} ms",
            f"  at the gateway       {complete.get('average_latency_ms')} ms a block, {concealed} concealed",
            *(
                f"  connection lost      for {gap.back_at - gap.at:.1f} s, "
                f"then {'a new stream with the old history' if gap.new_stream else 'the same stream'}"
                for gap in breaks
            ),
        )
    )


_encoding = click.Choice(["PCM", "OPUS"], case_sensitive=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", default=DEFAULT_URL, show_default=True)
@click.option("--api-key", envvar="FAST_VC_API_KEY", default=DEMO_KEY, show_default=True)
@click.option("--voice", help="One of --list-voices; the service's default without it.")
@click.option("--model", help="The service's default without it.")
@click.option("--session-id")
@click.option("--source-wav-path", type=click.Path(path_type=Path), help="Any format that libsndfile reads.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("outputs/ws_client.wav"), show_default=True)
@click.option("--encoding", type=_encoding, default="PCM", show_default=True)
@click.option("--encoding-out", type=_encoding, default="PCM", show_default=True)
@click.option("--frame-duration", "frame_ms", type=int, help="Milliseconds of an Opus packet; --chunk-time without it.")
@click.option("--bitrate", type=click.IntRange(6000, 510_000), help="Of Opus that is sent; libopus decides without it.")
@click.option("--sample-rate", type=int, default=16_000, show_default=True)
@click.option("--sample-rate-out", type=int, default=16_000, show_default=True)
@click.option(
    "--chunk-time", type=click.IntRange(1, 2000), default=20, show_default=True, help="Milliseconds a message."
)
@click.option("--real-time/--no-real-time", default=True, show_default=True)
@click.option("--timeout", type=FiniteRange(0.1), default=60.0, show_default=True, help="Seconds without any answer.")
@click.option("--keep-lead", is_flag=True, help="Keep the leading silence that a live listener hears.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="The statistics, as JSON.")
@click.option("--reconnect", is_flag=True, help="Come back to the call when the connection is lost.")
@click.option("--list-voices", "only_voices", is_flag=True)
def main(source_wav_path: Path | None, output: Path, only_voices: bool, json_file: Path | None, **given: Any) -> None:
    """Stream a recording through the service in real time."""
    keep_lead, reconnect = given.pop("keep_lead"), given.pop("reconnect")
    try:
        config = CallConfig(chunk_ms=given.pop("chunk_time"), timeout_s=given.pop("timeout"), **given)
    except CallError as error:
        raise click.UsageError(str(error)) from None
    try:
        if only_voices:
            for voice in asyncio.run(list_voices(config.url)):
                click.echo(f"{voice['name']:<16} {voice['description']}")
            return
        if source_wav_path is None:
            raise click.UsageError("--source-wav-path is needed")
        result = asyncio.run(run(config, source_wav_path, reconnect))
    except CallError as error:
        click.echo(f"ws_client: {error}", err=True)
        sys.exit(1)
    save(result, output, keep_lead)
    stats = call_stats(result)
    click.echo(report(result, stats) + f"\n  written to           {output}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({**stats, "complete": result.complete}, indent=1), encoding="utf-8")
    if lost := result.lost_audio:
        click.echo(f"ws_client: {lost}{'' if reconnect else ' (--reconnect comes back to a call)'}", err=True)
        sys.exit(1)
