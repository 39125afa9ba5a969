"""TODO"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from neural_grain.audio.sound import Sound, sample_peak

CEILING = 1.0 - 2.0**-15  # the largest sample that 16-bit audio holds
LIMITER_S = 0.0015  # look-ahead of the peak limiter to either side


def limit_peaks(blocks: Iterable[np.ndarray], ceiling: float, sound: Sound) -> Iterator[np.ndarray]:
    """Look-ahead peak limiter: turns down only where samples pass the ceiling, all channels alike.

    The gain that each sample needs, its minimum over the look-ahead to both sides, smoothed by a
    Hann window of the same length: so the ceiling holds at every sample and the gain has no steps.
    (Texture in a drum hit is a click, far above full scale for a millisecond; making the whole file
    quieter for it cost up to 25 dB.)

    Parameters
    ----------
    blocks : of shape (samples, channels), full scale 1.0
    ceiling : float > 0, largest sample in the output
    sound : Sound, for its rate and channels

    Yields
    ------
    np.ndarray, shape (samples, channels), as many samples in all as came in
    """
    from scipy.ndimage import convolve1d, minimum_filter1d

    ahead = max(1, round(LIMITER_S * sound.sr))
    kernel = np.hanning(2 * ahead + 3)[1:-1].astype(np.float32)
    kernel /= kernel.sum()
    silence = np.zeros((2 * ahead, sound.channels), np.float32)
    buffer = silence
    for block in chain(blocks, [silence]):
        buffer = np.concatenate([buffer, block])
        n_ready = len(buffer) - 2 * len(silence)
        if n_ready <= 0:
            continue
        out = buffer
        if sample_peak(buffer) > ceiling:
            peaks = np.abs(buffer).max(axis=1)
            gain = np.minimum(1, ceiling / np.maximum(peaks, ceiling)).astype(np.float32)
            gain = convolve1d(minimum_filter1d(gain, 2 * ahead + 1, mode="nearest"), kernel, mode="nearest")
            out = np.clip(buffer * gain[:, None], -ceiling, ceiling)  # the clip is for the last bit of a float
        yield out[len(silence) : len(silence) + n_ready]
        buffer = buffer[n_ready:]
