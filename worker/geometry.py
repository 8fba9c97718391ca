"""Lengths of one streaming block, in units of 20 ms and in samples.

A conversion window at 16 kHz is ``[left context | crossfade | search | block | right context]``. The engine returns
the last ``block + crossfade + search`` units before the right context; SOLA then picks one block from them. The sound
a block carries is therefore ``crossfade + search + right`` units older than the block's own end.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.config import WorkerConfig
from shared.messages import LINK_RATE

UNIT_MS = 20
UNITS_A_SECOND = 1000 // UNIT_MS
INPUT_RATE = LINK_RATE  # what comes over the link is what is converted
UNIT_SAMPLES = INPUT_RATE // UNITS_A_SECOND


@dataclass(frozen=True, slots=True)
class Geometry:
    """Constant lengths of a worker; every ``*_units`` counts 20 ms, the frame of the content encoders."""

    block_units: int
    left_units: int
    crossfade_units: int
    search_units: int
    right_units: int
    output_rate: int

    def __post_init__(self) -> None:
        for name in ("block_units", "left_units", "crossfade_units", "search_units", "right_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 (20 ms), got {getattr(self, name)}")
        if self.output_rate % UNITS_A_SECOND:
            raise ValueError(f"output_rate must be a multiple of {UNITS_A_SECOND} Hz, got {self.output_rate}")
        if self.crossfade_units > self.block_units:
            raise ValueError("crossfade_units must not exceed block_units")

    @classmethod
    def from_ms(
        cls,
        *,
        block_ms: int,
        left_ms: int,
        crossfade_ms: int = 40,
        search_ms: int = 20,
        right_ms: int = 20,
        output_rate: int = INPUT_RATE,
    ) -> Geometry:
        """Geometry from milliseconds, each a multiple of 20."""
        lengths = {
            "block": block_ms,
            "left": left_ms,
            "crossfade": crossfade_ms,
            "search": search_ms,
            "right": right_ms,
        }
        for name, value in lengths.items():
            if value % UNIT_MS:
                raise ValueError(f"{name}_ms must be a multiple of {UNIT_MS}, got {value}")
        units = {f"{name}_units": value // UNIT_MS for name, value in lengths.items()}
        return cls(**units, output_rate=output_rate)

    @classmethod
    def of(cls, config: WorkerConfig, output_rate: int = INPUT_RATE) -> Geometry:
        """The configured lengths."""
        return cls.from_ms(
            block_ms=config.block_ms,
            left_ms=config.left_ms,
            crossfade_ms=config.crossfade_ms,
            search_ms=config.search_ms,
            right_ms=config.right_ms,
            output_rate=output_rate,
        )

    @property
    def window_units(self) -> int:
        return self.left_units + self.crossfade_units + self.search_units + self.block_units + self.right_units

    @property
    def window_samples(self) -> int:
        """Samples at 16 kHz of one window."""
        return self.window_units * UNIT_SAMPLES

    @property
    def history_samples(self) -> int:
        """Samples at 16 kHz of a window that precede its newest block."""
        return self.window_samples - self.block_samples_in

    @property
    def block_samples_in(self) -> int:
        return self.block_units * UNIT_SAMPLES

    @property
    def unit_samples_out(self) -> int:
        """Output samples of 20 ms."""
        return self.output_rate // UNITS_A_SECOND

    @property
    def block_samples_out(self) -> int:
        return self.block_units * self.unit_samples_out

    @property
    def crossfade_samples(self) -> int:
        return self.crossfade_units * self.unit_samples_out

    @property
    def search_samples(self) -> int:
        return self.search_units * self.unit_samples_out

    @property
    def right_samples_out(self) -> int:
        return self.right_units * self.unit_samples_out

    @property
    def engine_samples(self) -> int:
        """Output samples an engine returns for a row: block + crossfade + search."""
        return self.block_samples_out + self.crossfade_samples + self.search_samples

    @property
    def answered(self) -> slice:
        """Of a window's samples, those that the engine's answer is the conversion of."""
        stop = self.window_samples - self.right_units * UNIT_SAMPLES
        return slice(stop - (self.block_units + self.crossfade_units + self.search_units) * UNIT_SAMPLES, stop)

    @property
    def delay_ms(self) -> int:
        """How much older than its block's end the emitted sound is."""
        return (self.crossfade_units + self.search_units + self.right_units) * UNIT_MS

    @property
    def block_ms(self) -> int:
        return self.block_units * UNIT_MS
