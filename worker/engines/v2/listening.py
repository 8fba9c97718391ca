"""Codes of whole recordings, in pieces of the thirty seconds that the content encoder was trained on.

Each piece hears two and a half seconds more on either side than its codes are taken from, and every code stays at its
own 20 ms: unlike in the original, a piece has no worse edge in the middle of a recording and none loses a code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.engines.v2.pipeline import MIN_SAMPLES, Codes, V2Pipeline
from worker.geometry import UNIT_SAMPLES
from worker.recordings import Recording, Wave

PIECE_UNITS = 1500
EDGE_UNITS = 125


@dataclass(frozen=True, slots=True)
class Piece:
    """What is heard at once, and the codes in it that are taken."""

    source: int
    wave: Wave
    begin: int
    end: int | None  # None: the last


def pieces_of(source: int, recording: Recording) -> Iterator[Piece]:
    """Pieces of a recording, in order; only what pieces to come need is kept."""
    length, step = PIECE_UNITS * UNIT_SAMPLES, (PIECE_UNITS - 2 * EDGE_UNITS) * UNIT_SAMPLES
    kept, begin = np.zeros(0, np.float32), 0
    for more in recording.pieces():
        kept = np.concatenate([kept, more])
        while len(kept) > length + MIN_SAMPLES:  # what follows is enough for a code
            yield Piece(source, kept[:length], begin, PIECE_UNITS - EDGE_UNITS)
            kept, begin = kept[step:], EDGE_UNITS
    yield Piece(source, kept, begin, None)


def listen(pipeline: V2Pipeline, recordings: Sequence[Recording], batch: int) -> list[Codes]:
    """Codes of each recording, one for every 20 ms that it has; ``batch`` pieces a call."""
    heard: list[list[Codes]] = [[] for _ in recordings]
    waiting: list[Piece] = []

    def run() -> None:
        waves = [torch.from_numpy(np.ascontiguousarray(piece.wave)).to(pipeline.device) for piece in waiting]
        for piece, codes in zip(waiting, pipeline.codes(waves), strict=True):
            taken = slice(piece.begin, piece.end)
            narrow = None if codes.narrow is None else codes.narrow[taken]
            heard[piece.source].append(Codes(codes.wide[taken], narrow))
        waiting.clear()

    for source, recording in enumerate(recordings):
        for piece in pieces_of(source, recording):
            waiting.append(piece)
            if len(waiting) == batch:
                run()
    if waiting:
        run()
    return [
        Codes(
            torch.cat([codes.wide for codes in parts]),
            None
            if pipeline.v2.ar is None
            else torch.cat([codes.narrow for codes in parts if codes.narrow is not None]),
        )
        for parts in heard
    ]
