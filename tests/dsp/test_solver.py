"""TODO"""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
from conftest import SR, drone, noise
from rendering import SETTINGS, expander_of, solver_of
from scipy.signal import lfilter

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import move as dsp_move
from neural_grain.dsp import settings as dsp_settings
from neural_grain.dsp import solver as dsp_solver
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.solver import AmountSolver, ReachCurve


class TestSolver:
    @pytest.fixture(scope="class")
    @classmethod
    def solver(cls):
        return solver_of(drone(-45))

    def test_octaves_equal_a_slow_calculation_from_the_definition(self, solver):
        analysis = solver.analysis
        band = SETTINGS.grain.band_for(SR)
        weights = band_interpolation(SETTINGS, SR)[:, band].astype(float)
        probe = analysis.probe
        centres = (np.arange(analysis.step_db.shape[1]) + 0.5) * dsp_settings.STEP_FRAMES

        def grain(amount):
            steps = np.arange(analysis.step_db.shape[1])
            gain_db = solver._shape_db(Amounts(amount, 0.0), solver._patterns_db(steps, amount < 0))
            spectra = []
            for power, frame in zip(probe.power.astype(float), probe.index, strict=True):
                now = [np.interp(frame + 0.5, centres, row) for row in gain_db]
                moved = power * 10 ** (np.array(now) @ weights / 10)
                spectra.append(moved * power.sum() / moved.sum())
            peak = max(spectrum.max() for spectrum in spectra)
            return np.mean(
                [librosa.feature.spectral_flatness(S=np.sqrt(p / peak)[:, None], amin=1e-10)[0, 0] for p in spectra]
            )

        for amount in (-0.4, 0.3):
            expected = math.log2(grain(0) / grain(amount))
            assert solver.octaves(Amounts(amount, 0.0)) == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("octaves", [-3, -0.01, 0.01, 1, 3])
    def test_the_position_found_gives_the_octaves(self, solver, octaves):
        reach = solver.reach(math.copysign(1.0, octaves))
        found = reach.at(solver.solve(octaves))
        assert solver.octaves(found) == pytest.approx(octaves, abs=1e-3)

    def test_grain_moves_one_way_along_the_reach(self, solver):
        for sign in (-1.0, 1.0):
            reach = solver.reach(sign)
            octaves = [sign * solver.octaves(reach.at(p)) for p in np.linspace(0, reach.end, 40)]
            assert np.all(np.diff(octaves) > 0)
            assert octaves[0] == 0

    def test_log_flatness_of_a_frame_is_concave_in_the_amount(self):
        rng = np.random.default_rng(3)
        power, gain_db = rng.exponential(size=(1, 700)), rng.normal(0, 10, (1, 700))
        amounts = np.linspace(-3, 3, 61)
        flatness = [
            math.log(
                librosa.feature.spectral_flatness(S=np.sqrt(power * 10 ** (u * gain_db / 10)).T, amin=1e-300)[0, 0]
            )
            for u in amounts
        ]
        assert np.all(np.diff(flatness, 2) < 1e-9)

    def test_beyond_the_reach_it_goes_as_far_as_it_can_stays_there_and_says_so(self):
        solver = solver_of(noise(2))
        results = [move_grain(solver, octaves) for octaves in (-2.5, -3.0)]
        assert not any(result.within_reach for result in results)
        assert results[0].got_octaves == results[1].got_octaves

    def test_what_lies_farther_than_the_slider_is_reached_too(self):
        solver = solver_of(drone(-30).astype(np.float32))
        for octaves in (5.0, -4.5):
            result = move_grain(solver, octaves)
            assert result.within_reach
            assert result.got_octaves == pytest.approx(octaves, abs=0.02)

    def test_an_end_that_turns_back_is_left_for_what_was_measured_to_go_farther(self):
        y = lfilter([1], [1, -0.9], noise(2)).astype(np.float32)
        solver = solver_of(y)
        reach = solver.reach(-1.0)
        lie = ReachCurve(  # as if it went on, by octaves that aren't there
            np.append(reach.pattern, 3 * reach.pattern[-1]),
            np.append(reach.expander, 3 * reach.expander[-1]),
            np.append(reach.octaves, reach.octaves[-1] + 0.4),
        )
        solver._reaches[-1.0, dsp_solver.FAR_OCTAVES[0]] = lie
        at_the_end = np.concatenate(list(solver.render(lie.at(lie.end))))
        at_the_end = math.log2(measure_grain(sound_from_array(at_the_end, SR)) / solver.analysis.grain)
        raised = [-move_grain(solver, -octaves).got_octaves for octaves in np.arange(0.25, 3.1, 0.25)]
        assert raised[-1] > at_the_end + 0.05
        assert np.all(np.diff(raised) >= 0)
        beyond = [octaves for octaves in raised if octaves > raised[-1] - 0.02]
        assert len(set(beyond)) == 1

    @pytest.mark.parametrize("top", [1.5, 1.8, 1.95, 2.05, 2.2])
    def test_the_top_of_a_way_that_turns_back_is_found_wherever_it_lies(self, top):
        """Grain that rises with the way up to the top, and falls slowly after it."""
        octaves = np.linspace(0, 2.5, 51)
        reach = ReachCurve(octaves, 0 * octaves, octaves)

        def attempt(position: float, level: float) -> dsp_move.Attempt:
            along = reach.at(position).pattern
            return dsp_move.Attempt(position, min(along, top - 0.3 * (along - top)), None, 1.0, level)

        assert dsp_move.find_measured_limit(reach, attempt).got == pytest.approx(top, abs=0.02)

    def test_where_the_pattern_ends_the_expander_carries_on(self):
        analysis = analyse(sound_from_array(drone(-45), SR), SETTINGS)
        result = move_grain(AmountSolver(analysis, np.zeros_like(expander_of(analysis))), -1.0)
        assert result.amounts.expander < 0
        assert result.got_octaves == pytest.approx(-1.0, abs=0.02)

    def test_a_sound_that_is_almost_all_silence_is_probed_where_it_sounds(self):
        y = np.zeros(120 * SR, np.float32)
        y[80 * SR : 81 * SR] = drone(-40, 1.0)
        analysis = analyse(sound_from_array(y, SR), SETTINGS)
        at = 80 * SR // 512
        assert len(analysis.probe.index) > 70
        assert at <= analysis.probe.index.min() < analysis.probe.index.max() < at + 100
