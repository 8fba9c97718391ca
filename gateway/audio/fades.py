"""Fades where silence stands between blocks of sound."""

from __future__ import annotations

import numpy as np

from gateway.audio.resample import Pcm


class Edges:
    """Fades where a block of silence stands between blocks of sound."""

    fade_ms = 10

    def __init__(self, rate: int) -> None:
        length = rate * self.fade_ms // 1000
        self._fade_in = np.sin(np.pi / 2 * np.linspace(0, 1, length)) ** 2
        self._tail = np.zeros(length, np.int16)
        self._silent = False

    def conceal(self, samples: int) -> Pcm:
        """A block of silence after what was emitted last: that sound's own mirror image fades out at its start."""
        block = np.zeros(samples, np.int16)
        if not self._silent:
            block[: len(self._tail)] = (self._tail[::-1] * self._fade_in[::-1]).astype(np.int16)
        self._silent = True
        return block

    def resume(self, block: Pcm) -> Pcm:
        """`block` as it may be emitted: faded in if silence was put before it."""
        if self._silent:
            block = block.copy()
            head = slice(0, len(self._fade_in))
            block[head] = (block[head] * self._fade_in).astype(np.int16)
            self._silent = False
        self._tail = block[-len(self._tail) :]
        return block
