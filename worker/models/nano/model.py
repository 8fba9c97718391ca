"""The bundled model: sizes, and its one file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worker.models.nano.content import NanoContent
from worker.models.nano.decoder import NanoDecoder
from worker.models.nano.regulator import NanoRegulator
from worker.models.nano.style import NanoStyle
from worker.models.nano.vocoder import NanoVocoder
from worker.models.published.mel import NANO, MelConfig
from worker.models.weights.checkpoints import CheckpointError, first_line
from worker.models.weights.published import Undrawn

WEIGHTS = Path(__file__).parents[2] / "assets" / "nano" / "nano.safetensors"


@dataclass(frozen=True, slots=True)
class NanoNetworks:
    """The model's parts, float32 on the CPU, in evaluation mode."""

    content: NanoContent
    style: NanoStyle
    regulator: NanoRegulator
    decoder: NanoDecoder
    vocoder: NanoVocoder
    mel: MelConfig = NANO

    def parts(self) -> dict[str, nn.Module]:
        return {
            "content": self.content,
            "style": self.style,
            "regulator": self.regulator,
            "decoder": self.decoder,
            "vocoder": self.vocoder,
        }


def blank() -> NanoNetworks:
    """With random weights."""
    return NanoNetworks(NanoContent(), NanoStyle(), NanoRegulator(), NanoDecoder(), NanoVocoder())


def load_nano(path: Path = WEIGHTS) -> NanoNetworks:
    """With the weights of a file of ``save_nano``. Raises ``CheckpointError``."""
    try:
        entries = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a complete file of weights ({first_line(error)}).") from error
    with Undrawn():
        networks = blank()
    for name, part in networks.parts().items():
        own = {
            key.removeprefix(f"{name}."): value.float() for key, value in entries.items() if key.startswith(f"{name}.")
        }
        if own.keys() != part.state_dict().keys():
            raise CheckpointError(f"{path}: not the weights of nano: {name} has other entries; fetch the file again.")
        part.load_state_dict(own)
        part.eval().requires_grad_(False)
    return networks


def save_nano(networks: NanoNetworks, path: Path = WEIGHTS) -> int:
    """Write all parts in float16; bytes written."""
    entries: dict[str, Tensor] = {}
    for name, part in networks.parts().items():
        entries |= {f"{name}.{key}": value.detach().half().contiguous() for key, value in part.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(entries, path)
    return path.stat().st_size
