"""Sound on its way: int16 samples and the streaming change of their rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import samplerate

Pcm = npt.NDArray[np.int16]

LAG_MS = 3  # at 8 kHz; less at higher rates
_FLUSH_S = 0.02  # more than the filter's reach at any of our rates (2.5 ms at 8 kHz)


def to_pcm(wave: npt.NDArray[np.floating]) -> Pcm:
    """Round float samples on the int16 scale; louder ones clip, they never wrap."""
    return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)


class StreamResampler:
    """Stateful rate change of one mono stream: libsamplerate's windowed sinc (J. O. Smith, bandlimited interpolation).

    Its output lags by a constant 1-3 ms, whatever the chunk lengths, so that no borders can be heard; block-based
    resamplers lag by up to 110 ms and unevenly. After `flush` exactly ``round(n * rate_out / rate_in)`` samples have
    come out for n in. Equal rates pass through.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self.rate_in, self.rate_out = rate_in, rate_out
        self._taken = 0
        self._given = 0
        self._filter = samplerate.Resampler("sinc_fastest", channels=1) if rate_in != rate_out else None

    def push(self, samples: Pcm) -> Pcm:
        """The samples that are complete once `samples` (int16 ``[n]``) are known."""
        if self._filter is None:
            return samples
        self._taken += len(samples)
        made = self._run(samples.astype(np.float32))
        self._given += len(made)
        return made

    def flush(self) -> Pcm:
        """What is still inside, so that all lengths add up. The stream is over."""
        if self._filter is None:
            return np.zeros(0, np.int16)
        missing = round(self._taken * self.rate_out / self.rate_in) - self._given
        made = self._run(np.zeros(round(_FLUSH_S * self.rate_in), np.float32))[: max(missing, 0)]
        return np.pad(made, (0, max(missing - len(made), 0)))

    def _run(self, wave: npt.NDArray[np.float32]) -> Pcm:
        assert self._filter is not None
        if not len(wave):
            return np.zeros(0, np.int16)
        return to_pcm(self._filter.process(wave, self.rate_out / self.rate_in))
