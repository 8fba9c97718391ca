"""Where a new stream goes on for a caller whose process is gone: everything follows from what they have heard."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.audio.codec import AudioFormat
from gateway.blocks import BlockLayout
from gateway.errors import bad_field
from gateway.request import Resume


@dataclass(frozen=True, slots=True)
class Continuation:
    """Positions in samples, at the caller's rates where nothing else is said."""

    received: int  # of the caller's sound, from where it is sent again
    history: int  # of it, so many samples were answered before: the model hears them, nobody else does
    heard: int  # of the answer, from where it goes on
    skipped: int  # of the new stream's answer, at the worker's rate: silence that was heard already


def begin_anew(
    resume: Resume, audio_in: AudioFormat, audio_out: AudioFormat, layout: BlockLayout, history_ms: int
) -> Continuation:
    """For a stream in `layout`, of a worker that wants `history_ms`.

    Raises `SessionError` INVALID_CONFIG for a caller who has not kept what was not answered.
    """
    heard = resume.heard or 0
    heard_ms = heard / audio_out.rate * 1000
    answered = max(0, round((heard_ms - layout.lead_ms - resume.padded_ms) / 1000 * audio_in.rate))
    kept = answered if resume.kept is None else resume.kept
    if kept > answered:
        raise bad_field("kept", f"the sound from sample {answered} on was not answered, and is needed again")
    received = max(kept, answered - history_ms * audio_in.rate // 1000)
    skipped_ms = min(float(layout.lead_ms), heard_ms)
    return Continuation(received, answered - received, heard, round(skipped_ms / 1000 * layout.rate_out))
