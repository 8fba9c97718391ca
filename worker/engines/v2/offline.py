"""Whole recordings through V2, batched over windows and recordings, in constant memory but for their codes (400 bytes
a second).

All that is said of a recording is known before any of it is made: its codes, in the style path spoken anew, become a
``Track`` of conditions. Windows over it, thirty seconds with the prompt, are solved in batches, overlap by 16 frames
with the same noise, and are crossfaded. docs/v2.md says where this departs from the original, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine import session_seed
from worker.engines.diffusion.offline import OVERLAP_FRAMES, Join
from worker.engines.diffusion.pipeline import Prompt, Prompts
from worker.engines.v2.listening import listen
from worker.engines.v2.pipeline import Codes, V2Pipeline
from worker.engines.v2.restyle import Speech, speak
from worker.engines.v2.track import Segment, Track
from worker.models.published.ragged import by_length
from worker.models.seedvc2.sampling import Sampling
from worker.recordings import Recording, Wave
from worker.voices import Voice, load_voice

WINDOW_S = 30
REFERENCE_S = 25.0


@dataclass(frozen=True, slots=True)
class V2Options:
    """Of one conversion."""

    steps: int = 30
    length_adjust: float = 1.0  # of the speaking time: above 1 is slower
    style: bool = False  # the reference's rhythm and accent too
    sampling: Sampling = field(default_factory=Sampling)  # of the style path
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """A voice, and what its recording says."""

    prompt: Prompt
    codes: Codes


def read_reference(pipeline: V2Pipeline, voice: Voice) -> Reference:
    """The first 25 s of a recording. Raises ``VoiceError``."""
    wave = torch.from_numpy(load_voice(voice, REFERENCE_S))
    fine = torch.from_numpy(load_voice(voice, REFERENCE_S, pipeline.mel_config.rate))
    (codes,) = pipeline.codes([wave.to(pipeline.device)])
    return Reference(pipeline.prompt_of(codes, wave, fine), codes)


def cut(total: int, width: int) -> list[tuple[int, int]]:
    """Windows of at most ``width`` frames over ``total``; neighbours overlap by ``OVERLAP_FRAMES``."""
    windows = [(0, min(width, total))]
    while windows[-1][1] < total:
        begin = windows[-1][1] - OVERLAP_FRAMES
        windows.append((begin, min(begin + width, total)))
    return windows


@dataclass(frozen=True, slots=True)
class _Window:
    source: int
    begin: int
    end: int
    last: bool
    condition: Tensor


class V2FileConverter:
    """Converts recordings to one reference."""

    def __init__(
        self, pipeline: V2Pipeline, reference: Reference, options: V2Options | None = None, *, batch: int = 1
    ) -> None:
        """batch: pieces or windows of one call. Raises ``ValueError`` for options out of range."""
        self.options = options = options or V2Options()
        if options.steps < 1 or batch < 1:
            raise ValueError("steps and batch must be at least 1")
        if not 0.25 <= options.length_adjust <= 4:
            raise ValueError(f"length_adjust must be within 0.25 and 4, got {options.length_adjust}")
        if options.style and pipeline.v2.ar is None:
            raise ValueError("style needs the networks of the style path")
        self._pipeline, self._reference, self._batch = pipeline, reference, batch
        config = pipeline.mel_config
        self.window_frames = config.rate // config.hop * WINDOW_S - reference.prompt.mel.shape[1]
        if self.window_frames < 4 * OVERLAP_FRAMES:
            raise ValueError("the reference is too long: it leaves no room for the source")

    def convert(
        self,
        recordings: Sequence[Recording],
        write: Callable[[int, Wave], None],
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Hand the results to ``write(number of the recording, piece)``, in order, recording after recording.

        progress: told how many more seconds of source are done. Raises ``SourceError``.
        """
        for first in range(0, len(recordings), self._batch):  # so many recordings' codes are held at once
            some = recordings[first : first + self._batch]
            tracks = self._tracks(some)
            joins = [Join(self._samples(one, track)) for one, track in zip(some, tracks, strict=True)]
            seeds = [session_seed(f"{self.options.seed}/{recording.path.name}") for recording in some]
            waiting: list[_Window] = []
            for window in self._windows(tracks):
                waiting.append(window)
                if len(waiting) == self._batch:
                    self._flush(waiting, first, some, tracks, joins, seeds, write, progress)
            if waiting:
                self._flush(waiting, first, some, tracks, joins, seeds, write, progress)

    def _flush(
        self,
        waiting: list[_Window],
        first: int,
        recordings: Sequence[Recording],
        tracks: Sequence[Track],
        joins: Sequence[Join],
        seeds: Sequence[int],
        write: Callable[[int, Wave], None],
        progress: Callable[[float], None],
    ) -> None:
        for window, wave in zip(waiting, self._make(waiting, seeds), strict=True):
            source = window.source
            write(first + source, joins[source].add(window.begin * self._pipeline.mel_config.hop, wave, window.last))
            seconds = recordings[source].samples / recordings[source].rate
            new = window.end - window.begin - (OVERLAP_FRAMES if window.begin else 0)
            progress(seconds * new / tracks[source].frames)
        waiting.clear()

    def _tracks(self, recordings: Sequence[Recording]) -> list[Track]:
        """What each recording says, as it shall be said."""
        codes = listen(self._pipeline, recordings, self._batch)
        frames = [self._mel_frames(recording) for recording in recordings]
        regulator, adjust = self._pipeline.v2.regulator, self.options.length_adjust
        if not self.options.style:
            return [
                Track(regulator, [Segment(one.wide, max(1, int(count * adjust)))])
                for one, count in zip(codes, frames, strict=True)
            ]
        reference = None if self._pipeline.rates.anonymous else self._reference.codes
        names = [f"{self.options.seed}/{recording.path.name}" for recording in recordings]
        speeches = [Speech(one, name) for one, name in zip(codes, names, strict=True)]
        spoken = speak(self._pipeline, reference, speeches, self.options.sampling, self._batch)
        return [
            Track(regulator, [Segment(part, max(1, int(count / len(one.wide) * len(part) * adjust))) for part in parts])
            for one, count, parts in zip(codes, frames, spoken, strict=True)
        ]

    def _mel_frames(self, recording: Recording) -> int:
        config = self._pipeline.mel_config
        return max(1, round(recording.samples / recording.rate * config.rate) // config.hop)

    def _samples(self, recording: Recording, track: Track) -> int:
        """Of the result: as long as the source, or in the style path as long as it was spoken."""
        config = self._pipeline.mel_config
        if self.options.style:
            return track.frames * config.hop
        return round(recording.samples / recording.rate * config.rate * self.options.length_adjust)

    def _windows(self, tracks: Sequence[Track]) -> Iterator[_Window]:
        for source, track in enumerate(tracks):
            for begin, end in cut(track.frames, self.window_frames):
                yield _Window(source, begin, end, end == track.frames, track.condition(begin, end))

    @torch.inference_mode()
    def _make(self, windows: Sequence[_Window], seeds: Sequence[int]) -> list[Wave]:
        """The sound of each window, from its first mel frame on."""
        pipeline, device = self._pipeline, self._pipeline.device
        frames = [window.end - window.begin for window in windows]
        lens = torch.tensor(frames, device=device)
        condition = torch.nn.utils.rnn.pad_sequence([window.condition for window in windows], batch_first=True)
        start = torch.tensor([window.begin + seeds[window.source] for window in windows], device=device)
        noise = pipeline.mel_noise.take(start, max(frames))
        prompts = Prompts.of([self._reference.prompt] * len(windows))
        equal = len(set(frames)) == 1
        mel = pipeline.solve(condition, prompts, noise, self.options.steps, None if equal else lens)
        waves = by_length(lambda some: pipeline.vocode(some, None, start, start), mel, lens)
        return [wave.cpu().numpy() for wave in waves]
