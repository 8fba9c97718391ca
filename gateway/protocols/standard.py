"""The standard protocol: JSON objects with a `type`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.audio.codec import AudioFormat
from gateway.audio.pcm import PCM
from gateway.caller import Acknowledged, Cue, Heard, Lost
from gateway.errors import SessionError
from gateway.protocols.reading import (
    ApiKey,
    Base64,
    BitDepth,
    Encoding,
    Message,
    Name,
    Number,
    Rate,
    SessionId,
    Whole,
    check_formats,
    new_id,
    read_message,
    read_object,
)
from gateway.request import Resume, SessionRequest

MAX_LOST = 500  # packets that one message may report
MAX_POSITION = 1 << 40  # samples


class _Options(BaseModel):
    """What a session may ask of the model; each worker has its own limits within these."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: Annotated[int, Number, Field(ge=1, le=100)] | None = None
    guidance: Annotated[float, Number, Field(ge=0, le=10)] | None = None
    f0_shift: Annotated[float, Number, Field(ge=-24, le=24)] | None = None
    intelligibility: Annotated[float, Number, Field(ge=0, le=10)] | None = None
    similarity: Annotated[float, Number, Field(ge=0, le=10)] | None = None
    retrieval_rate: Annotated[float, Number, Field(ge=0, le=1)] | None = None


Position = Annotated[Whole, Field(ge=0, lt=MAX_POSITION)]


class _Config(Message):
    """The first message."""

    type: Literal["config"]
    session_id: SessionId = ""
    api_key: ApiKey = ""
    token: ApiKey = ""  # the same, by the name that those with tokens expect
    sample_rate: Rate = 16_000
    sample_rate_out: Rate = 16_000
    bit_depth: BitDepth = 16
    channels: Annotated[Whole, Field(ge=1, le=2)] = 1
    encoding: Encoding = PCM
    encoding_out: Encoding = PCM
    opus_frame_duration: Annotated[float, Number] = 20
    voice: Name | None = None
    voice_audio: Base64 | None = None
    model: Name | None = None
    options: _Options | None = None
    stats: bool | None = None
    resume: Annotated[str, Field(max_length=200)] | None = None
    heard: Position | None = None
    kept: Position | None = None
    padded_ms: Annotated[float, Number, Field(ge=0, le=1e9)] = 0.0


class StandardProtocol:
    """A caller who speaks it."""

    name = "standard"
    may_return = True

    def __init__(self, content: dict[str, Any]) -> None:
        """`content` of the first message. Raises `SessionError` INVALID_CONFIG naming the fields."""
        self.request = _request(read_message(_Config, content, encodings=("encoding", "encoding_out")))

    def read(self, text: str) -> Heard:
        content = read_object(text)
        match content.get("type"):
            case "end":
                return Cue.END
            case "ping":
                return Cue.PING
            case "lost":
                return _lost(content.get("count", 1))
            case "ack":
                heard = content.get("heard")
                if isinstance(heard, int) and not isinstance(heard, bool) and 0 <= heard < MAX_POSITION:
                    return Acknowledged(heard)
                return Cue.UNKNOWN
            case _:
                return Cue.UNKNOWN

    def pong(self) -> str:
        return json.dumps({"type": "pong"})

    def ready(self, details: dict[str, Any]) -> str | None:
        session_id = self.request.session_id
        return json.dumps({"type": "ready", "session_id": session_id, "message": "send audio", **details})

    def warning(self, message: str, seconds_left: int) -> str | None:
        session_id = self.request.session_id
        return json.dumps(
            {"type": "warning", "session_id": session_id, "message": message, "seconds_left": seconds_left}
        )

    def report(self, stats: dict[str, Any]) -> str | None:
        return json.dumps({"type": "stats", **stats})

    def going_away(self, resume_within_s: float) -> str | None:
        return json.dumps({"type": "going_away", "resume_within_s": resume_within_s})

    def complete(self, stats: dict[str, Any]) -> str:
        return json.dumps({"type": "complete", "session_id": self.request.session_id, "stats": stats})

    def error(self, error: SessionError) -> str:
        return standard_error(error, self.request.session_id)


def standard_error(error: SessionError, session_id: str | None = None) -> str:
    """The protocol's error message."""
    content: dict[str, Any] = {"type": "error", "error_code": error.code, "message": error.message}
    if session_id is not None:
        content["session_id"] = session_id
    if error.details:
        content["details"] = error.details
    return json.dumps(content)


def _lost(count: Any) -> Lost:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_LOST:
        text = f"count: of lost packets must be within 1 and {MAX_LOST}, got {count!r}"
        raise SessionError("INVALID_AUDIO", text[:200], {"fields": ["count"]})
    return Lost(count)


def _request(config: _Config) -> SessionRequest:
    frame_ms = float(config.opus_frame_duration)
    audio_in, audio_out = check_formats(
        config.encoding,
        AudioFormat(config.encoding.name, config.sample_rate, config.channels, config.bit_depth, frame_ms),
        config.encoding_out,
        AudioFormat(config.encoding_out.name, config.sample_rate_out, frame_ms=frame_ms),
    )
    options = config.options.model_dump(exclude_none=True) if config.options else {}
    return SessionRequest(
        session_id=config.session_id or new_id(),
        api_key=config.api_key or config.token,
        audio_in=audio_in,
        audio_out=audio_out,
        voice=config.voice,
        voice_audio=config.voice_audio,
        model=config.model,
        options={name: float(value) for name, value in options.items()},
        stats=bool(config.stats),
        resume=None if not config.resume else Resume(config.resume, config.heard, config.kept, float(config.padded_ms)),
    )
