"""K-weighting and integrated loudness, against pyloudnorm and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest
from conftest import drone, noise, sine
from scipy.signal import freqz

from neural_grain.dsp.loudness import (
    FILTER_RATE_HZ,
    K_HIGH_PASS,
    K_SHELF,
    LoudnessMeter,
    k_high_pass,
    k_shelf,
    k_weighting,
)

HZ = np.array([20.0, 38.0, 100.0, 400.0, 1_000.0, 1_682.0, 3_000.0, 8_000.0, 15_000.0])


def pyloudnorm_gain_db(filter_class: str) -> np.ndarray:
    """Gain of both filters at HZ. "DeMan" reproduces the coefficients of the standard, "K-weighting" approximates them."""
    filters = pyloudnorm.Meter(FILTER_RATE_HZ, filter_class)._filters.values()
    return sum(20 * np.log10(np.abs(freqz(f.b, f.a, HZ, fs=FILTER_RATE_HZ)[1])) for f in filters)


def test_k_weighting_equals_the_filters_of_the_standard():
    np.testing.assert_allclose(10 * np.log10(k_weighting(HZ)), pyloudnorm_gain_db("DeMan"), atol=1e-3)


def test_k_weighting_is_near_the_default_filters_of_pyloudnorm():
    np.testing.assert_allclose(10 * np.log10(k_weighting(HZ)), pyloudnorm_gain_db("K-weighting"), atol=0.5)


def loudness(y: np.ndarray, sr: int, size: int = 65_536) -> float:
    """Integrated loudness of samples (n,) or (n, channels), in blocks of some size."""
    y = np.float32(y if y.ndim == 2 else y[:, None])
    meter = LoudnessMeter(sr, y.shape[1])
    for _ in meter.through(y[start : start + size] for start in range(0, len(y), size)):
        pass
    return meter.loudness_lufs


def reference(y: np.ndarray, sr: int) -> float:
    """The same by pyloudnorm with the filters of the standard."""
    return pyloudnorm.Meter(sr, "DeMan").integrated_loudness(np.float32(y))


def fading(sr: int, seconds: float = 6.0) -> np.ndarray:
    """Noise and tones of changing level with a pause, so that both gates work."""
    y = drone(-30, seconds, sr) * np.linspace(0, 1, round(seconds * sr)) ** 3
    y[round(2 * sr) : round(3 * sr)] = 0
    return y


def test_the_filters_at_48_khz_are_those_of_the_standard():
    for found, standard in ((k_shelf(FILTER_RATE_HZ), K_SHELF), (k_high_pass(FILTER_RATE_HZ), K_HIGH_PASS)):
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(standard), atol=1e-6)


@pytest.mark.parametrize("sr", [44_100, 48_000, 96_000])
def test_a_sine_of_997_hz_at_full_scale_has_minus_3_01_lufs(sr):
    assert loudness(sine(997, 3.0, sr, 1.0), sr) == pytest.approx(-3.01, abs=0.02)
    assert loudness(np.stack([sine(997, 3.0, sr, 0.1)] * 2, axis=1), sr) == pytest.approx(-20.0, abs=0.02)


@pytest.mark.parametrize("sr", [8_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("size", [65_536, 999])
def test_it_is_that_of_pyloudnorm(sr, size):
    for y in (fading(sr), np.stack([fading(sr), noise(6.0, sr, level=0.01)], axis=1), noise(1.234, sr)):
        assert loudness(y, sr, size) == pytest.approx(reference(y, sr), abs=0.02)


def test_surrounds_count_more_and_the_bass_channel_not_at_all():
    y = np.stack([noise(2.0, seed=i) for i in range(6)], axis=1)
    without_bass = np.delete(y, 3, axis=1)
    assert loudness(y, 44_100) == loudness(without_bass, 44_100)
    assert loudness(without_bass, 44_100) == pytest.approx(reference(without_bass, 44_100), abs=0.02)
    four = y[:, :4]
    assert loudness(four, 44_100) == pytest.approx(loudness(four[:, :1], 44_100) + 6.02, abs=0.1)


def test_windows_that_are_quiet_do_not_count():
    loud, quiet = noise(3.0, level=0.1), noise(9.0, seed=1, level=0.002)
    assert loudness(np.concatenate((loud, quiet)), 44_100) == pytest.approx(loudness(loud, 44_100), abs=0.4)


@pytest.mark.parametrize("y", [np.zeros(44_100), 1e-5 * noise(1.0), np.zeros(0)])
def test_what_is_silent_or_nearly_so_has_none(y):
    assert loudness(y, 44_100) == -math.inf


def test_a_sound_shorter_than_a_window_counts_as_one():
    y = sine(997, 0.2, 48_000, 1.0)
    assert loudness(y, 48_000) == pytest.approx(-3.01, abs=0.1)


def test_at_the_lowest_rates_the_filters_stay_stable():
    y = noise(5.0, 1_000, level=0.1)
    assert loudness(y, 1_000) == pytest.approx(-0.691 - 20.0, abs=1.5)
