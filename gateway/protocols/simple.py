"""The simple protocol: JSON objects with a `signal`. It carries no key, and its answer is PCM."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from gateway.audio.codec import AudioFormat
from gateway.audio.pcm import PCM
from gateway.caller import Cue, Heard
from gateway.errors import SessionError
from gateway.protocols.reading import (
    BitDepth,
    Encoding,
    Message,
    Name,
    Number,
    Rate,
    SessionId,
    check_formats,
    new_id,
    read_message,
    read_object,
)
from gateway.request import SessionRequest


class _Start(Message):
    """The first message."""

    signal: Literal["start"]
    stream_id: SessionId = ""
    sample_rate: Rate = 16_000
    sample_rate_out: Rate = 16_000
    sample_bit: BitDepth = 16
    encoding: Encoding = PCM
    opus_frame_duration: Annotated[float, Number] = 20
    voice: Name | None = None


class SimpleProtocol:
    """A caller who speaks it."""

    name = "simple"
    may_return = False

    def __init__(self, content: dict[str, Any]) -> None:
        """`content` of the first message. Raises `SessionError` INVALID_CONFIG naming the fields."""
        self.request = _request(read_message(_Start, content, encodings=("encoding",)))

    def read(self, text: str) -> Heard:
        content = read_object(text)
        if content.get("signal") == "end":
            return Cue.END
        return Cue.PING if "ping" in (content.get("signal"), content.get("type")) else Cue.UNKNOWN

    def pong(self) -> str:
        return json.dumps({"type": "pong"})

    def ready(self, details: dict[str, Any]) -> str | None:
        return None

    def warning(self, message: str, seconds_left: int) -> str | None:
        return None

    def report(self, stats: dict[str, Any]) -> str | None:
        return None

    def going_away(self, resume_within_s: float) -> str | None:
        return None

    def complete(self, stats: dict[str, Any]) -> str:
        return json.dumps({"signal": "completed", "stream_id": self.request.session_id})

    def error(self, error: SessionError) -> str:
        return simple_error(error, self.request.session_id)


def simple_error(error: SessionError, stream_id: Any) -> str:
    """The protocol's error message, with the stream_id that was sent, whatever that was."""
    return json.dumps({"status": "failed", "stream_id": stream_id, "error_msg": f"{error.code}: {error.message}"})


def _request(start: _Start) -> SessionRequest:
    frame_ms = float(start.opus_frame_duration)
    audio_in, audio_out = check_formats(
        start.encoding,
        AudioFormat(start.encoding.name, start.sample_rate, 1, start.sample_bit, frame_ms),
        PCM,
        AudioFormat(PCM.name, start.sample_rate_out),
    )
    return SessionRequest(
        session_id=start.stream_id or new_id(),
        api_key=None,
        audio_in=audio_in,
        audio_out=audio_out,
        voice=start.voice,
    )
