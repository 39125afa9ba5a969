"""Loudness (ITU-R BS.1770-4, annex 1): the level of a sound after filters that weight frequencies as hearing does.

Two filters make the K-weighting, a shelf that raises treble by 4 dB and a high-pass at 38 Hz. Libraries such as
pyloudnorm apply them to samples. Here they are weights of bin powers (`k_weighting`), which the solver needs. The STFT
that draws a sound also gives its integrated loudness: that of the windows of 0.4 s above -70 LUFS, and of these no more
than 10 LU below their mean,

    L = -0.691 + 10 log10(mean over these windows of the K-weighted power, summed over channels)

All channels count the same, because a file often does not say which of them are surrounds.

In: frequencies in Hz, shape (n,), or powers of frames, shape (frames,). Out: gains of power, shape (n,), or LUFS.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Biquad(NamedTuple):
    """Coefficients of a second-order filter, of z**0, z**-1 and z**-2; ``scipy.signal.lfilter(*biquad, y)`` applies it."""

    numerator: tuple[float, float, float]
    denominator: tuple[float, float, float]


FILTER_RATE_HZ = 48_000  # for which the standard gives the coefficients
MAX_K_HZ = 23_000.0  # above it the gain stays the same, because the filters end at half of that rate
K_SHELF = Biquad(  # table 1
    (1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)
)
K_HIGH_PASS = Biquad((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))  # table 2


def k_weighting(hz: np.ndarray) -> np.ndarray:
    """Gain of power by the K-weighting filters at some frequencies."""
    z = np.exp(-2j * np.pi * np.minimum(hz, MAX_K_HZ) / FILTER_RATE_HZ)
    response = np.ones(len(hz), complex)
    for biquad in (K_SHELF, K_HIGH_PASS):
        response *= np.polyval(biquad.numerator[::-1], z) / np.polyval(biquad.denominator[::-1], z)
    return np.square(np.abs(response))


OFFSET_DB = -0.691  # so that a sine of 997 Hz at full scale has -3.01 LUFS
WINDOW_S, STEP_S = 0.4, 0.1  # windows, and the time from one to the next
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
HANN_ENERGY = 0.375  # mean of the squares of a Hann window
HANN_LOBE = (1.0, 0.25)  # power of a sine in its own bin and in each neighbour, under a Hann window


def loudness_weights(n_fft: int, sr: int) -> np.ndarray:
    """Weights of the bin powers of a frame under a Hann window, whose weighted sum is the K-weighted power of the frame.

    A Hann window spreads a sine over three bins. Where the K-weighting is steep, and at 0 Hz, that would count much of
    what the high-pass takes away. So the weights are those which give the right power after that spreading.

    Returns
    -------
    np.ndarray, shape (n_fft // 2 + 1,), float32
    """
    from scipy.linalg import solve_banded

    gains = k_weighting(np.fft.rfftfreq(n_fft, 1 / sr))
    own, neighbour = HANN_LOBE
    bands = np.full((3, len(gains)), neighbour)
    bands[1] = own
    bands[0, 1] = bands[2, -2] = 2 * neighbour  # both neighbours of the first bin are the second one, and so at the end
    weights = solve_banded((1, 1), bands, (own + 2 * neighbour) * gains)
    weights[1:-1] *= 2  # each bin between them stands for two
    return (weights / (n_fft * HANN_ENERGY * n_fft)).astype(np.float32)


def integrated_loudness(powers: np.ndarray, times_s: np.ndarray, duration_s: float) -> float:
    """Integrated loudness in LUFS; -inf if all is quiet. A sound of less than 0.4 s counts as one window.

    Parameters
    ----------
    powers : np.ndarray, shape (frames,), K-weighted power of each frame, summed over channels
    times_s : np.ndarray, shape (frames,), rising, of the middle of each frame
    duration_s : float > 0, of the sound
    """
    n_windows = max(1, int((duration_s - WINDOW_S) / STEP_S + 1 + 1e-6))
    starts_s = STEP_S * np.arange(n_windows)
    first = np.searchsorted(times_s, starts_s)
    stop = np.searchsorted(times_s, np.minimum(starts_s + WINDOW_S, max(duration_s, times_s[0] + 1e-6)))
    sums = np.concatenate(([0.0], np.cumsum(powers, dtype=float)))
    means = (sums[stop] - sums[first]) / np.maximum(stop - first, 1)
    means = means[means > 10 ** ((ABSOLUTE_GATE_LUFS - OFFSET_DB) / 10)]
    if not len(means):
        return -math.inf
    means = means[means > means.mean() * 10 ** (RELATIVE_GATE_LU / 10)]
    return OFFSET_DB + 10 * math.log10(means.mean())
