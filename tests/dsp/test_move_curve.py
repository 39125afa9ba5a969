"""Rendering along a curve: the law for each second, what must stay as it is, and that nothing clicks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import samples_of, solver_of

from neural_grain.audio.sound import Sound, cached_sound
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.move_curve import (
    CURVE,
    MISSED,
    MOVED,
    OUT_OF_REACH,
    SILENT,
    CurveRendering,
    CurveSolver,
    GrainContour,
    move_along,
)

RAMP = GrainCurve.of([(0, -2), (6, 2)])
STEPS = GrainCurve.of([(0, -1.5), (2, -1.5), (2.001, 1), (4, 1), (4.001, 0), (6, 0)])


def level_db(y: np.ndarray) -> float:
    return 20 * np.log10(np.sqrt(np.mean(np.square(y))) + 1e-12)


@pytest.fixture(scope="module")
def solver() -> CurveSolver:
    swell = 10 ** (np.linspace(-10, 10, 6 * SR) / 20)
    return CurveSolver(solver_of(drone(-200, 6.0) + swell * noise(6.0, level=0.004)))


@pytest.fixture(scope="module")
def stepped(solver) -> CurveRendering:
    return move_along(solver, STEPS)


def test_a_contour_says_what_became_of_each_second():
    grain = np.array([0.01, 0.02, 0.04, 0.03, np.nan])
    achieved, requested = np.array([1.0, 0.5, -2.0, 1.0, np.nan]), np.array([1.02, 1.0, -1.0, 1.5, 1.0])
    is_out_of_reach = np.array([False, True, False, False, False])
    contour = GrainContour(grain, grain * 2**-achieved, requested, is_out_of_reach)
    assert contour.states == [MOVED, OUT_OF_REACH, MISSED, MISSED, SILENT]
    np.testing.assert_allclose(contour.achieved_octaves, achieved)
    np.testing.assert_allclose(contour.errors(), [0.02, 1.0, 0.5])
    mixed = contour.mixed(grain)
    np.testing.assert_allclose(mixed.achieved_octaves[:4], 0, atol=1e-12)
    np.testing.assert_allclose(mixed.errors(), [0.02, 1.0, 0.5])


class TestLaw:
    @pytest.mark.parametrize("curve", [RAMP, GrainCurve.of([(0, 0), (3, -2), (6, 0)])])
    def test_every_second_gets_what_the_curve_requests(self, solver, curve):
        contour = move_along(solver, curve).contour
        assert contour.states == [MOVED] * 6
        np.testing.assert_allclose(contour.achieved_octaves, contour.requested_octaves, atol=0.05)

    def test_steps_are_followed_and_the_level_is_kept(self, solver, stepped):
        np.testing.assert_allclose(stepped.contour.achieved_octaves, [-1.5, -1.5, 1, 1, 0, 0], atol=0.06)
        y, z = samples_of(solver.solver.analysis.sound), samples_of(stepped.sound)
        for second in range(6):
            piece = slice(second * SR, (second + 1) * SR)
            assert level_db(z[piece]) == pytest.approx(level_db(y[piece]), abs=0.5)

    def test_the_level_is_kept_where_half_of_the_energy_moves(self):
        y = noise(4.0, level=0.2) + sine(400, 4.0, level=0.3)
        curve = GrainCurve.of([(0, 0.8), (2, 0.8), (2.001, 0.2), (4, 0.2)])
        z = samples_of(move_along(CurveSolver(solver_of(y)), curve).sound)
        for second in range(4):
            piece = slice(second * SR, (second + 1) * SR)
            assert level_db(z[piece]) == pytest.approx(level_db(y[piece]), abs=0.5)

    def test_two_channels_with_different_sounds_follow_too(self):
        y = np.stack([drone(-45, 3.0), 0.3 * noise(3.0) + drone(-60, 3.0, root_hz=150)], axis=1)
        contour = move_along(CurveSolver(solver_of(y)), GrainCurve.of([(0, -1), (3, 0.5)])).contour
        np.testing.assert_allclose(contour.achieved_octaves, contour.requested_octaves, atol=0.1)


class TestIdentity:
    def test_a_curve_of_zero_returns_the_sound_itself(self, solver):
        rendering = move_along(solver, GrainCurve.of([(0, 0), (3, 0)]))
        assert rendering.sound is solver.solver.analysis.sound
        np.testing.assert_array_equal(rendering.contour.achieved_octaves, 0)

    def test_where_the_slider_stays_at_zero_the_output_equals_the_input(self, solver, stepped):
        y, z = samples_of(solver.solver.analysis.sound), samples_of(stepped.sound)
        rest = slice(round(4.1 * SR), None)
        assert level_db(z[rest] - y[rest]) < level_db(y[rest]) - 60

    def test_a_constant_curve_equals_the_position(self, solver):
        constant = samples_of(move_along(solver, GrainCurve.of([(0, -1), (4, -1)])).sound)
        position = samples_of(move_grain(solver.solver, -1.0).sound)
        assert level_db(constant - position) < level_db(position) - 80

    def test_every_rendering_is_the_same(self, solver, stepped):
        np.testing.assert_array_equal(samples_of(move_along(solver, STEPS).sound), samples_of(stepped.sound))


def test_a_step_makes_no_click(solver, stepped):
    y, z = samples_of(solver.solver.analysis.sound), samples_of(stepped.sound)
    constant = [samples_of(move_grain(solver.solver, octaves).sound) for octaves in (-1.5, 1.0)]
    largest = max(np.abs(np.diff(x, axis=0)).max() for x in (y, *constant))
    assert np.abs(np.diff(z, axis=0)).max() < 1.5 * largest


def test_a_part_is_rendered_as_in_the_whole(solver, stepped):
    whole = np.concatenate(list(solver.solver.field.render(stepped.amounts)))
    for start in (0, SR + 17, 4 * SR - 300):
        part = solver.solver.field.render_part(stepped.amounts, start, start + 5_000)
        np.testing.assert_allclose(part, whole[start : start + 5_000], atol=3e-6)


class TestCorrection:
    def renderings(self, solver: CurveSolver, curve: GrainCurve, *hiss: float) -> tuple[CurveRendering, int]:
        """A rendering along a curve, and how often it was rendered; the first ones get hiss of these levels."""
        n_stored = 0

        def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
            nonlocal n_stored
            level = hiss[n_stored] if n_stored < len(hiss) else 0.0
            n_stored += 1
            return cached_sound(like, (block + level * noise(len(block) / like.sr)[:, None] for block in blocks))

        return move_along(solver, curve, store=store), n_stored

    def test_nothing_is_rendered_again_where_the_first_is_right(self, solver):
        rendering, n_stored = self.renderings(solver, GrainCurve.of([(0, -0.15), (6, -0.2)]))
        assert n_stored == 1
        assert rendering.contour.errors().max() < CURVE.tolerance_octaves

    def test_what_the_first_misses_is_corrected(self, solver):
        _, n_stored = self.renderings(solver, STEPS, 0.05)
        assert n_stored > 1

    def test_the_best_is_rendered_again_where_corrections_made_it_worse(self, solver):
        rendering, n_stored = self.renderings(solver, STEPS, 0.002, 0.05, 0.05)
        assert n_stored == CURVE.renderings + 1
        first = solver.local.amounts(STEPS, solver.solve(STEPS).ratios)
        np.testing.assert_allclose(rendering.amounts.texture_db, first.texture_db, atol=1e-4)

    def test_a_request_too_small_for_a_ratio_and_a_silent_second_are_left_alone(self, solver):
        curve = GrainCurve.of([(0, 0.05), (2, 0.05), (2.001, 1), (6, 1)])
        requested, ratios = solver.seconds.requested_octaves(curve), np.full(6, 0.5)
        achieved = np.array([0.01, -0.5, np.nan, 0.5, 1.0, -1.0])
        found = solver.corrected(curve, ratios, achieved)
        np.testing.assert_allclose(requested[3:], 1, atol=1e-6)
        np.testing.assert_allclose(found, [0.5, 0.5, 0.5, 1.0, 0.5, 0.5 * CURVE.wrong_way_factor])


class TestWhatCanNotFollow:
    def test_white_noise_is_out_of_reach_towards_texture_and_not_forced(self):
        y = np.concatenate((drone(-40, 2.0), noise(2.0)))
        rendering = move_along(CurveSolver(solver_of(y)), GrainCurve.of([(0, -1.5), (4, -1.6)]))
        assert rendering.contour.states == [MOVED, MOVED, OUT_OF_REACH, OUT_OF_REACH]
        assert level_db(samples_of(rendering.sound)[3 * SR :]) == pytest.approx(level_db(y[3 * SR :]), abs=0.5)

    def test_silent_seconds_are_marked_and_stay_silent(self):
        y = np.concatenate((drone(-40, 2.0), np.zeros(2 * SR), drone(-40, 2.0)))
        rendering = move_along(CurveSolver(solver_of(y)), GrainCurve.of([(0, -1), (6, 1)]))
        assert rendering.contour.states[2:4] == [SILENT, SILENT]
        assert MISSED not in rendering.contour.states[::5]
        assert np.abs(samples_of(rendering.sound)[round(2.1 * SR) : round(3.9 * SR)]).max() < 1e-5

    @pytest.mark.parametrize("n_samples", [2_048, 3_000, 40_000])
    def test_short_sounds_follow_as_one_second(self, n_samples):
        rendering = move_along(
            CurveSolver(solver_of(drone(-40, 1.0)[:n_samples])), GrainCurve.of([(0, -0.5), (0.02, -1)])
        )
        assert len(rendering.contour.states) == 1
        assert np.isfinite(rendering.contour.achieved_octaves).all()

    def test_a_single_click_on_the_border_of_two_seconds_is_rendered(self):
        y = np.zeros(3 * SR)
        y[SR - 3 : SR + 3] = 0.5
        rendering = move_along(CurveSolver(solver_of(y)), RAMP)
        assert np.isfinite(samples_of(rendering.sound)).all()
