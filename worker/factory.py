"""The configured model and gate."""

from __future__ import annotations

from pathlib import Path

import torch

from shared.config import ConfigError, WorkerConfig, resolve
from worker.engine import Engine
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.pipeline import Pipeline
from worker.engines.passthrough import PassthroughEngine
from worker.engines.shift.engine import ShiftEngine
from worker.geometry import Geometry
from worker.models.networks import Networks, load_bundled, load_networks
from worker.models.weights.checkpoints import CheckpointError
from worker.streaming.gates import EnergyGate, Gate, SileroGate
from worker.voices import VoiceError, list_voices

BUNDLED = "nano"
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DIT_LEFT_MS = 1500  # at most, where the configuration does not say


def make_engine(config: WorkerConfig, device: str) -> Engine:
    """The configured model, loaded and on its device. Raises `ConfigError` with what to do."""
    try:
        if config.model == "passthrough":
            return PassthroughEngine(geometry_of(config))
        voices = list_voices(resolve(config.voices_dir))
        if config.model == "shift":
            return ShiftEngine(
                voices,
                config.max_sessions,
                geometry=geometry_of(config),
                device=device,
                max_prompt_s=config.max_prompt_s,
            )
        pipeline = Pipeline(
            load_model(config.model, config.checkpoints_dir, config.dit_checkpoint_path, config.dit_config_path),
            device=device,
            dtype=PRECISIONS[config.precision],
            guidance=config.guidance,
            schedule=config.schedule,
        )
        dit_left_ms = min(DIT_LEFT_MS, config.left_ms) if config.dit_left_ms is None else config.dit_left_ms
        return DiffusionEngine(
            pipeline,
            voices,
            config.max_sessions,
            geometry=geometry_of(config, pipeline.mel_config.rate),
            dit_left_units=dit_left_ms // 20,
            max_prompt_s=config.max_prompt_s,
            max_prompts=config.max_prompts,
            steps=config.steps,
            max_guidance=config.max_guidance,
            max_f0_shift=config.max_f0_shift,
        )
    except (VoiceError, CheckpointError, ValueError) as error:
        raise ConfigError(f"worker: {error}") from None


def load_model(
    model: str, folder: Path, dit_checkpoint: Path | None = None, dit_config: Path | None = None
) -> Networks:
    """Any model that a `Pipeline` runs. Raises `CheckpointError`."""
    if model == BUNDLED:
        return load_bundled()
    return load_networks(model, folder, dit_checkpoint=dit_checkpoint, dit_config=dit_config)


def make_gate(config: WorkerConfig, device: str) -> Gate:
    """The configured speech gate."""
    if config.vad == "energy":
        return EnergyGate(
            config.max_sessions, threshold_dbfs=config.silence_dbfs, hangover_blocks=config.vad_hangover_blocks
        )
    return SileroGate(
        config.max_sessions,
        device=device,
        on=config.vad_on,
        off=config.vad_off,
        hangover_blocks=config.vad_hangover_blocks,
    )


def geometry_of(config: WorkerConfig, output_rate: int = 16_000) -> Geometry:
    return Geometry.from_ms(
        block_ms=config.block_ms,
        left_ms=config.left_ms,
        crossfade_ms=config.crossfade_ms,
        search_ms=config.search_ms,
        right_ms=config.right_ms,
        output_rate=output_rate,
    )
