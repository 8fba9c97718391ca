"""What a source says, frame by frame: codes of any length as conditions for any window of mel frames.

The regulator's norms span everything a source says. Where that is too long to be held, their moments are measured in
as many passes over the codes as there are norms, and every stretch then gets what it would get in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.seedvc.regulator import nearest_index
from worker.models.seedvc2.regulator import STAGES, CodeRegulator, Moments

WHOLE_FRAMES = 1 << 14  # that are held at once, 3 minutes
REACH = STAGES  # frames on either side that a frame's convolutions see


@dataclass(frozen=True, slots=True)
class Segment:
    """Codes, int64 ``[N]``, that last so many mel frames."""

    codes: Tensor
    frames: int


class Track:
    """Segments one after another, each regulated by itself."""

    def __init__(self, regulator: CodeRegulator, segments: Sequence[Segment], whole_frames: int = WHOLE_FRAMES) -> None:
        self._regulator, self._segments, self._whole = regulator, list(segments), whole_frames
        self._begins = [0]
        for segment in segments:
            self._begins.append(self._begins[-1] + segment.frames)
        self._held: tuple[int, Tensor | Moments] | None = None

    @property
    def frames(self) -> int:
        return self._begins[-1]

    @torch.inference_mode()
    def condition(self, begin: int, end: int) -> Tensor:
        """Of mel frames ``begin .. end``: ``[end - begin, D]``."""
        parts = []
        for number, segment in enumerate(self._segments):
            first = max(begin - self._begins[number], 0)
            last = min(end - self._begins[number], segment.frames)
            if first < last:
                parts.append(self._of(number, segment, first, last))
        return torch.cat(parts)

    def _of(self, number: int, segment: Segment, begin: int, end: int) -> Tensor:
        if self._held is None or self._held[0] != number:
            self._held = number, self._whole_or_moments(segment)
        held = self._held[1]
        if isinstance(held, Tensor):
            return held[begin:end]
        out, _, skipped = self._stretch(segment, held, begin, end)
        return out[skipped : skipped + end - begin]

    def _whole_or_moments(self, segment: Segment) -> Tensor | Moments:
        if segment.frames <= self._whole:
            whole: Tensor = self._regulator(segment.codes[None], segment.frames)
            return whole[0]
        device = segment.codes.device
        sums = torch.zeros(1, STAGES, 2, dtype=torch.float64, device=device)
        frames = torch.full((1,), float(segment.frames), device=device)
        for stage in range(STAGES):  # a norm's input is known once the norms before it are
            known = Moments(sums.float(), frames)
            total = torch.zeros(1, 2, dtype=torch.float64, device=device)
            for begin in range(0, segment.frames, self._whole):
                _, measured, _ = self._stretch(segment, known, begin, min(begin + self._whole, segment.frames))
                total += measured.sums[:, stage].double()
            sums[:, stage] = total
        return Moments(sums.float(), frames)

    def _stretch(self, segment: Segment, known: Moments, begin: int, end: int) -> tuple[Tensor, Moments, int]:
        """Frames from a little before ``begin`` to a little after ``end``, what was measured between the two, and how
        many frames the little before is."""
        first, last = max(0, begin - REACH), min(segment.frames, end + REACH)
        device = segment.codes.device
        count = torch.tensor([len(segment.codes)], device=device)
        index = nearest_index(count, torch.tensor([segment.frames], device=device), segment.frames)[:, first:last]
        counted = torch.zeros(1, last - first, device=device)
        counted[:, begin - first : end - first] = 1
        out, measured = self._regulator.streamed(segment.codes[index], known, counted)
        return out[0], measured, begin - first
