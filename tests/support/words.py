"""How many of a recording's words survive, by pocketsphinx with its bundled US English model."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import pocketsphinx


def words(wave: np.ndarray[Any, Any]) -> list[str]:
    """What is heard in int16 at 16 kHz."""
    decoder = pocketsphinx.Decoder(samprate=16_000, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(wave.astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr.split() if hypothesis is not None else []


def agreement(source: np.ndarray[Any, Any], converted: np.ndarray[Any, Any]) -> float:
    """Share of the words heard in `source` that are heard in `converted`, in order."""
    said, heard = words(source), words(converted)
    matcher = difflib.SequenceMatcher(None, said, heard, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / max(1, len(said))
