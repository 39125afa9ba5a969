"""The solver: predicted octaves against the definition, and amounts for requested octaves."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import SETTINGS, analysis_of, solver_of, varied_texture
from scipy.signal import lfilter

from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.settings import STEP_FRAMES
from neural_grain.dsp.solver import AmountSolver, MeasuredLimit


@pytest.fixture(scope="module")
def solver() -> AmountSolver:
    analysis = analysis_of(drone(-40))
    return AmountSolver(GainField(analysis, varied_texture(analysis)))


def test_the_zones_of_the_slider_end_with_the_curves_or_where_a_sound_was_moved_as_far_as_it_goes():
    solver = solver_of(drone(-40, 1.0))
    to_texture, to_smooth = solver.reach(-1.0), solver.reach(1.0)
    zones = solver.zones
    assert zones.whole == pytest.approx((to_texture.octaves[-1], to_smooth.octaves[-1]))
    assert zones.texture == pytest.approx((to_texture.texture_octaves, to_smooth.texture_octaves))
    assert 0 < zones.texture[0] <= zones.whole[0]
    solver.measured_limits[to_smooth] = MeasuredLimit(0.5, 1.0, 0.1)
    assert solver.zones.whole == pytest.approx((to_texture.octaves[-1], 0.1))
    assert solver.zones.texture[1] == pytest.approx(min(0.1, to_smooth.texture_octaves))


def test_the_zone_of_the_texture_ends_where_partials_are_thinned_out():
    zones = solver_of(sine(400, level=0.3) + sine(900, level=0.2) + noise(2, level=1e-4)).zones
    assert zones.texture[1] < zones.whole[1] - 0.1


def test_nothing_is_needed_to_move_by_nothing(solver):
    assert solver.solve(0.0) == 0.0


def log2_grain_by_librosa(solver: AmountSolver, amounts: Amounts) -> float:
    """log2 of the grain of the probe after the gains, in double precision, from the definition.

    The amounts must be too small for generated noise.
    """
    probe, gains = solver.analysis.probe, solver.field.gains(amounts).bands
    assert gains.generated_db is None
    weights = band_interpolation(SETTINGS, SR)[:, SETTINGS.grain.band_for(SR)].astype(float)

    def of_bins(gain_db: np.ndarray) -> np.ndarray:
        centres = (np.arange(gain_db.shape[1]) + 0.5) * STEP_FRAMES
        return (weights.T @ np.stack([np.interp(probe.index + 0.5, centres, row) for row in gain_db])).T

    factor = 10 ** (of_bins(gains.noise_db) / 20)
    before = (probe.tones + probe.cross + probe.texture).astype(float)
    after = probe.tones + factor * probe.cross + factor**2 * probe.texture
    if gains.expander_db is not None:
        after = after * 10 ** (of_bins(gains.expander_db) / 10)
    before, after = np.maximum(before.T, 1e-37), np.maximum(after.T, 1e-37)
    after *= before.sum(axis=0) / after.sum(axis=0)
    return math.log2(librosa.feature.spectral_flatness(S=np.sqrt(after / after.max()), amin=1e-10).mean())


@pytest.mark.parametrize("amounts", [Amounts(9.0, 0.0), Amounts(-15.0, 0.0), Amounts(9.0, -0.1), Amounts(-30.0, 0.2)])
def test_predicted_octaves_equal_a_calculation_from_the_definition(solver, amounts):
    expected = log2_grain_by_librosa(solver, Amounts(0.0, 0.0)) - log2_grain_by_librosa(solver, amounts)
    assert solver.octaves(amounts) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("octaves", [-3, -0.01, 0.01, 1, 3])
def test_the_solved_amounts_give_the_requested_octaves(solver, octaves):
    amounts = solver.reach(octaves).amounts_at(solver.solve(octaves))
    assert solver.octaves(amounts) == pytest.approx(octaves, abs=2e-3)


@pytest.mark.parametrize("octaves", [-2.0, -0.5, 0.5, 2.0])
def test_the_estimate_is_near_the_requested_octaves(solver, octaves):
    assert solver.octaves(solver.estimate(octaves)) == pytest.approx(octaves, abs=0.15)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_grain_moves_one_way_along_a_curve_that_begins_with_no_change(solver, sign):
    reach = solver.reach(sign)
    octaves = [sign * solver.octaves(reach.amounts_at(position)) for position in np.linspace(0, reach.end, 40)]
    assert np.all(np.diff(octaves) > 0)
    assert octaves[0] == 0


@pytest.mark.parametrize("octaves", [-2.0, 1.0])
def test_the_texture_alone_moves_as_far_as_it_reaches(octaves):
    assert solver_of(drone(-30)).estimate(octaves).expander == 0


def test_the_expander_continues_where_the_texture_ends():
    curve = solver_of(sine(400, level=0.3) + sine(900, level=0.2) + noise(2, level=1e-4)).reach(4.0)
    starts = np.flatnonzero(curve.expander)[0]
    assert starts > 2
    assert np.all(curve.expander[starts:] > 0)
    assert np.ptp(curve.texture_db[starts:]) == 0
    assert np.all(np.diff(curve.texture_db[:starts]) < 0)
    assert not curve.fill.any()


def test_a_noise_is_not_smoothed_by_raising_the_little_of_it_that_counts_as_tones():
    curve = solver_of(lfilter([1], [1, -0.9], noise(2))).reach(3.0)
    assert curve.texture_db.min() > -12
    assert curve.expander[-1] > 0


def test_weak_bands_are_filled_where_more_texture_does_little_and_then_the_spectrum_is_flattened():
    curve = solver_of(sine(400, level=0.3) + lfilter([1], [1, -0.9], noise(2, level=0.03))).reach(-4.0)
    fills, flattens = np.flatnonzero(curve.fill)[0], np.flatnonzero(curve.expander)[0]
    assert 2 < fills < flattens
    assert np.all(np.diff(curve.texture_db[:fills]) > 0)
    assert np.ptp(curve.texture_db[fills:]) == 0
    assert np.all(np.diff(curve.fill[fills:flattens]) > 0)
    assert np.all(curve.fill[flattens:] == 1)
    assert np.all(np.diff(curve.expander[flattens:]) < 0)


def test_a_sound_that_is_almost_all_silence_is_probed_where_it_sounds():
    y = np.zeros(120 * SR, np.float32)
    y[80 * SR : 81 * SR] = drone(-40, 1.0)
    index = analysis_of(y).probe.index
    first = 80 * SR // 512
    assert len(index) > 70
    assert first <= index.min() < index.max() < first + 100
