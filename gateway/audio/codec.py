"""What a codec is: payloads of a caller to samples at the link's rate, and samples of a worker to payloads.

`Decoder.push` is cheap and belongs on the event loop; `decode` and `encode` belong on a codec thread where `is_slow`
says so. All samples are int16 mono.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.audio.resample import Pcm

BitDepth = Literal[16, 24, 32, "float32"]


class CodecError(ValueError):
    """A payload that is not what the session announced."""


class FormatError(ValueError):
    """A format that a codec does not know. `attribute` is that of `AudioFormat`."""

    def __init__(self, attribute: str, reason: str) -> None:
        super().__init__(reason)
        self.attribute = attribute


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How the sound of one direction lies in its messages."""

    encoding: str = "PCM"  # a name of `gateway.audio.table`
    rate: int = 16_000
    channels: int = 1
    bit_depth: BitDepth = 16
    frame_ms: float = 20  # of one packet, where the encoding has packets
    redundant: bool = False  # packets get lost on the way out: each holds the one before once more, if the codec can


class Decoder(Protocol):
    """A caller's payloads, in order, to samples at the link's rate."""

    lag_ms: int  # of sound that it may hold back
    is_slow: bool
    concealed: int  # payloads that were lost or unusable, and were made up for

    def push(self, payload: bytes | None) -> float:
        """Take one payload, None for one that was lost; how many ms it sounds. Raises `CodecError`."""
        ...

    def realign(self) -> None:
        """The next payload begins with a whole sample: it comes over another connection."""
        ...

    def make_up(self, ms: float) -> float:
        """For silence that the caller's encoder did not send (discontinuous transmission): at most `ms` of it, how many
        there are then; 0 where the latest payload said nothing of the kind."""
        ...

    def decode(self, *, last: bool) -> Pcm:
        """What was pushed since the last call; `last` flushes what the filters hold. Raises `CodecError`."""
        ...

    def drain(self) -> Pcm:
        """What the filters hold and ``lag_ms`` of silence behind it: the caller pauses."""
        ...


class Encoder(Protocol):
    """Samples at the worker's rate to messages for the caller."""

    is_slow: bool

    def encode(self, samples: Pcm, last: bool) -> list[bytes]: ...


@dataclass(frozen=True, slots=True)
class Codec:
    """One entry of the table."""

    name: str
    aliases: tuple[str, ...]
    rates: Container[int]  # Hz, either way
    rates_text: str  # the same, for people
    decoder: Callable[[AudioFormat], Decoder]
    encoder: Callable[[AudioFormat, int], Encoder]  # of a format, from samples at a rate
    frames_ms: Container[float] | None = None  # of packets it can make; None: it has none
    frames_text: str = ""

    def check_in(self, audio: AudioFormat) -> None:
        """Raises `FormatError` for a format that cannot be decoded."""
        if audio.rate not in self.rates:
            raise FormatError("rate", f"must be {self.rates_text} with {self.name}, got {audio.rate}")

    def check_out(self, audio: AudioFormat) -> None:
        """Raises `FormatError` for a format that cannot be made."""
        self.check_in(audio)
        if self.frames_ms is not None and audio.frame_ms not in self.frames_ms:
            raise FormatError("frame_ms", f"must be {self.frames_text} (ms) with {self.name}, got {audio.frame_ms:g}")
