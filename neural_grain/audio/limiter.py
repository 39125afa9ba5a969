"""A look-ahead peak limiter: it turns a sound down around the samples that exceed a ceiling, and nowhere else.

More texture turns a drum hit into a click far above full scale for a millisecond. Making the whole file quieter for
it would cost up to 25 dB, so only the surroundings of the peak are turned down:

    out[t] = y[t] g[t],   g = (min over |u - t| <= L of min(1, ceiling / |y[u]|)) * Hann window of the same length

Every value of the convolution (*) is an average of minima that all include sample t, so the ceiling is kept and
the gain has no steps. The limiter is our own because it works on a stream of blocks, gives the same result for any
block size, and leaves samples away from the peaks untouched bit for bit.

In: blocks of samples, shape (samples, channels). Out: blocks of the same number of samples in total.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from neural_grain.audio.sound import Sound, sample_peak

CEILING = 1.0 - 2.0**-15  # the largest sample that 16-bit audio can hold
LOOK_AHEAD_S = 0.0015  # to either side of a peak: short enough to be masked by it, long enough not to distort


def limiter_reach(sr: int) -> int:
    """Number of samples to either side of a sample that decide its gain: the minimum and the kernel reach half each."""
    return 2 * max(1, round(LOOK_AHEAD_S * sr))


def limit_peaks(
    blocks: Iterable[np.ndarray], ceiling: float, sound: Sound, *, carried: int = 0
) -> Iterator[np.ndarray]:
    """Limit the peaks of a stream of blocks, with the same gain for all channels.

    Parameters
    ----------
    blocks : np.ndarray, shape (samples, channels + carried), full scale 1.0
    ceiling : float > 0, largest absolute sample of the output
    sound : Sound, gives the sample rate and the number of channels
    carried : further channels, which get the gain of the others whatever their own peaks are

    Yields
    ------
    np.ndarray, shape (samples, channels + carried)
    """
    own = slice(sound.channels)
    margin = np.zeros((limiter_reach(sound.sr), sound.channels + carried), np.float32)
    look_ahead = len(margin) // 2
    kernel = np.hanning(2 * look_ahead + 3)[1:-1].astype(np.float32)
    kernel /= kernel.sum()
    buffer = margin
    for block in chain(blocks, [margin]):
        buffer = np.concatenate([buffer, block])
        n_ready = len(buffer) - 2 * len(margin)
        if n_ready > 0:
            limited = buffer
            if sample_peak(buffer[:, own]) > ceiling:
                limited = buffer * _limiter_gain(buffer[:, own], ceiling, look_ahead, kernel)[:, None]
                limited[:, own].clip(-ceiling, ceiling, out=limited[:, own])  # removes an excess of rounding
            yield limited[len(margin) : len(margin) + n_ready]
            buffer = buffer[n_ready:]


def _limiter_gain(y: np.ndarray, ceiling: float, look_ahead: int, kernel: np.ndarray) -> np.ndarray:
    """Gain (n,) of the limiter for samples (n, channels); the result holds except within ``2 * look_ahead`` of the ends."""
    from scipy.ndimage import convolve1d, minimum_filter1d

    peaks = np.abs(y).max(axis=1)
    gain = np.minimum(1, ceiling / np.maximum(peaks, ceiling)).astype(np.float32)
    return convolve1d(minimum_filter1d(gain, 2 * look_ahead + 1, mode="nearest"), kernel, mode="nearest")
