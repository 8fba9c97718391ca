"""All networks of one model, behind the same few verbs whatever they are made of.

content (wave -> features)   style (wave -> vector)   f0 (wave -> Hz)   regulator   DiT   vocoder (mel -> wave)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker import pitch
from worker.models.nano.content import NanoContent
from worker.models.nano.model import WEIGHTS, load_nano
from worker.models.nano.vocoder import NanoVocoder
from worker.models.published.bigvgan import BigVgan, BigVganConfig
from worker.models.published.campplus import CamPlus
from worker.models.published.fbank import KaldiFbank
from worker.models.published.hift import HARMONICS, Hift
from worker.models.published.mel import MelConfig, MelSpectrogram
from worker.models.published.ragged import by_length
from worker.models.published.rmvpe import Rmvpe, RmvpeMel, decode_f0
from worker.models.published.whisper import SAMPLES_A_FRAME, WhisperEncoder, WhisperMel
from worker.models.published.xlsr import Xlsr, frame_count
from worker.models.seedvc.dit import DiT, DiTConfig
from worker.models.seedvc.regulator import LengthRegulator
from worker.models.seedvc.spec import SPECS, ModelSpec, fine_tuned, spec_named
from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError, load_network, read_entries, take_prefix

F0_RATE = 100  # frames a second of every tracker
MEMORY_SHARE = 0.95  # of the free memory that weights may take


class ContentFeatures(nn.Module):
    """Features at 50 frames a second of a wave ``[B, n]`` at 16 kHz: ``[B, N, width]``."""

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        """lens: int64 ``[B]``, valid samples of each item (None: all). Beyond ``frames(lens)`` nothing is meant."""
        raise NotImplementedError

    def frames(self, samples: Tensor) -> Tensor:
        """Content frames of so many samples."""
        raise NotImplementedError


class XlsrFeatures(ContentFeatures):
    def __init__(self, encoder: Xlsr) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        out: Tensor = self.encoder(wave, lens)
        return out

    def frames(self, samples: Tensor) -> Tensor:
        return frame_count(samples)


class WhisperFeatures(ContentFeatures):
    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.mel = WhisperMel()

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        out: Tensor = self.encoder(self.mel(wave, lens), wave.shape[-1])
        return out

    def frames(self, samples: Tensor) -> Tensor:
        return samples // SAMPLES_A_FRAME + 1


class NanoFeatures(ContentFeatures):
    def __init__(self, encoder: NanoContent) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        if lens is None:
            out: Tensor = self.encoder(wave)
            return out
        return nn.utils.rnn.pad_sequence(by_length(self.encoder, wave, lens), batch_first=True)

    def frames(self, samples: Tensor) -> Tensor:
        return samples // SAMPLES_A_FRAME


class CamPlusStyle(nn.Module):
    """Speaker embedding ``[B, 192]`` of a wave ``[B, n]`` at 16 kHz."""

    def __init__(self, network: CamPlus) -> None:
        super().__init__()
        self.network = network
        self.fbank = KaldiFbank()

    def forward(self, wave: Tensor) -> Tensor:
        out: Tensor = self.network(self.fbank.centred(wave))
        return out


class RmvpeTracker(nn.Module):
    """f0 in Hz ``[B, n // 160 + 1]``, 0 where unvoiced, of a wave ``[B, n]`` at 16 kHz."""

    def __init__(self, network: Rmvpe) -> None:
        super().__init__()
        self.network = network
        self.mel = RmvpeMel()

    def forward(self, wave: Tensor) -> Tensor:
        return decode_f0(self.network(self.mel(wave)))


class AutocorrelationTracker(nn.Module):
    """As ``RmvpeTracker``, by ``worker.pitch``: no weights, and cheap on a CPU."""

    def forward(self, wave: Tensor) -> Tensor:
        before = pitch.FRAME // 2  # frame i is centred on sample 160 i
        padded = F.pad(wave.float(), (before, before))
        f0, voiced = pitch.track(pitch.correlate(padded), wave.new_zeros(wave.shape[0]))
        return f0 * voiced


class Vocoder(nn.Module):
    """Mel ``[B, C, T]`` to wave ``[B, hop T]``. ``noise_rows``: rows of noise a sample that it wants."""

    noise_rows: int = 0

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        """f0: Hz ``[B, T]``, 0 unvoiced, of models that track it. noise: standard normal ``[B, noise_rows, hop T]``.
        phase: of the harmonics, ``[B, 9, 1]`` in (-pi, pi)."""
        raise NotImplementedError


class HiftVocoder(Vocoder):
    noise_rows = HARMONICS

    def __init__(self, network: Hift) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        out: Tensor = self.network(mel, noise=noise, phase=phase)  # it predicts a pitch of its own
        return out


class BigVganVocoder(Vocoder):
    def __init__(self, network: BigVgan) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        out: Tensor = self.network(mel)
        return out


class PulseVocoder(Vocoder):
    noise_rows = 1

    def __init__(self, network: NanoVocoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        assert f0 is not None
        assert noise is not None
        out: Tensor = self.network(mel, f0, noise[:, 0])
        return out


@dataclass(frozen=True, slots=True)
class Networks:
    """One model. Modules are in evaluation mode on one device; ``tracker`` is None for models without f0."""

    name: str
    content: ContentFeatures
    style: nn.Module
    mel: MelSpectrogram
    regulator: LengthRegulator
    dit: DiT
    vocoder: Vocoder
    tracker: nn.Module | None

    @property
    def mel_config(self) -> MelConfig:
        return self.mel.config

    def parts(self) -> dict[str, nn.Module]:
        """Every network by its stage."""
        parts = {
            "content": self.content,
            "style": self.style,
            "f0": self.tracker,
            "regulator": self.regulator,
            "dit": self.dit,
            "vocoder": self.vocoder,
        }
        return {stage: part for stage, part in parts.items() if part is not None}

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> Networks:
        """Moved, and the heavy networks in ``dtype``: content encoder, transformer and vocoder. Style, pitch, mel and
        regulator stay in float32, as in the original. Raises ``CheckpointError`` if the device has too little memory.
        """
        try:
            for part in (self.style, self.mel, self.regulator, *((self.tracker,) if self.tracker else ())):
                part.to(device)
            for part in (self.content, self.vocoder, self.dit):
                for weight in part.parameters():  # front ends have buffers alone, which stay in float32
                    weight.data = weight.data.to(device, dtype)
                for module in part.modules():
                    for name, buffer in module.named_buffers(recurse=False):
                        front_end = isinstance(module, WhisperMel)
                        setattr(module, name, buffer.to(device, buffer.dtype if front_end else dtype))
        except torch.OutOfMemoryError as error:
            raise CheckpointError(
                f"{self.name} does not fit into the free memory of {device}: choose a smaller model, precision bf16, "
                "or another device."
            ) from error
        return self


def load_networks(
    model: str,
    folder: Path = hub.DEFAULT_FOLDER,
    *,
    dit_checkpoint: Path | None = None,
    dit_config: Path | None = None,
) -> Networks:
    """A published model with its weights, in float32 on the CPU; what is missing is downloaded.

    dit_checkpoint: a fine-tuned model's transformer and regulator in place of the published ones; dit_config: its
    YAML file, if its sizes differ from the published ones. Raises ``CheckpointError``.
    """
    spec = spec_named(model)
    if dit_config is not None and dit_checkpoint is None:
        raise CheckpointError("dit_config_path needs dit_checkpoint_path beside it.")
    if dit_checkpoint is not None:
        made = spec if dit_config is None else fine_tuned(dit_config, spec)
        spec = replace(made, name=dit_checkpoint.stem)
    paths = [
        hub.obtain(layout, file, folder)
        for network in spec.networks
        for layout in [hub.layout_of(network)]
        for file in layout.files
        if dit_checkpoint is None or network not in (spec.cfm_network, spec.regulator_network)
    ]
    if dit_checkpoint is not None and dit_checkpoint.is_file():
        paths.append(dit_checkpoint)
    check_memory(spec.name, sum(path.stat().st_size for path in set(paths)))
    dit, regulator = _transformer(spec, folder, dit_checkpoint)
    content = hub.load(spec.content, folder, spec.content_config)
    vocoder = hub.load(spec.vocoder, folder, spec.vocoder_config)
    return Networks(
        name=spec.name,
        content=_content(content),
        style=CamPlusStyle(cast(CamPlus, hub.load("campplus", folder))).eval(),
        mel=MelSpectrogram(spec.mel),
        regulator=regulator,
        dit=dit,
        vocoder=_vocoder(vocoder, spec),
        tracker=RmvpeTracker(cast(Rmvpe, hub.load("rmvpe", folder))).eval() if spec.pitch else None,
    )


def load_bundled(path: Path = WEIGHTS) -> Networks:
    """``nano``, whose weights come with the package. Raises ``CheckpointError``."""
    nano = load_nano(path)
    return Networks(
        name="nano",
        content=NanoFeatures(nano.content).eval(),
        style=nano.style,
        mel=MelSpectrogram(nano.mel),
        regulator=nano.regulator,
        dit=nano.dit,
        vocoder=PulseVocoder(nano.vocoder).eval(),
        tracker=AutocorrelationTracker(),
    )


def check_memory(name: str, wanted_bytes: int) -> None:
    """Raises ``CheckpointError`` if weights of this size do not fit into the free memory of the host."""
    free_bytes = int(psutil.virtual_memory().available)
    if wanted_bytes > MEMORY_SHARE * free_bytes:
        raise CheckpointError(
            f"{name} needs {wanted_bytes / 1e9:.1f} GB of memory for its weights and {free_bytes / 1e9:.1f} GB are "
            "free: choose a smaller model or free some."
        )


def _transformer(spec: ModelSpec, folder: Path, custom: Path | None) -> tuple[DiT, LengthRegulator]:
    try:
        if custom is None:
            dit = hub.load(spec.cfm_network, folder, spec.dit)
            regulator = hub.load(spec.regulator_network, folder, spec.regulator)
        else:
            dit = load_network(spec.cfm_network, custom, spec.dit)
            regulator = load_network(spec.regulator_network, custom, spec.regulator)
    except CheckpointError as error:
        path = custom or hub.obtain(hub.layout_of(spec.cfm_network), hub.layout_of(spec.cfm_network).file, folder)
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
