"""K-weighting: how much each frequency counts in the loudness of a sound (ITU-R BS.1770-4, annex 1).

Loudness is the level after two filters, a shelf that raises treble by 4 dB and a high-pass at 38 Hz. Libraries such as
pyloudnorm apply them to samples. The solver needs them as weights of bin powers, so their frequency response is
computed here.

In: frequencies in Hz, shape (n,). Out: gains of power, shape (n,).
"""

from __future__ import annotations

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
