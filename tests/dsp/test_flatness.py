"""Grain, against librosa and closed forms, and the five traps of the plain formula."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from oracles import librosa_grain
from scipy.signal import butter, resample_poly, sosfilt

from neural_grain.audio.sound import sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.dsp import flatness
from neural_grain.dsp.flatness import measure_grain, spectral_flatness
from neural_grain.dsp.settings import GrainSettings

SETTINGS = GrainSettings()


def grain_of(y: np.ndarray, sr: int = SR) -> float:
    return measure_grain(sound_from_array(y, sr))


class TestFlatness:
    def test_flatness_equals_that_of_librosa_on_the_same_powers(self):
        P = np.random.default_rng(0).exponential(size=(50, 697)) ** 3
        expected = librosa.feature.spectral_flatness(S=np.sqrt(P / P.max()).T, amin=1e-10)[0]
        np.testing.assert_allclose(spectral_flatness(P, P.max(), -100.0), expected, atol=1e-6)

    @pytest.mark.parametrize("sr", [22_050, 44_100, 48_000, 96_000])
    def test_grain_equals_that_of_librosa(self, sr):
        y = np.stack([drone(-40, 1.5, sr), drone(-30, 1.5, sr, seed=5)], axis=1)
        assert grain_of(y, sr) == pytest.approx(librosa_grain(y, sr), rel=1e-4, abs=1e-6)

    def test_the_flatness_of_equal_powers_is_one(self):
        np.testing.assert_allclose(spectral_flatness(np.ones((3, 100)), 1.0, -100.0), 1.0, atol=1e-6)

    def test_the_flatness_of_a_single_bin_is_the_closed_form(self):
        P = np.full((1, 100), 1e-30)
        P[0, 7] = 1.0
        expected = 1e-10**0.99 / ((1 + 99e-10) / 100)
        assert spectral_flatness(P, 1.0, -100.0)[0] == pytest.approx(expected, rel=1e-4)

    def test_the_grain_of_white_noise_is_exp_of_minus_eulers_constant(self):
        assert grain_of(noise(20)) == pytest.approx(math.exp(-np.euler_gamma), abs=0.005)

    def test_the_peak_must_be_positive(self):
        with pytest.raises(ValueError, match="peak=0"):
            spectral_flatness(np.ones((1, 2)), 0.0, -100.0)


class TestFiveTraps:
    def test_silence_does_not_count(self):
        y = np.concatenate([sine(440, 2), np.zeros(2 * SR)])
        assert grain_of(y) < 1e-5  # the plain formula gives 0.49

    def test_a_quiet_decay_does_not_count(self):
        loud, quiet = drone(-40), noise(3, level=1e-4)
        assert grain_of(np.concatenate([loud, quiet])) == pytest.approx(grain_of(loud), rel=0.1)

    @pytest.mark.parametrize("gain_db", [-40, -20, 6])
    def test_level_does_not_change_grain(self, gain_db):
        y = sosfilt(butter(8, 14_000, output="sos", fs=SR), noise(2))
        assert grain_of(y * 10 ** (gain_db / 20)) == pytest.approx(grain_of(y), rel=0.01)

    def test_an_empty_top_does_not_change_grain(self):
        y = noise(4)
        lossy = sosfilt(butter(20, 16_000, output="sos", fs=SR), y)
        assert grain_of(lossy) == pytest.approx(grain_of(y), rel=0.05)

    def test_an_upsampled_file_keeps_its_grain(self):
        y = noise(4, 44_100)
        assert grain_of(resample_poly(y, 2, 1), 88_200) == pytest.approx(grain_of(y), rel=0.05)

    def test_the_rate_does_not_change_grain(self):
        y = drone(-40, 4, 96_000) + drone(-50, 4, 96_000, root_hz=273)
        grains = {
            96_000: grain_of(y, 96_000),
            48_000: grain_of(resample_poly(y, 1, 2), 48_000),
            44_100: grain_of(resample_poly(y, 147, 320), 44_100),
        }
        assert max(grains.values()) / min(grains.values()) < 1.05, grains

    def test_the_window_lasts_about_46_ms_at_every_rate(self):
        n_fft_by_rate = {8_000: 512, 22_050: 1024, 44_100: 2048, 48_000: 2048, 96_000: 4096, 192_000: 8192}
        assert {sr: SETTINGS.n_fft_for(sr) for sr in n_fft_by_rate} == n_fft_by_rate

    def test_channels_in_opposite_phase_do_not_cancel(self):
        y = drone(-40)
        assert grain_of(np.stack([y, -y], axis=1)) == pytest.approx(grain_of(y), rel=1e-3)


class TestStreaming:
    def test_a_long_sound_is_measured_like_a_short_one(self, monkeypatch):
        y = np.concatenate([drone(-60, 2), drone(-20, 2) * 3])
        expected = grain_of(y)
        monkeypatch.setattr(flatness, "MAX_KEPT_FRAMES", 1)  # now blocks are measured before the loudest bin is known
        assert grain_of(y) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("at", [0, 5_000, 131_071, 131_099])
    def test_a_nan_is_found_wherever_it_lies(self, at):
        y = noise(3)[:131_100]  # the last 28 samples are in no full frame
        y[at] = np.nan
        with pytest.raises(PipelineError, match="NaN"):
            grain_of(y)


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (np.zeros(0), "empty: it holds no samples"),
        (noise(0.01), "too short: 10.0 ms, one analysis window is 46 ms"),
        (np.zeros(SR), "silent: every sample is zero"),
        (noise(1, level=1e-10), "silent: no sample exceeds -180 dBFS"),
        (np.full(SR, 0.25), "nothing to measure between 50 and 15000 Hz"),
    ],
    ids=["empty", "short", "silent", "quiet", "constant"],
)
def test_what_can_not_be_measured_is_refused_with_the_reason(y, reason):
    with pytest.raises(PipelineError) as caught:
        grain_of(y)
    assert str(caught.value) == reason
