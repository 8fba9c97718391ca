"""The streaming pipeline that every engine shares: context, speech gate, loudness, crossfade.

One row of preallocated tensors a session. A step takes at most one block of each of several sessions, rolls their
windows, asks the engine once for all rows that speak, and joins what comes back to what was emitted before. Whatever
happens to a row, exactly one block of sound comes out for its block in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from loguru import logger

from worker.engine import Engine, StageTimes
from worker.geometry import INPUT_RATE, Geometry

Pcm = npt.NDArray[np.int16]

_FULL_SCALE = 32768.0
_UNIT_IN = INPUT_RATE // 50
_RMS_FRAME_UNITS = 4
_RMS_FLOOR = 1e-3


class PoolFull(RuntimeError):
    """Every slot is taken."""


class UnknownVoice(KeyError):
    """The engine has no such voice."""

    def __str__(self) -> str:
        return str(self.args[0])


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
    """Sessions as rows. Not thread safe: one thread owns it and its engine."""

    def __init__(
        self,
        engine: Engine,
        max_sessions: int,
        *,
        device: str | torch.device = "cpu",
        rms_mix_rate: float = 1.0,
        gate_dbfs: float = -60.0,
        hangover_blocks: int = 2,
    ) -> None:
        """rms_mix_rate: 0 gives the output the input's loudness, 1 leaves the engine's alone.

        gate_dbfs: a block none of whose 20 ms reaches this rms is silence, once ``hangover_blocks`` such blocks have
        passed. Raises ``ValueError`` for values out of range.
        """
        if max_sessions < 1:
            raise ValueError(f"max_sessions must be at least 1, got {max_sessions}")
        if not 0.0 <= rms_mix_rate <= 1.0:
            raise ValueError(f"rms_mix_rate must be within 0 and 1, got {rms_mix_rate}")
        if hangover_blocks < 0:
            raise ValueError(f"hangover_blocks must not be negative, got {hangover_blocks}")
        self.engine = engine
        self.geometry: Geometry = engine.geometry
        self.max_sessions = max_sessions
        self.device = torch.device(device)
        self._rms_mix_rate = rms_mix_rate
        self._gate = 10 ** (gate_dbfs / 20)
        self._hangover_blocks = hangover_blocks
        self._window = torch.zeros(max_sessions, self.geometry.window_samples, device=self.device)
        self._tail = torch.zeros(max_sessions, self.geometry.crossfade_samples, device=self.device)
        self._loud_blocks_left = np.zeros(max_sessions, dtype=np.int64)  # blocks the gate stays open without sound
        self._open = np.zeros(max_sessions, dtype=bool)

    @property
    def sessions(self) -> int:
        """Slots in use."""
        return int(self._open.sum())

    def open(self, voice: str, history: Pcm | None = None) -> int:
        """Take a free slot for a new session and return it; every row of it starts afresh.

        history: the latest 16 kHz samples that an earlier worker has already been given, any number of them; the
        session goes on from there. Raises ``PoolFull``, ``UnknownVoice``, and ``ValueError`` unless history is int16
        ``[n]``.
        """
        if voice not in self.engine.voices:
            raise UnknownVoice(f"no voice {voice!r}; there are {', '.join(self.engine.voices)}")
        if history is not None and (history.dtype != np.int16 or history.ndim != 1):
            raise ValueError(f"history must be one-dimensional int16, got {history.dtype} {history.shape}")
        free = np.flatnonzero(~self._open)
        if not len(free):
            raise PoolFull(f"all {self.max_sessions} sessions are taken")
        slot = int(free[0])
        self.engine.open(slot, voice)
        self._window[slot].zero_()
        self._tail[slot].zero_()
        self._loud_blocks_left[slot] = 0
        if history is not None and len(history):
            self._recall(slot, history[-self.geometry.window_samples :])
        self._open[slot] = True
        return slot

    def close(self, slot: int) -> None:
        """Free the slot. Raises ``ValueError`` if it is not open."""
        self._check_open(slot)
        self._open[slot] = False
        self.engine.close(slot)

    @torch.inference_mode()
    def step(
        self, slots: Sequence[int], blocks: Sequence[Pcm], concealed: Sequence[bool] | None = None, steps: int = 1
    ) -> Step:
        """Convert one block of each of ``slots``: int16 ``[geometry.block_samples_in]`` at 16 kHz.

        concealed: rows answered with silence without asking the engine (their context rolls on). steps: solver steps.
        A block of the wrong size, an engine error and output that is not finite each cost their own row one block of
        silence and set its ``error``. Raises ``ValueError`` for slots that are not open or named twice.
        """
        if not slots:
            return Step([], {})
        if len(set(slots)) != len(slots) or len(blocks) != len(slots):
            raise ValueError("step needs distinct slots and one block for each")
        for slot in slots:
            self._check_open(slot)
        clock = _Clock(self.device)
        rows = torch.tensor(slots, device=self.device)
        errors: list[str | None] = [self._fault(block) for block in blocks]
        with clock.stage("roll"):
            window = self._roll(rows, blocks, errors)
            loud = self._hear(slots, window)
        hidden = np.zeros(len(slots), dtype=bool) if concealed is None else np.asarray(concealed, dtype=bool)
        speaks = loud & ~hidden & np.array([error is None for error in errors])
        made = window.new_zeros(len(slots), self.geometry.engine_samples)
        asked = np.flatnonzero(speaks)
        if len(asked):
            self._ask_engine(asked, rows, window, steps, made, errors, clock.times)
            speaks &= np.array([error is None for error in errors])
            if self._rms_mix_rate < 1.0:
                with clock.stage("rms_mix"):
                    said = torch.from_numpy(np.flatnonzero(speaks)).to(self.device)
                    made[said] = rms_mix(window[said], made[said], self.geometry, self._rms_mix_rate)
        with clock.stage("sola"):
            joined, tail = sola(made, self._tail[rows], self.geometry)
            self._tail[rows] = tail
            pcm = (joined * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1).to(torch.int16).cpu().numpy()
        return Step(
            [BlockOut(pcm[i], bool(speaks[i]), errors[i]) for i in range(len(slots))],
            clock.times,
        )

    def _check_open(self, slot: int) -> None:
        if not 0 <= slot < self.max_sessions or not self._open[slot]:
            raise ValueError(f"slot {slot} is not open")

    def _recall(self, slot: int, history: Pcm) -> None:
        self._window[slot, -len(history) :] = torch.from_numpy(history / np.float32(_FULL_SCALE)).to(self.device)
        block = self.geometry.block_samples_in
        for age in range(self._hangover_blocks + 1):
            recent = history[max(0, len(history) - (age + 1) * block) : len(history) - age * block]
            if _loudest_unit(torch.from_numpy(recent / np.float32(_FULL_SCALE))[None])[0] >= self._gate:
                self._loud_blocks_left[slot] = self._hangover_blocks - age
                return

    def _fault(self, block: Pcm) -> str | None:
        wanted = (self.geometry.block_samples_in,)
        if block.dtype != np.int16 or block.shape != wanted:
            return f"a block must be int16 {wanted}, got {block.dtype} {block.shape}"
        return None

    def _roll(self, rows: torch.Tensor, blocks: Sequence[Pcm], errors: Sequence[str | None]) -> torch.Tensor:
        """Windows ``[B, window_samples]`` with the newest block at their end; a faulty block counts as silence."""
        length = self.geometry.block_samples_in
        pcm = np.zeros((len(blocks), length), dtype=np.int16)
        for i, (block, error) in enumerate(zip(blocks, errors, strict=True)):
            if error is None:
                pcm[i] = block
        newest = torch.from_numpy(pcm).to(self.device).float() / _FULL_SCALE
        window = torch.cat((self._window[rows, length:], newest), dim=1)
        self._window[rows] = window
        return window

    def _hear(self, slots: Sequence[int], window: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Whether each row speaks: its newest block is loud, or one of the last few was."""
        newest = window[:, -self.geometry.block_samples_in :]
        loud = (_loudest_unit(newest) >= self._gate).cpu().numpy()
        left = self._loud_blocks_left[list(slots)]
        self._loud_blocks_left[list(slots)] = np.where(loud, self._hangover_blocks, np.maximum(left - 1, 0))
        return loud | (left > 0)

    def _ask_engine(
        self,
        asked: npt.NDArray[np.int64],
        rows: torch.Tensor,
        window: torch.Tensor,
        steps: int,
        made: torch.Tensor,
        errors: list[str | None],
        times: StageTimes,
    ) -> None:
        """Fill rows ``asked`` of ``made``; on an engine error each is tried alone, so that only the bad ones fail."""
        batches = [asked]
        while batches:
            batch = batches.pop()
            index = torch.from_numpy(batch).to(self.device)
            try:
                out, stages = self.engine.convert(rows[index], window[index], steps)
                finite = out.isfinite().all(dim=1).cpu().numpy()
            except Exception as error:
                logger.exception("the engine failed on a batch of {}", len(batch))
                if len(batch) > 1:
                    batches += [batch[i : i + 1] for i in range(len(batch))]
                else:
                    errors[batch[0]] = f"engine: {type(error).__name__}: {error}"
                continue
            for stage, ms in stages.items():
                times[stage] = times.get(stage, 0.0) + ms
            made[index[finite]] = out[finite]
            for i in batch[~finite]:
                errors[i] = "engine: output is not finite"


def sola(made: torch.Tensor, tail: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Join new sound ``made [B, engine_samples]`` to ``tail [B, crossfade_samples]``, the end of what was emitted.

    Synchronised overlap-add as in Seed-VC's real-time converter: the offset within the search range at which the new
    sound correlates best with the tail (normalised by the new sound's energy), a sin^2 crossfade there, one block out.
    Returns the block ``[B, block_samples_out]`` and the next tail. Where the tail or the new sound is silent the offset
    is 0.
    """
    length, search = geometry.crossfade_samples, geometry.search_samples
    head = made[:, : length + search]
    products = torch.nn.functional.conv1d(head[None], tail[:, None], groups=len(tail))[0]
    energy = torch.nn.functional.avg_pool1d(head.square()[:, None], length, 1)[:, 0] * length
    score = products / (energy + 1e-8).sqrt()
    offset = torch.where(score.amax(dim=1) > 0, score.argmax(dim=1), 0)
    block = geometry.block_samples_out
    at = offset[:, None] + torch.arange(block + length, device=made.device)
    joined = made.gather(1, at)
    fade_in = torch.sin(torch.linspace(0, 1, length, device=made.device) * (torch.pi / 2)).square()
    joined[:, :length] = joined[:, :length] * fade_in + tail * (1 - fade_in)
    return joined[:, :block], joined[:, block:].clone()


def rms_mix(window: torch.Tensor, made: torch.Tensor, geometry: Geometry, rate: float) -> torch.Tensor:
    """Pull the loudness of ``made [B, engine_samples]`` towards that of its span of ``window [B, window_samples]``.

    As fast-vc does: rms over frames of 80 ms every 20 ms, spread linearly over the samples, output rms floored at 1e-3;
    ``made * (rms_in / rms_out) ** (1 - rate)``.
    """
    stop = geometry.window_samples - geometry.right_units * _UNIT_IN
    span = geometry.engine_samples // geometry.unit_samples_out
    heard = window[:, stop - span * _UNIT_IN : stop]
    frame_units = min(_RMS_FRAME_UNITS, span)
    samples = made.shape[1]
    rms_in = _rms_track(heard, _UNIT_IN, frame_units, samples)
    rms_out = _rms_track(made, geometry.unit_samples_out, frame_units, samples).clamp(min=_RMS_FLOOR)
    return made * (rms_in / rms_out) ** (1 - rate)


def _rms_track(wave: torch.Tensor, unit: int, frame_units: int, samples: int) -> torch.Tensor:
    rms = wave.unfold(1, frame_units * unit, unit).square().mean(dim=2).sqrt()
    spread = torch.nn.functional.interpolate(rms[:, None], samples + 1, mode="linear", align_corners=True)
    return spread[:, 0, :-1]


def _loudest_unit(wave: torch.Tensor) -> torch.Tensor:
    """Rms ``[B]`` of the loudest whole 20 ms of ``wave [B, N]`` at 16 kHz; 0 where there is none."""
    count = wave.shape[1] // _UNIT_IN
    if not count:
        return wave.new_zeros(wave.shape[0])
    return wave[:, -count * _UNIT_IN :].unflatten(1, (count, _UNIT_IN)).square().mean(dim=2).amax(dim=1).sqrt()


class _Clock:
    """Milliseconds per stage; waits for the device, so that a stage is charged for its own work."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.times: StageTimes = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._cuda:
            torch.cuda.synchronize()
        self.times[name] = self.times.get(name, 0.0) + 1e3 * (time.perf_counter() - begin)
