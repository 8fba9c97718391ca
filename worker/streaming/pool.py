"""The streaming pipeline that every engine shares: context, speech gate, loudness, crossfade.

One row of preallocated tensors a session. A step takes at most one block of each of several sessions, rolls their
windows, asks the engine once for all rows that speak, and joins what comes back to what was emitted before. Whatever
happens to a row, exactly one block of sound comes out for its block in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from loguru import logger

from worker.engine import Batch, Engine, PoolFull, SessionOptions, StageTimes, is_out_of_memory
from worker.geometry import UNIT_SAMPLES, Geometry
from worker.loudness import follow, rms_mix
from worker.streaming.crossfade import sola
from worker.streaming.gates import EnergyGate, Gate
from worker.timings import Laps

Pcm = npt.NDArray[np.int16]

_FULL_SCALE = 32768.0


class OutOfMemory(RuntimeError):
    """The device has no memory for one more session, or for a batch of this size; all rows are as they were."""


class UnknownVoice(KeyError):
    """The engine has no such voice."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Heard:
    """What the gate says of one block."""

    speech: bool
    error: str | None = None  # why the block cannot be used; it counts as silence


@dataclass(frozen=True, slots=True)
class BlockOut:
    """One block of one session: int16 ``[geometry.block_samples_out]`` at ``geometry.output_rate``."""

    samples: Pcm
    speech: bool  # the engine converted it; otherwise it is silence, with the last sound's edge faded out
    error: str | None = None  # why it is silence although somebody spoke


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gives: a block for every slot, in the order asked, and milliseconds per stage."""

    blocks: list[BlockOut]
    stages: StageTimes


class StreamPool:
    """Sessions as rows. Not thread safe: one thread owns it and its engine.

    A block is first listened to, which rolls its row's context; then it is either converted or skipped.
    """

    def __init__(
        self,
        engine: Engine,
        max_sessions: int,
        *,
        device: str | torch.device = "cpu",
        rms_mix_rate: float = 1.0,
        gate: Gate | None = None,
    ) -> None:
        """rms_mix_rate: 1 leaves the engine's loudness alone; below 1 its level follows the input's, and within words
        it is the engine's to this part, at 0 the input's.

        gate: None is an ``EnergyGate``. Raises ``ValueError`` for values out of range.
        """
        if max_sessions < 1:
            raise ValueError(f"max_sessions must be at least 1, got {max_sessions}")
        if not 0.0 <= rms_mix_rate <= 1.0:
            raise ValueError(f"rms_mix_rate must be within 0 and 1, got {rms_mix_rate}")
        self.engine = engine
        self.geometry: Geometry = engine.geometry
        self.max_sessions = max_sessions
        self.device = torch.device(device)
        self._rms_mix_rate = rms_mix_rate
        self._gate = gate or EnergyGate(max_sessions)
        self._window = torch.zeros(max_sessions, self.geometry.window_samples, device=self.device)
        self._tail = torch.zeros(max_sessions, self.geometry.crossfade_samples, device=self.device)
        self._position = torch.zeros(max_sessions, dtype=torch.int64, device=self.device)  # units heard
        self._open = np.zeros(max_sessions, dtype=bool)

    @property
    def sessions(self) -> int:
        """Slots in use."""
        return int(self._open.sum())

    @torch.inference_mode()
    def open(
        self,
        voice: str,
        history: Pcm | None = None,
        options: SessionOptions | None = None,
        seed: int = 0,
        reference: bytes | None = None,
    ) -> int:
        """Take a free slot for a new session and return it; every row of it starts afresh.

        history: the latest 16 kHz samples that an earlier worker has already been given, any number of them; the
        session goes on from there. seed: in [0, 2^63), of the session's noise. reference: a sound file that is the
        voice, whose name is then of the session's choice. Raises ``PoolFull``, ``UnknownVoice``,
        ``OutOfMemory``, ``ValueError`` unless history is int16 ``[n]``, and what the engine raises; then nothing is
        kept of the session.
        """
        if reference is not None and not self.engine.guest_prompt_s:
            raise UnknownVoice(f"voice: {self.engine.name} takes no recordings of callers")
        if reference is None and voice not in self.engine.voices:
            raise UnknownVoice(f"voice: no {voice!r}; there are {', '.join(self.engine.voices)}")
        if history is not None and (history.dtype != np.int16 or history.ndim != 1):
            raise ValueError(f"history must be one-dimensional int16, got {history.dtype} {history.shape}")
        free = np.flatnonzero(~self._open)
        if not len(free):
            raise PoolFull(f"all {self.max_sessions} sessions are taken")
        slot = int(free[0])
        try:
            self.engine.open(slot, voice, options or SessionOptions(), seed, reference)
            try:
                self._start(slot, history)
            except Exception:
                self.engine.close(slot)
                raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"no memory for one more session of voice {voice!r}") from error
            raise
        self._open[slot] = True
        return slot

    def _start(self, slot: int, history: Pcm | None) -> None:
        self._window[slot].zero_()
        self._tail[slot].zero_()
        self._position[slot] = 0
        heard = None
        if history is not None and len(history):
            heard = torch.from_numpy(history / np.float32(_FULL_SCALE)).to(self.device)
            recent = heard[-self.geometry.window_samples :]
            self._window[slot, -len(recent) :] = recent
        self._gate.open(slot, heard)

    def close(self, slot: int) -> None:
        """Free the slot. Raises ``ValueError`` if it is not open."""
        self._check([slot])
        self._open[slot] = False
        self.engine.close(slot)

    @torch.inference_mode()
    def listen(self, slots: Sequence[int], blocks: Sequence[Pcm]) -> list[Heard]:
        """Roll each row's context by its next block, int16 ``[geometry.block_samples_in]`` at 16 kHz, and say who
        speaks. A block of another size counts as silence and is named. Raises ``ValueError`` for slots that are not
        open or named twice."""
        self._check(slots)
        if len(blocks) != len(slots):
            raise ValueError("listen needs a block for each slot")
        if not slots:
            return []
        errors = [self._fault(block) for block in blocks]
        rows = torch.tensor(slots, device=self.device)
        newest = self._newest(blocks, errors)
        speech = self._gate.hear(slots, newest)
        self._roll(rows, newest, speech)
        return [Heard(bool(said) and error is None, error) for said, error in zip(speech, errors, strict=True)]

    @torch.inference_mode()
    def convert(self, slots: Sequence[int], steps: int = 1) -> Step:
        """The model's answer to the block that each of ``slots`` was listened to last. steps: at most so many solver
        steps.

        An engine error and output that is not finite each cost their own row one block of silence and set its
        ``error``. Raises ``OutOfMemory``; then the same rows may be converted again.
        """
        self._check(slots)
        if not slots:
            return Step([], {})
        times: StageTimes = {}
        rows = torch.tensor(slots, device=self.device)
        window = self._window[rows]
        batch = Batch(rows, window, self._position[rows], steps)
        made, errors = self._ask_engine(batch, times)
        clock = Laps(self.device)
        if self._rms_mix_rate < 1.0:
            failed = torch.tensor([error is not None for error in errors], device=self.device)
            heard = window[:, self.geometry.answered]
            mixed = rms_mix(heard, follow(heard, made), self._rms_mix_rate)
            made = torch.where(failed[:, None], made, mixed)
            clock.lap("loudness")
        blocks = self._emit(rows, made, [error is None for error in errors], errors)
        clock.lap("sola")
        return Step(blocks, times | clock.times())

    @torch.inference_mode()
    def skip(self, slots: Sequence[int]) -> Step:
        """Silence in place of the block that each of ``slots`` was listened to last; its start fades out the sound
        before it."""
        self._check(slots)
        if not slots:
            return Step([], {})
        rows = torch.tensor(slots, device=self.device)
        made = torch.zeros(len(slots), self.geometry.engine_samples, device=self.device)
        clock = Laps(self.device)
        blocks = self._emit(rows, made, [False] * len(slots), [None] * len(slots))
        clock.lap("sola")
        return Step(blocks, clock.times())

    def step(
        self, slots: Sequence[int], blocks: Sequence[Pcm], concealed: Sequence[bool] | None = None, steps: int = 1
    ) -> Step:
        """Listen to a block of each of ``slots``, convert who speaks and skip the others, all in one.

        concealed: rows that are skipped although they may speak.
        """
        heard = self.listen(slots, blocks)
        hidden = [False] * len(slots) if concealed is None else list(concealed)
        speaks = [one.speech and not hide for one, hide in zip(heard, hidden, strict=True)]
        said = self.convert([slot for slot, says in zip(slots, speaks, strict=True) if says], steps)
        unsaid = self.skip([slot for slot, says in zip(slots, speaks, strict=True) if not says])
        converted, skipped = iter(said.blocks), iter(unsaid.blocks)
        out = []
        for one, says in zip(heard, speaks, strict=True):
            block = next(converted) if says else next(skipped)
            out.append(block if one.error is None else replace(block, error=one.error))
        return Step(out, said.stages or unsaid.stages)

    def _check(self, slots: Sequence[int]) -> None:
        if len(set(slots)) != len(slots):
            raise ValueError("a call needs distinct slots")
        for slot in slots:
            if not 0 <= slot < self.max_sessions or not self._open[slot]:
                raise ValueError(f"slot {slot} is not open")

    def _fault(self, block: Pcm) -> str | None:
        wanted = (self.geometry.block_samples_in,)
        if block.dtype != np.int16 or block.shape != wanted:
            return f"a block must be int16 {wanted}, got {block.dtype} {block.shape}"
        return None

    def _newest(self, blocks: Sequence[Pcm], errors: Sequence[str | None]) -> torch.Tensor:
        """The blocks as float32 ``[B, block_samples_in]``; a faulty one counts as silence."""
        cuda = self.device.type == "cuda"
        pcm = torch.zeros(len(blocks), self.geometry.block_samples_in, dtype=torch.int16, pin_memory=cuda)
        for row, block, error in zip(pcm, blocks, errors, strict=True):
            if error is None:
                row.copy_(torch.tensor(block))
        return pcm.to(self.device, non_blocking=True).float() / _FULL_SCALE

    def _roll(self, rows: torch.Tensor, newest: torch.Tensor, speech: npt.NDArray[np.bool_]) -> None:
        """Append ``newest``. Where nobody speaks, an engine that keeps speech keeps its left context, and only what
        follows rolls on (as in fast-vc)."""
        length = self.geometry.block_samples_in
        before = self._window[rows]
        window = torch.cat((before[:, length:], newest), dim=1)
        if self.engine.keeps_speech and not speech.all():
            left = self.geometry.left_units * UNIT_SAMPLES
            kept = torch.cat((before[:, :left], window[:, left:]), dim=1)
            window = torch.where(torch.from_numpy(speech).to(self.device)[:, None], window, kept)
        self._window[rows] = window
        self._position[rows] += self.geometry.block_units

    def _ask_engine(self, batch: Batch, times: StageTimes) -> tuple[torch.Tensor, list[str | None]]:
        """What the engine makes ``[B, engine_samples]``, zeros where it failed, and why. After an engine error each
        row is tried alone, so that only the bad ones fail."""
        count = len(batch.rows)
        made = batch.window.new_zeros(count, self.geometry.engine_samples)
        errors: list[str | None] = [None] * count
        parts = [np.arange(count)]
        while parts:
            part = parts.pop()
            at = torch.from_numpy(part).to(self.device)
            try:
                out, stages = self.engine.convert(
                    Batch(batch.rows[at], batch.window[at], batch.position[at], batch.steps)
                )
                finite = out.isfinite().all(dim=1).cpu().numpy()
            except Exception as error:
                if is_out_of_memory(error):
                    raise OutOfMemory(f"no memory for a batch of {len(part)}") from error
                logger.exception("the engine failed on a batch of {}", len(part))
                if len(part) > 1:
                    parts += [part[i : i + 1] for i in range(len(part))]
                else:
                    errors[part[0]] = f"engine: {type(error).__name__}: {error}"
                continue
            for stage, ms in stages.items():
                times[stage] = times.get(stage, 0.0) + ms
            made[at[torch.from_numpy(finite)]] = out[torch.from_numpy(finite)]
            for i in part[~finite]:
                errors[i] = "engine: output is not finite"
        return made, errors

    def _emit(
        self, rows: torch.Tensor, made: torch.Tensor, speech: Sequence[bool], errors: Sequence[str | None]
    ) -> list[BlockOut]:
        joined, tail = sola(made, self._tail[rows], self.geometry)
        self._tail[rows] = tail
        scaled = (joined * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1)
        pcm = scaled.to(torch.int16).cpu().numpy()
        return [BlockOut(*parts) for parts in zip(pcm, speech, errors, strict=True)]
