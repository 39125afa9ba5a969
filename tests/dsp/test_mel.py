"""Mel bands: the filterbank against librosa, and interpolation from bands back to bins."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from conftest import SR
from rendering import SETTINGS

from neural_grain.dsp.mel import band_interpolation, log_mel, mel_filterbank
from neural_grain.dsp.settings import SpectrogramSettings


class TestFilterbank:
    def test_the_bands_are_the_triangles_of_librosa(self):
        expected = librosa.filters.mel(sr=SR, n_fft=2048, n_mels=128, fmin=50, fmax=15_000, norm=None)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(mel_filterbank(SETTINGS, SR), expected, atol=2e-3)

    @pytest.mark.parametrize("sr", [8_000, 11_025, 32_000, 62_000, 96_000, 192_000])
    def test_the_weights_of_every_band_sum_to_one_or_to_zero_above_nyquist(self, sr):
        sums = mel_filterbank(SETTINGS, sr).sum(axis=1)
        centres = np.array(SETTINGS.band_edges_hz[1:-1])
        np.testing.assert_allclose(sums[centres <= 0.97 * sr / 2], 1, atol=1e-5)
        assert np.all((sums < 1e-6) | (np.abs(sums - 1) < 1e-5))

    def test_a_band_narrower_than_a_bin_takes_the_nearest_one(self):
        edges = (*(100 + 2 * i for i in range(20)), *np.linspace(150, 15_000, 110))  # bins are 21.5 Hz apart
        weights = mel_filterbank(SpectrogramSettings(SETTINGS.grain, edges), SR)
        assert weights[0].nonzero()[0] == [round(102 * 2048 / SR)]
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("sr", [8_000, 44_100, 192_000])
def test_bins_are_interpolated_linearly_between_band_centres(sr):
    weights = band_interpolation(SETTINGS, sr)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    hz = np.arange(weights.shape[1]) * sr / SETTINGS.grain.n_fft_for(sr)
    centres = np.array(SETTINGS.band_edges_hz[1:-1])
    np.testing.assert_allclose(centres @ weights, np.clip(hz, centres[0], centres[-1]), rtol=1e-4)


def test_levels_need_a_positive_peak():
    with pytest.raises(ValueError, match="peak=0"):
        log_mel(np.zeros((2, 3)), 100.0, 0.0)
