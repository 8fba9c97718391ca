"""The bundled model: sizes, and its one file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worker.models.nano.content import NanoContent
from worker.models.nano.style import NanoStyle
from worker.models.nano.vocoder import NanoVocoder
from worker.models.published.mel import NANO, MelConfig
from worker.models.seedvc.dit import DiT, DiTConfig
from worker.models.seedvc.regulator import LengthRegulator, RegulatorConfig
from worker.models.weights.checkpoints import CheckpointError, first_line

WEIGHTS = Path(__file__).parents[2] / "assets" / "nano" / "nano.safetensors"
NANO_DIT = DiTConfig(
    mel_bins=80, width=192, depth=5, tokens=False, wavenet=False, style_width=256, direct=True, kernel=7
)
NANO_REGULATOR = RegulatorConfig(content_width=256, width=192, pitch=True)


@dataclass(frozen=True, slots=True)
class NanoNetworks:
    """The model's parts, float32 on the CPU, in evaluation mode."""

    content: NanoContent
    style: NanoStyle
    regulator: LengthRegulator
    dit: DiT
    vocoder: NanoVocoder
    mel: MelConfig = NANO

    def parts(self) -> dict[str, nn.Module]:
        return {
            "content": self.content,
            "style": self.style,
            "regulator": self.regulator,
            "dit": self.dit,
            "vocoder": self.vocoder,
        }


def blank() -> NanoNetworks:
    """With random weights."""
    return NanoNetworks(NanoContent(), NanoStyle(), LengthRegulator(NANO_REGULATOR), DiT(NANO_DIT), NanoVocoder())


def load_nano(path: Path = WEIGHTS) -> NanoNetworks:
    """With the weights of a file of ``save_nano``. Raises ``CheckpointError``."""
    try:
        entries = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a complete file of weights ({first_line(error)}).") from error
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
