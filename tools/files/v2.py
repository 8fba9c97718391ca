"""What ``tools.file_vc`` does for V2: its options, and a converter made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.engines.v2.offline import V2FileConverter, V2Options, read_reference
from worker.engines.v2.pipeline import V2Pipeline
from worker.models.catalogue import FineTuned
from worker.models.seedvc.plan import Method
from worker.models.seedvc2.flow import Rates
from worker.models.seedvc2.model import SeedVc2
from worker.models.seedvc2.sampling import Sampling
from worker.voices import Voice

MODEL = SeedVc2()


@dataclass(frozen=True, slots=True)
class V2Settings:
    device: str
    dtype: torch.dtype
    batch: int
    checkpoints: Path
    dit_checkpoint: Path | None
    method: Method
    rates: Rates
    options: V2Options

    @classmethod
    def of(
        cls,
        device: str,
        fp16: bool,
        batch: int,
        checkpoints: Path,
        dit_checkpoint: Path | None,
        steps: int | None,
        method: Method,
        length_adjust: float,
        given: Mapping[str, Any],
    ) -> V2Settings:
        """given: the command's own options of V2, None where it was not told. Raises ``ValueError``."""

        def or_default(name: str, default: float) -> float:
            return default if given[name] is None else given[name]

        drawn = [f"--{name}" for name in ("top_p", "temperature", "repetition_penalty") if given[name] is not None]
        if drawn and not given["convert_style"]:
            raise ValueError(f"{drawn[0].replace('_', '-')} belongs to the style path: add --convert-style")
        return cls(
            device=device,
            dtype=torch.float16 if fp16 else torch.float32,
            batch=batch,
            checkpoints=checkpoints,
            dit_checkpoint=dit_checkpoint,
            method=method,
            rates=Rates(
                or_default("intelligibility_cfg_rate", 0.7), or_default("similarity_cfg_rate", 0.7), given["anonymize"]
            ),
            options=V2Options(
                steps=steps or 30,
                length_adjust=length_adjust,
                style=given["convert_style"],
                sampling=Sampling(
                    or_default("top_p", 0.9), or_default("temperature", 1.0), or_default("repetition_penalty", 1.0)
                ),
                seed=int(or_default("seed", 0)),
            ),
        )


def v2_converter(settings: V2Settings, voice: Voice) -> tuple[V2FileConverter, int]:
    """A converter to ``voice`` and the rate of what it makes, Hz. Raises ``CheckpointError`` and ``VoiceError``."""
    own = None if settings.dit_checkpoint is None else FineTuned(settings.dit_checkpoint)
    networks = MODEL.load(settings.checkpoints, own, style=settings.options.style)
    pipeline = V2Pipeline(
        networks, device=settings.device, dtype=settings.dtype, rates=settings.rates, method=settings.method
    )
    converter = V2FileConverter(pipeline, read_reference(pipeline, voice), settings.options, batch=settings.batch)
    return converter, pipeline.mel_config.rate
