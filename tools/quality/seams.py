"""Whether the joints of blocks can be told from the rest of a stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.geometry import INPUT_RATE, Geometry

FRAME = INPUT_RATE // 200


def border_excess_db(pcm: npt.NDArray[np.int16], geometry: Geometry) -> float:
    """How much more the sound above 4 kHz changes from one 5 ms to the next within the joints than elsewhere, in dB.

    A joint is the crossfade of a block, moved by the delay that ``stream`` removes. Clicks are broadband and short, so
    they would stand out among the larger changes (the 90th percentile is compared); 0 means that nothing tells a joint
    from the rest.
    """
    spectrum = np.abs(np.fft.rfft(pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME) / 32768.0 * np.hanning(FRAME)))
    high_db = 10 * np.log10(np.square(spectrum[:, FRAME // 4 :]).sum(axis=1) + 1e-6)
    jump = np.abs(np.diff(high_db))
    at = (np.arange(1, len(high_db)) * FRAME + geometry.delay_ms * INPUT_RATE // 1000) % geometry.block_samples_in
    joint = at <= geometry.crossfade_samples
    active = np.maximum(high_db[1:], high_db[:-1]) > -50
    inside, outside = (np.percentile(jump[where & active], 90) for where in (joint, ~joint))
    return float(inside - outside)
