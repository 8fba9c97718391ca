"""Ogg/Opus (RFC 7845) for files that only grow: packets as a caller sent or heard them, none encoded anew.

A packet that did not arrive becomes one without content, for which a decoder makes up: time stays right. A file whose
end nobody wrote is played up to its last page.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from gateway.audio.codec import CodecError
from gateway.audio.opus import packet_ms
from gateway.recording.flac import Sink

Packet = tuple[bytes | None, float | None]  # and its duration in ms, where it is known or cannot be read from it

PRE_SKIP = 312  # samples at 48 kHz that libopus's encoder is late by; a player leaves them out
_CLOCK = 48  # samples a ms, of an Ogg/Opus file's positions whatever the rate
_BEGIN, _END = 2, 4  # flags of a page
_MOST_SEGMENTS = 255  # of a page
_LONGEST_MS = 20  # of a packet that stands in for what is missing
_VENDOR = b"fast-vc"
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_STAND_IN = bytes([31 << 3])  # CELT, 20 ms, without content


class OggOpusWriter:
    """Packets in, pages out, with every call. One thread at a time."""

    def __init__(self, sink: Sink, serial: int = 1) -> None:
        self._sink, self._serial = sink, serial
        self._pages = 0
        self._position = 0  # samples at 48 kHz
        self._open = False
        self._held: list[tuple[bytes, float]] = []  # the latest packet: the last of a file must lie in its last page

    def write(self, packets: Sequence[Packet]) -> None:
        """Raises `OSError` as the sink does."""
        whole = self._held + self._filled(packets)
        if not self._open and whole:
            self._begin(whole[0][0])
        whole, self._held = whole[:-1], whole[-1:]
        page: list[bytes] = []
        segments, ms = 0, 0.0
        for packet, lasts_ms in whole:
            needed = len(packet) // 255 + 1
            if segments + needed > _MOST_SEGMENTS:
                self._page(page, ms)
                page, segments, ms = [], 0, 0.0
            page.append(packet)
            segments += needed
            ms += lasts_ms
        if page:
            self._page(page, ms)

    def close(self) -> None:
        if self._open:
            self._page([packet for packet, _ in self._held], sum(ms for _, ms in self._held), flags=_END)

    def _filled(self, packets: Sequence[Packet]) -> list[tuple[bytes, float]]:
        """Each packet, or such without content that last as long; with its ms."""
        made: list[tuple[bytes, float]] = []
        for packet, ms in packets:
            try:
                made.append((packet or b"", packet_ms(packet or b"")))
            except CodecError:  # missing, or damaged: its content is not to be believed
                made += [(_STAND_IN, _LONGEST_MS)] * max(1, round((ms or _LONGEST_MS) / _LONGEST_MS))
        return made

    def _begin(self, first: bytes) -> None:
        channels = 2 if first[0] & 4 else 1
        self._open = True
        head = struct.pack("<8sBBHIhB", b"OpusHead", 1, channels, PRE_SKIP, 48_000, 0, 0)
        self._page([head], flags=_BEGIN)
        tags = struct.pack("<8sI", b"OpusTags", len(_VENDOR)) + _VENDOR + struct.pack("<I", 0)
        self._page([tags])

    def _page(self, packets: Sequence[bytes], ms: float = 0.0, *, flags: int = 0) -> None:
        self._position += round(ms * _CLOCK)
        sizes = [len(packet) for packet in packets]
        lacing = (
            bytes(sizes)
            if max(sizes, default=0) < 255
            else b"".join(b"\xff" * (s // 255) + bytes([s % 255]) for s in sizes)
        )
        head = struct.pack("<4sBBqIII", b"OggS", 0, flags, self._position, self._serial, self._pages, 0)
        page = bytearray(head + bytes([len(lacing)]) + lacing + b"".join(packets))
        page[22:26] = struct.pack("<I", _crc(page))
        self._pages += 1
        self._sink.append(bytes(page))


def duration_ms(packet: bytes | None, ms: float | None) -> float:
    """Of one packet."""
    if ms is not None:
        return ms
    try:
        return packet_ms(packet or b"")
    except CodecError:
        return _LONGEST_MS


def _crc(page: bytes | bytearray) -> int:
    """Ogg's CRC has zlib's polynomial, counts bits from the other end and neither begins nor ends with ones."""
    value = zlib.crc32(bytes(page).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")
