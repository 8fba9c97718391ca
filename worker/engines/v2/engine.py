"""The batched streaming V2 engine: timbre in real time, each caller a row, one call for all who speak.

A window of geometry ``[left | crossfade | search | block | right]`` is heard whole by content encoder and quantiser.
What does not follow from a window alone is kept a row: settled codes (``commit``), the energies of the quantiser's
normalisation and the moments of the regulator's, both measured once on every settled frame and averaged over the last
30 s. Mel frames lie on one grid from the session's start, with their noise, so the same moment sounds the same in
every window that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from shared.settings import WorkerConfig
from worker.engine import Batch, OptionLimits, SessionOptions, StageTimes
from worker.engines.diffusion.engine import VOCODER_MARGIN_FRAMES, dit_left_units, no_lap
from worker.engines.diffusion.graphs import GraphCache
from worker.engines.diffusion.prompts import PromptBank
from worker.engines.v2.commit import NEVER
from worker.engines.v2.hearing import Heard, hear, remember
from worker.engines.v2.pipeline import V2Pipeline
from worker.geometry import UNIT_MS, Geometry
from worker.models import fused
from worker.models.catalogue import FineTuned
from worker.models.seedvc2.flow import Rates, RowOptions2
from worker.models.seedvc2.model import SeedVc2
from worker.models.seedvc2.regulator import STAGES, Moments
from worker.precision import precision_of
from worker.timings import Laps, Stopwatch
from worker.voices import Voice, offered_voices


@dataclass(frozen=True, slots=True)
class CallLengths:
    """Of one call, constant for a worker."""

    content_frames: int
    dropped_units: int  # content frames before what the transformer hears
    mel_frames: int
    vocoder_from: int  # first mel frame the vocoder gets
    wave_from: int  # sample, from the first kept unit on, at which the answer begins

    @classmethod
    def of(cls, geometry: Geometry, hop: int, dit_left_units: int) -> CallLengths:
        frames = geometry.window_units - 1
        dropped = geometry.left_units - dit_left_units
        kept_samples = (frames + 1 - dropped) * geometry.unit_samples_out
        begin = dit_left_units * geometry.unit_samples_out
        return cls(
            content_frames=frames,
            dropped_units=dropped,
            mel_frames=-(-(kept_samples + hop - 1) // hop),  # the grid's first frame begins up to a frame before
            vocoder_from=max(0, begin // hop - VOCODER_MARGIN_FRAMES),
            wave_from=begin,
        )


@dataclass(frozen=True)
class State:
    """What the engine knows of each slot, or of the rows of a call. Tensors alone: a graph is captured over them."""

    seed: Tensor  # int64 [B]
    steps: Tensor  # int64 [B], at most
    intelligibility: Tensor  # [B]
    similarity: Tensor  # [B]
    prompt: Tensor  # int64 [B], rows of the bank
    codes: Tensor  # int64 [B, content_frames], of the window before
    upto: Tensor  # int64 [B], units at which it ended
    squares: Tensor  # [B, depth, inner], energies of settled frames
    heard: Tensor  # [B], frames they were measured on
    sums: Tensor  # [B, STAGES, 2], moments of settled mel frames
    regulated: Tensor  # [B], frames they were measured on


@dataclass(frozen=True)
class Rows(State):
    """Everything one call reads, a row a session."""

    window: Tensor  # [B, window_samples]
    position: Tensor  # int64 [B], units from the session's start to the window's end


class V2Engine:
    """Implements ``worker.engine.Engine``."""

    keeps_speech = False  # codes are kept by time, so the context must be the time before

    def __init__(
        self,
        pipeline: V2Pipeline,
        voices: Sequence[Voice],
        max_sessions: int,
        *,
        geometry: Geometry,
        dit_left_units: int,
        max_prompt_s: float = 3.0,
        max_prompts: int = 64,
        guest_voices: int = 0,
        steps: int = 10,
        max_guidance: float = 2.0,
        graphs: bool = True,
    ) -> None:
        """steps: the most of any call. max_guidance: limit of a session's rates; a rate that the worker has at 0 no
        session has, because it would make everybody's batch dearer. graphs: capture CUDA graphs where there is CUDA.

        Raises ``VoiceError`` for a reference of no use, ``ValueError`` for a geometry that does not fit.
        """
        if geometry.output_rate != pipeline.mel_config.rate:
            raise ValueError(f"{pipeline.v2.name} puts out {pipeline.mel_config.rate} Hz")
        if not 1 <= dit_left_units <= geometry.left_units:
            raise ValueError(f"dit_left_ms must be within {UNIT_MS} and left_ms, got {dit_left_units * UNIT_MS}")
        self.geometry, self.name, self.max_steps, self.pipeline = geometry, pipeline.v2.name, steps, pipeline
        rates = pipeline.rates
        self.limits = OptionLimits(
            steps,
            0.0,
            0.0,
            max_guidance if rates.intelligibility > 0 else 0.0,
            max_guidance if rates.similarity > 0 else 0.0,
        )
        self.lengths = CallLengths.of(geometry, pipeline.mel_config.hop, dit_left_units)
        self._voices = {voice.name: voice.description for voice in voices}
        self.bank = PromptBank(pipeline, voices, max_prompts, max_prompt_s, guests=guest_voices)
        self._voice_of: dict[int, str] = {}
        self._plain = [True] * max_sessions  # rows with the worker's own steps and rates
        device, wide = pipeline.device, pipeline.v2.wide.config

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(max_sessions, *shape, dtype=dtype, device=device)

        self.state = State(
            seed=zeros(dtype=torch.int64),
            steps=zeros(dtype=torch.int64) + steps,
            intelligibility=zeros() + rates.intelligibility,
            similarity=zeros() + rates.similarity,
            prompt=zeros(dtype=torch.int64),
            codes=zeros(self.lengths.content_frames, dtype=torch.int64),
            upto=zeros(dtype=torch.int64) + NEVER,
            squares=zeros(wide.depth, wide.inner),
            heard=zeros(),
            sums=zeros(STAGES, 2),
            regulated=zeros(),
        )
        self._graphs = GraphCache(self._captured_call) if graphs and device.type == "cuda" else None

    @property
    def voices(self) -> Mapping[str, str]:
        return self._voices

    @property
    def guest_prompt_s(self) -> float:
        return self.bank.guest_prompt_s

    def open(self, slot: int, voice: str, options: SessionOptions, seed: int, reference: bytes | None = None) -> None:
        rates = self.pipeline.rates
        a = rates.intelligibility if options.intelligibility is None else options.intelligibility
        s = rates.similarity if options.similarity is None else options.similarity
        steps = self.max_steps if options.steps is None else min(options.steps, self.max_steps)
        row = self.bank.acquire(voice, reference)
        try:
            state = self.state
            state.prompt[slot], state.seed[slot], state.steps[slot] = row, seed, steps
            state.intelligibility[slot], state.similarity[slot], state.upto[slot] = a, s, NEVER
            for part in (state.squares, state.heard, state.sums, state.regulated):
                part[slot] = 0
        except Exception:
            self.bank.release(voice)
            raise
        self._voice_of[slot] = voice
        self._plain[slot] = (a, s, steps) == (rates.intelligibility, rates.similarity, self.max_steps)

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
        made = None if self._graphs is None else self._graphs.replay(rows, steps)
        if made is not None:
            clock.lap("graph")
        else:
            # Whether rows differ is known on the host, and rows that do not are spared what it costs.
            plain = all(self._plain[slot] for slot in batch.rows.tolist())
            made = self.call(rows, steps, mixed=not plain, clock=clock)
        at, state = batch.rows, self.state
        wave, state.codes[at], state.squares[at], state.heard[at], state.sums[at], state.regulated[at] = made
        state.upto[at] = batch.position
        return wave, clock.times()

    def rows_of(self, batch: Batch, steps: int) -> Rows:
        """What a call for ``batch`` reads."""
        known = {field.name: getattr(self.state, field.name)[batch.rows] for field in fields(State)}
        known["steps"] = known["steps"].clamp(max=steps)
        return Rows(**known, window=batch.window, position=batch.position)

    def _captured_call(self, rows: Rows, steps: int) -> tuple[Tensor, ...]:
        return self.call(rows, steps, mixed=True)

    def call(self, rows: Rows, steps: int, *, mixed: bool, clock: Stopwatch | None = None) -> tuple[Tensor, ...]:
        """The answer ``[B, engine_samples]``, then what the rows know afterwards: codes, energies, moments. Nothing
        here reads a value on the host or depends on one, so that it can be captured."""
        pipeline = self.pipeline
        lap = clock.lap if clock is not None else no_lap
        features = pipeline.v2.hubert(rows.window)
        lap("content")
        before = Heard(rows.codes, rows.upto, rows.squares, rows.heard)
        heard, counted = hear(pipeline.v2.wide, features, rows.position, before, self.geometry)
        lap("quantiser")
        wave, moments = self.speak(rows, heard.codes, counted, steps, mixed, lap)
        rate = pipeline.mel_config.rate / pipeline.mel_config.hop
        sums, regulated = remember(rows.sums, rows.regulated, moments.sums, moments.frames, rate)
        return wave, heard.codes, heard.squares, heard.frames, sums, regulated

    def speak(
        self, rows: Rows, codes: Tensor, counted: Tensor, steps: int, mixed: bool, lap: Callable[[str], None]
    ) -> tuple[Tensor, Moments]:
        """The answer to a window's codes, and the moments of its mel frames that lie in ``counted`` content frames."""
        pipeline, lengths = self.pipeline, self.lengths
        hop, unit = pipeline.mel_config.hop, self.geometry.unit_samples_out
        first = rows.position - self.geometry.window_units + lengths.dropped_units  # unit that is kept
        start = torch.div(first * unit, hop, rounding_mode="floor")  # mel frame, of the session's grid
        grid = start[:, None] + torch.arange(lengths.mel_frames, device=codes.device)
        content = torch.div(grid * hop, unit, rounding_mode="floor") - first[:, None] + lengths.dropped_units
        content = content.clamp(lengths.dropped_units, lengths.content_frames - 1)
        known = Moments(rows.sums, rows.regulated)
        condition, moments = pipeline.v2.regulator.streamed(codes.gather(1, content), known, counted.gather(1, content))
        lap("regulator")
        noise = pipeline.mel_noise.take(start + rows.seed, lengths.mel_frames)
        options = RowOptions2(rows.steps, rows.intelligibility, rows.similarity) if mixed else None
        prompts = self.bank.take(rows.prompt)
        mel = pipeline.solve(condition, prompts, noise, steps, rows=options)  # type: ignore[arg-type]
        lap("dit")
        wave = pipeline.vocode(mel[..., lengths.vocoder_from :], None, start, rows.seed)
        begin = first * unit + lengths.wave_from - (start + lengths.vocoder_from) * hop
        index = begin[:, None] + torch.arange(self.geometry.engine_samples, device=wave.device)
        wave = wave.gather(1, index)
        lap("vocoder")
        return wave, moments


def make(config: WorkerConfig, device: str) -> V2Engine:
    """As configured, with its weights. Raises ``CheckpointError``, and as the constructor does."""
    if not config.kernels:
        fused.switch(on=False)
    own = None
    if config.dit_checkpoint_path is not None:
        own = FineTuned(config.dit_checkpoint_path, config.dit_config_path)
    pipeline = V2Pipeline(
        SeedVc2().load(config.checkpoints_dir, own),
        device=device,
        dtype=precision_of(config.precision, config.model, device),
        rates=Rates(config.intelligibility, config.similarity),
        schedule=config.schedule,
    )
    return V2Engine(
        pipeline,
        offered_voices(config.voices_dir),
        config.max_sessions,
        geometry=Geometry.of(config, pipeline.mel_config.rate),
        dit_left_units=dit_left_units(config),
        max_prompt_s=config.max_prompt_s,
        max_prompts=config.max_prompts,
        guest_voices=config.guest_voices,
        steps=config.steps,
        max_guidance=config.max_guidance,
        graphs=config.graphs,
    )
