"""Seed-VC V2 with its weights: what timbre needs, and what style needs on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from worker.models.catalogue import FineTuned
from worker.models.networks import check_memory
from worker.models.published.bigvgan import BIGVGAN_22K, BIGVGAN_22K_NETWORK, BigVgan, BigVganConfig, BigVganVocoder
from worker.models.published.campplus import CAMPPLUS, CamPlus, CamPlusConfig
from worker.models.published.fbank import KaldiFbank
from worker.models.published.mel import SMALL as MEL
from worker.models.published.mel import MelConfig, MelSpectrogram
from worker.models.published.xlsr import XlsrConfig
from worker.models.seedvc2.ar import AR_V2, ArConfig, ArModel
from worker.models.seedvc2.ar import BASE as AR_SIZES
from worker.models.seedvc2.astral import ASTRAL_NARROW, ASTRAL_WIDE, NARROW, WIDE, Astral, AstralConfig
from worker.models.seedvc2.dit import CFM_V2, DiT2, DiT2Config
from worker.models.seedvc2.dit import SMALL as DIT_SIZES
from worker.models.seedvc2.hubert import HUBERT, LARGE, Hubert
from worker.models.seedvc2.regulator import AR as AR_REGULATOR_SIZES
from worker.models.seedvc2.regulator import CFM as REGULATOR_SIZES
from worker.models.seedvc2.regulator import (
    REGULATOR_AR_V2,
    REGULATOR_V2,
    CodeEmbedding,
    CodeRegulator,
    CodeRegulatorConfig,
)
from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError, load_network
from worker.models.weights.published import PublishedNetwork


class HalfStyle(nn.Module):
    """CAM++'s embedding ``[B, 192]`` of a wave ``[B, n]`` at 16 kHz, with V2's count of frames in the statistics: half
    of the fbank's, rounded down, one fewer than there are where the fbank's are odd."""

    def __init__(self, network: CamPlus) -> None:
        super().__init__()
        self.network = network
        self.fbank = KaldiFbank()

    def forward(self, wave: Tensor) -> Tensor:
        features = self.fbank.centred(wave)
        lens = torch.full((len(features),), features.shape[1] // 2, device=features.device)
        out: Tensor = self.network(features, lens)
        return out


@dataclass(frozen=True, slots=True)
class StyleNetworks:
    """What the style path needs beside the others."""

    narrow: Astral
    ar: ArModel
    embedding: CodeEmbedding


@dataclass(frozen=True, slots=True)
class V2Networks:
    """One model. Modules are in evaluation mode on one device."""

    name: str
    hubert: Hubert
    wide: Astral
    style: nn.Module
    mel: MelSpectrogram
    regulator: CodeRegulator
    dit: DiT2
    vocoder: BigVganVocoder
    ar: StyleNetworks | None = None
    tracker: None = None  # it takes no pitch

    @classmethod
    def of(cls, name: str, modules: Mapping[str, nn.Module]) -> V2Networks:
        """Of networks by their published names; with the style path if its networks are among them."""
        style = None
        if AR_V2.name in modules:
            style = StyleNetworks(
                cast(Astral, modules[ASTRAL_NARROW.name]),
                cast(ArModel, modules[AR_V2.name]),
                cast(CodeEmbedding, modules[REGULATOR_AR_V2.name]),
            )
        return cls(
            name=name,
            hubert=cast(Hubert, modules[HUBERT.name]),
            wide=cast(Astral, modules[ASTRAL_WIDE.name]),
            style=HalfStyle(cast(CamPlus, modules[CAMPPLUS.name])).eval(),
            mel=MelSpectrogram(MEL),
            regulator=cast(CodeRegulator, modules[REGULATOR_V2.name]),
            dit=cast(DiT2, modules[CFM_V2.name]),
            vocoder=BigVganVocoder(cast(BigVgan, modules[BIGVGAN_22K_NETWORK.name])).eval(),
            ar=style,
        )

    @property
    def mel_config(self) -> MelConfig:
        return self.mel.config

    def parts(self) -> dict[str, nn.Module]:
        """Every network by its stage."""
        parts: dict[str, nn.Module] = {
            "content": self.hubert,
            "quantiser": self.wide,
            "style": self.style,
            "regulator": self.regulator,
            "dit": self.dit,
            "vocoder": self.vocoder,
        }
        if self.ar is not None:
            parts |= {"narrow": self.ar.narrow, "ar": self.ar.ar, "ar_regulator": self.ar.embedding}
        return parts

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> V2Networks:
        """Moved, and the heavy networks in ``dtype``: content encoder, transformers and vocoder. A bit that flips is
        another sound, so the quantisers stay in float32, and the content encoder is in float16 where the others are in
        bfloat16, which is eight times as coarse; style, mel and regulators as in the original. Raises
        ``CheckpointError`` if the device has too little memory."""
        heavy: tuple[nn.Module, ...] = (self.dit, self.vocoder, *((self.ar.ar,) if self.ar else ()))
        try:
            for part in (*self.parts().values(), self.mel):
                part.to(device)
            for part in heavy:
                part.to(dtype)
            self.hubert.to(torch.float16 if dtype == torch.bfloat16 else dtype)
        except torch.OutOfMemoryError as error:
            raise CheckpointError(
                f"{self.name} does not fit into the free memory of {device}: choose a smaller model, precision bf16, "
                "or another device."
            ) from error
        return self


@dataclass(frozen=True, slots=True)
class V2Spec:
    """Sizes of its networks."""

    content: XlsrConfig = LARGE
    wide: AstralConfig = WIDE
    narrow: AstralConfig = NARROW
    dit: DiT2Config = DIT_SIZES
    regulator: CodeRegulatorConfig = REGULATOR_SIZES
    ar: ArConfig = AR_SIZES
    ar_regulator: CodeRegulatorConfig = AR_REGULATOR_SIZES
    style: CamPlusConfig = field(default_factory=CamPlusConfig)
    vocoder: BigVganConfig = BIGVGAN_22K

    @property
    def timbre_networks(self) -> tuple[tuple[PublishedNetwork, Any], ...]:
        return (
            (HUBERT, self.content),
            (ASTRAL_WIDE, self.wide),
            (CFM_V2, self.dit),
            (REGULATOR_V2, self.regulator),
            (CAMPPLUS, self.style),
            (BIGVGAN_22K_NETWORK, self.vocoder),
        )

    @property
    def style_networks(self) -> tuple[tuple[PublishedNetwork, Any], ...]:
        return (
            (ASTRAL_NARROW, self.narrow),
            (AR_V2, self.ar),
            (REGULATOR_AR_V2, self.ar_regulator),
        )

    @property
    def networks_with_sizes(self) -> tuple[tuple[PublishedNetwork, Any], ...]:
        """All it is made of."""
        return (*self.timbre_networks, *self.style_networks)


@dataclass(frozen=True, slots=True)
class SeedVc2:
    """Implements ``worker.models.catalogue.Model``."""

    spec: V2Spec = field(default_factory=V2Spec)
    name: str = "v2"

    @property
    def networks(self) -> tuple[PublishedNetwork, ...]:
        return tuple(network for network, _ in self.spec.networks_with_sizes)

    def load(self, folder: Path, own: FineTuned | None = None, *, style: bool = False) -> V2Networks:
        """In float32 on the CPU; what is missing is downloaded to ``folder``.

        own: a fine-tuned transformer and regulator of the published sizes. style: with the networks of the style path.
        Raises ``CheckpointError``.
        """
        spec = self.spec
        if own is not None and own.config is not None:
            raise CheckpointError("v2 takes no dit_config_path: its fine-tuned models have the published sizes.")
        wanted = spec.networks_with_sizes if style else spec.timbre_networks
        mine = (CFM_V2, REGULATOR_V2) if own is not None else ()
        paths = {
            hub.obtain(network.layout, file, folder)
            for network, _ in wanted
            if network not in mine
            for file in network.layout.files
        }
        check_memory(self.name, sum(path.stat().st_size for path in paths))

        def loaded(network: PublishedNetwork, config: Any) -> nn.Module:
            if own is not None and network in mine:
                return load_network(network, own.checkpoint, config)
            return hub.load(network, folder, config)

        modules = {network.name: loaded(network, config) for network, config in wanted}
        vocoder = cast(BigVgan, modules[BIGVGAN_22K_NETWORK.name])
        if (vocoder.config.mel_bins, vocoder.config.hop) != (MEL.bins, MEL.hop):
            raise CheckpointError(f"{BIGVGAN_22K_NETWORK.name} takes another mel than {self.name} makes.")
        return V2Networks.of(self.name if own is None else own.checkpoint.stem, modules)


def model(name: str) -> SeedVc2:
    return SeedVc2()
