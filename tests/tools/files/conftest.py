"""Files are converted with models that are small, from a hub's folder beside a reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile
from huggingface_hub import constants

from shared.config import ROOT

SAMPLE = ROOT / "worker/assets/samples/sample.flac"
REFERENCE = "june.wav"  # beside the models: the voice of this name, for a second and a half


@contextmanager
def hub_alone(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """`folder` with the reference, for models that are written there; nothing asks a network."""
    wave, rate = soundfile.read(ROOT / "worker/assets/voices/june.flac")
    soundfile.write(folder / REFERENCE, wave[rate // 2 : 2 * rate], rate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.delenv("HF_HUB_CACHE", raising=False)
        yield patch
