"""Coming back to a call does not change it: what a caller then asks for is what the call has, or is not said."""

from __future__ import annotations

from gateway.errors import bad_field
from gateway.request import SessionRequest
from gateway.stream import StreamSpec


def check_same(call: SessionRequest, has: StreamSpec | None, request: SessionRequest) -> None:
    """`request` of who comes back to the call that began with `call`. `has`: what that came to, once it is open.

    Raises `SessionError` INVALID_CONFIG that names the field which asks for something else.
    """
    if (request.audio_in, request.audio_out) != (call.audio_in, call.audio_out):
        raise bad_field("resume", "the call has other encodings or rates")
    wishes: list[tuple[str, object, tuple[object, ...]]] = [
        ("model", request.model, (call.model, has and has.model)),
        ("voice", request.voice, (call.voice, has and has.voice)),
        ("voice_audio", request.voice_audio, (call.voice_audio,)),
        ("stats", request.stats or None, (call.stats,)),
        *((f"options.{key}", value, (call.options.get(key),)) for key, value in request.options.items()),
    ]
    for name, asked, known in wishes:
        if asked is not None and asked not in known:
            raise bad_field(name, "the call has another, and keeps it: leave this out, or begin a new call")
