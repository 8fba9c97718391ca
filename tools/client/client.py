"""A client of the standard WebSocket protocol: sends a recording, paced in real time or not, and notes when what came.

Everything that costs time (reading, resampling, encoding) is done before the clock starts; decoding after it stops.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from shared.errors import naming_libopus

with naming_libopus():
    import opuslib

DEFAULT_URL = "ws://127.0.0.1:8042/ws"
Pcm = npt.NDArray[np.int16]
MAX_OPUS_MS = 120
GOING_AWAY = 1001  # close code of a service that stops
_DEFAULT_BLOCK_MS = 500.0  # of servers whose `ready` does not tell
OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)
OPUS_FRAMES_MS = (10, 20, 40, 60)


class CallError(Exception):
    """A call that did not succeed, in one sentence."""


@dataclass(frozen=True, slots=True)
class CallConfig:
    """What to ask for, and how to send."""

    url: str
    api_key: str
    session_id: str | None = None
    voice: str | None = None
    model: str | None = None
    encoding: str = "PCM"
    encoding_out: str = "PCM"
    sample_rate: int = 16_000
    sample_rate_out: int = 16_000
    chunk_ms: int = 20
    real_time: bool = True
    timeout_s: float = 60.0  # without any message while one is due
    options: dict[str, float] | None = None  # of the model: steps, guidance, f0_shift, intelligibility, similarity
    frame_ms: int | None = None  # of an Opus packet; `chunk_ms` where Opus has that length, else 20 ms
    bitrate: int | None = None  # of what is sent as Opus, bits a second

    def __post_init__(self) -> None:
        """Raises `CallError` for what no server could take."""
        for side, encoding, rate in (
            ("sample-rate", self.encoding, self.sample_rate),
            ("sample-rate-out", self.encoding_out, self.sample_rate_out),
        ):
            if encoding == "OPUS" and rate not in OPUS_RATES:
                known = ", ".join(map(str, OPUS_RATES))
                raise CallError(
                    f"--{side} {rate}: Opus has {known} Hz only; a recording of any rate is converted to it"
                )
        if self.frame_ms is not None and self.frame_ms not in OPUS_FRAMES_MS:
            raise CallError(f"--frame-duration {self.frame_ms}: write one of {', '.join(map(str, OPUS_FRAMES_MS))} ms")

    @property
    def opus_frame_ms(self) -> int:
        if self.frame_ms is not None:
            return self.frame_ms
        return self.chunk_ms if self.chunk_ms in OPUS_FRAMES_MS else 20

    def first_message(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "type": "config",
            "api_key": self.api_key,
            "sample_rate": self.sample_rate,
            "sample_rate_out": self.sample_rate_out,
            "bit_depth": 16,
            "channels": 1,
            "encoding": self.encoding,
            "encoding_out": self.encoding_out,
            "opus_frame_duration": self.opus_frame_ms,
        }
        optional = {"session_id": self.session_id, "voice": self.voice, "model": self.model, "options": self.options}
        return message | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of audio; seconds on the monotonic clock. It ends `audio_ms` after the recording's start."""

    due: float
    at: float
    audio_ms: float


@dataclass(slots=True)
class Call:
    """What happened."""

    config: CallConfig
    input_ms: float
    ready: dict[str, Any] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    received: list[tuple[float, bytes]] = field(default_factory=list)
    epoch_offset_s: float = field(default_factory=lambda: time.time() - time.monotonic())  # of the clock above
    complete: dict[str, Any] | None = None
    close_code: int | None = None
    end_due: float = 0.0

    def message_ms(self, message: bytes) -> float:
        """Duration of one message of output."""
        if self.config.encoding_out == "OPUS":
            return float(self.ready.get("opus_frame_duration", self.config.opus_frame_ms))
        return len(message) / 2 / self.config.sample_rate_out * 1000

    def output(self) -> Pcm:
        """All of the answer, int16 at the output rate."""
        messages = [message for _, message in self.received]
        if self.config.encoding_out != "OPUS":
            return np.frombuffer(b"".join(messages), "<i2")
        rate = self.config.sample_rate_out
        decoder = opuslib.Decoder(rate, 1)
        return np.frombuffer(b"".join(decoder.decode(m, rate * MAX_OPUS_MS // 1000) for m in messages), "<i2")

    def send_timeline(self) -> list[dict[str, Any]]:
        """What was sent, for scripts: local time as ISO 8601, and milliseconds of audio up to there."""
        return [self._event(sent.at, sent.audio_ms) for sent in self.sent]

    def recv_timeline(self) -> list[dict[str, Any]]:
        """What came, in the same form."""
        heard_ms, events = 0.0, []
        for at, message in self.received:
            heard_ms += self.message_ms(message)
            events.append(self._event(at, heard_ms))
        return events

    def _event(self, at: float, audio_ms: float) -> dict[str, Any]:
        when = datetime.fromtimestamp(at + self.epoch_offset_s).isoformat(timespec="milliseconds")
        return {"timestamp": when, "cumulative_ms": round(audio_ms, 3)}

    @property
    def lead_ms(self) -> int:
        """Silence before the output's first sound, as the server told."""
        return int(self.ready.get("prefill_ms", 0)) + int(self.ready.get("delay_ms", 0))

    @property
    def block_ms(self) -> float:
        return float(self.ready.get("block_ms", _DEFAULT_BLOCK_MS))

    @property
    def missing_ms(self) -> float:
        """How much shorter the output is than the input; what is missing of a block is no loss."""
        out_ms = sum(self.message_ms(message) for _, message in self.received)
        return self.input_ms - out_ms

    @property
    def lost_audio(self) -> str | None:
        """Why this is not all of the answer, or None: it may be a block short, not more."""
        if self.complete is None:
            return "no complete message"
        if self.missing_ms <= self.block_ms:
            return None
        left = "; the service went away" if self.close_code == GOING_AWAY else ""
        return f"{self.missing_ms:.0f} ms of audio are missing{left}"


def read_source(path: Path, rate: int) -> Pcm:
    """A recording of any format that libsndfile reads, as mono int16 at `rate`. Raises `CallError`."""
    try:
        wave, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise CallError(f"{path}: {f'cannot be read: {error}' if path.exists() else 'no such file'}") from None
    mono = wave.mean(axis=1)
    if not len(mono):
        raise CallError(f"{path}: no sound in it")
    if file_rate != rate:
        mono = soxr.resample(mono, file_rate, rate)
    return np.clip(np.rint(mono * 32767), -32768, 32767).astype(np.int16)


def encode_source(wave: Pcm, config: CallConfig) -> list[tuple[bytes, float]]:
    """Messages to send, each with the milliseconds of sound up to its end."""
    if config.encoding == "OPUS":
        frame_ms = config.opus_frame_ms
        size = config.sample_rate * frame_ms // 1000
        encoder = opuslib.Encoder(config.sample_rate, 1, opuslib.APPLICATION_VOIP)
        if config.bitrate is not None:
            encoder.bitrate = config.bitrate
        wave = np.pad(wave, (0, -len(wave) % size))
        frames = wave.reshape(-1, size)
        return [(encoder.encode(f.tobytes(), size), (i + 1) * frame_ms) for i, f in enumerate(frames)]
    size = max(1, config.sample_rate * config.chunk_ms // 1000)
    starts = range(0, len(wave), size)
    return [
        (wave[s : s + size].astype("<i2").tobytes(), min(len(wave), s + size) / config.sample_rate * 1000)
        for s in starts
    ]


async def call(
    http: aiohttp.ClientSession, config: CallConfig, wave: Pcm, on_answer: Callable[[float], None] = lambda ms: None
) -> Call:
    """One session with `wave`; `on_answer` is told the milliseconds of every message that comes. Raises `CallError`."""
    messages = await asyncio.to_thread(encode_source, wave, config)  # other calls go on meanwhile
    return await call_with(http, config, messages, on_answer)


async def call_with(
    http: aiohttp.ClientSession,
    config: CallConfig,
    messages: list[tuple[bytes, float]],
    on_answer: Callable[[float], None] = lambda ms: None,
) -> Call:
    """As `call`, with what `encode_source` made, which many callers may share."""
    result = Call(config, messages[-1][1] if messages else 0.0)
    socket = await _connect(http, config)
    try:
        await socket.send_json(config.first_message())
        result.ready = await _expect_ready(socket, config)
        sending = asyncio.create_task(_send(socket, messages, result))
        try:
            await _receive(socket, result, on_answer)
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    except (aiohttp.ClientError, ConnectionError) as error:
        raise CallError(f"connection lost: {error or type(error).__name__}") from None
    finally:
        await socket.close()
    return result


async def _connect(http: aiohttp.ClientSession, config: CallConfig) -> aiohttp.ClientWebSocketResponse:
    try:
        return await http.ws_connect(config.url, max_msg_size=0)
    except aiohttp.WSServerHandshakeError as error:
        raise CallError(await _why_refused(http, config.url, error.status)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise CallError(f"cannot reach {config.url}: {error}") from None


async def _why_refused(http: aiohttp.ClientSession, url: str, status: int) -> str:
    """The refusal's body is not in the handshake's error: `/ready` knows the reason, too."""
    base = url.replace("ws", "http", 1).removesuffix("/ws").rstrip("/")
    try:
        async with http.get(base + "/ready") as response:
            return f"refused with HTTP {status}: {(await response.text())[:300]}"
    except (aiohttp.ClientError, OSError, ValueError):
        return f"refused with HTTP {status}"


async def _expect_ready(socket: aiohttp.ClientWebSocketResponse, config: CallConfig) -> dict[str, Any]:
    try:
        message = await asyncio.wait_for(socket.receive(), config.timeout_s)
    except TimeoutError:
        raise CallError(f"not ready within {config.timeout_s:g} s") from None
    if message.type != aiohttp.WSMsgType.TEXT:
        raise CallError(f"closed with {socket.close_code} before it was ready")
    content: dict[str, Any] = json.loads(message.data)
    if content.get("type") != "ready":
        raise CallError(error_text(content))
    return content


def error_text(content: dict[str, Any]) -> str:
    """Of an error message."""
    return f"{content.get('error_code', 'error')}: {content.get('message', content)}"


async def _send(socket: aiohttp.ClientWebSocketResponse, messages: list[tuple[bytes, float]], result: Call) -> None:
    start = time.monotonic()
    for payload, audio_ms in messages:
        due = start + audio_ms / 1000 if result.config.real_time else time.monotonic()
        if (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        if socket.closed:
            return  # the receiving side knows why
        await socket.send_bytes(payload)
        result.sent.append(Sent(due, time.monotonic(), audio_ms))
    result.end_due = result.sent[-1].due if result.sent else start
    await socket.send_json({"type": "end"})


async def _receive(socket: aiohttp.ClientWebSocketResponse, result: Call, on_answer: Callable[[float], None]) -> None:
    timeout_s = result.config.timeout_s
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), timeout_s)
        except TimeoutError:
            raise CallError(f"nothing came for {timeout_s:g} s") from None
        if message.type == aiohttp.WSMsgType.BINARY:
            result.received.append((time.monotonic(), message.data))
            on_answer(result.message_ms(message.data))
        elif message.type == aiohttp.WSMsgType.TEXT:
            content = json.loads(message.data)
            match content.get("type"):
                case "complete":
                    result.complete = content.get("stats", {})
                case "going_away" | "warning" | "stats":
                    pass  # how it ends is said then
                case _:
                    raise CallError(error_text(content))
        else:
            result.close_code = socket.close_code
            if result.complete is None:
                raise CallError(f"closed with {socket.close_code} before it was complete")
            return
