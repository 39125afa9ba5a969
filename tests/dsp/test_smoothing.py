"""Smoothing of patterns: steady sounds, changes of the sound, and single cells."""

from __future__ import annotations

import numpy as np
from rendering import SETTINGS

from neural_grain.dsp.smoothing import smooth_pattern


class TestSmoothPattern:
    def test_the_pattern_of_a_steady_noise_becomes_steady(self):
        rng = np.random.default_rng(0)
        x = np.clip(0.5 + rng.normal(0, 0.07, (128, 32 * 40)), 0, 1).astype(np.float32)
        pattern = rng.normal(0, 5, (128, 40)).astype(np.float32)
        assert smooth_pattern(pattern, x, SETTINGS).std(axis=1).mean() < 0.15 * pattern.std(axis=1).mean()

    def test_sounds_that_differ_keep_their_own_patterns(self):
        x = np.full((128, 32 * 20), 0.5, np.float32)
        x[:64, 32 * 10 :] = 0.1
        pattern = np.zeros((128, 20), np.float32)
        pattern[:, 10:] = 7.0
        np.testing.assert_allclose(smooth_pattern(pattern, x, SETTINGS), pattern, atol=1e-3)

    def test_a_pattern_that_lasts_one_cell_is_removed(self):
        pattern = np.zeros((128, 20), np.float32)
        pattern[:, 10] = 30.0
        assert np.abs(smooth_pattern(pattern, np.full((128, 640), 0.5, np.float32), SETTINGS)).max() == 0
