"""Prompts of many voices side by side on the device, within a bound.

A voice is computed when its first session opens (or at start-up, as far as there is room) and stays until its row is
needed for another one: the voice unused for longest goes first, one in use never. Guests are voices that sessions
bring; there is room for them, and a mask for prompts of different length, from the start: a captured call stays as it
is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from loguru import logger
from torch import Tensor

from worker.engine import PoolFull
from worker.engines.diffusion.pipeline import Pipeline, Prompt, Prompts
from worker.geometry import INPUT_RATE
from worker.models.networks import OneStep
from worker.voices import Voice, VoiceError, load_voice, usable


def make_prompt(pipeline: Pipeline, voice: Voice, max_prompt_s: float) -> Prompt:
    """The prompt of one recording. Raises ``VoiceError``, which names it."""
    wave = torch.from_numpy(load_voice(voice, max_prompt_s))
    fine = torch.from_numpy(load_voice(voice, max_prompt_s, pipeline.mel_config.rate))
    prompt = pipeline.prompt(wave, fine)
    if pipeline.networks.tracker is not None and prompt.f0_hz == 0:
        raise VoiceError(f"voice {voice.name!r}: no voiced speech found in the recording")
    if not all(bool(part.isfinite().all()) for part in (prompt.condition, prompt.mel, prompt.style)):
        raise VoiceError(f"voice {voice.name!r}: {pipeline.networks.name} makes no finite prompt of the recording")
    return prompt


class PromptBank:
    """Rows of prompts. Not thread safe: it belongs to the engine's thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        voices: Sequence[Voice],
        rows: int,
        max_prompt_s: float,
        make: Callable[[Pipeline, Voice, float], Prompt] = make_prompt,
        *,
        guests: int = 0,
    ) -> None:
        """guests: voices beyond those named here that there shall be room for, within ``rows``.

        Computes the first ``rows`` voices; one of no use is left out with a warning. Raises ``VoiceError`` if none is
        left.
        """
        self._pipeline, self._make = pipeline, make
        shortest, longest = math.inf, int(max_prompt_s * INPUT_RATE)
        self._voices: dict[str, Voice] = {}
        for voice, wave in usable(voices, max_prompt_s):
            self._voices[voice.name] = voice
            shortest = min(shortest, len(wave))
        self.ragged = shortest < longest or guests > 0  # then prompts differ in length, and are masked
        self.guest_prompt_s = max_prompt_s if guests else 0.0
        self._max_prompt_s = max_prompt_s
        self._free = list(range(min(rows, len(self._voices) + guests)))[::-1]
        self._row: OrderedDict[str, int] = OrderedDict()  # the least recently used first
        self._users: dict[str, int] = {}
        count = len(self._free)
        config = pipeline.mel_config
        room = int(max_prompt_s * config.rate) // config.hop
        width, device = pipeline.networks.dit.config.width, pipeline.device
        self._condition = torch.zeros(count, room, width, device=device)
        self._mel = torch.zeros(count, config.bins, room, device=device)
        self._style = torch.zeros(count, pipeline.networks.dit.config.style_width, device=device)
        self._f0_hz = torch.zeros(count, device=device)
        self._lens = torch.zeros(count, dtype=torch.int64, device=device)
        self._memory = None
        if isinstance(pipeline.networks.dit, OneStep):
            depth, pair, width = pipeline.networks.dit.memory_shape
            dtype = next(pipeline.networks.dit.parameters()).dtype
            self._memory = torch.zeros(count, depth, pair, room, width, dtype=dtype, device=device)
        self._compute()

    def _compute(self) -> None:
        """As many voices as there is room for, in their order."""
        reason = VoiceError("no reference voice is of use")
        for name in list(self._voices):
            if not self._free:
                return
            try:
                self._put(name)
            except VoiceError as error:
                logger.warning("{}; the voice is left out", error)
                del self._voices[name]
                reason = error
        if not self._voices:
            raise reason

    @property
    def voices(self) -> list[Voice]:
        """Those that may be asked for."""
        return list(self._voices.values())

    @property
    def names(self) -> list[str]:
        """Voices that are here, the least recently used first."""
        return list(self._row)

    def acquire(self, name: str, reference: bytes | None = None) -> int:
        """The row of a voice, which stays its own until as many ``release`` calls. reference: a guest's sound file.

        Raises ``KeyError``, ``VoiceError``, and ``PoolFull`` if every row is in use by another voice.
        """
        if name not in self._row:
            self._put(name, None if reference is None else Voice.of_caller(name, reference))
        self._row.move_to_end(name)
        self._users[name] = self._users.get(name, 0) + 1
        return self._row[name]

    def release(self, name: str) -> None:
        """One session fewer uses the voice."""
        self._users[name] -= 1

    def take(self, rows: Tensor) -> Prompts:
        """rows: int64 ``[B]``."""
        lens = self._lens[rows] if self.ragged else None
        memory = None if self._memory is None else self._memory[rows]
        return Prompts(self._condition[rows], self._mel[rows], self._style[rows], self._f0_hz[rows], lens, memory)

    def _put(self, name: str, guest: Voice | None = None) -> None:
        voice = guest or self._voices[name]
        evicted = None
        if not self._free:
            evicted = next((other for other in self._row if not self._users.get(other)), None)
            if evicted is None:
                raise PoolFull(f"all {len(self._row)} rows for voices are in use")
        prompt = self._make(self._pipeline, voice, self._max_prompt_s)
        if evicted is not None:
            logger.info("voice {} makes room for {}", evicted, name)
            self._free.append(self._row.pop(evicted))
        row, length = self._free[-1], prompt.mel.shape[1]
        self._condition[row, :length] = prompt.condition
        self._condition[row, length:] = 0
        self._mel[row, :, :length] = prompt.mel
        self._mel[row, :, length:] = 0
        self._style[row], self._f0_hz[row], self._lens[row] = prompt.style, prompt.f0_hz, length
        if self._memory is not None and prompt.memory is not None:
            self._memory[row, :, :, :length] = prompt.memory
        self._free.pop()  # only now: whatever failed above has cost no row
        self._row[name] = row
