"""Gains: interpolation between steps, the limit for texture, and the normalisation of energy."""

from __future__ import annotations

import numpy as np
from rendering import SETTINGS

from neural_grain.dsp.gains import lerp_weights, limit_gain, normalise_energy
from neural_grain.dsp.mel import band_fractions

SHARES = band_fractions(SETTINGS)


def random_levels_db(n_steps: int = 50) -> np.ndarray:
    return np.random.default_rng(0).uniform(-80, 0, (128, n_steps)).astype(np.float32)


def test_gains_are_interpolated_linearly_between_the_centres_of_the_steps():
    times, values = (np.arange(16) + 0.5) / 4, np.array([0.0, 4.0, 8.0, 4.0])
    interpolated = lerp_weights(times, 4).interpolate(values[None])[0]
    np.testing.assert_allclose(interpolated, np.interp(times, [0.5, 1.5, 2.5, 3.5], values))


class TestLimitGain:
    def test_no_band_rises_above_the_loudest_of_its_time(self):
        level_db, gain_db = random_levels_db(), np.random.default_rng(1).normal(0, 40, (128, 50))
        limited_db = limit_gain(gain_db, level_db, SHARES)
        weights = 10 ** (level_db / 10) * SHARES[:, None]
        top_db = level_db.max(axis=0) + (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
        assert np.all(level_db + limited_db <= top_db + 1e-4)
        below = level_db + gain_db <= top_db - 1e-4
        np.testing.assert_array_equal(limited_db[below], gain_db[below])

    def test_a_gain_of_zero_is_not_limited(self):
        level_db = random_levels_db()
        np.testing.assert_array_equal(limit_gain(np.zeros_like(level_db), level_db, SHARES), 0)


class TestNormaliseEnergy:
    def test_the_same_gain_in_all_bands_is_removed(self):
        gain_db = np.full((128, 30), 12.0, np.float32)
        np.testing.assert_allclose(normalise_energy(gain_db, random_levels_db(30), SHARES, np.ones(30)), 0, atol=1e-4)

    def test_energy_is_kept_and_the_bands_keep_their_differences_where_the_change_of_level_is_constant(self):
        rng = np.random.default_rng(0)
        power = rng.exponential(size=(128, 1)).repeat(40, axis=1).astype(np.float32)
        gain_db = rng.normal(0, 20, (128, 1)).repeat(40, axis=1).astype(np.float32)
        gain = 10 ** (normalise_energy(gain_db, 10 * np.log10(power), SHARES, np.ones(40)) / 10)
        np.testing.assert_allclose(SHARES @ (power * gain), SHARES @ power, rtol=1e-4)
        np.testing.assert_allclose(10 * np.log10(gain[30] / gain[50]), gain_db[30] - gain_db[50], atol=1e-3)

    def test_a_step_with_little_weight_does_not_change_the_level_around_it(self):
        power, gain_db = np.ones((128, 41), np.float32), np.zeros((128, 41), np.float32)
        gain_db[64:] = -20
        power[64:, 20] = 3.0
        weights = np.ones(41)
        weights[20] = 0.01
        normalised_db = normalise_energy(gain_db, 10 * np.log10(power), SHARES, weights)
        assert np.ptp(normalised_db[0]) < 0.05
