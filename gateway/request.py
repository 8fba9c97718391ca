"""What a caller asks for, whatever the transport and the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.audio.codec import AudioFormat


@dataclass(frozen=True, slots=True)
class Resume:
    """A caller comes back. Positions in samples at the rates of the request; None: not said."""

    token: str = field(repr=False)
    heard: int | None = None  # of the answer
    kept: int | None = None  # the first of their own sound that they can send again
    padded_ms: float = 0.0  # of silence within what was heard, put in where they paused


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A checked request for a session."""

    session_id: str
    api_key: str | None = field(repr=False)  # never logged; None: the protocol carries none
    audio_in: AudioFormat = field(default_factory=AudioFormat)
    audio_out: AudioFormat = field(default_factory=AudioFormat)
    voice: str | None = None  # None: the model's default
    model: str | None = None  # None: the configured default
    options: dict[str, float] = field(default_factory=dict)  # the worker knows their limits
    stats: bool = False  # wants to be told how each block was made
    voice_audio: bytes | None = field(default=None, repr=False)  # a recording of the voice that is wanted
    resume: Resume | None = field(default=None, repr=False)
