"""All sound of a run on the device, end to end, and what the teacher and the pitch tracker say of it.

Of a frame the teacher says principal components of two of its layers, from which the speaker's mean has been taken;
of parallel speech, the mean over all who say it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from tools.train.packing import Samples, Stream
from tools.train.teacher import WIDTH, Teacher
from worker.models.nano.content import SAMPLES_A_FRAME, NanoContent
from worker.models.published.mel import NANO
from worker.pitch import HOP as F0_HOP
from worker.pitch import AutocorrelationTracker

RATE = 16_000
GRID = 1280  # samples: whole frames of mel, content and pitch begin at its multiples
GAP = 7 * GRID  # of silence between streams
PIECE, MARGIN = 28 * RATE // GRID * GRID, RATE // GRID * GRID
PITCH_PIECE = 60 * RATE // GRID * GRID
SAMPLE_EVERY = 5  # frames, for the components
WHITENING = 0.7  # power of a component's deviation that is taken off

Autocast = Callable[[], AbstractContextManager[object]]


class Annotated:
    """``target``: half ``[frames of 20 ms, features]``. ``f0``: Hz ``[frames of 10 ms]``. ``median_hz``: a speaker."""

    def __init__(self, streams: Sequence[Stream], waves: Sequence[Samples], device: torch.device) -> None:
        self.streams, self.device = list(streams), device
        self.lengths = np.array([len(wave) for wave in waves])
        places = np.cumsum([GAP, *(-(-length // GRID) * GRID + GAP for length in self.lengths)])
        self.starts = places[:-1].astype(np.int64)
        whole = np.zeros(places[-1], np.int16)
        for start, wave in zip(self.starts, waves, strict=True):
            whole[start : start + len(wave)] = wave
        self.audio = torch.from_numpy(whole).to(device)
        self.speakers = sorted({stream.speaker for stream in streams})
        self.speaker_of = np.array([self.speakers.index(stream.speaker) for stream in streams])
        self.sentences: dict[int, list[int]] = {}
        for index, stream in enumerate(streams):
            if stream.sentence >= 0:
                self.sentences.setdefault(stream.sentence, []).append(index)
        self.target = torch.zeros(0)
        self.f0 = torch.zeros(0)
        self.median_hz = torch.zeros(0)

    def of_kind(self, kind: str) -> list[int]:
        return [index for index, stream in enumerate(self.streams) if stream.kind == kind]

    @torch.no_grad()
    def annotate(
        self, teacher: Teacher, student: NanoContent, autocast: Autocast, rows: int, basis: Tensor | None = None
    ) -> Tensor:
        """Fill in what is missing. basis: components of an earlier run (None: this one's). Returns the basis
        ``[1024, features]``."""
        said = self._said(teacher, student, autocast, rows)
        self._centre(said)
        basis = self._components(said, student.config.features) if basis is None else basis.float().to(self.device)
        self.target = torch.cat([(piece.float() @ basis).half() for piece in said.split(100_000)])
        self.f0 = self._pitch()
        self.median_hz = torch.stack([self._median(number) for number in range(len(self.speakers))])
        return basis

    def _said(self, teacher: Teacher, student: NanoContent, autocast: Autocast, rows: int) -> Tensor:
        total = len(self.audio)
        said = torch.zeros(total // SAMPLES_A_FRAME, 2 * WIDTH, dtype=torch.float16, device=self.device)
        begins = list(range(0, total, PIECE))
        place = torch.arange(-MARGIN, PIECE + MARGIN, device=self.device)[: 30 * RATE]
        for some in (begins[index : index + rows] for index in range(0, len(begins), rows)):
            at = torch.tensor(some, device=self.device)[:, None] + place
            inside = (at >= 0) & (at < total)
            wave = self.audio[at.clamp(0, total - 1)].float() / 32768 * inside
            with torch.autocast(self.device.type, enabled=False):
                log_mel = student.listen(wave)
            with autocast():
                both = torch.cat(teacher(log_mel)[1:], dim=-1).half()
            for row, begin in zip(both, some, strict=True):
                count = min(PIECE, total - begin) // SAMPLES_A_FRAME
                first = begin // SAMPLES_A_FRAME
                said[first : first + count] = row[MARGIN // SAMPLES_A_FRAME :][:count]
        return said

    def _frames(self, index: int) -> slice:
        first = int(self.starts[index]) // SAMPLES_A_FRAME
        return slice(first, first + int(self.lengths[index]) // SAMPLES_A_FRAME)

    def _centre(self, said: Tensor) -> None:
        groups: dict[str, list[int]] = {}
        for index, stream in enumerate(self.streams):
            groups.setdefault(f"parallel {stream.language}" if stream.sentence >= 0 else stream.speaker, []).append(
                index
            )
        for members in self.sentences.values():
            count = min(int(self.lengths[index]) // SAMPLES_A_FRAME for index in members)
            mean = torch.stack([said[self._frames(index)][:count].float() for index in members]).mean(dim=0).half()
            for index in members:
                said[self._frames(index)][:count] = mean
        for members in groups.values():
            mean = torch.cat([said[self._frames(index)][::3] for index in members]).float().mean(dim=0)
            for index in members:
                said[self._frames(index)] = (said[self._frames(index)].float() - mean).half()

    def _components(self, said: Tensor, count: int) -> Tensor:
        ours = [index for index, stream in enumerate(self.streams) if stream.kind != "stranger"]
        sample = torch.cat([said[self._frames(index)][::SAMPLE_EVERY] for index in ours]).float()
        values, vectors = torch.linalg.eigh((sample.T @ sample / len(sample)).double())
        basis = vectors[:, -count:].flip(1).float()
        deviation = values[-count:].flip(0).clamp(min=1e-9).sqrt().float()
        scale = deviation**-WHITENING
        return basis * scale / (deviation * scale).square().mean().sqrt()

    def _pitch(self) -> Tensor:
        tracker, total = AutocorrelationTracker().to(self.device), len(self.audio)
        f0 = torch.zeros(total // F0_HOP, device=self.device)
        for begin in range(0, total, PITCH_PIECE):
            first = max(0, begin - MARGIN)
            track = tracker(self.audio[first : begin + PITCH_PIECE + MARGIN][None].float() / 32768)[0]
            count = min(PITCH_PIECE, total - begin) // F0_HOP
            f0[begin // F0_HOP : begin // F0_HOP + count] = track[(begin - first) // F0_HOP :][:count]
        return f0

    def _median(self, speaker: int) -> Tensor:
        pieces = []
        for index in np.flatnonzero(self.speaker_of == speaker):
            first = int(self.starts[index]) // F0_HOP
            pieces.append(self.f0[first : first + int(self.lengths[index]) // F0_HOP])
        voiced = torch.cat(pieces)
        voiced = voiced[voiced > 0]
        return voiced.median() if len(voiced) else voiced.new_zeros(())

    def targets(self, start: Tensor, speed: Tensor, frames: int) -> Tensor:
        """The teacher's word on ``frames`` mel frames from samples ``start [B]``, read at ``speed [B]``."""
        count = frames * NANO.hop // SAMPLES_A_FRAME
        at = start.double()[:, None] / SAMPLES_A_FRAME + speed.double()[:, None] * torch.arange(
            count, device=self.device
        )
        low = at.floor().long().clamp(0, len(self.target) - 2)
        share = (at - low).float()[..., None]
        return self.target[low].float() * (1 - share) + self.target[low + 1].float() * share

    def pitch(self, start: Tensor, speed: Tensor, samples: int) -> Tensor:
        """Hz at 100 frames a second of ``samples`` from ``start [B]``, read at ``speed [B]``."""
        count = samples // F0_HOP
        at = start.double()[:, None] / F0_HOP + speed.double()[:, None] * torch.arange(count, device=self.device) + 0.5
        return self.f0[at.long().clamp(0, len(self.f0) - 1)] * speed[:, None]
