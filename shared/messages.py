"""The link's messages: one msgpack map each, a frozen dataclass on either side.

`encode` writes a message, `decode_from_worker` and `decode_from_gateway` read what the other side may send. A frame
that is too large, is not msgpack, has an unknown kind, a missing, unknown or wrongly typed field, or a value out of
its range raises `MessageError`, which names what was wrong; nothing else is ever raised.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

import msgpack
from pydantic import Field, TypeAdapter, ValidationError, with_config

PROTOCOL_VERSION = 3
LINK_RATE = 16_000  # Hz, of the callers' sound on the link
CREDIT = 2  # chunks of a session that may be at a worker
MAX_FRAME_BYTES = 4 << 20
MAX_BLOCK_BYTES = 192_000  # 2 s at 48 kHz, 16 bit
MAX_HISTORY_BYTES = 960_000  # 30 s at 16 kHz, 16 bit
MAX_REFERENCE_BYTES = 3 << 20  # FLAC of half a minute at 48 kHz is less
MAX_VOICES = 1000
MAX_STAGES = 32

Identifier = Annotated[str, Field(strict=True, min_length=1, max_length=128)]
SessionId = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
Text = Annotated[str, Field(strict=True, max_length=1000)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**31)]
Milliseconds = Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Rate = Annotated[int, Field(strict=True, ge=8000, le=48_000)]
Samples = Annotated[bytes, Field(strict=True, max_length=MAX_BLOCK_BYTES)]
Bounds = Annotated[list[Number], Field(strict=True, min_length=2, max_length=2)]  # lowest and highest

_closed = with_config({"extra": "forbid"})  # an unknown field is refused


class MessageError(ValueError):
    """A frame that is not a valid message. The text names the field."""


@_closed
@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """A reference voice as a caller may choose it."""

    name: Identifier
    description: Text = ""


# --- worker to gateway ------------------------------------------------------------------------------------------


@_closed
@dataclass(frozen=True, slots=True)
class Hello:
    """A worker's first message on a connection: what it is and what it can do."""

    protocol: Count
    worker_id: Identifier
    host: Identifier
    pid: Count
    device: Identifier
    model: Identifier
    block_ms: Annotated[int, Field(strict=True, ge=20, le=2000, multiple_of=20)]
    delay_ms: Annotated[
        int, Field(strict=True, ge=0, le=10_000)
    ]  # how much older than its block's end the returned sound is
    history_ms: Annotated[int, Field(strict=True, ge=0, le=30_000)]  # context a reopened session needs
    sample_rate_out: Rate
    voices: Annotated[
        list[VoiceInfo], Field(strict=True, min_length=1, max_length=MAX_VOICES)
    ]  # the first is the default
    capacity: Count
    reference_ms: Annotated[int, Field(strict=True, ge=0, le=60_000)] = (
        0  # that it uses of a caller's own; 0: takes none
    )
    options: Annotated[dict[Identifier, Bounds], Field(strict=True, max_length=16)] = field(
        default_factory=dict
    )  # of `Open` that its model knows
    kind: Literal["hello"] = "hello"


@_closed
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker lives, and how loaded it is, as far as this gateway is concerned."""

    sessions: Count  # of this gateway
    capacity: Count  # this gateway's quota: so many sessions it may have here
    queue_ms: Milliseconds  # the longest wait of the latest batch
    steps: Count  # of the solver, in use
    refused: Count = 0  # chunks that broke the rules, since its start
    dropped: Count = 0  # answers for gateways that were gone, since its start
    kind: Literal["heartbeat"] = "heartbeat"


@_closed
@dataclass(frozen=True, slots=True)
class Opened:
    """A session has its place in the worker."""

    session: SessionId
    epoch: Count
    kind: Literal["opened"] = "opened"


@_closed
@dataclass(frozen=True, slots=True)
class ChunkStats:
    """How one block was made."""

    queue_ms: Milliseconds
    batch_size: Count
    steps: Count
    speech: Flag
    concealed: Flag
    stages_ms: Annotated[dict[Identifier, Milliseconds], Field(strict=True, max_length=MAX_STAGES)]


@_closed
@dataclass(frozen=True, slots=True)
class Audio:
    """The answer to one `Chunk`: a block of s16le samples at the worker's output rate."""

    session: SessionId
    epoch: Count
    seq: Count
    samples: Samples
    stats: ChunkStats
    kind: Literal["audio"] = "audio"


@_closed
@dataclass(frozen=True, slots=True)
class Failed:
    """A session, or one of its chunks, could not be served; the session is closed at the worker.

    The message of INVALID_CONFIG begins with the name of the field.
    """

    session: SessionId
    epoch: Count
    code: Literal["INVALID_CONFIG", "OVERLOADED", "INTERNAL_ERROR"]
    message: Text
    kind: Literal["failed"] = "failed"


@_closed
@dataclass(frozen=True, slots=True)
class Goodbye:
    """The worker drains: no new sessions; it leaves when those it has are gone."""

    reason: Text = ""
    kind: Literal["goodbye"] = "goodbye"


# --- gateway to worker ------------------------------------------------------------------------------------------


@_closed
@dataclass(frozen=True, slots=True)
class Open:
    """Give a session a place. `history` is the s16le sound at 16 kHz that a former worker has already answered.

    reference: FLAC of a voice that the caller brought; `voice` is then its id, the same for the same sound.
    """

    session: SessionId
    epoch: Count
    voice: Identifier
    history: Annotated[bytes, Field(strict=True, max_length=MAX_HISTORY_BYTES)] = b""
    options: Annotated[dict[Identifier, Number], Field(strict=True, max_length=16)] = field(default_factory=dict)
    reference: Annotated[bytes, Field(strict=True, max_length=MAX_REFERENCE_BYTES)] = b""
    kind: Literal["open"] = "open"


@_closed
@dataclass(frozen=True, slots=True)
class Chunk:
    """One block of s16le samples at 16 kHz. `deadline_ms` counts from the sending: clocks of two hosts differ."""

    session: SessionId
    epoch: Count
    seq: Count
    samples: Samples
    deadline_ms: Milliseconds
    kind: Literal["chunk"] = "chunk"


@_closed
@dataclass(frozen=True, slots=True)
class Close:
    """The session is over; its place is free."""

    session: SessionId
    epoch: Count
    kind: Literal["close"] = "close"


@_closed
@dataclass(frozen=True, slots=True)
class GatewayHeartbeat:
    """The gateway lives; `known` tells a worker whether the gateway has its `Hello`. It confirms the worker's quota."""

    protocol: Count
    known: Flag
    quota: Count = 0  # the latest `capacity` that was read
    held: Count = 0  # sessions at that worker, those that are on their way to it included
    kind: Literal["heartbeat"] = "heartbeat"


FromWorker = Hello | Heartbeat | Opened | Audio | Failed | Goodbye
FromGateway = Open | Chunk | Close | GatewayHeartbeat

_from_worker: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Field(discriminator="kind")])
_from_gateway: TypeAdapter[FromGateway] = TypeAdapter(Annotated[FromGateway, Field(discriminator="kind")])

_M = TypeVar("_M")


def encode(message: FromWorker | FromGateway) -> bytes:
    """One frame. Raises `MessageError` if it would be larger than a receiver accepts."""
    frame: bytes = msgpack.packb(message, default=_as_map, use_bin_type=True)
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(f"{message.kind} of {len(frame)} bytes exceeds {MAX_FRAME_BYTES}")
    return frame


def decode_from_worker(frame: bytes) -> FromWorker:
    """What a gateway may receive. Raises `MessageError`."""
    return _decode(_from_worker, frame)


def decode_from_gateway(frame: bytes) -> FromGateway:
    """What a worker may receive. Raises `MessageError`."""
    return _decode(_from_gateway, frame)


def _as_map(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _decode(adapter: TypeAdapter[_M], frame: bytes) -> _M:
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(f"frame of {len(frame)} bytes exceeds {MAX_FRAME_BYTES}")
    try:
        content = msgpack.unpackb(frame, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack documents no closed set of errors for hostile input
        raise MessageError(f"not msgpack: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise MessageError(f"a message is a map, not {type(content).__name__}")
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise MessageError(f"{where}: {first['msg']}"[:300]) from None
    except RecursionError:
        raise MessageError("nested too deeply") from None
