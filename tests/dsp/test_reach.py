"""Curves of reach, from amounts whose effect on grain is given in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.reach import REACH, ReachPoint, find_reach, rising_curve

MARGIN = REACH.end_margin_octaves


@dataclass(frozen=True)
class Sound:
    """What the curves ask a sound for."""

    expander_spread_db: float = 60.0

    def power_left_db(self, texture_db: float) -> float:
        return texture_db / 2


def points(*octaves: float) -> list[ReachPoint]:
    """Points of 1, 2, ... dB of texture that move grain by so many octaves."""
    return [ReachPoint(Amounts(float(i), 0.0), each) for i, each in enumerate(octaves, start=1)]


class TestRisingCurve:
    def test_it_leaves_out_what_is_no_farther_than_something_before(self):
        curve = rising_curve(points(0.5, 0.4, 0.5, 1.0, 0.9))
        np.testing.assert_allclose(curve.octaves, [0, 0.5, 1.0 - MARGIN])
        np.testing.assert_allclose(curve.texture_db, [0, 1, 1 + 3 * (0.5 - MARGIN) / 0.5])
        assert curve.end == 2

    @pytest.mark.parametrize("octaves", [(), (0.0,), (-1.0,), (MARGIN,)])
    def test_it_has_no_length_where_grain_does_not_move(self, octaves):
        curve = rising_curve(points(*octaves))
        assert (curve.end, curve.texture_octaves) == (0, 0)
        assert curve.amounts_at(0.0) == Amounts(0.0, 0.0)

    def test_position_and_amounts_are_interpolated_and_end_with_the_curve(self):
        curve = rising_curve(points(1.0, 3.0, 3.0 + MARGIN))
        assert curve.position_of(2.0) == pytest.approx(1.5)
        assert curve.amounts_at(1.5).texture_db == pytest.approx(1.5)
        assert curve.position_of(5.0) == curve.end
        assert curve.position_of(-1.0) == 0


class TestFindReach:
    def test_more_texture_goes_as_far_as_it_works_and_then_weak_bands_are_filled_and_flattened(self):
        """The texture works up to 20 dB."""

        def octaves(amounts: Amounts) -> float:
            return -0.1 * min(amounts.texture_db, 20) - amounts.fill + 0.5 * amounts.expander

        curve = find_reach(Sound(), octaves, -1.0, 9.0)
        assert curve.texture_octaves == pytest.approx(2.0)
        assert curve.octaves[-1] == pytest.approx(3.5 - MARGIN)
        at_end = curve.amounts_at(curve.end)
        assert (at_end.texture_db, at_end.fill) == (22, 1)
        assert at_end.expander == pytest.approx(-1 + 2 * MARGIN)
        middle = curve.amounts_at(curve.position_of(2.5))
        assert (middle.texture_db, middle.expander) == (22, 0)
        assert middle.fill == pytest.approx(0.5)

    def test_texture_that_hardly_works_any_more_is_left_to_the_noise(self):
        """Beyond 10 dB the texture moves grain by 0.02 octaves for a decibel."""

        def octaves(amounts: Amounts) -> float:
            return -0.1 * min(amounts.texture_db, 10) - 0.02 * max(amounts.texture_db - 10, 0) - amounts.fill

        assert find_reach(Sound(), octaves, -1.0, 9.0).texture_octaves == pytest.approx(1.0)

    def test_less_texture_ends_where_only_chance_is_left_and_then_partials_are_thinned_out(self):
        def octaves(amounts: Amounts) -> float:
            return -0.1 * amounts.texture_db + amounts.expander

        curve = find_reach(Sound(), octaves, 1.0, 9.0)
        assert curve.texture_octaves == pytest.approx(1.8)  # 18 dB less leave 9 dB less power, the next step 11 dB
        at_end = curve.amounts_at(curve.end)
        assert at_end.texture_db == -18
        assert at_end.expander == pytest.approx(REACH.max_gain_spread_db / 60 - MARGIN, rel=1e-6)

    @pytest.mark.parametrize(("spread_db", "largest"), [(1.0, REACH.max_expander), (240.0, 0.5)])
    def test_the_expander_spreads_bands_by_no_more_than_makes_sense(self, spread_db, largest):
        curve = find_reach(Sound(spread_db), lambda amounts: 10 * amounts.expander, 1.0, 99.0)
        assert curve.octaves[-1] == pytest.approx(10 * largest - MARGIN)
        assert curve.octaves[1] == pytest.approx(10 * largest * REACH.expander_ratio ** (1 - REACH.expander_count))

    def test_a_flat_spectrum_has_no_expander(self):
        assert find_reach(Sound(0.0), lambda amounts: amounts.expander, 1.0, 9.0).end == 0

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_it_ends_with_the_first_amount_beyond_what_is_wanted(self, sign):
        curve = find_reach(Sound(), lambda amounts: -0.5 * amounts.texture_db, sign, 4.5)
        assert curve.octaves[-1] == pytest.approx(5.0 - MARGIN)  # 10 dB, the first step beyond 9
