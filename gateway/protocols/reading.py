"""Fields of a first message, read generously: null is the default, numbers may be whole floats or digits in quotes,
names of encodings are in any case, fields that do not apply are ignored. What cannot be meant is refused by name."""

from __future__ import annotations

import base64
import json
import re
import uuid
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.audio.codec import AudioFormat, Codec, FormatError
from gateway.audio.table import CODECS, find_codec
from gateway.errors import SessionError, bad_field

MAX_ID_CHARACTERS = 200
_NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{1,9})?")


def _number(value: Any) -> Any:
    """A number, also in quotes; everything else as it is, for the type's own refusal."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("holds half of a surrogate pair, which is no text")
    return value


def _encoding(value: Any) -> Any:
    codec = find_codec(value) if isinstance(value, str) else None
    if codec is None:
        raise ValueError(f"must be {' or '.join(codec.name for codec in CODECS)}, got {value!r}"[:200])
    return codec


def _bit_depth(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("float32", "f32", "32f"):
        return "float32"
    depth = _number(value)
    if isinstance(depth, bool) or depth not in (16, 24, 32):
        raise ValueError(f'must be 16, 24, 32 or "float32", got {value!r}'[:200])
    return depth


def _base64(value: Any) -> bytes:
    if isinstance(value, str):
        with suppress(ValueError):
            return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    raise ValueError("must be base64")


Number = BeforeValidator(_number)
Whole = Annotated[int, Number]
Rate = Annotated[int, Number, Field(ge=8000, le=48_000)]
SessionId = Annotated[str, BeforeValidator(_text), Field(max_length=MAX_ID_CHARACTERS)]
Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=128)]
ApiKey = Annotated[str, BeforeValidator(_text), Field(max_length=8192)]  # tokens are long
Base64 = Annotated[bytes, BeforeValidator(_base64)]  # a message's length bounds it
Encoding = Annotated[Codec, BeforeValidator(_encoding)]
BitDepth = Annotated[Any, BeforeValidator(_bit_depth)]


class Message(BaseModel):
    """A first message; what it does not know, it ignores."""

    model_config = ConfigDict(extra="ignore", strict=True, arbitrary_types_allowed=True)


M = TypeVar("M", bound=Message)


def read_object(text: str) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_message(model: type[M], content: dict[str, Any], *, encodings: tuple[str, ...]) -> M:
    """The fields of `content`. Raises `SessionError` INVALID_CONFIG that names those that are wrong.

    encodings: the fields whose codec decides which others apply.
    """
    given = {key: value for key, value in content.items() if value is not None}
    codecs = [find_codec(name) for key in encodings if isinstance(name := given.get(key, "PCM"), str)]
    if not any(codec is not None and codec.frames_ms is not None for codec in codecs):
        given.pop("opus_frame_duration", None)
    if codecs and codecs[0] is not None and codecs[0].frames_ms is not None:
        for key in ("bit_depth", "sample_bit", "channels"):
            given.pop(key, None)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        names = list(dict.fromkeys(".".join(map(str, f["loc"])) for f in faults if f["loc"]))
        texts = [f"{'.'.join(map(str, f['loc']))}: {_reason(f)}".removeprefix(": ") for f in faults]
        raise SessionError("INVALID_CONFIG", "; ".join(texts)[:1000], {"fields": names}) from None


def _reason(fault: Any) -> str:
    return str(fault["ctx"]["error"]) if fault["type"] == "value_error" else str(fault["msg"])


def check_formats(
    codec_in: Codec, audio_in: AudioFormat, codec_out: Codec, audio_out: AudioFormat
) -> tuple[AudioFormat, AudioFormat]:
    """Both directions. Raises `SessionError` naming the field."""
    names = {"rate": "sample_rate", "frame_ms": "opus_frame_duration"}
    try:
        codec_in.check_in(audio_in)
        if codec_in.frames_ms is not None:
            codec_in.check_out(audio_in)
        names["rate"] = "sample_rate_out"
        codec_out.check_out(audio_out)
    except FormatError as error:
        raise bad_field(names[error.attribute], str(error)) from None
    return audio_in, audio_out


def new_id() -> str:
    """For a caller who gave none."""
    return uuid.uuid4().hex
