"""Streams that are sent by mistake: files and framings where bare samples or packets belong.

They would be heard as noise, or as nothing. What is recognised is refused with what to send instead.
"""

from __future__ import annotations

from typing import Literal

from gateway.audio.codec import CodecError

_ORDERS: tuple[Literal["big", "little"], ...] = ("big", "little")

_SAMPLES = "send the bare samples, little-endian, without a header"
_PACKETS = "send one bare Opus packet a message"
_LOOKED_AT = 2  # messages; what two of them agree on is no chance

_MAGIC = (
    (b"OggS", "Ogg"),
    (b"\x1aE\xdf\xa3", "WebM"),
    (b"fLaC", "FLAC"),
    (b"ID3", "MP3"),
    (b"OpusHead", "Ogg (its Opus header)"),
)


class Recogniser:
    """Looks at a call's first messages."""

    def __init__(self, *, packets: bool) -> None:
        """packets: the encoding has one packet a message."""
        self._packets = packets
        self._instead = _PACKETS if packets else _SAMPLES
        self._first: list[bytes] = []

    def check(self, payload: bytes) -> None:
        """Raises `CodecError` that names what the call's messages are."""
        if len(self._first) == _LOOKED_AT:
            return
        self._first.append(payload)
        name = _container(payload) if len(self._first) == 1 else None
        if name is None and self._packets and len(self._first) == _LOOKED_AT:
            name = _framing(self._first)
        if name is not None:
            raise CodecError(f"this is {name}: {self._instead}")


def _container(payload: bytes) -> str | None:
    if payload[:4] in (b"RIFF", b"RF64") and payload[8:12] == b"WAVE":
        return "a WAV file"
    return next((f"a {name} stream" for magic, name in _MAGIC if payload.startswith(magic)), None)


def _framing(payloads: list[bytes]) -> str | None:
    if all(_is_rtp(payload) for payload in payloads) and _follows(*payloads):
        return "RTP"
    for size in (2, 4):
        for order in _ORDERS:
            if all(_is_prefixed(payload, size, order) for payload in payloads):
                return f"a length of {size} bytes before each packet"
    return None


def _is_rtp(payload: bytes) -> bool:
    return len(payload) > 12 and payload[0] >> 6 == 2  # RFC 3550, 5.1: version 2


def _follows(one: bytes, two: bytes) -> bool:
    """Whether the second packet has the next sequence number of the same source."""
    step = int.from_bytes(two[2:4], "big") - int.from_bytes(one[2:4], "big")
    return step % (1 << 16) == 1 and one[8:12] == two[8:12]


def _is_prefixed(payload: bytes, size: int, order: Literal["big", "little"]) -> bool:
    at, count = 0, 0
    while len(payload) - at > size:
        length = int.from_bytes(payload[at : at + size], order)
        if not length:
            return False
        at, count = at + size + length, count + 1
    return count > 0 and at == len(payload)
