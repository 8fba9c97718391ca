"""The batched streaming Seed-VC engine: each caller a row, one call for all who speak.

A window of geometry ``[left | crossfade | search | block | right]`` is heard whole by the content encoder; its first
``left - dit_left`` units are then dropped, and the transformer and the vocoder make what is left, of which the engine
returns ``engine_samples``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from shared.settings import WorkerConfig
from worker import pitch
from worker.engine import Batch, OptionLimits, SessionOptions, StageTimes
from worker.engines.diffusion.graphs import GraphCache
from worker.engines.diffusion.pipeline import Pipeline
from worker.engines.diffusion.pitches import at_mel_frames, learn_pitch, transpose_pitch
from worker.engines.diffusion.prompts import PromptBank
from worker.engines.diffusion.retrieval import Index, IndexBank, indexes_of
from worker.geometry import UNIT_MS, UNITS_A_SECOND, Geometry
from worker.models import fused
from worker.models.catalogue import load_model
from worker.models.networks import F0_RATE
from worker.models.seedvc.flow import RowOptions
from worker.precision import precision_of
from worker.timings import Laps, Stopwatch
from worker.voices import Voice, offered_voices

VOCODER_MARGIN_FRAMES = 32  # before the samples that are wanted, so that they see what the vocoder hears
F0_A_UNIT = F0_RATE // UNITS_A_SECOND
DIT_LEFT_MS = 1500  # of the left context, at most, where the configuration does not say


@dataclass(frozen=True, slots=True)
class CallLengths:
    """Lengths of one call, constant for a worker."""

    dropped_units: int  # content frames before what the transformer hears
    kept_units: int
    mel_frames: int
    vocoder_from: int  # first mel frame the vocoder gets
    wave_from: int  # sample of the vocoder's output at which the answer begins

    @classmethod
    def of(cls, geometry: Geometry, pipeline: Pipeline, dit_left_units: int, content_frames: int) -> CallLengths:
        """content_frames: of a whole window; an encoder may give one fewer than units, or one more."""
        config = pipeline.mel_config
        dropped = geometry.left_units - dit_left_units
        kept = min(content_frames, geometry.window_units) - dropped
        frames = pipeline.mel_frames(kept)
        begin = dit_left_units * geometry.unit_samples_out
        end = begin + geometry.engine_samples
        if frames * config.hop < end:
            raise ValueError(
                f"the content encoder hears {content_frames} of {geometry.window_units} frames: right_ms must be longer"
            )
        last = -(-end // config.hop)
        first = max(0, begin // config.hop - VOCODER_MARGIN_FRAMES)
        assert last <= frames
        return cls(dropped, kept, frames, first, begin - first * config.hop)


@dataclass(frozen=True)
class State:
    """What the engine knows of each slot, or of the rows of a call. Tensors alone: a graph is captured over them."""

    prompt: Tensor  # int64 [B], rows of the bank
    steps: Tensor  # int64 [B], at most
    guidance: Tensor  # [B]
    shift: Tensor  # [B], semitones
    seed: Tensor  # int64 [B]
    pitches: Tensor  # [B, HISTOGRAM_BINS], voiced frames of the caller so far
    index: Tensor  # int64 [B], rows of the indexes
    retrieval: Tensor  # [B], share of the nearest features


@dataclass(frozen=True)
class Rows(State):
    """Everything one call reads, a row a session."""

    window: Tensor  # [B, window_samples]
    position: Tensor  # int64 [B], units from the session's start to the window's end


class DiffusionEngine:
    """Implements ``worker.engine.Engine``."""

    keeps_speech = True

    def __init__(
        self,
        pipeline: Pipeline,
        voices: Sequence[Voice],
        max_sessions: int,
        *,
        geometry: Geometry,
        dit_left_units: int,
        max_prompt_s: float = 5.0,
        max_prompts: int = 64,
        guest_voices: int = 0,
        steps: int = 10,
        max_guidance: float = 2.0,
        max_f0_shift: float = 12.0,
        indexes: Mapping[str, Index] | None = None,
        retrieval_rate: float = 0.0,
        graphs: bool = True,
    ) -> None:
        """steps: the most of any call; a model of one step takes one. max_guidance, max_f0_shift: limits of a session's
        wishes; where the worker has no guidance a session has none, because it would double the cost of everybody's
        batch. indexes: of voices, each a name. retrieval_rate: of sessions with such a voice that do not say. graphs:
        capture CUDA graphs where there is CUDA.

        A reference of no use is left out with a warning. Raises ``VoiceError`` if none is of use, ``ValueError`` for a
        geometry that does not fit.
        """
        if geometry.output_rate != pipeline.mel_config.rate:
            raise ValueError(f"{pipeline.networks.name} puts out {pipeline.mel_config.rate} Hz")
        if not 1 <= dit_left_units <= geometry.left_units:
            raise ValueError(f"dit_left_ms must be within {UNIT_MS} and left_ms, got {dit_left_units * UNIT_MS}")
        self.geometry = geometry
        self.name = pipeline.networks.name
        steps = 1 if pipeline.one_step else steps
        self.max_steps = steps
        self.limits = OptionLimits(
            steps,
            max_guidance if pipeline.guidance > 0 else 0.0,
            max_f0_shift if pipeline.networks.tracker is not None else 0.0,
            max_retrieval=1.0 if indexes else 0.0,
        )
        self.pipeline = pipeline
        device = pipeline.device
        frames = int(pipeline.networks.content.frames(torch.tensor(geometry.window_samples)))
        self.lengths = CallLengths.of(geometry, pipeline, dit_left_units, frames)
        self.bank = PromptBank(pipeline, voices, max_prompts, max_prompt_s, guests=guest_voices)
        dtype = next(pipeline.networks.content.parameters()).dtype
        self.indexes = IndexBank(indexes, device, dtype) if indexes else None
        self._retrieval_rate = retrieval_rate
        self._voices = {voice.name: voice.description for voice in self.bank.voices}
        self._voice_of: dict[int, str] = {}
        self._plain = [True] * max_sessions  # rows with the worker's own steps and guidance
        self.state = State(
            prompt=torch.zeros(max_sessions, dtype=torch.int64, device=device),
            steps=torch.full((max_sessions,), steps, dtype=torch.int64, device=device),
            guidance=torch.full((max_sessions,), pipeline.guidance, device=device),
            shift=torch.zeros(max_sessions, device=device),
            seed=torch.zeros(max_sessions, dtype=torch.int64, device=device),
            pitches=torch.zeros(max_sessions, pitch.HISTOGRAM_BINS, device=device),
            index=torch.zeros(max_sessions, dtype=torch.int64, device=device),
            retrieval=torch.zeros(max_sessions, device=device),
        )
        self._graphs = GraphCache(self._captured_call) if graphs and device.type == "cuda" else None

    @property
    def voices(self) -> Mapping[str, str]:
        return self._voices

    @property
    def guest_prompt_s(self) -> float:
        return self.bank.guest_prompt_s

    def open(self, slot: int, voice: str, options: SessionOptions, seed: int, reference: bytes | None = None) -> None:
        guidance = self.pipeline.guidance if options.guidance is None else options.guidance
        steps = self.max_steps if options.steps is None else min(options.steps, self.max_steps)
        row = self.bank.acquire(voice, reference)
        try:
            state = self.state
            state.prompt[slot], state.seed[slot] = row, seed
            state.steps[slot], state.guidance[slot], state.shift[slot] = steps, guidance, options.f0_shift
            state.pitches[slot] = 0
            if self.indexes is not None:
                rate = self._retrieval_rate if options.retrieval_rate is None else options.retrieval_rate
                state.index[slot] = self.indexes.row(voice)
                state.retrieval[slot] = rate if voice in self.indexes else 0.0
        except Exception:
            self.bank.release(voice)
            raise
        self._voice_of[slot] = voice
        self._plain[slot] = guidance == self.pipeline.guidance and steps == self.max_steps

    def close(self, slot: int) -> None:
        self.bank.release(self._voice_of.pop(slot))

    @torch.inference_mode()
    def prepare(self, budget_s: float) -> bool:
        return self._graphs is not None and self._graphs.capture_next(budget_s)

    @torch.inference_mode()
    def convert(self, batch: Batch) -> tuple[Tensor, StageTimes]:
        steps = min(batch.steps, self.max_steps)
        rows = self.rows_of(batch, steps)
        clock = Laps(self.pipeline.device)
        replayed = None if self._graphs is None else self._graphs.replay(rows, steps)
        if replayed is not None:
            wave, pitches = replayed
            clock.lap("graph")
        else:
            # Whether rows differ is known on the host, and rows that do not are spared what it costs.
            plain = all(self._plain[slot] for slot in batch.rows.tolist())
            wave, pitches = self.call(rows, steps, mixed=not plain, clock=clock)
        times = clock.times()
        self.state.pitches[batch.rows] = pitches
        return wave, times

    def rows_of(self, batch: Batch, steps: int) -> Rows:
        """What a call for ``batch`` reads."""
        known = {field.name: getattr(self.state, field.name)[batch.rows] for field in fields(State)}
        known["steps"] = known["steps"].clamp(max=steps)
        return Rows(**known, window=batch.window, position=batch.position)

    def _captured_call(self, rows: Rows, steps: int) -> tuple[Tensor, Tensor]:
        return self.call(rows, steps, mixed=True)

    def call(self, rows: Rows, steps: int, *, mixed: bool, clock: Stopwatch | None = None) -> tuple[Tensor, Tensor]:
        """The answer ``[B, engine_samples]`` and each caller's pitch histogram. Nothing here reads a value on the host
        or depends on one, so that it can be captured."""
        pipeline, lengths, config = self.pipeline, self.lengths, self.pipeline.mel_config
        lap = clock.lap if clock is not None else no_lap
        prompts = self.bank.take(rows.prompt)
        content = pipeline.networks.content(rows.window)[:, lengths.dropped_units :][:, : lengths.kept_units]
        if self.indexes is not None:
            own = content[..., content.shape[-1] - pipeline.networks.content.moment :]
            content = self.indexes.mix(content, rows.index, rows.retrieval)
            content = torch.cat([content[..., : content.shape[-1] - own.shape[-1]], own], dim=-1)
        lap("content")
        f0, pitches = None, rows.pitches
        if pipeline.networks.tracker is not None:
            tracked = pipeline.networks.tracker(rows.window)
            pitches = learn_pitch(tracked, rows.pitches, F0_A_UNIT * self.geometry.block_units)
            f0 = transpose_pitch(tracked, pitches, prompts, rows.shift)
            f0 = f0[:, lengths.dropped_units * F0_A_UNIT :][:, : lengths.kept_units * F0_A_UNIT]
            lap("f0")
        condition = pipeline.condition(content, lengths.mel_frames, f0)
        lap("regulator")
        units = rows.position - self.geometry.window_units + lengths.dropped_units
        start = torch.div(units * config.rate, UNITS_A_SECOND * config.hop, rounding_mode="floor")
        noise = pipeline.mel_noise_at(start + rows.seed, lengths.mel_frames)
        options = RowOptions(rows.steps, rows.guidance if pipeline.guidance > 0 else None) if mixed else None
        mel = pipeline.solve(condition, prompts, noise, steps, rows=options)
        lap("dit")
        pitch_of_mel = None
        if f0 is not None:
            pitch_of_mel = at_mel_frames(f0, lengths.mel_frames)[:, lengths.vocoder_from :]
        wave = pipeline.vocode(
            mel[..., lengths.vocoder_from :], pitch_of_mel, (start + lengths.vocoder_from) * config.hop, rows.seed
        )
        lap("vocoder")
        return wave[:, lengths.wave_from :][:, : self.geometry.engine_samples], pitches


def no_lap(stage: str) -> None:
    pass


def dit_left_units(config: WorkerConfig) -> int:
    """Of the left context, what the transformer and the vocoder see."""
    left_ms = min(DIT_LEFT_MS, config.left_ms) if config.dit_left_ms is None else config.dit_left_ms
    return left_ms // UNIT_MS


def make(config: WorkerConfig, device: str) -> DiffusionEngine:
    """As configured, with its model's weights. Raises ``CheckpointError``, and as the constructor does."""
    voices = offered_voices(config.voices_dir)
    if not config.kernels:
        fused.switch(on=False)
    networks = load_model(config.model, config.checkpoints_dir, config.dit_checkpoint_path, config.dit_config_path)
    # An index names the weights as they are in the file, before they are rounded to a precision.
    indexes = indexes_of(config.voices_dir, voices, config.model, networks.content)
    pipeline = Pipeline(
        networks,
        device=device,
        dtype=precision_of(config.precision, config.model, device),
        guidance=config.guidance,
        schedule=config.schedule,
    )
    return DiffusionEngine(
        pipeline,
        voices,
        config.max_sessions,
        geometry=Geometry.of(config, pipeline.mel_config.rate),
        dit_left_units=dit_left_units(config),
        max_prompt_s=config.max_prompt_s,
        max_prompts=config.max_prompts,
        guest_voices=config.guest_voices,
        steps=config.steps,
        max_guidance=config.max_guidance,
        max_f0_shift=config.max_f0_shift,
        indexes=indexes,
        retrieval_rate=config.retrieval_rate,
        graphs=config.graphs,
    )
