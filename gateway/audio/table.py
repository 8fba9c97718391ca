"""The encodings that a caller may name."""

from __future__ import annotations

from gateway.audio import opus, pcm
from gateway.audio.codec import Codec

CODECS = (*pcm.CODECS, *opus.CODECS)

_BY_NAME = {name: codec for codec in CODECS for name in (codec.name, *codec.aliases)}


def find_codec(name: str) -> Codec | None:
    """The codec of that name or alias, in any case."""
    return _BY_NAME.get(name.strip().upper())
