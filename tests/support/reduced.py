"""The published models in small: every network of the same architecture with fewer and narrower layers, and files of
synthetic weights with the published names in a Hugging Face cache's layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.parity.fixture import synthetic_weight
from worker.models.nano.content import NanoContent, NanoContentConfig
from worker.models.nano.decoder import NanoDecoder, NanoDecoderConfig
from worker.models.nano.model import NanoNetworks
from worker.models.nano.regulator import NanoRegulator, NanoRegulatorConfig
from worker.models.nano.style import NanoStyle, NanoStyleConfig
from worker.models.nano.vocoder import NanoVocoder, NanoVocoderConfig
from worker.models.published.bigvgan import BigVganConfig
from worker.models.published.campplus import CamPlusConfig
from worker.models.published.hift import HiftConfig
from worker.models.published.rmvpe import RmvpeConfig
from worker.models.published.whisper import WhisperConfig
from worker.models.published.xlsr import XlsrConfig
from worker.models.seedvc import spec
from worker.models.seedvc.dit import DiTConfig
from worker.models.seedvc.files import REPOSITORY
from worker.models.seedvc.regulator import RegulatorConfig
from worker.models.seedvc2.ar import ArConfig
from worker.models.seedvc2.astral import AstralConfig
from worker.models.seedvc2.dit import DiT2Config
from worker.models.seedvc2.model import V2Spec
from worker.models.seedvc2.regulator import CodeRegulatorConfig
from worker.models.weights.checkpoints import COUNTER, folded_name, our_name
from worker.models.weights.published import PublishedNetwork

KEYS = [Path(__file__).parents[1] / "data" / folder for folder in ("parity", "parity_v2")]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

_XLSR = XlsrConfig(conv_width=16, width=64, heads=4, inner=64, depth=1)
_WHISPER = WhisperConfig(width=48, heads=2, inner=48, depth=1, positions=400)
_BIGVGAN_22K = BigVganConfig(80, (16, 16), (32, 32), channels=8, block_kernels=(3,), dilations=(3,))
_BIGVGAN_44K = BigVganConfig(128, (32, 16), (64, 32), channels=8, block_kernels=(3,), dilations=(3,))


def reduced(name: str) -> spec.ModelSpec:
    """A published model with small networks. Mel, embedding and pitch classes are as published."""
    published = spec.SPECS[name]
    content: Any = _XLSR if published.content == "xlsr" else _WHISPER
    vocoder: Any = {
        "hift": HiftConfig(channels=16, block_kernels=(3,), dilations=(3,)),
        "bigvgan_22k": _BIGVGAN_22K,
        "bigvgan_44k": _BIGVGAN_44K,
    }
    dit = DiTConfig(published.dit.mel_bins, 64, 3, tokens=published.dit.tokens, wavenet=published.dit.wavenet)
    return replace(
        published,
        dit=dit,
        regulator=RegulatorConfig(content.width, 64, published.pitch),
        content_config=content,
        vocoder_config=vocoder[published.vocoder],
        style_config=CamPlusConfig(channels=2, layers=(1, 1, 1)),
        tracker_config=RmvpeConfig(channels=1, hidden=16, blocks=1, deepest=1),
    )


def reduced_v2() -> V2Spec:
    """V2 with small networks."""
    return V2Spec(
        content=_XLSR,
        wide=AstralConfig(bits=11, feature_width=_XLSR.width, width=32, inner=32, depth=2),
        narrow=AstralConfig(bits=5, feature_width=_XLSR.width, width=32, inner=32, depth=2),
        dit=DiT2Config(width=128, depth=2, inner=128),
        regulator=CodeRegulatorConfig(codes=2048, width=128),
        ar=ArConfig(width=128, depth=2, heads=2, key_heads=1, inner=128),
        ar_regulator=CodeRegulatorConfig(codes=32, width=128),
        style=CamPlusConfig(channels=2, layers=(1, 1, 1)),
        vocoder=_BIGVGAN_22K,
    )


def reduced_nano(width: int = 64) -> NanoNetworks:
    """The bundled model with small networks and random weights."""
    made = NanoNetworks(
        NanoContent(NanoContentConfig(width=width, heads=1, inner=width, depth=1, features=8)),
        NanoStyle(NanoStyleConfig(width=16, inner=16, depth=1)),
        NanoRegulator(NanoRegulatorConfig(content_width=9, width=width, inner=width, depth=1)),
        NanoDecoder(NanoDecoderConfig(width=width, inner=width, depth=1)),
        NanoVocoder(NanoVocoderConfig(width=16, inner=16, depth=1)),
    )
    for part in made.parts().values():
        part.eval().requires_grad_(False)
    return made


def write_hub(folder: Path, model: spec.ModelSpec | V2Spec) -> None:
    """Every file of a model, as a download would leave it."""
    merged: dict[str, dict[str, Any]] = {}  # of files that hold several networks
    for network, config in model.networks_with_sizes:
        layout = network.layout
        entries = published_entries(network, config)
        if layout.repository == REPOSITORY:
            parts = merged.setdefault(layout.file, {})
            parts[layout.nesting[1]] = {f"module.{name}": tensor for name, tensor in entries.items()}
            torch.save({"net": parts, "epoch": 1, "iters": 2}, cached(folder, layout.repository, layout.file))
            continue
        path = cached(folder, layout.repository, layout.file)
        if path.suffix == ".safetensors":
            save_file(entries, path)
        else:
            torch.save({key: entries for key in layout.nesting} or entries, path)
        if layout.config_file is not None:
            assert isinstance(config, BigVganConfig)
            written = {
                "num_mels": config.mel_bins,
                "upsample_rates": config.rates,
                "upsample_kernel_sizes": config.kernels,
                "upsample_initial_channel": config.channels,
                "resblock_kernel_sizes": config.block_kernels,
                "resblock_dilation_sizes": [config.dilations] * len(config.block_kernels),
            }
            cached(folder, layout.repository, layout.config_file).write_text(json.dumps(written))


def cached(folder: Path, repository: str, file: str) -> Path:
    """Where a Hugging Face cache keeps a file."""
    root = folder / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    path = root / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def published_entries(network: PublishedNetwork, config: Any) -> dict[str, Tensor]:
    """Entries under their published names, for a network of the sizes of ``config``."""
    keys = next(path for path in (folder / f"{network.name}.keys.json" for folder in KEYS) if path.is_file())
    shapes: dict[str, tuple[list[int], str]] = json.loads(keys.read_text())
    ours = {name: tuple(tensor.shape) for name, tensor in network.blank(config).state_dict().items()}
    entries = {}
    for name, (shape, _) in shapes.items():
        prefix = next(prefix for prefix in network.layout.prefixes if name.startswith(prefix))
        published = name.removeprefix(prefix)
        folded = folded_name(published)
        norm, stem = folded != published, our_name(network.layout, folded)
        if stem not in ours or stem.endswith(COUNTER):
            continue
        size = ours[stem]
        if norm and name.endswith(("weight_g", "original0")):
            size = tuple(now if then > 1 else 1 for now, then in zip(size, shape, strict=True))
        entries[name] = torch.from_numpy(synthetic_weight(name, size))
    return entries
