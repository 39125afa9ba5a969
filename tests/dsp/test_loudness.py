"""K-weighting and integrated loudness, against pyloudnorm and closed forms; it comes from the STFT of the picture."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest
from conftest import drone, noise, sine
from scipy.signal import freqz

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import picture_and_loudness
from neural_grain.dsp.loudness import integrated_loudness, k_weighting
from neural_grain.dsp.settings import GrainSettings, default_settings

HZ = np.array([20.0, 38.0, 100.0, 400.0, 1_000.0, 1_682.0, 3_000.0, 8_000.0, 15_000.0])


def pyloudnorm_gain_db(filter_class: str) -> np.ndarray:
    """Gain of both filters at HZ. "DeMan" reproduces the coefficients of the standard, "K-weighting" approximates them."""
    filters = pyloudnorm.Meter(48_000, filter_class)._filters.values()
    return sum(20 * np.log10(np.abs(freqz(f.b, f.a, HZ, fs=48_000)[1])) for f in filters)


def test_k_weighting_equals_the_filters_of_the_standard():
    np.testing.assert_allclose(10 * np.log10(k_weighting(HZ)), pyloudnorm_gain_db("DeMan"), atol=1e-5)


def test_k_weighting_is_near_the_default_filters_of_pyloudnorm():
    np.testing.assert_allclose(10 * np.log10(k_weighting(HZ)), pyloudnorm_gain_db("K-weighting"), atol=0.5)


def test_beyond_the_rate_of_the_filters_the_weight_stays_the_same():
    np.testing.assert_array_equal(
        k_weighting(np.array([24_000.0, 30_000.0, 96_000.0])), k_weighting(np.full(3, 23_000.0))
    )


def loudness(y: np.ndarray, sr: int) -> float:
    """Integrated loudness of samples (n,) or (n, channels)."""
    return picture_and_loudness(sound_from_array(y, sr), default_settings(GrainSettings())).loudness_lufs


def reference(y: np.ndarray, sr: int) -> float:
    """The same by pyloudnorm with the filters of the standard."""
    return pyloudnorm.Meter(sr, "DeMan").integrated_loudness(y)


def fading(sr: int, seconds: float = 6.0) -> np.ndarray:
    """Noise and tones of changing level with a pause, so that both gates work."""
    y = drone(-30, seconds, sr) * np.linspace(0, 1, round(seconds * sr)) ** 3
    y[round(2 * sr) : round(3 * sr)] = 0
    return y


@pytest.mark.parametrize("sr", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_a_sine_of_997_hz_at_full_scale_has_minus_3_01_lufs(sr):
    assert loudness(sine(997, 3.0, sr, 1.0), sr) == pytest.approx(-3.01, abs=0.02)
    assert loudness(np.stack([sine(997, 3.0, sr, 0.1)] * 2, axis=1), sr) == pytest.approx(-20.0, abs=0.02)


@pytest.mark.parametrize("sr", [44_100, 48_000, 96_000, 192_000])
def test_it_is_that_of_pyloudnorm(sr):
    for y in (fading(sr), np.stack([fading(sr), noise(6.0, sr, level=0.01)], axis=1), noise(1.234, sr)):
        assert loudness(y, sr) == pytest.approx(reference(y, sr), abs=0.1)


def test_all_channels_add_up():
    y = np.stack([noise(2.0, seed=i) for i in range(4)], axis=1)
    assert loudness(y, 44_100) == pytest.approx(loudness(y[:, :1], 44_100) + 6.02, abs=0.1)


def test_windows_that_are_quiet_do_not_count():
    loud, quiet = noise(3.0, level=0.1), noise(9.0, seed=1, level=0.002)
    assert loudness(np.concatenate((loud, quiet)), 44_100) == pytest.approx(loudness(loud, 44_100), abs=0.4)


def test_what_is_quieter_than_the_gate_has_none():
    assert loudness(1e-5 * noise(1.0), 44_100) == -math.inf
    assert integrated_loudness(np.zeros(10), np.arange(10) / 10, 1.0) == -math.inf


@pytest.mark.parametrize("duration_s", [0.06, 0.2, 0.39, 0.41])
def test_a_sound_shorter_than_a_window_counts_as_one(duration_s):
    assert loudness(sine(997, duration_s, 48_000, 1.0), 48_000) == pytest.approx(-3.01, abs=0.5)


@pytest.mark.parametrize("hz", [25, 31.5, 40, 50, 63, 100, 400, 8_000, 18_000])
def test_a_tone_has_the_weight_of_its_frequency(hz):
    """Also where the filters are steep, and between the bins."""
    weight_db = 10 * math.log10(k_weighting(np.array([float(hz)]))[0])
    assert loudness(sine(hz, 4.0, 44_100, 0.5), 44_100) == pytest.approx(-0.691 - 9.03 + weight_db, abs=0.15)


def test_an_offset_is_not_heard():
    y = 0.01 * sine(997, 3.0, 48_000, 1.0)
    assert loudness(y + 0.5, 48_000) == pytest.approx(loudness(y, 48_000), abs=0.1)
