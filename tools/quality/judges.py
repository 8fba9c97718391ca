"""Measures of a conversion by programs that share nothing with the models: likeness, quality, words, pitch.

Resemblyzer (Wan et al., "Generalized End-to-End Loss for Speaker Verification", 2018) for likeness, DNSMOS (Reddy et
al., "DNSMOS P.835", 2022) for quality, Whisper (Radford et al., 2022) for words, WORLD's DIO and StoneMask (Morise et
al., 2016) for pitch. All come with the ``train`` extra.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.quality.transcripts import Transcripts
from tools.train.corpus import LEVEL, RATE, Wave
from tools.train.teachers import SpeakerEncoder

CEILING_S = 4.0  # a recording shorter than this has no two halves worth comparing
F0_HZ = (60.0, 640.0)


@dataclass(frozen=True, slots=True)
class Measures:
    """One conversion. None: not measured."""

    to_target: float  # cosines
    to_source: float
    before: float  # source to target
    ceiling: float | None  # target to another recording of its speaker
    mos_source: float  # DNSMOS OVRL, 1 to 5
    mos_output: float
    mos_copy: float | None
    cer: float | None  # of the output's transcript against the source's
    cer_copy: float | None
    f0_target_hz: float  # medians, 0 without a voiced frame
    f0_source_hz: float
    f0_output_hz: float
    f0_error: float | None  # of the output's median, as a share of the target's

    @property
    def nearer(self) -> bool:
        return self.to_target > self.to_source


class Judges:
    def __init__(self) -> None:
        from speechmos import dnsmos

        self._speaker, self._words, self._dnsmos = SpeakerEncoder(), Transcripts(), dnsmos

    def measure(
        self,
        source: Wave,
        target: Wave,
        output: Wave,
        *,
        other: Wave | None = None,
        copy: Wave | None = None,
        language: str = "en",
    ) -> Measures:
        """Waves at 16 kHz. other: another recording of the target's speaker. copy: the source, copy-synthesised.
        language: of the source, ISO 639-1; empty: none whose words are to be counted."""
        of_source, of_target, of_output = (self.speaker(wave) for wave in (source, target, output))
        said = self.words(source, language) if language else ""
        f0 = [median_hz(wave) for wave in (target, source, output)]
        return Measures(
            to_target=float(of_output @ of_target),
            to_source=float(of_output @ of_source),
            before=float(of_source @ of_target),
            ceiling=self.ceiling(target, other),
            mos_source=self.quality(source),
            mos_output=self.quality(output),
            mos_copy=None if copy is None else self.quality(copy),
            cer=error_rate(self.words(output, language), said) if said else None,
            cer_copy=error_rate(self.words(copy, language), said) if said and copy is not None else None,
            f0_target_hz=f0[0],
            f0_source_hz=f0[1],
            f0_output_hz=f0[2],
            f0_error=abs(f0[2] / f0[0] - 1) if f0[0] > 0 and f0[2] > 0 else None,
        )

    def ceiling(self, target: Wave, other: Wave | None) -> float | None:
        """Likeness of two recordings of one speaker; the halves of one where there is no other."""
        if other is None:
            if len(target) < CEILING_S * RATE:
                return None
            target, other = target[: len(target) // 2], target[len(target) // 2 :]
        return float(self.speaker(target) @ self.speaker(other))

    def speaker(self, wave: Wave) -> Wave:
        return self._speaker.embed(levelled(wave))

    def quality(self, wave: Wave) -> float:
        """DNSMOS OVRL of a recording at ``LEVEL``."""
        scores = self._dnsmos.run(np.clip(levelled(wave), -1, 1), RATE)
        return float(scores["ovrl_mos"])

    def words(self, wave: Wave, language: str) -> str:
        return self._words.of(levelled(wave), language)

    def language(self, wave: Wave) -> str:
        """ISO 639-1 code of what is spoken."""
        return self._words.language(levelled(wave))


def levelled(wave: Wave) -> Wave:
    """At ``LEVEL`` rms."""
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return np.asarray(wave * (LEVEL / max(rms, 1e-6)), np.float32)


def median_hz(wave: Wave) -> float:
    """Median pitch, 0 without a voiced frame."""
    import pyworld

    x = wave.astype(np.float64)
    coarse, times = pyworld.dio(x, RATE, f0_floor=F0_HZ[0], f0_ceil=F0_HZ[1], frame_period=10.0)
    f0 = pyworld.stonemask(x, coarse, times, RATE)
    return float(np.median(f0[f0 > 0])) if (f0 > 0).any() else 0.0


def error_rate(heard: str, said: str) -> float:
    """Character error rate: Levenshtein distance over the length of ``said``, spaces included."""
    row = list(range(len(said) + 1))
    for i, a in enumerate(heard, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(said, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1] / max(1, len(said))
