"""A stream of 16 kHz samples cut into the worker's blocks, and the answers cut to the stream's length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.audio.resample import Pcm
from shared.messages import LINK_RATE


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How a session's sound lies in blocks; equal for every worker that may serve it.

    The stream begins with `prefill_ms` of silence, so that the first block is complete early. The worker's sound lags
    by `delay_ms`. Both stay in the output: it is continuous from the first answer on, and ``lead_ms`` longer than the
    input. ``lead_ms`` never exceeds a block.
    """

    block_ms: int
    delay_ms: int
    rate_out: int
    prefill_ms: int

    @classmethod
    def fit(cls, block_ms: int, delay_ms: int, rate_out: int, wanted_prefill_ms: int, lag_ms: int = 0) -> BlockLayout:
        """The longest prefill up to the wanted one that keeps the lead within a block.

        Callers send 10 or 20 ms at a time, so it is a multiple of 20 ms: a block is then complete when a packet is.
        `lag_ms` makes up for a resampler that holds back the packet's last samples.
        """
        most = min(wanted_prefill_ms, block_ms - delay_ms - lag_ms)
        return cls(block_ms, delay_ms, rate_out, max(0, most // 20 * 20 + lag_ms))

    @property
    def lead_ms(self) -> int:
        return self.prefill_ms + self.delay_ms

    @property
    def block_samples(self) -> int:
        """Of a block at 16 kHz."""
        return self.block_ms * LINK_RATE // 1000

    @property
    def block_samples_out(self) -> int:
        """Of a block at the worker's rate."""
        return self.block_ms * self.rate_out // 1000


class Blocker:
    """Cuts what comes in into whole blocks; `finish` pads the last so that the delayed tail comes out too."""

    def __init__(self, layout: BlockLayout) -> None:
        self._layout = layout
        self._parts: list[Pcm] = [np.zeros(layout.prefill_ms * LINK_RATE // 1000, np.int16)]
        self._held = len(self._parts[0])
        self._heard = False  # something of the caller, since the last silence was put in
        self.samples = 0  # taken from the caller or put in for them, at 16 kHz
        self.padded = 0  # of them, silence that was put in

    @property
    def missing_ms(self) -> float:
        """Of sound until the next block is complete."""
        return (self._layout.block_samples - self._held) / LINK_RATE * 1000

    def push(self, samples: Pcm, silence_ms: int = 0) -> list[Pcm]:
        """The blocks that are complete now. `silence_ms` of the samples were put in by a decoder."""
        self.samples += len(samples)
        self.padded += silence_ms * LINK_RATE // 1000
        self._heard = self._heard or len(samples) > 0
        return self._cut(samples)

    def pad(self) -> list[Pcm]:
        """The caller pauses: blocks of silence behind what is held, so that the delayed tail comes out now."""
        if not self._heard:
            return []
        silence = self._tail_samples
        self.samples += silence
        self.padded += silence
        self._heard = False
        return self._cut(np.zeros(silence, np.int16))

    def finish(self) -> list[Pcm]:
        """The remaining blocks. None at all if the caller never sent a sample."""
        if not self.samples:
            return []
        return self._cut(np.zeros(self._tail_samples, np.int16))

    @property
    def _tail_samples(self) -> int:
        """Of silence, until all that is held is in whole blocks and has passed the worker's delay."""
        delay = self._layout.delay_ms * LINK_RATE // 1000
        return delay + -(self._held + delay) % self._layout.block_samples

    def _cut(self, samples: Pcm) -> list[Pcm]:
        self._parts.append(samples)
        self._held += len(samples)
        block = self._layout.block_samples
        if self._held < block:
            return []
        wave = np.concatenate(self._parts)
        whole = len(wave) - len(wave) % block
        self._parts = [wave[whole:]]
        self._held = len(wave) - whole
        return list(wave[:whole].reshape(-1, block))


def samples_due(layout: BlockLayout, samples_in: int) -> int:
    """Samples at the worker's rate that a whole session of `samples_in` at 16 kHz gets: its own length and the lead."""
    if not samples_in:
        return 0
    return round((samples_in / LINK_RATE + layout.lead_ms / 1000) * layout.rate_out)
