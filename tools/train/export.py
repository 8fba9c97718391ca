"""Stage ``export``: the trained parts into the one file that is shipped."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from worker.models.nano.model import blank, save_nano

STAGE_OF = {"content": "content", "style": "style", "regulator": "decoder", "dit": "decoder", "vocoder": "vocoder"}


def build(out: Path, target: Path) -> int:
    """Averaged weights of ``out/STAGE.pt`` to ``target``; bytes written. Raises ``FileNotFoundError``."""
    networks = blank()
    for name, part in networks.parts().items():
        part.load_state_dict(averaged(out, STAGE_OF[name], name))
    return save_nano(networks, target)


def averaged(out: Path, stage: str, part: str) -> dict[str, Tensor]:
    """The averaged weights of one part of a stage's checkpoint."""
    saved = torch.load(out / f"{stage}.pt", weights_only=True, map_location="cpu")["averaged"]
    return {key.removeprefix(f"{part}."): value for key, value in saved.items() if key.startswith(f"{part}.")}
