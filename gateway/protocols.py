"""The two WebSocket protocols: what a client's control messages mean and what the server answers.

The first message tells them apart. Both end up as one `SessionRequest`, and as the four things a session says.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.codecs import OPUS_FRAME_MS, OPUS_RATES

ErrorCode = Literal[
    "INVALID_CONFIG",
    "AUTH_FAILED",
    "INVALID_AUDIO",
    "TIMEOUT",
    "INTERNAL_ERROR",
    "OVERLOADED",
    "WORKER_LOST",
    "TOO_MANY_SESSIONS",
]

CLOSE_CODES: dict[str, int] = {  # RFC 6455, 7.4.1
    "INVALID_CONFIG": 1008,
    "AUTH_FAILED": 1008,
    "INVALID_AUDIO": 1007,
    "TIMEOUT": 1008,
    "INTERNAL_ERROR": 1011,
    "OVERLOADED": 1013,
    "WORKER_LOST": 1011,
    "TOO_MANY_SESSIONS": 1013,
}


class SessionError(Exception):
    """Ends a session; the client is told `code` and `message`."""

    def __init__(self, code: ErrorCode, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.details = details


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a caller asks for."""

    session_id: str
    api_key: str | None = field(repr=False)  # never logged; None: the protocol carries none
    rate_in: int
    rate_out: int
    channels: int
    opus_in: bool
    opus_out: bool
    opus_frame_ms: float
    voice: str | None
    model: str | None
    options: dict[str, float] = field(default_factory=dict)  # the worker knows their limits


class ClientProtocol(Protocol):
    """One protocol's messages. `None` where it has none."""

    name: str
    request: SessionRequest

    def is_end(self, text: str) -> bool: ...

    def ready(self, details: dict[str, int]) -> str | None: ...

    def complete(self, stats: dict[str, Any]) -> str: ...

    def error(self, error: SessionError) -> str: ...


Rate = Annotated[int, Field(ge=8000, le=48_000)]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Encoding = Literal["PCM", "OPUS"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


_M = TypeVar("_M", bound=_Message)


def _check_opus(field: str, rate: int) -> None:
    if rate not in OPUS_RATES:
        raise ValueError(f"{field} must be one of {', '.join(map(str, OPUS_RATES))} with OPUS, got {rate}")


def _check_frame(frame_ms: float) -> None:
    if frame_ms not in OPUS_FRAME_MS:
        allowed = ", ".join(map(str, OPUS_FRAME_MS))
        raise ValueError(f"opus_frame_duration must be one of {allowed} (ms), got {frame_ms}")


class _Options(BaseModel):
    """What a session may ask of the model; each worker has its own limits within these."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    guidance: Annotated[float, Field(ge=0, le=10)] | None = None
    f0_shift: Annotated[float, Field(ge=-24, le=24)] | None = None
    intelligibility: Annotated[float, Field(ge=0, le=10)] | None = None
    similarity: Annotated[float, Field(ge=0, le=10)] | None = None


class _Config(_Message):
    """First message of the standard protocol."""

    type: Literal["config"]
    session_id: SessionId | None = None
    api_key: Annotated[str, Field(max_length=200)] = ""
    sample_rate: Rate = 16_000
    sample_rate_out: Rate = 16_000
    bit_depth: Literal[16] = 16
    channels: Annotated[int, Field(ge=1, le=2)] = 1
    encoding: Encoding = "PCM"
    encoding_out: Encoding = "PCM"
    opus_frame_duration: float = 20
    voice: Name | None = None
    model: Name | None = None
    options: _Options | None = None

    @model_validator(mode="after")
    def _opus_fits(self) -> _Config:
        if self.encoding == "OPUS":
            _check_opus("sample_rate", self.sample_rate)
        if self.encoding_out == "OPUS":
            _check_opus("sample_rate_out", self.sample_rate_out)
        _check_frame(self.opus_frame_duration)
        return self


class _Start(_Message):
    """First message of the simple protocol."""

    signal: Literal["start"]
    stream_id: SessionId
    sample_rate: Rate = 16_000
    sample_bit: Literal[16] = 16
    encoding: Encoding = "PCM"
    opus_frame_duration: float = 20
    voice: Name | None = None

    @model_validator(mode="after")
    def _opus_fits(self) -> _Start:
        if self.encoding == "OPUS":
            _check_opus("sample_rate", self.sample_rate)
        _check_frame(self.opus_frame_duration)
        return self


class StandardProtocol:
    """JSON objects with a `type`."""

    name = "standard"

    def __init__(self, request: SessionRequest) -> None:
        self.request = request

    def is_end(self, text: str) -> bool:
        return _object(text).get("type") == "end"

    def ready(self, details: dict[str, int]) -> str | None:
        session_id = self.request.session_id
        return json.dumps({"type": "ready", "session_id": session_id, "message": "send audio", **details})

    def complete(self, stats: dict[str, Any]) -> str:
        return json.dumps({"type": "complete", "session_id": self.request.session_id, "stats": stats})

    def error(self, error: SessionError) -> str:
        return standard_error(error, self.request.session_id)


class SimpleProtocol:
    """JSON objects with a `signal`."""

    name = "simple"

    def __init__(self, request: SessionRequest) -> None:
        self.request = request

    def is_end(self, text: str) -> bool:
        return _object(text).get("signal") == "end"

    def ready(self, details: dict[str, int]) -> str | None:
        return None

    def complete(self, stats: dict[str, Any]) -> str:
        return json.dumps({"signal": "completed", "stream_id": self.request.session_id})

    def error(self, error: SessionError) -> str:
        return simple_error(error, self.request.session_id)


def standard_error(error: SessionError, session_id: str | None = None) -> str:
    """The standard protocol's error message."""
    content: dict[str, Any] = {"type": "error", "error_code": error.code, "message": error.message}
    if session_id is not None:
        content["session_id"] = session_id
    if error.details:
        content["details"] = error.details
    return json.dumps(content)


def simple_error(error: SessionError, stream_id: str | None) -> str:
    """The simple protocol's error message."""
    return json.dumps({"status": "failed", "stream_id": stream_id, "error_msg": f"{error.code}: {error.message}"})


def is_simple(text: str) -> bool:
    """Whether a first message belongs to the simple protocol."""
    return "signal" in _object(text)


def parse_first(text: str) -> ClientProtocol:
    """The protocol that a first text message starts. Raises `SessionError` INVALID_CONFIG naming the field."""
    content = _object(text)
    if not content:
        raise SessionError("INVALID_CONFIG", "the first message must be a JSON object that configures the session")
    if "signal" in content:
        return SimpleProtocol(_from_start(_validate(_Start, content)))
    return StandardProtocol(_from_config(_validate(_Config, content)))


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _validate(model: type[_M], content: dict[str, Any]) -> _M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        texts = [f"{'.'.join(map(str, f['loc']))}: {_reason(f)}".removeprefix(": ") for f in faults]
        fields = [str(f["loc"][0]) for f in faults if f["loc"]]
        raise SessionError("INVALID_CONFIG", "; ".join(texts)[:1000], {"fields": fields}) from None


def _reason(fault: Any) -> str:
    return str(fault["ctx"]["error"]) if fault["type"] == "value_error" else str(fault["msg"])


def _from_config(config: _Config) -> SessionRequest:
    return SessionRequest(
        session_id=config.session_id or uuid.uuid4().hex,
        api_key=config.api_key,
        rate_in=config.sample_rate,
        rate_out=config.sample_rate_out,
        channels=config.channels,
        opus_in=config.encoding == "OPUS",
        opus_out=config.encoding_out == "OPUS",
        opus_frame_ms=config.opus_frame_duration,
        voice=config.voice,
        model=config.model,
        options={k: float(v) for k, v in config.options.model_dump(exclude_none=True).items()}
        if config.options
        else {},
    )


def _from_start(start: _Start) -> SessionRequest:
    return SessionRequest(
        session_id=start.stream_id,
        api_key=None,
        rate_in=start.sample_rate,
        rate_out=16_000,
        channels=1,
        opus_in=start.encoding == "OPUS",
        opus_out=False,
        opus_frame_ms=start.opus_frame_duration,
        voice=start.voice,
        model=None,
    )
