"""Dry/wet and gain: closed forms, no delay between the two, one limiter, and a report that measures the mix."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import SR, drone, noise
from rendering import samples_of, solver_of

from neural_grain.audio.limiter import CEILING
from neural_grain.audio.sound import cached_sound
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mix import NO_MIX, Mix, describe_mix, mix_samples
from neural_grain.dsp.mixdown import mix_down
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.move_curve import CurveSolver, move_along
from neural_grain.dsp.solver import AmountSolver


@pytest.fixture(scope="module")
def solver() -> AmountSolver:
    return solver_of(0.5 * np.stack([drone(-45), drone(-40, seed=1)], axis=1))


def test_samples_are_mixed_by_the_formula():
    dry, wet = np.float32([1, -1, 0]), np.float32([0, 1, 0.5])
    mixed = mix_samples(dry, wet, Mix(0.25, 20 * math.log10(2)))
    np.testing.assert_allclose(mixed, [1.5, -1.0, 0.25], rtol=1e-6)
    assert mixed.dtype == np.float32
    assert mix_samples(dry, wet, NO_MIX) is wet
    assert mix_samples(dry, wet, Mix(0.0)) is dry


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ((-0.1,), "wet=-0.1 must be within 0 to 1"),
        ((1.1,), "wet=1.1 must"),
        ((math.nan,), "wet=nan must"),
        ((1.0, 24.5), "gain_db=24.5 must be within -24 to"),
        ((1.0, -math.inf), "gain_db=-inf must"),
        ((1.0, math.nan), "gain_db=nan must"),
    ],
)
def test_a_mix_out_of_range_is_refused(values, line):
    with pytest.raises(ValueError, match=line):
        Mix(*values)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (NO_MIX, ""),
        (Mix(0.5), "50 % wet"),
        (Mix(gain_db=-3.0), "gain -3.0 dB"),
        (Mix(0.0, 6.0), "0 % wet, gain +6.0 dB"),
    ],
)
def test_it_is_said_in_words(mix, words):
    assert describe_mix(mix) == words


@pytest.mark.parametrize("amounts", [Amounts(9.0, 0.0, 0.9), Amounts(-20.0, 0.2), Amounts(26.0, -0.1)])
def test_input_and_moved_sound_are_added_without_a_delay(solver, amounts):
    """A null test: what is left of the mix without its two parts is rounding, where a delay of a sample leaves a comb."""
    dry, wet = samples_of(solver.analysis.sound), np.concatenate(list(solver.field.render(amounts)))
    mixed = np.concatenate(list(solver.field.render(amounts, Mix(0.5, -6.0))))
    expected = 10 ** (-6 / 20) * 0.5 * (dry + wet)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert np.abs(mixed[1:] - expected[:-1]).max() > 1e-3


@pytest.mark.parametrize("mix", [Mix(0.3), Mix(1.0, 12.0), Mix(0.0, -12.0)])
def test_parts_equal_the_whole_and_layers_add_up_to_it(solver, mix):
    amounts, ceiling, field = solver.estimate(-2.0), 0.4, solver.field
    layers = [np.concatenate(list(field.render_layer(amounts, name, ceiling, mix))) for name in ("tones", "texture")]
    whole = sum(layers)
    assert np.abs(whole).max() <= ceiling + 1e-6
    for start, stop in ((0, 5_000), (70_000, 71_000), (100_000, len(whole))):
        part = field.render_part(amounts, start, stop, ceiling, mix=mix, with_tones=True)
        np.testing.assert_allclose(part[:, :2], whole[start:stop], atol=3e-6)
        np.testing.assert_allclose(part[:, 2:], layers[0][start:stop], atol=3e-6)


def test_the_amounts_do_not_depend_on_the_mix_and_the_report_measures_it(solver):
    wet = move_grain(solver, -2.0)
    rendering = mix_down(solver.field, wet, Mix(0.5, -3.0), ceiling=CEILING)
    assert (rendering.amounts, rendering.requested_octaves, rendering.within_reach) == (wet.amounts, -2.0, True)
    assert rendering.grain_after == pytest.approx(measure_grain(rendering.sound), rel=1e-6)
    assert wet.grain_before < rendering.grain_after < wet.grain_after
    ratio = np.mean(samples_of(rendering.sound) ** 2) / np.mean(samples_of(solver.analysis.sound) ** 2)
    assert rendering.level_db == pytest.approx(10 * math.log10(ratio), abs=0.01)
    assert rendering.limited_db == 0


def test_peaks_of_the_mix_are_limited_once_and_said(solver):
    rendering = mix_down(solver.field, move_grain(solver, -1.0), Mix(0.5, 18.0), ceiling=CEILING)
    mixed = np.concatenate(list(solver.field.render(rendering.amounts, Mix(0.5, 18.0))))
    peak = np.abs(samples_of(rendering.sound)).max()
    assert 0.5 * CEILING < peak <= CEILING
    assert rendering.limited_db == pytest.approx(20 * math.log10(np.abs(mixed).max() / CEILING), abs=0.01)
    assert rendering.level_db < 18


def test_without_a_mix_nothing_is_rendered_again(solver):
    wet = move_grain(solver, 1.0)
    assert mix_down(solver.field, wet, NO_MIX, ceiling=CEILING) is wet


@pytest.mark.parametrize("octaves", [0.0, -2.0])
def test_the_dry_side_is_the_input_itself(solver, octaves):
    rendering = mix_down(solver.field, move_grain(solver, octaves), Mix(0.0), ceiling=CEILING)
    assert rendering.sound is solver.analysis.sound
    assert (rendering.achieved_octaves, rendering.level_db, rendering.limited_db) == (0, 0, 0)
    assert rendering.requested_octaves == octaves


def test_a_gain_without_a_move_is_the_input_times_the_gain(solver):
    rendering = mix_down(solver.field, move_grain(solver, 0.0), Mix(0.7, -6.0), ceiling=CEILING)
    np.testing.assert_allclose(samples_of(rendering.sound), 10**-0.3 * samples_of(solver.analysis.sound), atol=1e-6)
    assert rendering.level_db == pytest.approx(-6.0, abs=1e-3)
    assert rendering.achieved_octaves == pytest.approx(0, abs=1e-3)


def test_along_a_curve_the_seconds_are_those_of_the_mix_and_their_states_those_of_the_wet_sound(solver):
    curves = CurveSolver(solver)
    for points in (((0.0, -1.5), (3.0, 1.0)), ((0.0, -1.5),)):
        wet = move_along(curves, GrainCurve(points))
        rendering = mix_down(solver.field, wet, Mix(0.5), ceiling=CEILING, seconds=curves.seconds)
        assert rendering.contour.states == wet.contour.states
        np.testing.assert_array_equal(rendering.contour.errors(), wet.contour.errors())
        of_mix, of_wet = rendering.contour.achieved_octaves, wet.contour.achieved_octaves
        assert -1.2 < of_mix[0] < -0.3
        assert of_wet[0] < of_mix[0] - 0.2
        assert rendering.grain_after == pytest.approx(measure_grain(rendering.sound), rel=1e-6)
        dry = mix_down(solver.field, wet, Mix(0.0), ceiling=CEILING, seconds=curves.seconds)
        np.testing.assert_array_equal(dry.contour.achieved_octaves, np.zeros(3))


def test_the_blocks_of_the_mix_are_stored_once(solver):
    stored = []

    def store(like, blocks):
        stored.append(like)
        return cached_sound(like, blocks)

    wet = replace(move_grain(solver, 1.0), sound=solver.analysis.sound)
    mix_down(solver.field, wet, Mix(0.5), ceiling=CEILING, store=store)
    assert len(stored) == 1


def test_a_mix_without_tones_is_aligned_as_well():
    """Noise decorrelates within a sample, so a delay would be a comb filter with a notch of many dB."""
    solver = solver_of(noise(2.0))
    amounts = Amounts(-12.0, 0.0)
    dry, wet = samples_of(solver.analysis.sound), np.concatenate(list(solver.field.render(amounts)))
    mixed = np.concatenate(list(solver.field.render(amounts, Mix(0.5))))
    assert np.abs(mixed - 0.5 * (dry + wet)).max() < 1e-6
    spectra = [np.abs(np.fft.rfft(y[SR // 4 : SR // 4 + SR, 0]).reshape(-1)) for y in (dry, wet, mixed)]
    bands = [np.sqrt((s[1_000:15_000].reshape(50, -1) ** 2).mean(axis=1)) for s in spectra]
    np.testing.assert_allclose(bands[2], 0.5 * (bands[0] + bands[1]), rtol=0.05)
