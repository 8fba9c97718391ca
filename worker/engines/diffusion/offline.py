"""Whole recordings through a model: windows with context, batched over windows and recordings, in constant memory.

A window is at most thirty seconds, prompt and source together, as the published models were trained, or as long as the
options say; the content encoder hears a second more on either side. Neighbouring windows overlap and are crossfaded; a
stretch of a recording has the same noise in every window that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.engine import session_seed
from worker.engines.diffusion.engine import F0_A_UNIT
from worker.engines.diffusion.pipeline import Pipeline, Prompt, Prompts
from worker.engines.diffusion.pitches import at_mel_frames
from worker.geometry import INPUT_RATE, UNIT_SAMPLES, UNITS_A_SECOND
from worker.loudness import follow
from worker.models.published.ragged import by_length
from worker.recordings import Recording, Wave

WINDOW_S = 30.0
MARGIN_UNITS = 50  # that the content encoder hears on either side
OVERLAP_FRAMES = 16
END_UNITS = 2  # of silence after the end, where an encoder would lose its last frames


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """Of one conversion."""

    steps: int = 30
    length_adjust: float = 1.0  # of the speaking time: above 1 is slower
    follow_pitch: bool = True  # give a model that can take it the source's melody
    auto_f0_adjust: bool = True  # move the source's median pitch to the reference's
    semitones: float = 0.0
    follow_loudness: bool = True  # be as loud as the source, and silent where it is
    window_s: float | None = None  # of a window, prompt and source together; None: WINDOW_S


@dataclass(frozen=True, slots=True)
class Window:
    """Units ``begin .. end`` of source number ``source``, with what its encoder hears."""

    source: int
    begin: int
    end: int
    last: bool
    heard_from: int  # unit at which ``wave`` begins
    wave: Wave  # 16 kHz


class FileConverter:
    """Converts recordings to one reference."""

    def __init__(
        self, pipeline: Pipeline, prompt: Prompt, options: ConversionOptions | None = None, *, batch: int = 1
    ) -> None:
        """Raises ``ValueError`` for options out of range, or a prompt that leaves no room for the source."""
        self.options = options = options or ConversionOptions()
        if options.steps < 1 or batch < 1:
            raise ValueError("steps and batch must be at least 1")
        if not 0.25 <= options.length_adjust <= 4:
            raise ValueError(f"length_adjust must be within 0.25 and 4, got {options.length_adjust}")
        self._pipeline, self._prompt, self._batch = pipeline, prompt, batch
        config = pipeline.mel_config
        self._frames_a_unit = options.length_adjust * config.rate / (UNITS_A_SECOND * config.hop)
        window_s = options.window_s or WINDOW_S
        room_s = window_s - prompt.mel.shape[1] * config.hop / config.rate
        hearing_s = window_s - 2 * MARGIN_UNITS / UNITS_A_SECOND
        self.window_units = int(min(room_s / options.length_adjust, hearing_s) * UNITS_A_SECOND) - END_UNITS
        self.overlap_units = math.ceil(OVERLAP_FRAMES / self._frames_a_unit)
        if self.window_units < 4 * self.overlap_units:
            raise ValueError("the reference is too long: it leaves no room for the source")

    def output_samples(self, recording: Recording) -> int:
        """Samples of the result at the model's rate."""
        seconds = recording.samples / recording.rate
        return round(seconds * self._pipeline.mel_config.rate * self.options.length_adjust)

    def convert(
        self,
        recordings: Sequence[Recording],
        write: Callable[[int, Wave], None],
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Hand the results to ``write(number of the recording, piece)``, in order, recording after recording.

        progress: told how many more seconds of source are done. Raises ``SourceError``.
        """
        joins = [Join(self.output_samples(recording)) for recording in recordings]
        medians: list[float] = []
        waiting: list[Window] = []

        def run() -> None:
            for window, wave in zip(waiting, self._convert(waiting, medians), strict=True):
                first = self._frame(window.begin) * self._pipeline.mel_config.hop
                write(window.source, joins[window.source].add(first, wave, window.last))
                skipped = 0 if window.begin == 0 else self.overlap_units
                progress((window.end - window.begin - skipped) / UNITS_A_SECOND)
            waiting.clear()

        for number, recording in enumerate(recordings):
            medians.append(self._median_hz(recording))
            for window in self._windows(number, recording):
                waiting.append(window)
                if len(waiting) == self._batch:
                    run()
        if waiting:
            run()

    def _frame(self, unit: int) -> int:
        return round(unit * self._frames_a_unit)

    def _windows(self, number: int, recording: Recording) -> Iterator[Window]:
        """Windows in order; only the samples that windows to come need are kept."""
        total = recording.units
        pieces, kept, kept_from, ended = recording.pieces(), np.zeros(0, np.float32), 0, False
        begin = 0
        while True:
            end = min(total, begin + self.window_units)
            if total - end < 2 * self.overlap_units:  # no crumbs
                end = min(total, max(end, begin + self.window_units + MARGIN_UNITS - END_UNITS))
            last = end == total
            heard_from = max(0, begin - MARGIN_UNITS)
            heard_to = min(end + MARGIN_UNITS, total + END_UNITS)
            wanted = (heard_to - kept_from) * UNIT_SAMPLES
            while len(kept) < wanted and not ended:
                piece = next(pieces, None)
                ended = piece is None
                kept = kept if piece is None else np.concatenate([kept, piece])
            kept = kept[(heard_from - kept_from) * UNIT_SAMPLES :]
            kept_from = heard_from
            wave = kept[: (heard_to - heard_from) * UNIT_SAMPLES]
            wave = np.pad(wave, (0, (heard_to - heard_from) * UNIT_SAMPLES - len(wave)))
            yield Window(number, begin, end, last, heard_from, wave)
            if last:
                return
            begin = end - self.overlap_units

    def _median_hz(self, recording: Recording) -> float:
        """Median pitch of a recording, 0 where it does not matter or has none."""
        tracker = self._pipeline.networks.tracker
        if tracker is None or not (self.options.auto_f0_adjust and self.options.follow_pitch):
            return 0.0
        voiced = []
        for piece in recording.pieces():
            if len(piece) > INPUT_RATE // 10:
                with torch.inference_mode():
                    f0 = tracker(torch.from_numpy(np.ascontiguousarray(piece))[None].to(self._pipeline.device))[0]
                voiced.append(f0[f0 > 0].cpu())
        known = torch.cat(voiced) if voiced else torch.zeros(0)
        return float(known.log().median().exp()) if len(known) else 0.0

    @torch.inference_mode()
    def _convert(self, windows: Sequence[Window], medians: Sequence[float]) -> list[Wave]:
        """The sound of each window, from its first mel frame on."""
        pipeline, device = self._pipeline, self._pipeline.device
        heard_lens = torch.tensor([len(window.wave) for window in windows], device=device)
        wave = torch.zeros(len(windows), int(heard_lens.max()), device=device)
        for row, window in zip(wave, windows, strict=True):
            row[: len(window.wave)] = torch.from_numpy(window.wave)
        equal = len({len(window.wave) for window in windows}) == 1
        content = pipeline.networks.content(wave, None if equal else heard_lens)
        units = [window.end - window.begin for window in windows]
        frames = [self._frame(window.end) - self._frame(window.begin) for window in windows]
        skips = [window.begin - window.heard_from for window in windows]
        unit_lens, frame_lens = torch.tensor(units, device=device), torch.tensor(frames, device=device)
        content = _shifted(content, skips, units)
        f0 = self._pitch(wave, heard_lens, windows, skips, units, medians)
        condition = pipeline.condition(content, max(frames), f0, frame_lens, unit_lens)
        start = torch.tensor([self._frame(window.begin) for window in windows], device=device)
        seed = torch.full_like(start, session_seed("file"))
        noise = pipeline.mel_noise_at(start + seed, max(frames))
        prompts = Prompts.of([self._prompt] * len(windows))
        lens = None if len(set(frames)) == 1 else frame_lens
        mel = pipeline.solve(condition, prompts, noise, self.options.steps, lens)
        out = []
        for row, count in enumerate(frames):  # a vocoder's every sample depends on where the mel ends
            pitch = None
            if f0 is not None:
                pitch = at_mel_frames(f0[row : row + 1, : units[row] * F0_A_UNIT], count)
            at = start[row : row + 1]
            sound = pipeline.vocode(
                mel[row : row + 1, :, :count], pitch, at * pipeline.mel_config.hop, seed[row : row + 1]
            )
            if self.options.follow_loudness:
                heard = wave[row, skips[row] * UNIT_SAMPLES :][: units[row] * UNIT_SAMPLES]
                sound = follow(heard[None], sound)
            out.append(sound[0].cpu().numpy())
        return out

    def _pitch(
        self,
        wave: Tensor,
        lens: Tensor,
        windows: Sequence[Window],
        skips: Sequence[int],
        units: Sequence[int],
        medians: Sequence[float],
    ) -> Tensor | None:
        """f0 ``[B, F]`` of the windows' own units, moved as the options say."""
        tracker = self._pipeline.networks.tracker
        if tracker is None or not self.options.follow_pitch:
            return None
        tracked = torch.nn.utils.rnn.pad_sequence(by_length(tracker, wave, lens), batch_first=True)
        f0 = _shifted(tracked, [skip * F0_A_UNIT for skip in skips], [count * F0_A_UNIT for count in units])
        ratios = []
        for window in windows:
            usual = medians[window.source]
            ratio = self._prompt.f0_hz / usual if usual > 0 and self._prompt.f0_hz > 0 else 1.0
            ratios.append(ratio * 2 ** (self.options.semitones / 12))
        return f0 * torch.tensor(ratios, device=f0.device)[:, None]


def _shifted(x: Tensor, skips: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Frames ``skip .. skip + count`` of each row of ``x [B, N, ...]``, filled with zeros."""
    out = x.new_zeros(x.shape[0], max(counts), *x.shape[2:])
    for row, (skip, count) in enumerate(zip(skips, counts, strict=True)):
        piece = x[row, skip : skip + count]
        out[row, : len(piece)] = piece
    return out


class Join:
    """Pieces of one result, crossfaded where they overlap, cut or filled to the length it must have."""

    def __init__(self, length: int) -> None:
        self._left = length
        self._tail = np.zeros(0, np.float32)
        self._tail_from = 0

    def add(self, first: int, wave: Wave, last: bool) -> Wave:
        """What is final once ``wave``, which begins at sample ``first``, has come."""
        ready = self._tail[: first - self._tail_from]
        overlap = self._tail[first - self._tail_from :]
        if len(overlap):
            fade = np.cos(np.linspace(0, np.pi / 2, len(overlap), dtype=np.float32)) ** 2
            wave = wave.copy()
            wave[: len(overlap)] = overlap * fade + wave[: len(overlap)] * (1 - fade)
        if not last:
            self._tail, self._tail_from = wave, first
            return self._take(ready)
        everything = np.concatenate([ready, wave])
        return self._take(np.pad(everything, (0, max(0, self._left - len(everything)))))

    def _take(self, wave: Wave) -> Wave:
        out = wave[: self._left]
        self._left -= len(out)
        return out
