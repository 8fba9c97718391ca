"""Engine ``shift``: pitch, formants and long-term colour moved to those of a reference voice, without a network.

It learns the caller's usual pitch and spectrum while the call goes on (``Caller``), and knows the reference's from its
recording (``Profile``). What it cannot do is change the way somebody speaks; see ``docs/shift.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from loguru import logger

from shared.settings import WorkerConfig
from worker import pitch
from worker.engine import NO_OPTIONS, Batch, SessionOptions, StageTimes
from worker.engines.shift import envelope, psola
from worker.geometry import INPUT_RATE, Geometry
from worker.timings import Laps
from worker.voices import Voice, VoiceError, load_voice, offered_voices, usable

DEFAULT_GEOMETRY = Geometry.from_ms(block_ms=200, left_ms=720)

MIN_VOICED_FRAMES = 20  # of a reference: 0.2 s
_MEMORY_FRAMES = 1000.0  # frames of speech after which statistics have faded to 1/e: 10 s
_TRUST_FRAMES = 60.0  # frames of speech at which the equaliser does half its work
_SLEW_LOG_PER_S = 0.35  # fastest change of pitch ratio once a call is under way: half an octave a second
# Vocal tracts differ less than larynxes: F3 and F4 of the bundled voices lie 12 % apart between the man and the women,
# their f0 35 %. (Matching long-term spectra along log-frequency was tried and found the language, not the speaker.)
_FORMANT_EXPONENT = 0.28
_MIN_FORMANT, _MAX_FORMANT = 0.8, 1.25
_SPEECH_DB = -35.0  # below the loudest frame of the window: what counts as speech
_SILENT_DBFS = -55.0


@dataclass(slots=True)
class Caller:
    """What is known about each caller; every field has one row a session."""

    fresh: torch.Tensor  # bool: nothing converted yet, the whole window is news
    voice: torch.Tensor  # int64: index of the reference
    pitches: torch.Tensor  # [S, HISTOGRAM_BINS] voiced frames by f0, fading
    heard: torch.Tensor  # [S, BANDS] power of speech frames, fading sum
    said: torch.Tensor  # [S, BANDS] the same frames after pitch and formant shift
    frames: torch.Tensor  # frames in ``heard`` and ``said``, fading
    skew: torch.Tensor  # sum of cubes, fading: which way pulses point
    log_ratio: torch.Tensor  # natural log of the pitch ratio in use; NaN before the first voiced frame
    phase: torch.Tensor  # of the output, in periods, at the first sample the next window will emit

    @classmethod
    def blank(cls, rows: int, device: torch.device) -> Caller:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(rows, *shape, device=device)

        return cls(
            fresh=torch.ones(rows, dtype=torch.bool, device=device),
            voice=torch.zeros(rows, dtype=torch.int64, device=device),
            pitches=zeros(pitch.HISTOGRAM_BINS),
            heard=zeros(envelope.BANDS),
            said=zeros(envelope.BANDS),
            frames=zeros(),
            skew=zeros(),
            log_ratio=torch.full((rows,), torch.nan, device=device),
            phase=zeros(),
        )

    def take(self, rows: torch.Tensor) -> Caller:
        return Caller(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: torch.Tensor, other: Caller) -> None:
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)


@dataclass(frozen=True, slots=True)
class Profile:
    """Reference voices: median f0 in Hz ``[V]`` and share of each band in the power of their speech ``[V, BANDS]``."""

    f0: torch.Tensor
    speech: torch.Tensor


class ShiftEngine:
    """Implements ``worker.engine.Engine``."""

    name = "shift"
    keeps_speech = False
    limits = NO_OPTIONS

    def __init__(
        self,
        voices: Sequence[Voice],
        max_sessions: int,
        *,
        geometry: Geometry = DEFAULT_GEOMETRY,
        device: str | torch.device = "cpu",
        max_prompt_s: float = 25.0,
        guests: bool = False,
    ) -> None:
        """guests: whether sessions may bring a voice. A reference of no use is left out with a warning.

        Raises ``VoiceError`` if none is of use, ``ValueError`` for a geometry that does not fit.
        """
        if geometry.output_rate != INPUT_RATE:
            raise ValueError(f"the shift engine puts out {INPUT_RATE} Hz, not {geometry.output_rate}")
        if geometry.left_units * 320 < psola.MARGIN + envelope.FILTER_TAPS + envelope.FRAME:
            raise ValueError("the shift engine needs at least 100 ms of left context")
        self.geometry = geometry
        self.device = torch.device(device)
        profiles = _profiles(voices, max_prompt_s, self.device)
        self._voices = {voice.name: voice.description for voice in profiles}
        self._index = {name: i for i, name in enumerate(self._voices)}
        self.guest_prompt_s = max_prompt_s if guests else 0.0
        brought = next(iter(profiles.values()))  # behind the voices each slot has a row for what its session brings
        self._profile = Profile(
            torch.cat([profile.f0 for profile in profiles.values()] + [brought.f0] * max_sessions),
            torch.cat([profile.speech for profile in profiles.values()] + [brought.speech] * max_sessions),
        )
        self._callers = Caller.blank(max_sessions, self.device)

    @property
    def voices(self) -> Mapping[str, str]:
        return self._voices

    def open(self, slot: int, voice: str, options: SessionOptions, seed: int, reference: bytes | None = None) -> None:
        if reference is None:
            index = self._index[voice]
        else:
            index = len(self._index) + slot
            own = Voice.of_caller(voice, reference)
            profile = _profile(own, load_voice(own, self.guest_prompt_s), self.device)
            self._profile.f0[index], self._profile.speech[index] = profile.f0[0], profile.speech[0]
        row = torch.tensor([slot], device=self.device)
        blank = Caller.blank(1, self.device)
        blank.voice[0] = index
        self._callers.put(row, blank)

    def close(self, slot: int) -> None:
        self._callers.put(torch.tensor([slot], device=self.device), Caller.blank(1, self.device))

    def prepare(self, budget_s: float) -> bool:
        return False

    @torch.inference_mode()
    def convert(self, batch: Batch) -> tuple[torch.Tensor, StageTimes]:
        geometry = self.geometry
        caller = self._callers.take(batch.rows)
        stop = geometry.window_samples - geometry.right_units * INPUT_RATE // 50
        start = stop - geometry.engine_samples
        out, times = _convert(caller, self._profile, batch.window, geometry.block_samples_in, start, stop)
        self._callers.put(batch.rows, caller)
        return out, times

    @torch.inference_mode()
    def convert_whole(self, wave: npt.NDArray[np.float32], voice: str) -> npt.NDArray[np.float32]:
        """A whole recording ``[N]`` (16 kHz, [-1, 1]) at once: as many samples, each at its own time, no session.

        The same algorithm as a stream's, over one window that is all news; it knows the caller's pitch and colour from
        the start. Raises ``KeyError`` for an unknown voice.
        """
        caller = Caller.blank(1, self.device)
        caller.voice[0] = self._index[voice]
        start = psola.MARGIN + envelope.FILTER_TAPS + envelope.FRAME
        padded = np.pad(wave.astype(np.float32), (start, 2 * pitch.FRAME))
        window = torch.from_numpy(padded)[None].to(self.device)
        out, _ = _convert(caller, self._profile, window, len(wave), start, start + len(wave))
        return out[0].cpu().numpy()


def _convert(
    caller: Caller, profile: Profile, window: torch.Tensor, block: int, start: int, stop: int
) -> tuple[torch.Tensor, StageTimes]:
    """Samples ``start:stop`` of ``window [B, N]`` in each row's reference voice; updates ``caller`` in place."""
    clock = Laps(window.device)
    f0, voiced = _learn_pitch(caller, window, block)
    clock.lap("pitch")

    shift = _steer(caller, profile, block / INPUT_RATE, (stop - block, start + block))
    first = start - envelope.FILTER_TAPS - envelope.FRAME
    said, phase = psola.synthesise(window, f0, voiced, shift, caller.phase, start, first, stop)
    caller.phase = phase[:, start - first + block]
    clock.lap("psola")

    _learn_colour(caller, window[:, first:stop], said, _newest(said, envelope.FRAME, block) & ~caller.fresh[:, None])
    if bool(caller.fresh.any()):
        _catch_up(caller, window[:, :stop], f0, voiced, shift)
    response = _equaliser(caller, profile)
    out = envelope.filter_rows(said[:, start - first - envelope.FILTER_TAPS + 1 :], response)
    caller.fresh = torch.zeros_like(caller.fresh)
    clock.lap("colour")
    return out, clock.times()


def _learn_pitch(caller: Caller, window: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    correlation = pitch.correlate(window)
    f0, voiced = pitch.track(correlation, pitch.median_hz(caller.pitches))
    counted = voiced & (_newest(window, pitch.FRAME, block) | caller.fresh[:, None])
    fade = torch.exp(-counted.sum(dim=1, keepdim=True) / _MEMORY_FRAMES)
    caller.pitches = caller.pitches * fade + pitch.histogram(f0, counted)
    skew = psola.pulse_skew(window)
    caller.skew = caller.skew * torch.exp(-counted.sum(dim=1) / _MEMORY_FRAMES) + skew
    return pitch.track(correlation, pitch.median_hz(caller.pitches))


def _catch_up(caller: Caller, window: torch.Tensor, f0: torch.Tensor, voiced: torch.Tensor, shift: psola.Shift) -> None:
    """Learn the colour of fresh rows from all that their windows hold; apart, so that other rows take no other path."""
    rows = caller.fresh.nonzero()[:, 0]
    fresh, start = caller.take(rows), psola.MARGIN
    said, _ = psola.synthesise(
        window[rows], f0[rows], voiced[rows], shift.take(rows), fresh.phase, start, start, window.shape[1]
    )
    _learn_colour(fresh, window[rows, start:], said, torch.ones(1, 1, dtype=torch.bool, device=window.device))
    caller.put(rows, fresh)


def _learn_colour(caller: Caller, heard: torch.Tensor, said: torch.Tensor, news: torch.Tensor) -> None:
    before, after = envelope.band_power(heard), envelope.band_power(said)
    counted = _speech(before) & news
    fade = torch.exp(-counted.sum(dim=1) / _MEMORY_FRAMES)
    caller.heard = caller.heard * fade[:, None] + (before * counted[..., None]).sum(dim=1)
    caller.said = caller.said * fade[:, None] + (after * counted[..., None]).sum(dim=1)
    caller.frames = caller.frames * fade + counted.sum(dim=1)


def _newest(wave: torch.Tensor, frame: int, block: int) -> torch.Tensor:
    """Which frames ``[1, F]`` of ``wave [B, N]`` hold its last ``block`` samples; call by call they tile the sound."""
    frames = (wave.shape[1] - frame) // pitch.HOP + 1
    return torch.arange(frames, device=wave.device)[None] >= frames - block // pitch.HOP


def _speech(power: torch.Tensor) -> torch.Tensor:
    level = 10 * torch.log10(power.mean(dim=2) / (0.375 * envelope.FRAME) + 1e-12)  # Hann: mean square 0.375
    return (level > level.amax(dim=1, keepdim=True) + _SPEECH_DB) & (level > _SILENT_DBFS)


def _steer(caller: Caller, profile: Profile, seconds: float, ramp: tuple[int, int]) -> psola.Shift:
    """Move the ratios in use towards what the statistics call for: at once at first, then no faster than the slew."""
    usual = pitch.median_hz(caller.pitches)
    reference = profile.f0[caller.voice]
    known = usual > 0
    ratio = (reference / usual.clamp(min=1.0)).clamp(psola.MIN_RATIO, psola.MAX_RATIO)
    ratio = torch.where(known, ratio, torch.ones_like(ratio))
    wanted = ratio.log()
    most = _SLEW_LOG_PER_S * seconds
    before = torch.where(known & caller.log_ratio.isnan(), wanted, caller.log_ratio)
    caller.log_ratio = torch.where(known, before + (wanted - before).clamp(-most, most), before)
    ratio_before, ratio = before.nan_to_num().exp(), caller.log_ratio.nan_to_num().exp()
    formant = (ratio**_FORMANT_EXPONENT).clamp(_MIN_FORMANT, _MAX_FORMANT)
    return psola.Shift(ratio_before, ratio, ramp, formant, torch.where(caller.skew < 0, -1.0, 1.0))


def _equaliser(caller: Caller, profile: Profile) -> torch.Tensor:
    frames = caller.frames.clamp(min=1.0)[:, None]
    trust = caller.frames / (caller.frames + _TRUST_FRAMES)
    heard = caller.heard / frames
    return envelope.equaliser(caller.said / frames, profile.speech[caller.voice], trust, heard.sum(dim=1))


def _profiles(voices: Sequence[Voice], max_prompt_s: float, device: torch.device) -> dict[Voice, Profile]:
    """Of every voice that is of use. Raises ``VoiceError`` if none is."""
    profiles, reason = {}, VoiceError("no reference voice is of use")
    for voice, wave in usable(voices, max_prompt_s):
        try:
            profiles[voice] = _profile(voice, wave, device)
        except VoiceError as error:
            logger.warning("{}; the voice is left out", error)
            reason = error
    if not profiles:
        raise reason
    return profiles


def _profile(voice: Voice, wave: npt.NDArray[np.float32], device: torch.device) -> Profile:
    window = torch.from_numpy(wave)[None].to(device)
    caller = Caller.blank(1, device)
    _, voiced = _learn_pitch(caller, window, len(wave))
    if int(voiced.sum()) < MIN_VOICED_FRAMES:
        raise VoiceError(f"voice {voice.name!r}: no voiced speech found in the recording")
    _learn_colour(caller, window, window, torch.ones_like(voiced[:, :1]))
    return Profile(pitch.median_hz(caller.pitches), caller.heard / caller.heard.sum(dim=1, keepdim=True))


def make(config: WorkerConfig, device: str) -> ShiftEngine:
    """As configured. Raises as the constructor does."""
    return ShiftEngine(
        offered_voices(config.voices_dir),
        config.max_sessions,
        geometry=Geometry.of(config),
        device=device,
        max_prompt_s=config.max_prompt_s,
        guests=config.guest_voices > 0,
    )
