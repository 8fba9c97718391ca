"""Recordings through a model as a user of files gets them, or as a caller hears them, for the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import soxr
import torch

from shared.config import WorkerConfig
from tools.files.convert import DEFAULT_GUIDANCE, DEFAULT_STEPS, MAX_REFERENCE_S, NANO_REFERENCE_S, NANO_WINDOW_S
from tools.train.corpus import RATE, Wave, read
from worker.engines.diffusion.engine import DiffusionEngine, dit_left_units
from worker.engines.diffusion.offline import ConversionOptions, FileConverter
from worker.engines.diffusion.pipeline import Pipeline
from worker.engines.diffusion.pitches import at_mel_frames
from worker.engines.diffusion.prompts import make_prompt
from worker.geometry import Geometry
from worker.models.networks import Networks
from worker.recordings import Recording
from worker.streaming.gates import EnergyGate
from worker.streaming.pool import StreamPool
from worker.voices import Voice

GUIDANCE, STEPS = 0.7, 30  # of models that file_vc has no own defaults for


class Converter(Protocol):
    def convert(self, source: Path, target: Path) -> Wave:
        """At 16 kHz, aligned with ``source``."""

    def copy(self, source: Path) -> Wave:
        """Copy synthesis at 16 kHz."""


class Files:
    """As ``tools.file_vc``."""

    def __init__(self, networks: Networks, *, steps: int | None = None, guidance: float | None = None) -> None:
        name = networks.name
        self.steps = steps or DEFAULT_STEPS.get(name, STEPS)
        guidance = DEFAULT_GUIDANCE.get(name, GUIDANCE) if guidance is None else guidance
        self.pipeline = Pipeline(networks, guidance=guidance)
        self.rate = self.pipeline.mel_config.rate
        nano = name == "nano"
        self.reference_s = NANO_REFERENCE_S if nano else MAX_REFERENCE_S
        self.window_s = NANO_WINDOW_S if nano else None

    def convert(self, source: Path, target: Path) -> Wave:
        prompt = make_prompt(self.pipeline, Voice(target.stem, "", target), self.reference_s)
        pieces: list[Wave] = []
        converter = FileConverter(self.pipeline, prompt, ConversionOptions(steps=self.steps, window_s=self.window_s))
        converter.convert([Recording(source)], lambda _, piece: pieces.append(piece))
        return to_16_khz(np.concatenate(pieces), self.rate)

    @torch.inference_mode()
    def copy(self, source: Path) -> Wave:
        networks, wave = self.pipeline.networks, read(source)
        fine = wave if self.rate == RATE else soxr.resample(wave, RATE, self.rate)
        mel = networks.mel(torch.from_numpy(fine)[None])
        f0 = None
        if networks.tracker is not None:
            f0 = at_mel_frames(networks.tracker(torch.from_numpy(wave)[None]), mel.shape[-1])
        zero = torch.zeros(1, dtype=torch.int64)
        return to_16_khz(self.pipeline.vocode(mel, f0, zero, zero)[0].numpy(), self.rate)[: len(wave)]


class Calls:
    """As a caller hears them: block by block, in the geometry of a configuration."""

    def __init__(self, networks: Networks, config: WorkerConfig, *, steps: int | None = None) -> None:
        self.config = config
        self.steps = steps or self.config.steps
        self.pipeline = Pipeline(networks, guidance=self.config.guidance, schedule=self.config.schedule)
        self.copy = Files(networks).copy

    def convert(self, source: Path, target: Path) -> Wave:
        config, rate = self.config, self.pipeline.mel_config.rate
        geometry = Geometry.of(config, rate)
        engine = DiffusionEngine(
            self.pipeline,
            [Voice(target.stem, "", target)],
            1,
            geometry=geometry,
            dit_left_units=dit_left_units(config),
            max_prompt_s=config.max_prompt_s,
            steps=self.steps,
        )
        pool = StreamPool(engine, 1, rms_mix_rate=config.rms_mix_rate, gate=EnergyGate(1))
        slot, wave = pool.open(target.stem), read(source)
        size = geometry.block_samples_in
        delay = geometry.delay_ms * RATE // 1000
        padded = np.pad(wave, (0, delay + -(len(wave) + delay) % size))
        blocks = np.clip(padded * 32768, -32768, 32767).astype(np.int16).reshape(-1, size)
        out = [pool.step([slot], [block], steps=self.steps).blocks[0].samples for block in blocks]
        made = to_16_khz((np.concatenate(out) / 32768).astype(np.float32), rate)
        return made[delay : delay + len(wave)]


def to_16_khz(wave: Wave, rate: int) -> Wave:
    return np.asarray(wave if rate == RATE else soxr.resample(wave, rate, RATE), np.float32)
