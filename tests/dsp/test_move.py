"""Moving grain: the law on real renderings, the limit of what a sound can do, level, edges, and memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import rendered, samples_of, solver_of
from scipy.signal import lfilter

from neural_grain.audio.limiter import CEILING, limit_peaks
from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.loudness import K_HIGH_PASS, K_SHELF
from neural_grain.dsp.move import Attempt, best_attempt, find_measured_limit, move_grain, next_position, run_attempts
from neural_grain.dsp.reach import ReachCurve
from neural_grain.dsp.solver import AmountSolver
from neural_grain.dsp.stft import edge_padding

LAW_SOUNDS = {
    "mono": (drone(-40), SR),
    "stereo": (np.stack([drone(-40), drone(-30, seed=2)], axis=1), SR),
    "opposite phase": (drone(-40)[:, None] * np.array([[1.0, -1.0]]), SR),
    "48 kHz": (drone(-40, sr=48_000), 48_000),
    "odd rate": (drone(-40, sr=37_800), 37_800),
    "8 kHz": (drone(-40, sr=8_000), 8_000),
    "one second": (drone(-40, 1.0), SR),
    "odd length": (drone(-40)[:-12_345], SR),
    "very quiet": (drone(-40) * 1e-3, SR),
    "mostly silence": (np.concatenate([np.zeros(2 * SR), drone(-40, 1.0), np.zeros(2 * SR)]), SR),
}


def octaves_between(before: np.ndarray, after: np.ndarray, sr: int = SR) -> float:
    return math.log2(measure_grain(sound_from_array(before, sr)) / measure_grain(sound_from_array(after, sr)))


COLOURED_NOISE = lfilter([1], [1, -0.9], noise(2)).astype(np.float32)


@pytest.mark.parametrize("peak", [2e-9, 8e9])
def test_the_quietest_and_the_loudest_sounds_that_are_read_are_moved_without_overflow(peak):
    y = drone(-30, 1.0)
    solver = solver_of(y * peak / np.abs(y).max())
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert np.isfinite(solver.predictor.log_power(Amounts(50.0, 0.0), slice(None))).all()
        for octaves in (-1.0, 1.0):
            assert move_grain(solver, octaves, ceiling=math.inf).achieved_octaves == pytest.approx(octaves, abs=0.05)


def promise_too_much(solver: AmountSolver, monkeypatch: pytest.MonkeyPatch) -> ReachCurve:
    """Give the curve towards texture a last point that promises 0.4 octaves more, which the sound does not have."""
    reach = solver.reach(-1.0)
    too_long = ReachCurve(
        np.append(reach.texture_db, reach.texture_db[-1]),
        np.append(reach.fill, reach.fill[-1]),
        np.append(reach.expander, -6.0),  # turns the spectrum upside down
        np.append(reach.octaves, reach.octaves[-1] + 0.4),
    )
    monkeypatch.setattr(solver, "reach", lambda octaves: too_long)
    return too_long


class TestLaw:
    @pytest.mark.parametrize("name", LAW_SOUNDS)
    def test_grain_moves_by_the_requested_octaves_and_the_level_stays(self, name):
        y, sr = LAW_SOUNDS[name]
        y = y.astype(np.float32)
        solver = solver_of(y, sr)
        for octaves in (-2, -1, 0.5, 1):
            result = move_grain(solver, octaves)
            z = samples_of(result.sound)
            assert z.shape == (len(y), 1 if y.ndim == 1 else y.shape[1])
            achieved = octaves_between(y, z, sr)
            assert result.within_reach
            assert achieved == pytest.approx(octaves, abs=0.02)
            assert achieved == pytest.approx(result.achieved_octaves, abs=1e-6)
            level_db = 10 * np.log10(np.mean(np.square(z)) / np.mean(np.square(y)))
            assert level_db == pytest.approx(result.level_db, abs=0.01)
            assert abs(level_db) < 0.5
            assert np.abs(z).max() <= 1.0

    @pytest.mark.parametrize("octaves", [5.0, -4.5])
    def test_requests_beyond_the_slider_are_met(self, octaves):
        result = move_grain(solver_of(drone(-30).astype(np.float32)), octaves)
        assert result.within_reach
        assert result.achieved_octaves == pytest.approx(octaves, abs=0.02)

    def test_weak_bands_are_filled_where_more_texture_does_nothing(self):
        result = move_grain(solver_of(COLOURED_NOISE), -0.5)  # more noise does not change the spectrum of noise
        assert result.amounts.fill > 0
        assert result.amounts.expander == 0
        assert result.achieved_octaves == pytest.approx(-0.5, abs=0.02)

    @pytest.mark.parametrize("octaves", [-1.5, 1.5])
    def test_the_tones_stay_where_the_texture_moves(self, octaves):
        y = drone(-40)
        result = move_grain(solver_of(y), octaves)
        assert result.amounts.expander == 0
        window = np.hanning(2 * SR)
        before, after = (
            np.abs(np.fft.rfft(x[:, 0][SR // 2 : SR // 2 + 2 * SR] * window))
            for x in (y[:, None], samples_of(result.sound))
        )
        partials, between = 2 * 110 * np.arange(1, 9), slice(2 * 1_000, 2 * 10_000)
        moved_db = 20 * np.log10(after[partials] / before[partials])
        assert np.ptp(moved_db) < 0.5
        texture_db = 20 * np.log10(np.median(after[between]) / np.median(before[between]))
        assert -np.sign(octaves) * texture_db > 3

    def test_a_request_of_zero_returns_the_sound_itself(self):
        solver = solver_of(drone())
        result = move_grain(solver, 0.0)
        assert result.sound is solver.analysis.sound
        assert (result.achieved_octaves, result.level_db, result.limited_db) == (0.0, 0.0, 0.0)

    def test_the_output_converges_to_the_input_near_zero(self):
        y = drone()[:, None].astype(np.float32)
        solver = solver_of(y)

        def difference_db(octaves: float) -> float:
            z = samples_of(move_grain(solver, octaves).sound)
            return 20 * np.log10(np.sqrt(np.mean((z - y) ** 2)) / np.sqrt(np.mean(y**2)))

        assert difference_db(0.01) < -60
        assert difference_db(-0.01) < -60
        assert difference_db(0.001) < difference_db(0.01) - 15

    @pytest.mark.parametrize("octaves", [-1.5, 1.5])
    def test_the_level_of_the_input_only_scales_the_output(self, octaves):
        y = (drone(-40) + np.where(np.arange(3 * SR) % SR < 200, noise(3, level=0.3), 0)).astype(np.float32)
        loud, quiet = (
            samples_of(move_grain(solver_of(y * gain), octaves, ceiling=10.0).sound) for gain in (1.0, 10 ** (-30 / 20))
        )
        error = np.sqrt(np.mean((quiet * 10 ** (30 / 20) - loud) ** 2) / np.mean(loud**2))
        assert 20 * np.log10(error) < -90


class TestLimit:
    def test_requests_beyond_the_limit_give_the_same_rendering_and_are_reported(self):
        solver = solver_of(noise(2))
        results = [move_grain(solver, octaves) for octaves in (-2.5, -3.0)]
        assert not any(result.within_reach for result in results)
        assert results[0].achieved_octaves == results[1].achieved_octaves

    def test_a_request_that_grain_jumps_over_is_not_within_reach(self):
        """With 9 dB more texture the noise after the drone is loud enough to count, and grain rises at once."""
        solver = solver_of(np.concatenate([drone(-50, 2.0), noise(2, level=1e-3)]).astype(np.float32))
        result = move_grain(solver, -1.0)
        assert -0.9 < result.achieved_octaves <= 0  # it stays on this side of the jump
        assert not result.within_reach

    def test_a_sound_that_cannot_be_moved_is_returned_as_it_is(self):
        solver = solver_of(sine(1_000).astype(np.float32))  # already at the floor of the measure
        result = move_grain(solver, 2.0)
        assert not result.within_reach
        assert result.sound is solver.analysis.sound

    def test_the_farthest_measured_rendering_is_used_where_the_end_of_the_curve_turns_back(self, monkeypatch):
        solver = solver_of(COLOURED_NOISE)
        reach = promise_too_much(solver, monkeypatch)
        at_the_end = rendered(solver.field, reach.amounts_at(reach.end))
        raised = [-move_grain(solver, -octaves).achieved_octaves for octaves in np.arange(0.25, 3.1, 0.25)]
        assert raised[-1] > -octaves_between(COLOURED_NOISE, at_the_end) + 0.05
        assert np.all(np.diff(raised) >= 0)
        assert len({octaves for octaves in raised if octaves > raised[-1] - 0.02}) == 1

    @pytest.mark.parametrize("top", [1.5, 1.8, 1.95, 2.05, 2.2])
    def test_the_turning_point_is_found_wherever_it_lies_on_the_curve(self, top):
        octaves = np.linspace(0, 2.5, 51)
        reach = ReachCurve(octaves, 0 * octaves, 0 * octaves, octaves)

        def render(position: float, level: float) -> Attempt:
            predicted = reach.amounts_at(position).texture_db
            measured = min(predicted, top - 0.3 * (predicted - top))
            return Attempt(position, level, measured, level_error=1.0, grain=0.01, level_db=0.0, limited_db=0.0)

        assert find_measured_limit(reach, render).octaves == pytest.approx(top, abs=0.02)

    def test_no_more_is_rendered_where_the_end_of_the_curve_is_as_far_as_predicted(self):
        octaves, positions = np.linspace(0, 2.5, 51), []
        reach = ReachCurve(octaves, 0 * octaves, 0 * octaves, octaves)

        def render(position: float, level: float) -> Attempt:
            positions.append(position)
            measured = reach.amounts_at(position).texture_db
            return Attempt(position, level, measured, level_error=1.0, grain=0.01, level_db=0.0, limited_db=0.0)

        assert find_measured_limit(reach, render).octaves == pytest.approx(2.5)
        assert positions == [reach.end, reach.end]  # the second time with the right level


@pytest.fixture(scope="module")
def drone_solver() -> AmountSolver:
    return solver_of(drone(-40, 2.0))


class TestCorrection:
    @staticmethod
    def attempt(position: float, octaves: float) -> Attempt:
        return Attempt(position, 1.0, octaves, level_error=1.0, grain=0.01, level_db=0.0, limited_db=0.0)

    def test_of_attempts_on_both_sides_of_a_jump_the_one_on_this_side_is_best(self):
        short, far = self.attempt(0.2, 0.5), self.attempt(0.3, 1.3)
        assert best_attempt([short, far], 1.0) is short
        assert best_attempt([far], 1.0) is far
        assert best_attempt([short, near := self.attempt(0.25, 1.01)], 1.0) is near

    def test_between_two_attempts_around_the_request_the_next_is_at_the_false_position(self, drone_solver):
        attempts = [self.attempt(0.2, 0.9), self.attempt(0.6, 1.6), self.attempt(0.5, 1.1)]
        expected = 0.2 + (1.0 - 0.9) / (1.1 - 0.9) * (0.5 - 0.2)
        assert next_position(drone_solver, 1.0, attempts) == pytest.approx(expected)

    def test_where_that_stalls_it_is_halved(self, drone_solver):
        attempts = [self.attempt(0.2, 0.5), self.attempt(0.6, 1.3), self.attempt(0.5, 1.2)]
        assert next_position(drone_solver, 1.0, attempts) == pytest.approx(0.35)

    def test_where_the_prediction_would_not_move_the_way_to_an_attempt_that_went_too_far_is_halved(self, drone_solver):
        assert next_position(drone_solver, 0.2, [self.attempt(0.05, 1.6)]) == pytest.approx(0.025)

    def test_nothing_follows_an_attempt_that_is_good_enough_or_two_that_can_not_be_told_apart(self, drone_solver):
        assert next_position(drone_solver, 1.0, [self.attempt(0.5, 1.019)]) is None
        assert next_position(drone_solver, 1.0, [self.attempt(0.5, 1.03)]) is not None
        attempts = [self.attempt(0.5, 0.5), self.attempt(0.7, 1.6), self.attempt(0.50009, 1.5)]
        assert next_position(drone_solver, 1.0, attempts) is None

    def test_at_most_six_corrections_follow_the_first_rendering(self, drone_solver):
        """Grain jumps here: no position has what is requested."""
        attempts = run_attempts(
            drone_solver, 1.0, lambda position, level: self.attempt(position, 0.95 if position < 0.3 else 1.04)
        )
        assert len(attempts) == 7


class TestStore:
    """On a sound that turns back before the end of its curve, because finding the limit needs many renderings."""

    def test_at_most_one_rendering_is_alive(self, monkeypatch):
        solver, renderings = solver_of(COLOURED_NOISE), []
        promise_too_much(solver, monkeypatch)

        def n_alive() -> int:
            return sum(reference() is not None for reference in renderings)

        def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
            assert n_alive() == 0
            y = np.concatenate(list(blocks))
            renderings.append(weakref.ref(y))
            return replace(like, blocks=lambda: iter([y]))

        result = move_grain(solver, -3.0, store=store)
        assert len(renderings) > 6
        assert n_alive() == 1
        assert result.grain_after == pytest.approx(measure_grain(result.sound), rel=1e-6)

    def test_the_numbers_describe_the_stored_audio_where_each_rendering_replaces_the_one_before(self, monkeypatch):
        solver, file = solver_of(COLOURED_NOISE), np.zeros((len(COLOURED_NOISE), 1), np.float32)
        promise_too_much(solver, monkeypatch)

        def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
            file[:] = np.concatenate(list(blocks))
            return replace(like, blocks=lambda: iter([file]))

        for octaves in np.arange(-3.0, 0.0, 0.25):
            result = move_grain(solver, octaves, store=store)
            assert result.grain_after == pytest.approx(measure_grain(result.sound), rel=1e-6)


class TestLevelAndEdges:
    def test_loudness_stays_where_the_same_level_would_be_too_loud(self):
        """The oracle runs the filters of BS.1770 over the samples, ungated because the sound is steady."""

        def loudness_db(z: np.ndarray) -> float:
            weighted = lfilter(*K_HIGH_PASS, lfilter(*K_SHELF, z[:, 0]))
            return 10 * np.log10(np.mean(np.square(weighted[4_800:])))

        y = lfilter([1], [1, -0.95], noise(3, 48_000, level=0.02))[:, None].astype(np.float32)
        result = move_grain(solver_of(y, 48_000), -1.5)
        change_db = loudness_db(samples_of(result.sound)) - loudness_db(y)
        assert abs(result.level_db) <= 0.5
        assert abs(change_db) <= 1.2  # the tolerance is 0.85 dB, which the prediction misses by 0.3
        assert change_db - result.level_db > 1.2  # the change at the level of the input

    def test_limiting_is_the_overshoot_of_the_same_sound_without_limiter_at_the_same_level(self):
        """A square wave at full scale: its level can't be kept, and trying to raises it by tens of dB in vain."""
        y = (np.sign(sine(110)) * 0.8 + noise(2, level=1e-4))[:, None].astype(np.float32)
        solver = solver_of(y)
        result = move_grain(solver, -1.5)
        z, unlimited = samples_of(result.sound), rendered(solver.field, result.amounts)
        assert 20 * math.log10(np.abs(unlimited).max()) > result.limited_db + 1
        unlimited *= np.std(z) / np.std(unlimited)
        assert result.limited_db == pytest.approx(20 * math.log10(np.abs(unlimited).max()), abs=0.05)
        assert 0.5 < result.limited_db < 20

    @pytest.mark.parametrize("peak", [1e3, 1e9])
    def test_a_float_file_far_above_full_scale_gets_the_level_of_its_limited_samples(self, peak):
        y = (peak * drone(-40))[:, None].astype(np.float32)
        solver = solver_of(y)
        result = move_grain(solver, 1.0)
        limited = np.concatenate(list(limit_peaks([y], CEILING, solver.analysis.sound)))
        assert samples_of(result.sound).std() == pytest.approx(limited.std(), rel=0.06)
        assert result.achieved_octaves == pytest.approx(1.0, abs=0.03)

    def test_a_sound_with_headroom_is_not_limited(self):
        y = 0.1 * drone(-40)[:, None].astype(np.float32)
        assert move_grain(solver_of(y), -2.0).limited_db == 0

    def test_a_loop_cut_in_mid_wave_gets_no_click_at_its_ends(self):
        t = np.arange(2 * SR) / SR
        y = (0.3 * np.cos(2 * np.pi * 110 * t) + noise(2, level=3e-4)).astype(np.float32)[:, None]
        added = np.abs(samples_of(move_grain(solver_of(y), -2.0).sound) - y)
        inner = added[4_096:-4_096].max()
        assert added[:256].max() < 2 * inner
        assert added[-256:].max() < 2 * inner

    def test_the_padding_is_a_mirror_image_at_a_cut_and_silence_elsewhere(self):
        cut, whole = np.array([[3.0], [2.0], [1.0], [-4.0]]), np.array([[0.0], [2.0], [1.0], [-4.0]])
        np.testing.assert_array_equal(edge_padding(cut, 2)[:, 0], [2, 1])
        np.testing.assert_array_equal(edge_padding(cut, 5)[:, 0], [2, 1, -4, 0, 0])
        np.testing.assert_array_equal(edge_padding(whole, 3)[:, 0], [0, 0, 0])
