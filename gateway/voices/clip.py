"""A recording that somebody offers as a voice: read, checked for what a reference needs, made uniform.

The checks are cheap and catch what people really send: silence, music on hold, a clipped microphone, an interview.
They cost some 50 ms for half a minute of sound and belong on a thread.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

MIN_S, MAX_S = 1.0, 30.0
MAX_RATE = 48_000  # of what is kept, Hz
_MIN_RATE_IN, _MAX_RATE_IN, _MAX_CHANNELS = 8000, 192_000, 8
_SPEECH_RATE = 16_000
_FRAME, _HOP = 640, 320  # 40 and 20 ms at 16 kHz
_SHORTEST_LAG, _LONGEST_LAG = 40, 266  # 400 to 60 Hz at 16 kHz
_VOICED = 0.5  # of normalised autocorrelation
_SILENT_DBFS, _QUIET_DBFS = -60.0, -45.0
_LOUD_DB = -30.0  # below the loudest frame: what may be speech
_MIN_VOICED_S = 0.5
_MIN_RANGE_DB = 10.0  # between the quiet and the loud frames of speech; hum, noise and most music have less
_CLIPPED_SHARE = 0.003  # of samples in runs at the top of the range
_TALKERS_APART, _BETWEEN = 0.6, 0.25  # octaves: the usual pitches of a man and a woman, and what neither of them has
_TALKER_SHARE = 0.25  # of the recording that the rarer one must have

Wave = np.ndarray[Any, np.dtype[np.float32]]
Reason = Literal[
    "unreadable", "too_short", "too_long", "silent", "too_quiet", "clipped", "no_speech", "several_talkers"
]


class ClipError(ValueError):
    """A recording that cannot be a voice. `reason` is for programs, the text for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Clip:
    """Mono FLAC of 16 bit, at 48 kHz at most."""

    flac: bytes
    seconds: float
    rate: int

    @cached_property
    def id(self) -> str:
        """The same for the same sound. No worker has a voice of its own whose name has a colon."""
        return f"clip:{hashlib.sha256(self.flac).hexdigest()[:32]}"


def read_clip(data: bytes) -> Clip:
    """Any format of libsndfile. Raises `ClipError`."""
    wave, rate = _decode(data)
    seconds = len(wave) / rate
    if seconds < MIN_S:
        raise ClipError("too_short", f"{seconds:.2f} s are too short, a voice needs {MIN_S:g} s or more")
    if seconds > MAX_S:
        raise ClipError("too_long", f"longer than {MAX_S:g} s: send the best half minute")
    _check_clipping(wave)
    mono = np.ascontiguousarray(wave.mean(axis=1), dtype=np.float32)
    _check_speech(mono if rate == _SPEECH_RATE else soxr.resample(mono, rate, _SPEECH_RATE))
    if rate > MAX_RATE:
        mono, rate = soxr.resample(mono, rate, MAX_RATE), MAX_RATE
    kept = io.BytesIO()
    loudest = max(1.0, float(np.abs(mono).max()))  # floating point, and what was packed, may go beyond full scale
    soundfile.write(kept, mono / loudest, rate, "PCM_16", format="FLAC")
    return Clip(kept.getvalue(), seconds, rate)


class _Content(io.BytesIO):
    """libsndfile looks for parts of a damaged file before its beginning; an error there would only reach stderr."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)


def _decode(data: bytes) -> tuple[Wave, int]:
    """float32 ``[n, channels]``, a little more than `MAX_S` at most, and its rate."""
    try:
        with soundfile.SoundFile(_Content(data)) as file:
            rate, channels = file.samplerate, file.channels
            if not (_MIN_RATE_IN <= rate <= _MAX_RATE_IN and channels <= _MAX_CHANNELS):
                raise ClipError("unreadable", f"{rate} Hz and {channels} channels: 8 to 192 kHz, 8 channels at most")
            wave: Wave = file.read(int((MAX_S + 0.5) * rate), "float32", always_2d=True)
    except (RuntimeError, OSError) as error:  # libsndfile's own error is a RuntimeError
        text = str(error).removeprefix("Error opening ").partition(": ")[2] or "unknown format"
        raise ClipError("unreadable", f"not a sound file that can be read ({text[:100]}): send FLAC or WAV") from None
    if not np.isfinite(wave).all():
        raise ClipError("unreadable", "holds values that are not finite")
    return wave, rate


def _check_clipping(wave: Wave) -> None:
    """Samples at the top of the range, three or more in a row: a peak alone touches it once."""
    peak = float(np.abs(wave).max())
    if peak < 0.9:
        return
    top = np.abs(wave) >= 0.995 * peak
    runs = top[2:] & top[1:-1] & top[:-2]
    if runs.sum() > _CLIPPED_SHARE * wave.size:
        raise ClipError("clipped", f"{100 * runs.mean():.1f} % of it is clipped: record it at a lower level")


def _check_speech(wave: Wave) -> None:
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME)[::_HOP]
    level = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    if level.max() < _SILENT_DBFS:
        raise ClipError("silent", "the recording is silent")
    loud = level > level.max() + _LOUD_DB
    if float(np.mean(level[loud])) < _QUIET_DBFS:
        raise ClipError(
            "too_quiet", f"its level of {np.mean(level[loud]):.0f} dBFS is too low: speak up, or come closer"
        )
    if np.percentile(level, 95) - np.percentile(level, 5) < _MIN_RANGE_DB:
        raise ClipError("no_speech", "a steady sound, not speech")
    f0 = _pitch(frames, loud)
    if np.count_nonzero(f0) * _HOP / _SPEECH_RATE < _MIN_VOICED_S:
        raise ClipError("no_speech", f"less than {_MIN_VOICED_S:g} s of voiced speech in it")
    _check_talkers(f0)


def _pitch(frames: Wave, loud: np.ndarray[Any, np.dtype[np.bool_]]) -> Wave:
    """f0 in Hz of each frame, 0 where it is not voiced: the first strong peak of the autocorrelation."""
    f0 = np.zeros(len(frames), np.float32)
    window = np.hanning(_FRAME).astype(np.float32)
    spectrum = np.fft.rfft(frames[loud] * window, 2 * _FRAME)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * _FRAME)) ** 2)[: _LONGEST_LAG + 2]
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, : _LONGEST_LAG + 2] / own
    correlation /= correlation[:, :1] + 1e-12
    lags = correlation[:, _SHORTEST_LAG : _LONGEST_LAG + 1]
    best = lags.max(axis=1)
    peaks = (lags > correlation[:, _SHORTEST_LAG - 1 : _LONGEST_LAG]) & (
        lags >= correlation[:, _SHORTEST_LAG + 1 : _LONGEST_LAG + 2]
    )
    strong = peaks & (lags >= 0.9 * best[:, None])  # of several periods that fit, the shortest
    lag = _SHORTEST_LAG + strong.argmax(axis=1)
    f0[loud] = np.where((best > _VOICED) & strong.any(axis=1), _SPEECH_RATE / lag, 0)
    return f0


def _check_talkers(f0: Wave) -> None:
    """Whether the usual pitch of its seconds falls into two groups far apart: two of one sex are not told apart."""
    second = _SPEECH_RATE // _HOP
    parts = [part[part > 0] for part in np.array_split(f0, max(1, len(f0) // second))]
    usual = np.sort(np.log2([np.median(part) for part in parts if len(part) >= second // 5]))
    if len(usual) < 4:
        return
    share = max(1, round(_TALKER_SHARE * len(usual)))
    gaps = np.diff(usual)
    at = int(gaps.argmax()) + 1
    low, high = usual[:at], usual[at:]
    apart = np.median(high) - np.median(low) > _TALKERS_APART and gaps.max() > _BETWEEN
    if apart and min(len(low), len(high)) >= share:
        raise ClipError("several_talkers", "more than one talker in it: send a recording of one voice alone")
