"""Speech gates: which sessions speak, so that silence costs no diffusion call.

A gate owns a row of state a session. ``EnergyGate`` asks for loudness alone; ``SileroGate`` runs Silero's voice
activity detector for all rows at once, and where it hears no speech asks for a loud voice: who sings or shouts is not
gated away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from worker import pitch
from worker.geometry import INPUT_RATE, UNIT_SAMPLES
from worker.models.published.silero import CONTEXT, FRAME, WIDTH, SileroVad

Flags = npt.NDArray[np.bool_]

VOICE_DBFS = -45.0  # of a voice that opens a gate, as the ear weighs it: hum and rumble are 20 dB louder
VOICE_STAYS_DBFS = -52.0  # and of one that keeps it open
VOICE_STRENGTH = 0.85  # of a frame's periodicity: noise stays below
VOICE_SHARE = 0.25  # of a block's frames
EMPHASIS = 0.95
RECALL_S = 2.0  # of a session's history that a reopened row listens to


class Gate(Protocol):
    """Decides for each row whether its newest block is speech."""

    def open(self, slot: int, history: Tensor | None = None) -> None:
        """Start row ``slot`` afresh. history: float32 ``[n]`` at 16 kHz that the session has already heard."""
        ...

    def hear(self, slots: Sequence[int], newest: Tensor) -> Flags:
        """newest: float32 ``[B, n]``, the next block of each of ``slots``. Returns bool ``[B]``."""
        ...


class _Hangover:
    """Keeps a gate open for some blocks after the last that had speech, so that no word loses its end."""

    def __init__(self, max_sessions: int, blocks: int) -> None:
        if blocks < 0:
            raise ValueError(f"hangover_blocks must not be negative, got {blocks}")
        self._blocks = blocks
        self.left = np.zeros(max_sessions, dtype=np.int64)

    def open(self, slot: int) -> None:
        self.left[slot] = 0

    def extend(self, slots: Sequence[int], speech: Flags) -> Flags:
        left = self.left[list(slots)]
        self.left[list(slots)] = np.where(speech, self._blocks, np.maximum(left - 1, 0))
        return speech | (left > 0)


class EnergyGate:
    """A block is speech if any 20 ms of it reach ``threshold_dbfs``."""

    def __init__(self, max_sessions: int, *, threshold_dbfs: float = -60.0, hangover_blocks: int = 2) -> None:
        self._level = 10 ** (threshold_dbfs / 20)
        self._hangover = _Hangover(max_sessions, hangover_blocks)

    def open(self, slot: int, history: Tensor | None = None) -> None:
        self._hangover.open(slot)
        if history is not None and len(history):
            # Blocks have not been cut yet: the whole remembered stretch counts as one.
            self.hear([slot], history[None, -int(RECALL_S * INPUT_RATE) :])

    def hear(self, slots: Sequence[int], newest: Tensor) -> Flags:
        loud: Flags = (loudest_unit(newest) >= self._level).cpu().numpy()
        return self._hangover.extend(slots, loud)


class SileroGate:
    """Silero's detector with a row of state a session: its LSTM, the samples not yet heard, and whether it is open.

    A closed gate opens at a frame of at least ``on``; an open one closes at a block without a frame of at least
    ``off``, after ``hangover_blocks`` such blocks. A loud voice (see ``has_voice``) counts as such a frame: the gate is
    closed to what is quiet or noise alone.
    """

    def __init__(
        self,
        max_sessions: int,
        *,
        device: str | torch.device = "cpu",
        on: float = 0.5,
        off: float = 0.35,
        hangover_blocks: int = 1,
        vad: SileroVad | None = None,
    ) -> None:
        if not 0 < off <= on < 1:
            raise ValueError(f"vad thresholds must hold 0 < off <= on < 1, got on {on}, off {off}")
        self._on, self._off = on, off
        self._hangover = _Hangover(max_sessions, hangover_blocks)
        self._vad = (vad or SileroVad.bundled()).to(device)
        self._device = torch.device(device)
        self._state = torch.zeros(2, max_sessions, WIDTH, device=device)
        self._rest = torch.zeros(max_sessions, CONTEXT + FRAME, device=device)  # heard by no frame yet, at its end
        self._waiting = np.zeros(max_sessions, dtype=np.int64)  # how many samples of it

    def open(self, slot: int, history: Tensor | None = None) -> None:
        self._hangover.open(slot)
        self._state[:, slot] = 0
        self._rest[slot] = 0
        self._waiting[slot] = 0
        if history is not None and len(history):
            self.hear([slot], history[None, -int(RECALL_S * INPUT_RATE) :].to(self._device))

    @torch.inference_mode()
    def hear(self, slots: Sequence[int], newest: Tensor) -> Flags:
        if not len(slots):
            return np.zeros(0, dtype=bool)
        loudest = self._loudest(list(slots), newest)
        is_open = self._hangover.left[list(slots)] > 0
        speech: Flags = loudest >= np.where(is_open, self._off, self._on)
        unsure = np.flatnonzero(~speech)
        if len(unsure):
            least = np.where(is_open[unsure], VOICE_STAYS_DBFS, VOICE_DBFS).astype(np.float32)
            at = torch.from_numpy(unsure).to(self._device)
            speech[unsure] = has_voice(newest[at], torch.from_numpy(least).to(self._device)).cpu().numpy()
        return self._hangover.extend(slots, speech)

    def _loudest(self, slots: list[int], newest: Tensor) -> npt.NDArray[np.float32]:
        """Highest probability of any frame that each row's new samples complete; 0 where they complete none."""
        rows = torch.tensor(slots, device=self._device)
        waiting, length = self._waiting[slots], newest.shape[1]
        counts = (waiting + length) // FRAME
        most = int(counts.max(initial=0))
        # Every row's samples end where its new block ends; its first frame begins where the last one heard ended.
        sound = torch.cat([self._rest[rows], newest], dim=1)
        self._rest[rows] = sound[:, -(CONTEXT + FRAME) :]
        self._waiting[slots] = waiting + length - counts * FRAME
        if most == 0:
            return np.zeros(len(slots), dtype=np.float32)
        begin = torch.from_numpy(FRAME - waiting).to(self._device)  # less the context
        at = torch.arange(most, device=self._device)[:, None] * FRAME + torch.arange(
            CONTEXT + FRAME, device=self._device
        )
        index = (begin[:, None, None] + at).clamp(max=sound.shape[1] - 1)
        frames = sound[:, None].expand(-1, most, -1).gather(2, index)
        features = self._vad.features(frames.flatten(0, 1)).unflatten(0, (len(slots), most))
        state = self._state[:, rows]
        loudest = sound.new_zeros(len(slots))
        has = torch.from_numpy(counts).to(self._device)
        for frame in range(most):
            probability, (h, c) = self._vad(features[:, frame], (state[0], state[1]))
            here = frame < has
            state = torch.where(here[:, None], torch.stack([h, c]), state)
            loudest = torch.where(here, torch.maximum(loudest, probability), loudest)
        self._state[:, rows] = state
        result: npt.NDArray[np.float32] = loudest.cpu().numpy()
        return result


def has_voice(wave: Tensor, least_dbfs: Tensor) -> Tensor:
    """Which rows of ``wave [B, N]`` (16 kHz) hold, for ``VOICE_SHARE`` of their time, something as loud as
    ``least_dbfs [B]`` with a pitch: bool ``[B]``. Held vowels, which a speech detector has seldom heard, are."""
    if wave.shape[1] < pitch.FRAME:
        return torch.zeros(len(wave), dtype=torch.bool, device=wave.device)
    found = pitch.correlate(wave)
    heard = F.pad(wave[:, 1:] - EMPHASIS * wave[:, :-1], (1, 0)).unfold(1, pitch.FRAME, pitch.HOP)
    level_db = 10 * torch.log10(heard.square().mean(dim=2) + 1e-12)
    voice = (found.strength.amax(dim=2) > VOICE_STRENGTH) & (level_db >= least_dbfs[:, None])
    return voice.float().mean(dim=1) >= VOICE_SHARE


def loudest_unit(wave: Tensor) -> Tensor:
    """Rms ``[B]`` of the loudest whole 20 ms of ``wave [B, N]`` at 16 kHz; 0 where there is none."""
    count = wave.shape[1] // UNIT_SAMPLES
    if not count:
        return wave.new_zeros(wave.shape[0])
    return wave[:, -count * UNIT_SAMPLES :].unflatten(1, (count, UNIT_SAMPLES)).square().mean(dim=2).amax(dim=1).sqrt()
