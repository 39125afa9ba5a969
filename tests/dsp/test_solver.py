"""The solver: predicted octaves against the definition, and amounts for requested octaves."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
from conftest import SR, drone
from rendering import SETTINGS, expander_of, solver_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.settings import STEP_FRAMES
from neural_grain.dsp.solver import AmountSolver


@pytest.fixture(scope="module")
def solver() -> AmountSolver:
    return solver_of(drone(-45))


def log2_grain_by_librosa(solver: AmountSolver, amounts: Amounts) -> float:
    """log2 of the grain of the probe after the gains, in double precision, from the definition."""
    probe, gain_db = solver.analysis.probe, solver.field.gain_db(amounts)
    weights = band_interpolation(SETTINGS, SR)[:, SETTINGS.grain.band_for(SR)].astype(float)
    centres = (np.arange(gain_db.shape[1]) + 0.5) * STEP_FRAMES
    frame_gain_db = np.stack([np.interp(probe.index + 0.5, centres, row) for row in gain_db])
    before = probe.power.T.astype(float)
    after = before * 10 ** (weights.T @ frame_gain_db / 10)
    after *= before.sum(axis=0) / after.sum(axis=0)
    return math.log2(librosa.feature.spectral_flatness(S=np.sqrt(after / after.max()), amin=1e-10).mean())


@pytest.mark.parametrize("amount", [-0.4, 0.3])
def test_predicted_octaves_equal_a_calculation_from_the_definition(solver, amount):
    expected = log2_grain_by_librosa(solver, Amounts(0.0, 0.0)) - log2_grain_by_librosa(solver, Amounts(amount, 0.0))
    assert solver.octaves(Amounts(amount, 0.0)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("octaves", [-3, -0.01, 0.01, 1, 3])
def test_the_solved_amounts_give_the_requested_octaves(solver, octaves):
    amounts = solver.reach(octaves).amounts_at(solver.solve(octaves))
    assert solver.octaves(amounts) == pytest.approx(octaves, abs=1e-3)


@pytest.mark.parametrize("octaves", [-2.0, -0.5, 0.5, 2.0])
def test_the_estimate_is_near_the_requested_octaves(solver, octaves):
    assert solver.octaves(solver.estimate(octaves)) == pytest.approx(octaves, abs=0.15)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_grain_moves_one_way_along_a_curve_that_begins_with_no_change(solver, sign):
    reach = solver.reach(sign)
    octaves = [sign * solver.octaves(reach.amounts_at(position)) for position in np.linspace(0, reach.end, 40)]
    assert np.all(np.diff(octaves) > 0)
    assert octaves[0] == 0


def test_the_log_flatness_of_a_frame_is_concave_in_the_amount():
    rng = np.random.default_rng(3)
    power, gain_db = rng.exponential(size=(1, 700)), rng.normal(0, 10, (1, 700))
    log_flatness = []
    for amount in np.linspace(-3, 3, 61):
        S = np.sqrt(power * 10 ** (amount * gain_db / 10)).T
        log_flatness.append(math.log(librosa.feature.spectral_flatness(S=S, amin=1e-300)[0, 0]))
    assert np.all(np.diff(log_flatness, 2) < 1e-9)


@pytest.mark.parametrize("octaves", [1.0, -1.0])
def test_each_direction_is_solved_with_its_own_pattern(octaves):
    analysis = analyse(sound_from_array(drone(-40, 2.0), SR), SETTINGS)
    smooth = expander_of(analysis)
    texture = smooth * np.linspace(0.2, 1, 128, dtype=np.float32)[:, None]
    both = AmountSolver(GainField(analysis, np.stack((smooth, texture))))
    alone = AmountSolver(GainField(analysis, smooth if octaves > 0 else texture))
    assert both.estimate(octaves) == alone.estimate(octaves)


def test_a_sound_that_is_almost_all_silence_is_probed_where_it_sounds():
    y = np.zeros(120 * SR, np.float32)
    y[80 * SR : 81 * SR] = drone(-40, 1.0)
    index = analyse(sound_from_array(y, SR), SETTINGS).probe.index
    first = 80 * SR // 512
    assert len(index) > 70
    assert first <= index.min() < index.max() < first + 100
