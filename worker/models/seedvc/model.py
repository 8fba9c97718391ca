"""Seed-VC's published models, and those fine-tuned from them, with their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from worker.models.catalogue import FineTuned
from worker.models.networks import ContentFeatures, Networks, Vocoder, check_memory
from worker.models.published.bigvgan import BigVgan, BigVganConfig, BigVganVocoder
from worker.models.published.campplus import CAMPPLUS, CamPlus, CamPlusStyle
from worker.models.published.hift import Hift, HiftVocoder
from worker.models.published.mel import MelSpectrogram
from worker.models.published.rmvpe import RMVPE, Rmvpe, RmvpeTracker
from worker.models.published.whisper import WhisperEncoder, WhisperFeatures
from worker.models.published.xlsr import Xlsr, XlsrFeatures
from worker.models.seedvc.dit import DiT, DiTConfig
from worker.models.seedvc.regulator import LengthRegulator
from worker.models.seedvc.spec import NETWORKS, SPECS, ModelSpec, fine_tuned, spec_named
from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError, load_network, read_entries, take_prefix
from worker.models.weights.published import PublishedNetwork


@dataclass(frozen=True, slots=True)
class SeedVc:
    """Implements ``worker.models.catalogue.Model``."""

    spec: ModelSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def networks(self) -> tuple[PublishedNetwork, ...]:
        return self.spec.networks

    def load(self, folder: Path, own: FineTuned | None = None) -> Networks:
        spec = self.spec if own is None else _of(own, self.spec)
        replaced = () if own is None else (spec.cfm, spec.length_regulator)
        paths = [
            hub.obtain(network.layout, file, folder)
            for network in spec.networks
            if network not in replaced
            for file in network.layout.files
        ]
        if own is not None and own.checkpoint.is_file():
            paths.append(own.checkpoint)
        check_memory(spec.name, sum(path.stat().st_size for path in set(paths)))
        dit, regulator = _transformer(spec, folder, None if own is None else own.checkpoint)
        return Networks(
            name=spec.name,
            content=_content(hub.load(NETWORKS[spec.content], folder, spec.content_config)),
            style=CamPlusStyle(cast(CamPlus, hub.load(CAMPPLUS, folder, spec.style_config))).eval(),
            mel=MelSpectrogram(spec.mel),
            regulator=regulator,
            dit=dit,
            vocoder=_vocoder(hub.load(NETWORKS[spec.vocoder], folder, spec.vocoder_config), spec),
            tracker=_tracker(hub.load(RMVPE, folder, spec.tracker_config)) if spec.pitch else None,
        )


def model(name: str) -> SeedVc:
    return SeedVc(spec_named(name))


def _of(own: FineTuned, base: ModelSpec) -> ModelSpec:
    made = base if own.config is None else fine_tuned(own.config, base)
    return replace(made, name=own.checkpoint.stem)


def _transformer(spec: ModelSpec, folder: Path, custom: Path | None) -> tuple[DiT, LengthRegulator]:
    try:
        if custom is None:
            dit = hub.load(spec.cfm, folder, spec.dit)
            regulator = hub.load(spec.length_regulator, folder, spec.regulator)
        else:
            dit = load_network(spec.cfm, custom, spec.dit)
            regulator = load_network(spec.length_regulator, custom, spec.regulator)
    except CheckpointError as error:
        path = custom or hub.obtain(spec.cfm.layout, spec.cfm.layout.file, folder)
        other = model_of(path)
        if other is None or other == spec.weights:
            raise
        raise CheckpointError(
            f"{path}: holds the weights of the model {other}, not of {spec.weights}: choose model {other}, or another "
            "file."
        ) from error
    return cast(DiT, dit), cast(LengthRegulator, regulator)


def model_of(path: Path) -> str | None:
    """The published model whose transformer has the shapes of a file's; None if it is none of them."""
    try:
        entries = take_prefix(read_entries(path, ("net", "cfm")), ("estimator.",))
        found = DiTConfig.from_shapes({name: tuple(entry.shape) for name, entry in entries.items()})
    except (CheckpointError, KeyError):
        return None
    return next((spec.name for spec in SPECS.values() if spec.dit == found), None)


def _content(network: nn.Module) -> ContentFeatures:
    if isinstance(network, Xlsr):
        return XlsrFeatures(network).eval()
    assert isinstance(network, WhisperEncoder)
    return WhisperFeatures(network).eval()


def _vocoder(network: nn.Module, spec: ModelSpec) -> Vocoder:
    if isinstance(network, Hift):
        return HiftVocoder(network).eval()
    assert isinstance(network, BigVgan)
    config: BigVganConfig = network.config
    if (config.mel_bins, config.hop) != (spec.mel.bins, spec.mel.hop):
        raise CheckpointError(
            f"{spec.vocoder} takes {config.mel_bins} mel bins with hop {config.hop}, {spec.name} makes {spec.mel.bins} "
            f"with hop {spec.mel.hop}: use the published vocoder."
        )
    return BigVganVocoder(network).eval()


def _tracker(network: nn.Module) -> nn.Module:
    return RmvpeTracker(cast(Rmvpe, network)).eval()
