"""TODO"""

from __future__ import annotations

import numpy as np

K_SHELF = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)  # at 48 kHz
K_HIGH_PASS = (1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)


def k_weighting(hz: np.ndarray) -> np.ndarray:
    """Gain on the power of some frequencies below 24 kHz by which loudness is measured: ITU-R BS.1770-4, tables 1 and 2."""
    z = np.exp(-2j * np.pi * hz / 48_000)
    response = np.ones(len(hz), complex)
    for numerator, denominator in (K_SHELF, K_HIGH_PASS):
        response *= np.polyval(numerator[::-1], z) / np.polyval(denominator[::-1], z)
    return np.square(np.abs(response))
