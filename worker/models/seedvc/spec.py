"""Which networks a model is made of, and of which sizes.

The published models are ``SPECS``. A model fine-tuned from one of them comes with a configuration in the original's
YAML layout: ``fine_tuned`` reads it and refuses by name what these networks cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from worker.models.published import bigvgan, campplus, hift, mel, rmvpe, whisper, xlsr
from worker.models.seedvc import dit, regulator
from worker.models.seedvc.layers import HEAD_WIDTH
from worker.models.weights.checkpoints import CheckpointError, first_line
from worker.models.weights.published import PublishedNetwork

Content = Literal["xlsr", "whisper"]
Vocoder = Literal["hift", "bigvgan_22k", "bigvgan_44k"]

NETWORKS: Mapping[str, PublishedNetwork] = {
    network.name: network
    for network in (
        *(dit.published(size) for size in ("tiny", "small", "base", None)),
        *(regulator.published(size) for size in ("tiny", "small", "base", None)),
        campplus.CAMPPLUS,
        hift.HIFT,
        bigvgan.BIGVGAN_22K_NETWORK,
        bigvgan.BIGVGAN_44K_NETWORK,
        rmvpe.RMVPE,
        xlsr.XLSR,
        whisper.WHISPER,
    )
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One Seed-VC model. It takes f0 if its regulator does."""

    name: str
    weights: str  # suffix of the networks' names: cfm_WEIGHTS, regulator_WEIGHTS
    content: Content
    vocoder: Vocoder
    mel: mel.MelConfig
    dit: dit.DiTConfig
    regulator: regulator.RegulatorConfig
    content_config: xlsr.XlsrConfig | whisper.WhisperConfig
    vocoder_config: hift.HiftConfig | bigvgan.BigVganConfig
    style_config: campplus.CamPlusConfig = field(default_factory=campplus.CamPlusConfig)
    tracker_config: rmvpe.RmvpeConfig = field(default_factory=rmvpe.RmvpeConfig)

    @property
    def pitch(self) -> bool:
        return self.regulator.pitch

    @property
    def cfm(self) -> PublishedNetwork:
        return NETWORKS[f"cfm_{self.weights}"]

    @property
    def length_regulator(self) -> PublishedNetwork:
        return NETWORKS[f"regulator_{self.weights}"]

    @property
    def networks_with_sizes(self) -> tuple[tuple[PublishedNetwork, Any], ...]:
        """All it is made of."""
        return (
            (self.cfm, self.dit),
            (self.length_regulator, self.regulator),
            (NETWORKS[self.content], self.content_config),
            (campplus.CAMPPLUS, self.style_config),
            (NETWORKS[self.vocoder], self.vocoder_config),
            *(((rmvpe.RMVPE, self.tracker_config),) if self.pitch else ()),
        )

    @property
    def networks(self) -> tuple[PublishedNetwork, ...]:
        return tuple(network for network, _ in self.networks_with_sizes)


SPECS: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "tiny", "tiny", "xlsr", "hift", mel.TINY, dit.TINY, regulator.TINY, xlsr.XlsrConfig(), hift.HiftConfig()
        ),
        ModelSpec(
            "small",
            "small",
            "whisper",
            "bigvgan_22k",
            mel.SMALL,
            dit.SMALL,
            regulator.SMALL,
            whisper.WhisperConfig(),
            bigvgan.BIGVGAN_22K,
        ),
        ModelSpec(
            "base",
            "base",
            "whisper",
            "bigvgan_44k",
            mel.BASE,
            dit.BASE,
            regulator.BASE,
            whisper.WhisperConfig(),
            bigvgan.BIGVGAN_44K,
        ),
    )
}


def spec_named(name: str) -> ModelSpec:
    """A published model. Raises ``CheckpointError`` for an unknown name."""
    if name not in SPECS:
        raise CheckpointError(f"unknown model {name!r}; known are {', '.join(SPECS)}.")
    return SPECS[name]


def fine_tuned(path: Path, base: ModelSpec) -> ModelSpec:
    """``base`` with the sizes of a fine-tuned model's YAML file. Raises ``CheckpointError`` naming file and key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: no such file, or not readable.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a YAML file ({first_line(error)}).") from error
    return _Reader(path, content).spec(base)


_MISSING = object()
_VOCODERS: Mapping[str, tuple[Vocoder, bigvgan.BigVganConfig]] = {
    "nvidia/bigvgan_v2_22khz_80band_256x": ("bigvgan_22k", bigvgan.BIGVGAN_22K),
    "nvidia/bigvgan_v2_44khz_128band_512x": ("bigvgan_44k", bigvgan.BIGVGAN_44K),
}


class _Reader:
    """Values of one configuration file by dotted key."""

    def __init__(self, path: Path, content: Any) -> None:
        self.path, self.content = path, content

    def get(self, key: str, default: Any = _MISSING) -> Any:
        value = self.content
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                if default is _MISSING:
                    raise CheckpointError(f"{self.path}: lacks {key}; give the file that the model was trained with.")
                return default
            value = value[part]
        return value

    def number(self, key: str) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self.path}: {key} must be a positive whole number, got {value!r}.")
        return value

    def require(self, key: str, allowed: tuple[Any, ...], default: Any = _MISSING) -> Any:
        value = self.get(key, default)
        if value not in allowed:
            wanted = " or ".join(repr(one) for one in allowed)
            raise CheckpointError(f"{self.path}: {key} is {value!r}, supported is {wanted}.")
        return value

    def spec(self, base: ModelSpec) -> ModelSpec:
        content: Content = self.require("model_params.speech_tokenizer.type", ("whisper", "xlsr"))
        if content == "whisper":
            self.require("model_params.speech_tokenizer.name", ("openai/whisper-small",))
            content_config: Any = whisper.WhisperConfig()
        else:
            self.require("model_params.speech_tokenizer.name", ("facebook/wav2vec2-xls-r-300m",))
            self.require("model_params.speech_tokenizer.output_layer", (12,), 12)
            content_config = xlsr.XlsrConfig()
        vocoder: Vocoder = "hift"
        vocoder_config: Any = hift.HiftConfig()
        if self.require("model_params.vocoder.type", ("hifigan", "bigvgan")) == "bigvgan":
            vocoder, vocoder_config = _VOCODERS[self.require("model_params.vocoder.name", tuple(_VOCODERS))]
        if content == base.content:
            content_config = base.content_config
        if vocoder == base.vocoder:
            vocoder_config = base.vocoder_config
        made = replace(
            base,
            name=self.path.stem,
            content=content,
            vocoder=vocoder,
            mel=self.mel(),
            dit=self.dit(),
            regulator=self.regulator(),
            content_config=content_config,
            vocoder_config=vocoder_config,
        )
        if made.regulator.content_width != content_config.width:
            raise CheckpointError(
                f"{self.path}: length_regulator.in_channels is {made.regulator.content_width}, but {content} features "
                f"are {content_config.width} wide."
            )
        if made.regulator.width != made.dit.width:
            raise CheckpointError(f"{self.path}: length_regulator.channels must equal DiT.hidden_dim.")
        hop, rate = (hift.HOP, hift.RATE) if vocoder == "hift" else (vocoder_config.hop, _rate(vocoder))
        if (made.mel.hop, made.mel.rate) != (hop, rate) or made.mel.bins != vocoder_config.mel_bins:
            raise CheckpointError(
                f"{self.path}: its mel ({made.mel.bins} bins, hop {made.mel.hop}, {made.mel.rate} Hz) is not what the "
                f"vocoder {vocoder} takes ({vocoder_config.mel_bins} bins, hop {hop}, {rate} Hz)."
            )
        return made

    def mel(self) -> mel.MelConfig:
        spectrum = "preprocess_params.spect_params"
        rate = self.number("preprocess_params.sr")
        n_fft = self.number(f"{spectrum}.n_fft")
        self.require(f"{spectrum}.win_length", (n_fft,))
        self.require(f"{spectrum}.fmin", (0,), 0)
        unlimited = self.get(f"{spectrum}.fmax", "None") in ("None", None)
        fmax = rate / 2 if unlimited else 8000.0  # the original takes any number as 8000
        return mel.MelConfig(
            rate, n_fft, self.number(f"{spectrum}.hop_length"), self.number(f"{spectrum}.n_mels"), fmax
        )

    def dit(self) -> dit.DiTConfig:
        key = "model_params.DiT"
        width = self.number(f"{key}.hidden_dim")
        self.require(f"{key}.num_heads", (width // HEAD_WIDTH,))
        wavenet = self.require(f"{key}.final_layer_type", ("wavenet", "mlp")) == "wavenet"
        self.require(f"{key}.long_skip_connection", (wavenet,))
        self.require(f"{key}.uvit_skip_connection", (True,))
        self.require(f"{key}.is_causal", (False,), False)
        tokens = self.require(f"{key}.time_as_token", (True, False), False)
        self.require(f"{key}.style_as_token", (tokens,), False)
        if wavenet:
            self.require("model_params.wavenet.num_layers", (8,))
            self.require("model_params.wavenet.kernel_size", (5,))
            self.require("model_params.wavenet.dilation_rate", (1,))
        return dit.DiTConfig(
            mel_bins=self.number(f"{key}.in_channels"),
            width=width,
            depth=self.number(f"{key}.depth"),
            tokens=tokens,
            wavenet=wavenet,
            style_width=self.require("model_params.style_encoder.dim", (192,)),
        )

    def regulator(self) -> regulator.RegulatorConfig:
        key = "model_params.length_regulator"
        self.require(f"{key}.is_discrete", (False,), False)
        self.require(f"{key}.vector_quantize", (False,), False)
        self.require(f"{key}.sampling_ratios", ([1, 1, 1, 1],))
        pitch = self.require(f"{key}.f0_condition", (True, False), False)
        return regulator.RegulatorConfig(self.number(f"{key}.in_channels"), self.number(f"{key}.channels"), pitch)


def _rate(vocoder: Vocoder) -> int:
    return {"hift": hift.RATE, "bigvgan_22k": mel.SMALL.rate, "bigvgan_44k": mel.BASE.rate}[vocoder]
