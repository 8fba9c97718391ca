"""What callers say in a chaos run, and the one checker of what they hear.

Each caller sends a tone of its own in noise of its own, so that every sample's place in time shows. The engine turns
what it converts upside down and halves it: whoever hears the right way up hears a voice that was not converted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.client.resuming import ResumingCall

RATE = 16_000
LEVEL, NOISE = 6000, 1500  # int16: amplitude of the tone, standard deviation of the noise
MARK = -0.5  # the engine's factor
_SPACING_HZ = 37.0  # between callers
_TOLERANCE = 60  # int16; rounding, twice
_EDGE_MS = 60  # of a block beside a concealed one: fades and the engine's crossfade
_SILENT = 4.0  # int16, rms
_JOIN_MS = 50  # the engine's crossfade, of 40 ms, from nothing: a session was opened again

Pcm = npt.NDArray[np.int16]


def voice_of(number: int, seconds: float) -> Pcm:
    """The sound of a caller."""
    t = np.arange(round(seconds * RATE)) / RATE
    noise = NOISE * np.random.default_rng(number).standard_normal(len(t))
    return np.rint(LEVEL * np.sin(2 * np.pi * (230 + _SPACING_HZ * number) * t) + noise).astype(np.int16)


@dataclass(slots=True)
class Verdict:
    """What a caller heard, block by block."""

    converted: int = 0
    concealed: list[int] = field(default_factory=list)  # blocks of silence
    joined: list[int] = field(default_factory=list)  # blocks within which another worker's sound fades in
    faults: list[str] = field(default_factory=list)


def check(number: int, callers: int, wave: Pcm, made: ResumingCall) -> Verdict:
    """Everything that must hold for one caller."""
    verdict = Verdict()
    heard = made.output()
    lead = made.lead_ms * RATE // 1000
    if abs(len(heard) - len(wave) - lead) > 1:
        verdict.faults.append(f"{len(heard)} samples in place of {len(wave) + lead}")
    if made.close_code != 1000:
        verdict.faults.append(f"closed with {made.close_code}")
    expected = np.concatenate([np.zeros(lead), MARK * wave.astype(np.float64)])
    block, edge = int(made.ready["block_ms"]) * RATE // 1000, _EDGE_MS * RATE // 1000
    for index, start in enumerate(range(0, len(heard) - block + 1, block)):
        got, due = heard[start : start + block].astype(np.float64), expected[start : start + block]
        if len(due) < block or not due.any():
            continue
        _judge(verdict, index, number, callers, got, due, edge)
    return verdict


def _judge(
    verdict: Verdict, index: int, number: int, callers: int, got: npt.NDArray[Any], due: npt.NDArray[Any], edge: int
) -> None:
    inner = slice(edge, len(got) - edge)
    if np.sqrt(np.mean(got[inner] ** 2)) < _SILENT:
        verdict.concealed.append(index)
        return
    wrong = np.abs(got - due) > _TOLERANCE
    if not wrong[inner].any():
        verdict.converted += 1
        return
    places = np.flatnonzero(wrong)
    if np.ptp(places) <= _JOIN_MS * RATE / 1000 and (np.abs(got[places]) <= np.abs(due[places]) + _TOLERANCE).all():
        verdict.joined.append(index)
        verdict.converted += 1
        return
    said = due / MARK
    own = float(np.dot(got, said) / np.dot(said, said))
    spectrum = np.abs(np.fft.rfft(got * np.hanning(len(got))))
    loudest_hz = float(np.argmax(spectrum)) * RATE / len(got)
    if own > 0.1:
        verdict.faults.append(f"block {index}: the caller's own voice, as it was said")
    elif abs(loudest_hz - _loudest_hz(said)) > 15:
        verdict.faults.append(f"block {index}: a tone of {loudest_hz:.0f} Hz, which is not caller {number}'s")
    else:
        verdict.faults.append(f"block {index}: {wrong.mean():.0%} of its samples are not at their place")


def _loudest_hz(wave: npt.NDArray[Any]) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))))) * RATE / len(wave)
