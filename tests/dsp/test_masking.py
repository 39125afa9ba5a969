"""The mask: the level of the noise is right, and what is updated equals what is computed anew."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import SR, drone, noise
from scipy.ndimage import percentile_filter

from neural_grain.dsp.masking import (
    LONG,
    OVERLAP,
    QUANTILE,
    SHORT,
    TextureFilter,
    Threshold,
    _quantile_of_noise,
    mean_over_frames,
    noise_level,
    power_to_noise,
)

N_FFT = 8_192
Y = np.stack([drone(-40, 3.0), noise(3)]).astype(np.float32)
AT_ONCE, AVERAGED = Threshold(3.5), Threshold(2.2, mean_frames=9)


def running_mean(values: np.ndarray, n: int) -> np.ndarray:
    """Mean over ``n`` rows around each, fewer at the ends."""
    return np.stack([values[max(0, t - n // 2) : t + n // 2 + 1].mean(axis=0) for t in range(len(values))])


def texture_from_whole_arrays(y: np.ndarray, threshold: Threshold) -> np.ndarray:
    """The texture of samples (channels, n) except at their ends."""
    hop_length, window = N_FFT // OVERLAP, np.hanning(N_FFT + 1)[:-1]
    # The first frame holds one hop of the sound, as that of a `TextureFilter` does.
    padded = np.pad(y.astype(float), ((0, 0), (N_FFT - hop_length, N_FFT)))
    D = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=1)[:, ::hop_length] * window)
    P, n_frames = np.square(np.abs(D)).mean(axis=0), D.shape[1] // 2 * 2 - 1
    P = running_mean(P, LONG.mean_frames)[:n_frames].astype(np.float32)
    ratio = power_to_noise(P, SR / N_FFT, LONG)
    share = 1 / np.maximum(running_mean(ratio, threshold.mean_frames) - threshold.ratio + 1, 1)
    texture = np.zeros_like(padded)
    for i, frame in enumerate(np.moveaxis(np.fft.irfft(D[:, :n_frames] * share) * window, 1, 0)):
        texture[:, i * hop_length : i * hop_length + N_FFT] += frame / (0.375 * OVERLAP)
    return texture[:, N_FFT - hop_length :][:, : y.shape[1]]


class TestTextureFilter:
    @pytest.mark.parametrize("threshold", [AT_ONCE, AVERAGED])
    def test_it_multiplies_the_stft_by_the_share(self, threshold):
        texture = TextureFilter(Y.shape, N_FFT, SR, LONG).apply(Y, threshold)
        expected, middle = texture_from_whole_arrays(Y, threshold), slice(4 * N_FFT, 11 * N_FFT)
        np.testing.assert_allclose(texture[:, middle], expected[:, middle], atol=2e-6)

    @pytest.mark.parametrize("thresholds", [(AT_ONCE, AT_ONCE), (AT_ONCE, AVERAGED)])
    @pytest.mark.parametrize("mask", [LONG, SHORT])
    @pytest.mark.parametrize(
        "changes", [[slice(0, 9)], [slice(50_000, 50_001)], [slice(40_000, 70_000), slice(-1, None)]]
    )
    def test_after_a_change_it_equals_one_that_never_saw_the_samples_before(self, mask, thresholds, changes):
        n_fft = N_FFT * mask.windows // LONG.windows
        filter_of_both, changed, y = TextureFilter(Y.shape, n_fft, SR, mask), np.zeros(Y.shape[1], bool), Y.copy()
        filter_of_both.apply(Y, thresholds[0])
        for part in changes:
            changed[part], y[:, part] = True, 0.3
        anew = TextureFilter(Y.shape, n_fft, SR, mask).apply(y, thresholds[1])
        np.testing.assert_allclose(filter_of_both.apply(y, thresholds[1], changed), anew, atol=1e-6)


class TestNoiseLevel:
    def test_it_equals_a_percentile_filter_over_the_quantile_of_noise_up_to_interpolation(self):
        rng = np.random.default_rng(0)
        P = rng.gamma(4.0, size=(6, 4_000)).astype(np.float32) * np.linspace(1, 3, 4_000, dtype=np.float32)
        width = 75
        level_ratio = noise_level(P, width, LONG.mean_frames) / percentile_filter(P, 100 * QUANTILE, (1, width))
        inside = 10 * np.log10(level_ratio[:, width:-width])
        assert np.std(inside) < 0.4
        assert np.ptp(inside.mean(axis=1)) < 0.1

    @pytest.mark.parametrize(("bins", "width"), [(400, 75), (75, 75), (76, 75), (101, 3), (100, 4)])
    def test_it_is_interpolated_between_quantiles_of_every_third_of_the_width(self, bins, width):
        P = np.random.default_rng(bins).gamma(2.0, size=(2, bins)).astype(np.float32)
        every = max(1, width // 3)
        starts = range(0, bins - width + 1, every)
        quantiles = [np.sort(P[:, start : start + width])[:, int(0.3 * width)] for start in starts]
        centres, at = [start + width // 2 for start in starts], np.arange(bins)
        expected = np.array([np.interp(at, centres, row) for row in np.array(quantiles).T])
        found = noise_level(P, width, 1)
        np.testing.assert_allclose(found * _quantile_of_noise(1), expected, rtol=1e-4)

    @pytest.mark.parametrize("mean_frames", [1, 3, 5])
    def test_the_quantile_of_noise_is_that_of_many_spectra(self, mean_frames):
        y, window = np.random.default_rng(2).standard_normal(2**20), np.hanning(257)[:-1]
        P = np.square(np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(y, 256)[::64] * window)))[:, 4:-4]
        mean = np.stack([P[i : len(P) - mean_frames + i] for i in range(mean_frames)]).mean(axis=0)
        assert np.quantile(mean, 0.3) / P.mean() == pytest.approx(_quantile_of_noise(mean_frames), rel=0.02)

    def test_the_level_of_noise_is_its_mean_power(self):
        y = np.random.default_rng(1).standard_normal(64 * 8_192)
        windows = np.lib.stride_tricks.sliding_window_view(y, 8_192)[::2_048] * np.hanning(8_193)[:-1]
        P = np.square(np.abs(np.fft.rfft(windows)))
        mean = np.stack([P[i : i + LONG.mean_frames].mean(axis=0) for i in range(len(P) - LONG.mean_frames)])
        level = noise_level(mean.astype(np.float32), 75, LONG.mean_frames)
        assert 10 * np.log10(level.mean() / P.mean()) == pytest.approx(0, abs=0.3)

    def test_partials_do_not_raise_it(self):
        P = np.ones((9, 4_097), np.float32)
        P[:, 40::40] = 1e6
        ratio = power_to_noise(P, SR / 8_192, LONG)
        np.testing.assert_allclose(ratio[:, 40::40] / ratio[:, 20:4_080:40], 1e6, rtol=1e-3)
        assert ratio[:, 20:4_000:40].max() < AT_ONCE.ratio

    def test_what_stands_out_where_there_is_no_noise_does_so_without_a_warning(self):
        """A constant offset is one bin above nothing."""
        P = np.zeros((5, 400), np.float32)
        P[:, 0] = 1e3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ratio = power_to_noise(P, SR / N_FFT, LONG)
        assert ratio[:, 0].min() > 1e30
        assert not ratio[:, 1:].any()


@pytest.mark.parametrize("n", [1, 3, 9])
def test_the_mean_over_frames_continues_the_ends(n):
    values = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    continued = np.pad(values, ((n // 2, n // 2), (0, 0)), mode="edge")
    expected = np.stack([continued[t : t + n].mean(axis=0) for t in range(2, 20)])
    np.testing.assert_allclose(mean_over_frames(values, 2, 20, n), expected, rtol=1e-5)
