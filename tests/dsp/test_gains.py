"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, noise
from rendering import SETTINGS

from neural_grain.audio import limiter as audio_limiter
from neural_grain.audio.limiter import limit_peaks
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.gains import limit_gain
from neural_grain.dsp.mel import band_fractions


class TestLimits:
    def test_no_band_rises_above_the_loudest(self):
        rng = np.random.default_rng(0)
        level_db, gain_db = rng.uniform(-80, 0, (128, 50)), rng.normal(0, 40, (128, 50))
        shares = band_fractions(SETTINGS)
        gain = limit_gain(gain_db, level_db, shares)
        weights = 10 ** (level_db / 10) * shares[:, None]
        mean_gain = (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
        assert np.all(level_db + gain <= level_db.max(axis=0) + mean_gain + 1e-4)
        untouched = level_db + gain_db <= level_db.max(axis=0) + mean_gain - 1e-4
        np.testing.assert_array_equal(gain[untouched], gain_db[untouched])

    def test_no_gain_is_not_limited(self):
        level_db = np.random.default_rng(0).uniform(-80, 0, (128, 50)).astype(np.float32)
        np.testing.assert_array_equal(limit_gain(np.zeros_like(level_db), level_db, band_fractions(SETTINGS)), 0)

    @pytest.mark.parametrize("size", [50, 700, 100_000])
    def test_the_limiter_holds_the_ceiling_and_does_not_depend_on_blocks(self, size):
        y = noise(0.5, level=0.4)[:, None].astype(np.float32) * np.array([[1.0, 0.5]], np.float32)
        sound = sound_from_array(y, SR)
        whole = np.concatenate(list(limit_peaks([y], 0.9, sound)))
        assert whole.shape == y.shape
        assert np.abs(whole).max() <= 0.9
        pieces = np.concatenate(list(limit_peaks([y[i : i + size] for i in range(0, len(y), size)], 0.9, sound)))
        np.testing.assert_allclose(pieces, whole, atol=1e-6)

    def test_the_limiter_leaves_alone_what_is_far_from_a_peak(self):
        y = np.full((SR, 1), 0.1, np.float32)
        y[SR // 2] = 5.0
        z = np.concatenate(list(limit_peaks([y], 1.0, sound_from_array(y, SR))))
        far = np.abs(np.arange(SR) - SR // 2) > 2 * round(audio_limiter.LIMITER_S * SR)
        np.testing.assert_array_equal(z[far], y[far])
        assert z[SR // 2] == pytest.approx(1.0, abs=1e-5)
        assert np.abs(np.diff(z[:, 0] / y[:, 0])).max() < 0.05  # no step in the gain
