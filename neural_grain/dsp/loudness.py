"""Loudness (ITU-R BS.1770-4, annex 1): the level of a sound after filters that weight frequencies as hearing does.

Two filters make the K-weighting, a shelf that raises treble by 4 dB and a high-pass at 38 Hz. The solver needs them as
weights of bin powers (`k_weighting`). `LoudnessMeter` applies them to samples, block by block, and leaves out what is
quiet: integrated loudness is that of the 0.4 s windows above -70 LUFS, and of these no more than 10 LU below their mean,

    L = -0.691 + 10 log10(mean over these windows of the sum over channels of G[c] mean(y[c]**2))

In: frequencies in Hz, shape (n,), or blocks of samples, shape (n, channels). Out: gains of power, shape (n,), or LUFS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Biquad(NamedTuple):
    """Coefficients of a second-order filter, of z**0, z**-1 and z**-2; ``scipy.signal.lfilter(*biquad, y)`` applies it."""

    numerator: tuple[float, float, float]
    denominator: tuple[float, float, float]


FILTER_RATE_HZ = 48_000  # for which the standard gives the coefficients
K_SHELF = Biquad(  # table 1
    (1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)
)
K_HIGH_PASS = Biquad((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))  # table 2


def k_weighting(hz: np.ndarray) -> np.ndarray:
    """Gain of power by the K-weighting filters at some frequencies, which must be below 24 kHz."""
    z = np.exp(-2j * np.pi * hz / FILTER_RATE_HZ)
    response = np.ones(len(hz), complex)
    for biquad in (K_SHELF, K_HIGH_PASS):
        response *= np.polyval(biquad.numerator[::-1], z) / np.polyval(biquad.denominator[::-1], z)
    return np.square(np.abs(response))


SHELF_HZ, SHELF_DB, SHELF_Q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
HIGH_PASS_HZ, HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
SHELF_MID_EXPONENT = 0.4996667741545416  # of the gain at the middle of the shelf; near one half
MIN_SHELF_RATE = 2.2  # of the sample rate to the frequency of the shelf, below which there is no treble to raise
OFFSET_DB = -0.691  # so that a sine of 997 Hz at full scale has -3.01 LUFS
HOPS_PER_WINDOW, HOP_S = 4, 0.1  # windows of 0.4 s, of which the next begins after a quarter
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
#: Weights of the channels of 5.0 and 5.1 in the order of WAVE: the surrounds count more, the bass channel not at all.
SURROUND_WEIGHTS = {5: (1.0, 1.0, 1.0, 1.41, 1.41), 6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)}


def k_shelf(sr: float) -> Biquad:
    """The shelf of the K-weighting at a sample rate: at 48 kHz `K_SHELF`, elsewhere the same analogue filter.

    The parameters of the analogue filters are those that B. De Man found ("Evaluation of implementations of the EBU R128
    loudness measurement", AES convention e-brief, 2018).
    """
    k, peak = math.tan(math.pi * SHELF_HZ / sr), 10 ** (SHELF_DB / 20)
    middle = peak**SHELF_MID_EXPONENT
    a0 = 1 + k / SHELF_Q + k * k
    b = (peak + middle * k / SHELF_Q + k * k) / a0, 2 * (k * k - peak) / a0, (peak - middle * k / SHELF_Q + k * k) / a0
    return Biquad(b, (1.0, 2 * (k * k - 1) / a0, (1 - k / SHELF_Q + k * k) / a0))


def k_high_pass(sr: float) -> Biquad:
    """The high-pass of the K-weighting at a sample rate, as `k_shelf`."""
    k = math.tan(math.pi * HIGH_PASS_HZ / sr)
    a0 = 1 + k / HIGH_PASS_Q + k * k
    return Biquad((1.0, -2.0, 1.0), (1.0, 2 * (k * k - 1) / a0, (1 - k / HIGH_PASS_Q + k * k) / a0))


class LoudnessMeter:
    """Measures the integrated loudness of the blocks that pass through it.

    Parameters
    ----------
    sr : int > 0, Hz
    channels : int > 0; five and six are 5.0 and 5.1, of any other number all count the same
    """

    def __init__(self, sr: int, channels: int):
        filters = [k_high_pass(sr), *([k_shelf(sr)] if sr > MIN_SHELF_RATE * SHELF_HZ else [])]
        # One filter of fourth order takes half the time of two of second order.
        self._b, self._a = np.ones(1), np.ones(1)
        for numerator, denominator in filters:
            self._b, self._a = np.convolve(self._b, numerator), np.convolve(self._a, denominator)
        self._state = np.zeros((channels, len(self._a) - 1))
        self._weights = np.array(SURROUND_WEIGHTS.get(channels, (1.0,) * channels))
        self._hop = HOP_S * sr
        self._n_samples = 0
        self._energies: list[float] = [0.0]  # of each hop, weighted and summed over channels

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the blocks unchanged and measure them."""
        for block in blocks:
            self.add(block)
            yield block

    def add(self, block: np.ndarray) -> None:
        """Measure a block, shape (n, channels)."""
        from scipy.signal import lfilter

        if not len(block):
            return
        y, self._state = lfilter(self._b, self._a, block.T, axis=-1, zi=self._state)
        power = self._weights @ np.square(y)
        start, stop = self._n_samples, self._n_samples + len(block)
        edges = self._edges(len(self._energies), int(stop / self._hop) + 1)
        edges = edges[edges < stop]
        first, *others = np.add.reduceat(power, np.append(0, edges - start))
        self._energies[-1] += first
        self._energies += others
        self._n_samples = stop

    def _edges(self, first: int, stop: int) -> np.ndarray:
        """Sample at which each hop from ``first`` up to but not including ``stop`` begins."""
        return np.floor(self._hop * np.arange(first, stop) + 1e-6).astype(int)

    @property
    def loudness_lufs(self) -> float:
        """Integrated loudness; -inf if all is quiet. A sound of less than 0.4 s counts as one window."""
        n_windows = int(self._n_samples / self._hop + 1e-6) - HOPS_PER_WINDOW + 1
        if n_windows < 1:
            powers = np.array([sum(self._energies) / max(self._n_samples, 1)])
        else:
            sums = np.concatenate(([0.0], np.cumsum(self._energies)))
            edges = self._edges(0, n_windows + HOPS_PER_WINDOW)
            stop = slice(HOPS_PER_WINDOW, HOPS_PER_WINDOW + n_windows)
            powers = (sums[stop] - sums[:n_windows]) / (edges[stop] - edges[:n_windows])
        powers = powers[powers > power_at(ABSOLUTE_GATE_LUFS)]
        if not len(powers):
            return -math.inf
        powers = powers[powers > powers.mean() * 10 ** (RELATIVE_GATE_LU / 10)]
        return OFFSET_DB + 10 * math.log10(powers.mean())


def power_at(loudness_lufs: float) -> float:
    """The weighted power that has a loudness."""
    return 10 ** ((loudness_lufs - OFFSET_DB) / 10)
