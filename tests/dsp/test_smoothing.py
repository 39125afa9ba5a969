"""Smoothing of patterns: steady sounds, changes of the sound, and single cells."""

from __future__ import annotations

import numpy as np
import pytest
from rendering import SETTINGS

from neural_grain.dsp.smoothing import smooth_pattern


def around(values: np.ndarray) -> np.ndarray:
    """The median of each cell and its two neighbours; the ends are continued."""
    padded = np.pad(values, ((0, 0), (1, 1)), mode="edge")
    return np.median([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=0)


class TestSmoothPattern:
    @pytest.mark.parametrize("n_frames", [20, 32 * 3, 32 * 50 - 7])
    def test_it_is_a_mean_over_the_cells_within_12_s_that_sound_alike(self, n_frames):
        """Cells count fully up to 2 dB RMS, and exponentially less beyond."""
        rng, n_cells = np.random.default_rng(n_frames), -(-n_frames // 32)
        x = np.clip(0.5 + rng.normal(0, 0.05, (128, n_frames)) + 0.2 * np.sin(np.arange(n_frames) / 300), 0, 1)
        pattern = rng.normal(0, 5, (128, n_cells)).astype(np.float32)
        cells = [x[:, 32 * i : 32 * (i + 1)].mean(axis=1) for i in range(n_cells)]
        level_db, smooth = around(100 * np.stack(cells, axis=1)), around(pattern)
        distance = np.square((level_db[:, :, None] - level_db[:, None]) / 2).mean(axis=0)
        weights = np.exp(-np.maximum(0, distance - 1))
        weights[np.abs(np.subtract.outer(np.arange(n_cells), np.arange(n_cells))) > 32] = 0
        expected = smooth @ weights / weights.sum(axis=0)
        np.testing.assert_allclose(smooth_pattern(pattern, x.astype(np.float32), SETTINGS), expected, atol=1e-3)

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
