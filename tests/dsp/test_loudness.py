"""K-weighting, against the filters of pyloudnorm."""

from __future__ import annotations

import numpy as np
import pyloudnorm
from scipy.signal import freqz

from neural_grain.dsp.loudness import FILTER_RATE_HZ, k_weighting

HZ = np.array([20.0, 38.0, 100.0, 400.0, 1_000.0, 1_682.0, 3_000.0, 8_000.0, 15_000.0])


def pyloudnorm_gain_db(filter_class: str) -> np.ndarray:
    """Gain of both filters at HZ. "DeMan" reproduces the coefficients of the standard, "K-weighting" approximates them."""
    filters = pyloudnorm.Meter(FILTER_RATE_HZ, filter_class)._filters.values()
    return sum(20 * np.log10(np.abs(freqz(f.b, f.a, HZ, fs=FILTER_RATE_HZ)[1])) for f in filters)


def test_k_weighting_equals_the_filters_of_the_standard():
    np.testing.assert_allclose(10 * np.log10(k_weighting(HZ)), pyloudnorm_gain_db("DeMan"), atol=1e-3)


def test_k_weighting_is_near_the_default_filters_of_pyloudnorm():
    np.testing.assert_allclose(10 * np.log10(k_weighting(HZ)), pyloudnorm_gain_db("K-weighting"), atol=0.5)
