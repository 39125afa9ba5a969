"""The grain contour: its seconds against stage 1's measure of what was cut out, and what a curve asks of them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone, noise
from rendering import SETTINGS

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.contour import ReferenceContour, Seconds, measure_local_grain
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.flatness import grain_per_frame, measure_grain

GRAIN = SETTINGS.grain


def seconds_of(y: np.ndarray, sr: int = SR) -> Seconds:
    sound = sound_from_array(y.astype(np.float32), sr)
    return Seconds.of(sound, grain_per_frame(sound, GRAIN).active, GRAIN)


def changing() -> np.ndarray:
    """Three seconds of drone, each with other noise and another level, and 0.3 s more."""
    parts = [
        drone(texture_db, 1.0, seed=i) * level for i, (texture_db, level) in enumerate(((-60, 1), (-30, 0.1), (-45, 1)))
    ]
    return np.concatenate([*parts, drone(-45, 0.3, seed=3)])


@pytest.mark.parametrize("sr", [8_000, 44_100, 96_000])
def test_the_grain_of_a_second_is_that_of_a_sound_that_holds_nothing_else(sr):
    parts = [drone(texture_db, 1.0, sr, seed=i) * level for i, (texture_db, level) in enumerate(((-60, 1), (-30, 0.1)))]
    grain = seconds_of(np.concatenate(parts), sr).grain
    for second, part in zip(grain, parts, strict=True):
        assert second == pytest.approx(measure_grain(sound_from_array(part, sr), GRAIN), rel=0.03)


def test_a_short_rest_belongs_to_the_last_second_and_a_longer_one_is_a_second():
    assert seconds_of(changing()).n == 3
    assert seconds_of(np.concatenate((changing(), drone(-45, 0.3)))).n == 4
    assert seconds_of(drone(-45, 0.2)).n == 1


def test_the_flatness_does_not_depend_on_the_other_seconds_or_on_the_level():
    y = changing()
    sound = [sound_from_array(x.astype(np.float32), SR) for x in (y, np.concatenate((y[:SR], 0.01 * y[SR:])))]
    of_both = [measure_local_grain(each, GRAIN) for each in sound]
    inside = seconds_of(y).places.is_within
    np.testing.assert_allclose(of_both[0].flatness[inside], of_both[1].flatness[inside], rtol=1e-3)
    assert of_both[0].grain == pytest.approx(measure_grain(sound[0], GRAIN), rel=1e-6)


def test_a_silent_second_has_no_grain():
    y = np.concatenate((drone(-40, 1.0), np.zeros(SR), drone(-40, 1.0)))
    y[SR + 100 : 2 * SR] += 1e-3 * noise(1.0)[: SR - 100]  # more than 40 dB quieter
    np.testing.assert_array_equal(np.isnan(seconds_of(y).grain), [False, True, False])


class TestRequest:
    def test_a_constant_position_asks_the_same_of_every_second(self):
        requested = seconds_of(changing()).requested_octaves(GrainCurve(((0.0, -1.25),)))
        np.testing.assert_allclose(requested, -1.25, atol=1e-6)

    def test_where_the_slider_moves_it_is_the_mean_over_the_frames(self):
        seconds, curve = seconds_of(changing()), GrainCurve.of([(0, -1), (2, 3)])
        frames = seconds.counts & (seconds.places.of_second == 1)
        factor = 2.0 ** -curve.octaves_at(seconds.places.times_s[frames])
        expected = -np.log2(np.average(factor, weights=seconds.flatness[frames]))
        assert seconds.requested_octaves(curve)[1] == pytest.approx(expected, abs=1e-6)

    def test_the_curve_to_a_reference_asks_for_its_grain_stretched_to_the_sound(self):
        seconds = seconds_of(np.concatenate([drone(-45, 1.0, seed=i) for i in range(4)]))
        reference = ReferenceContour((0.00004, 0.00002))
        curve = seconds.curve_to(reference)
        expected = np.log2(seconds.grain[[0, 3]] / [0.00004, 0.00002])
        np.testing.assert_allclose(curve.octaves_at(np.array([0.5, 3.5])), expected, atol=1e-6)
        np.testing.assert_allclose(curve.octaves_at(np.array([0.1, 3.9])), expected, atol=1e-6)

    def test_silent_seconds_of_a_reference_are_bridged(self):
        seconds = seconds_of(np.concatenate([drone(-45, 1.0, seed=i) for i in range(3)]))
        with_gap, without = (
            seconds.curve_to(ReferenceContour(grain)) for grain in ((3e-5, 0.0, 3e-5), (3e-5, 3e-5, 3e-5))
        )
        np.testing.assert_allclose(np.array(with_gap.points), np.array(without.points), atol=1e-6)
