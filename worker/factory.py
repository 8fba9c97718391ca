"""The configured engine and gate. A new engine is a line here; none is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from shared.config import ConfigError, WorkerConfig
from worker.engine import Engine
from worker.models.catalogue import MODULES
from worker.models.weights.checkpoints import CheckpointError
from worker.streaming.gates import EnergyGate, Gate, SileroGate
from worker.voices import VoiceError

ENGINES: Mapping[str, str] = {  # each has a function ``make(config, device) -> Engine``
    "passthrough": "worker.engines.passthrough",
    "shift": "worker.engines.shift.engine",
    **dict.fromkeys(MODULES, "worker.engines.diffusion.engine"),
    "v2": "worker.engines.v2.engine",
}


def make_engine(config: WorkerConfig, device: str) -> Engine:
    """The configured model, loaded and on its device. Raises `ConfigError` with what to do."""
    try:
        return cast(Engine, import_module(ENGINES[config.model]).make(config, device))
    except (VoiceError, CheckpointError, ValueError) as error:
        raise ConfigError(f"worker: {error}") from None


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
