"""Gains: interpolation, what an amount does to texture, the noise that fills weak bands, and the level that keeps energy."""

from __future__ import annotations

import numpy as np
import pytest
from rendering import SETTINGS

from neural_grain.dsp.gains import (
    BALANCE,
    TEXTURE,
    Amounts,
    GainComponents,
    StepAmounts,
    band_gains,
    channel_gains_db,
    lerp_weights,
    powers_before_expander,
    quieter_around,
    smooth_change,
    spectral_expander,
    step_gains,
)
from neural_grain.dsp.mel import band_fractions

SHARES = band_fractions(SETTINGS)


def random_levels_db(n_steps: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-80, 0, (128, n_steps)).astype(np.float32)


def components(tones_db: np.ndarray, texture_db: np.ndarray, present: np.ndarray | None = None) -> GainComponents:
    level_db = 10 * np.log10(10 ** (tones_db / 10) + 10 ** (texture_db / 10))
    quieter_db = np.zeros(level_db.shape[1], np.float32)
    return GainComponents(
        spectral_expander(level_db),
        tones_db,
        texture_db,
        np.ones_like(texture_db) if present is None else present,
        texture_db,
        level_db,
        quieter_db,
    )


def powers_of(parts: GainComponents, amounts: Amounts | StepAmounts) -> np.ndarray:
    """Powers of the bands after all gains of the bands."""
    gains = band_gains(parts, amounts, SHARES)
    power = sum(powers_before_expander(parts, gains))
    return power if gains.expander_db is None else power * 10 ** (gains.expander_db / 10)


def test_gains_are_interpolated_linearly_between_the_centres_of_the_steps():
    times, values = (np.arange(16) + 0.5) / 4, np.array([0.0, 4.0, 8.0, 4.0])
    interpolated = lerp_weights(times, 4).interpolate(values[None])[0]
    np.testing.assert_allclose(interpolated, np.interp(times, [0.5, 1.5, 2.5, 3.5], values))


def slow_powers(parts: GainComponents, amounts: Amounts, shares: np.ndarray) -> np.ndarray:
    """Powers of the bands after all gains of the bands, step by step from their description."""
    powers = np.zeros(parts.texture_db.shape)
    for step in range(powers.shape[1]):
        tones, texture, base = (10 ** (x[:, step] / 10) for x in (parts.tones_db, parts.texture_db, parts.base_db))
        factor = 10 ** (amounts.texture_db / 10)
        raised = np.minimum(factor, 10 ** (20 * parts.present[:, step] / 10)) if factor > 1 else factor
        power = tones + texture * raised + base * (factor - raised)
        weights, level_db = power * shares, 10 * np.log10(power)
        loud_db = (weights * level_db).sum() / weights.sum() + parts.quieter_db[step]
        power = power * 10 ** (amounts.fill * np.maximum(loud_db - level_db, 0) / 10)
        level_db = 10 * np.log10(power)
        if amounts.expander < 0:
            level_db += amounts.expander * (level_db - level_db.mean())
        else:
            level_db += amounts.expander * parts.expander_db[:, step]
        powers[:, step] = 10 ** (level_db / 10)
    return powers


class TestBandGains:
    @pytest.mark.parametrize(
        "amounts",
        [
            Amounts(-30.0, 0.0),
            Amounts(8.0, 0.0),
            Amounts(20.05, 0.0),
            Amounts(26.0, -0.3, fill=0.4),
            Amounts(-6.0, 0.5),
        ],
    )
    def test_they_equal_a_calculation_step_by_step(self, amounts):
        rng = np.random.default_rng(4)
        present = rng.uniform(0, 1, (128, 6)) * (rng.random((128, 6)) < 0.8)
        parts = components(random_levels_db(6), random_levels_db(6, seed=1), present.astype(np.float32))
        parts = parts._replace(
            base_db=random_levels_db(6, seed=2), quieter_db=-rng.uniform(0, 30, 6).astype(np.float32)
        )
        np.testing.assert_allclose(powers_of(parts, amounts), slow_powers(parts, amounts, SHARES), rtol=2e-4)

    def test_what_is_raised_a_little_beyond_the_limit_is_generated(self):
        parts = components(random_levels_db(), random_levels_db(seed=1))
        generated_db = band_gains(parts, Amounts(20.01, 0.0), SHARES).generated_db
        np.testing.assert_allclose(generated_db, parts.base_db + 10 * np.log10(10**2.001 - 100), atol=0.01)

    def test_noise_is_raised_up_to_a_limit_and_the_rest_is_generated(self):
        parts = components(random_levels_db(), random_levels_db(seed=1) / 2)
        gains = band_gains(parts, Amounts(26.0, 0.0), SHARES)
        np.testing.assert_allclose(gains.noise_db, TEXTURE.max_gain_db, atol=1e-4)
        power = 10 ** (parts.texture_db / 10)
        expected = power * 10 ** (gains.noise_db / 10) + 10 ** (gains.generated_db / 10)
        np.testing.assert_allclose(expected, power * 10**2.6, rtol=1e-4)
        total = 10 ** (parts.tones_db / 10) + power * 10**2.6
        np.testing.assert_allclose(sum(powers_before_expander(parts, gains)), total, rtol=1e-4)

    @pytest.mark.parametrize("texture_db", [-40.0, 19.0])
    def test_nothing_is_generated_below_the_limit(self, texture_db):
        parts = components(random_levels_db(), random_levels_db(seed=1) / 2)
        assert band_gains(parts, Amounts(texture_db, 0.0), SHARES).generated_db is None

    def test_there_is_no_expander_without_its_amount(self):
        parts = components(random_levels_db(), random_levels_db(seed=1))
        assert band_gains(parts, Amounts(-3.0, 0.0), SHARES).expander_db is None


class TestStepGains:
    @pytest.mark.parametrize("amounts", [Amounts(-60.0, 0.3), Amounts(12.0, -0.1)])
    def test_the_expander_keeps_the_energy_of_a_steady_sound(self, amounts):
        parts = components(*(random_levels_db(1, seed).repeat(40, axis=1) for seed in (0, 1)))
        gains = step_gains(parts, amounts, SHARES)
        before = sum(powers_before_expander(parts, gains.bands))
        after = before * 10 ** ((gains.bands.expander_db + gains.level_db) / 10)
        np.testing.assert_allclose(SHARES @ after, SHARES @ before, rtol=1e-3)

    def test_amounts_that_change_over_time_give_each_step_what_they_give_alone(self):
        parts = components(random_levels_db(4), random_levels_db(4, seed=1) / 2)
        each = [Amounts(26.0, -0.2, fill=0.4), Amounts(-30.0, 0.3), Amounts(0.0, 0.0), Amounts(5.0, 0.0, fill=1.0)]
        changing = StepAmounts(
            *(np.array([getattr(amounts, name) for amounts in each]) for name in StepAmounts._fields)
        )
        at_once = powers_of(parts, changing)
        for i, amounts in enumerate(each):
            alone = powers_of(parts.at(np.array([i])), amounts)
            np.testing.assert_allclose(at_once[:, i], alone[:, 0], rtol=1e-4, atol=1e-30)

    @pytest.mark.parametrize("texture_db", [-20.0, 12.0])
    def test_where_texture_alone_moves_there_is_no_gain_that_changes_over_time(self, texture_db):
        parts = components(random_levels_db(), random_levels_db(seed=1))
        np.testing.assert_array_equal(step_gains(parts, Amounts(texture_db, 0.0), SHARES).level_db, 0)

    def test_transients_get_the_gain_of_the_texture_as_a_whole(self):
        texture_db = np.full((128, 5), -40.0, np.float32)
        present = np.where(np.arange(128)[:, None] < 64, 1.0, 0.0) + np.zeros_like(texture_db)
        gains = step_gains(components(texture_db + 20, texture_db, present), Amounts(10.0, 0.0), SHARES)
        moved, rest = SHARES[:64].sum(), SHARES[64:].sum()
        np.testing.assert_allclose(gains.transients_db, 10 * np.log10((10 * moved + rest) / (moved + rest)), atol=0.01)


class TestChannelGains:
    def test_a_pad_and_drums_keep_their_balance_within_twice_the_tolerance(self):
        before, after = np.array([0.9, 0.1]), np.array([0.91, 10.0])
        change_db = 10 * np.log10(after / before) + channel_gains_db(before, after, np.ones(2))
        assert np.ptp(change_db) == pytest.approx(2 * BALANCE.balance_db, abs=1e-3)

    @pytest.mark.parametrize(
        ("before", "after", "apart"),
        [([0.9, 0.1], [2.1, 0.1], 0.0), ([0.55, 0.45], [0.7, 0.58], 1.0), ([1.0, 0.0], [2.5, 0.0], 1.0)],
    )
    def test_channels_that_resemble_each_other_or_change_alike_or_are_silent_stay_as_they_are(
        self, before, after, apart
    ):
        gains_db = channel_gains_db(np.array(before), np.array(after), np.full(2, apart))
        np.testing.assert_array_equal(gains_db, 0)

    def test_a_gain_is_the_change_beyond_the_tolerance_as_far_as_channels_are_apart(self):
        before, after = np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.9, 0.05])
        gains_db = channel_gains_db(before, after, np.array([1.0, 0.5, 0.25]))
        change_db = 10 * np.log10(after / before / after.sum())
        expected = [-(change_db[0] + 0.4), -0.5 * (change_db[1] - 0.4), -0.25 * (change_db[2] + 0.4)]
        np.testing.assert_allclose(gains_db, expected, atol=1e-4)


class TestQuieterAround:
    def test_it_is_the_distance_to_the_quietest_neighbour(self):
        found = quieter_around(np.array([-10.0, -30, -20, -25, -24]))
        np.testing.assert_array_equal(found, [-20, 0, -10, 0, -1])


class TestSmoothChange:
    @pytest.mark.parametrize("n", [1, 2, 12, 13, 60])
    def test_it_is_a_bilateral_filter(self, n):
        """A Hann window of 12 steps to either side, and a Gaussian that is 1/e at 6 dB."""
        change_db = np.random.default_rng(n).normal(0, 6, n)
        steps = np.arange(n)
        near = np.where(abs(steps[:, None] - steps) < 13, 0.5 + 0.5 * np.cos(np.pi * (steps[:, None] - steps) / 13), 0)
        weights = near * np.exp(-(((change_db[:, None] - change_db) / 6) ** 2))
        np.testing.assert_allclose(smooth_change(change_db), weights @ change_db / weights.sum(axis=1), atol=1e-5)

    def test_a_steady_change_stays(self):
        np.testing.assert_allclose(smooth_change(np.full(50, 7.0)), 7.0, rtol=1e-6)

    def test_a_fluctuation_is_averaged_and_a_step_is_kept(self):
        random = np.random.default_rng(0).normal(0, 1.0, 400)
        assert smooth_change(random)[20:-20].std() < 0.35
        step = np.where(np.arange(100) < 50, 0.0, 30.0)
        np.testing.assert_allclose(smooth_change(step), step, atol=1e-3)


class TestFill:
    @pytest.mark.parametrize("fill", [0.3, 0.7, 1.0])
    def test_noise_raises_weak_bands_towards_the_loud_ones_and_leaves_the_sound(self, fill):
        parts = components(random_levels_db(), random_levels_db(seed=1))
        gains = band_gains(parts, Amounts(0.0, 0.0, fill=fill), SHARES)
        np.testing.assert_array_equal(gains.noise_db, 0)
        assert gains.expander_db is None
        power = 10 ** (parts.level_db / 10)
        weights = power * SHARES[:, None]
        distance_db = (weights * parts.level_db).sum(axis=0) / weights.sum(axis=0) - parts.level_db
        expected = power * 10 ** (fill * np.maximum(distance_db, 0) / 10)
        np.testing.assert_allclose(sum(powers_before_expander(parts, gains)), expected, rtol=1e-3)

    def test_the_expander_flattens_what_the_fill_leaves(self):
        parts = components(random_levels_db(), random_levels_db(seed=1))
        gains = band_gains(parts, Amounts(6.0, -1.0, fill=1.0), SHARES)
        after_db = 10 * np.log10(sum(powers_before_expander(parts, gains))) + gains.expander_db
        np.testing.assert_allclose(np.ptp(after_db, axis=0), 0, atol=1e-3)
