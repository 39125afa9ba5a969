"""Curves: the text format, its errors by line, fitting to a length, and the oscillator."""

from __future__ import annotations

import numpy as np
import pytest

from neural_grain.base.errors import PipelineError
from neural_grain.dsp.curve import (
    LFO_SHAPES,
    MIN_LFO_HZ,
    FittedCurve,
    GrainCurve,
    Lfo,
    format_curve,
    parse_curve,
    parse_lfo,
)


class TestText:
    def test_blank_lines_comments_commas_and_tabs_are_accepted(self):
        text = "; a swell\n\n0 -2\n 1.5,\t+1 # loud\n4e0 , .5\r\n"
        assert parse_curve(text).points == ((0.0, -2.0), (1.5, 1.0), (4.0, 0.5))

    def test_a_byte_order_mark_is_skipped(self):
        assert parse_curve("\ufeff0 1\n").points == ((0.0, 1.0),)

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("0 1\n1 2 3\n", "line 2: 3 columns instead of two"),
            ("; x\n5\n", "line 2: 1 column instead of two"),
            ("0 1\n1 two\n", "line 2: 1 two is not two numbers"),
            ("0 1\n2 1\n1 1\n", "line 3: the time 1 s does not come after 2 s"),
            ("0 1\n0 2\n", "line 2: the time 0 s does not come after 0 s"),
            ("0 1\n1 3.01\n", r"line 2: the position 3.01 is not within -3 to \+3"),
            ("0 nan\n", "line 1: not a finite number"),
            ("inf 1\n", "line 1: not a finite number"),
            ("-1 1\n", "line 1: the time -1 s is negative"),
            ("", "no points in it"),
            ("# nothing\n\n", "no points in it"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_line(self, text, line):
        with pytest.raises(PipelineError, match=line):
            parse_curve(text)

    def test_what_is_written_is_read_back(self):
        curve = GrainCurve.of([(0, -3), (1 / 3, 2 / 3), (3600.000001, 3)])
        for read, written in zip(parse_curve(format_curve(curve)).points, curve.points, strict=True):
            assert read == pytest.approx(written, abs=1e-5)

    def test_points_less_than_a_microsecond_apart_are_written_as_one(self):
        assert parse_curve(format_curve(GrainCurve.of([(0, 1), (1e-9, 2), (1, 0)]))).points == ((0, 2), (1, 0))


class TestCurve:
    def test_positions_are_linear_between_the_points_and_constant_beyond(self):
        curve = GrainCurve.of([(1, -2), (3, 2)])
        np.testing.assert_allclose(curve.octaves_at(np.array([0, 1, 1.5, 3, 9])), [-2, -2, -1, 2, 2])

    def test_fitted_to_a_sound_the_last_point_lies_at_its_end(self):
        fitted = FittedCurve(GrainCurve.of([(1, -2), (4, 2)])).for_duration(10.0)
        assert fitted.points == ((2.5, -2.0), (10.0, 2.0))

    @pytest.mark.parametrize(
        ("points", "expected"),
        [
            ([(0, 1), (1e-30, 2), (1e300, 0)], ((0, 2), (10, 0))),  # the second is rounded to the place of the first
            ([(0, 1), (1e-310, 0)], ((0, 1), (10, 0))),
            ([(0, 1)], ((0, 1),)),
        ],
    )
    def test_times_of_any_size_can_be_fitted(self, points, expected):
        assert FittedCurve(GrainCurve.of(points)).for_duration(10.0).points == expected

    def test_only_a_curve_of_one_position_is_constant(self):
        assert GrainCurve.of([(0, 1), (5, 1)]).is_constant
        assert not GrainCurve.of([(0, 1), (5, 1.01)]).is_constant

    @pytest.mark.parametrize("points", [(), ((0.0, 4.0),), ((1.0, 0.0), (0.0, 0.0)), ((0.0, float("nan")),)])
    def test_points_that_are_none_are_refused(self, points):
        with pytest.raises(ValueError, match="points"):
            GrainCurve(points)


class TestLfo:
    @pytest.mark.parametrize("shape", ["sine", "triangle", "square"])
    def test_it_has_its_rate_depth_centre_and_shape(self, shape):
        seconds = np.linspace(0, 8, 8_001)[:-1]
        octaves = Lfo(0.5, 1.5, shape, centre=-0.5).for_duration(8.0).octaves_at(seconds)
        phase = 0.5 * seconds % 1
        expected = {
            "sine": np.sin(2 * np.pi * phase),
            "triangle": np.interp(phase, [0, 0.25, 0.75, 1], [0, 1, -1, 0]),
            "square": np.where(phase < 0.5, 1, -1),
        }[shape]
        is_jump = (shape == "square") & ((phase % 0.5 < 0.001) | (phase % 0.5 > 0.499))
        np.testing.assert_allclose(octaves[~is_jump], (-0.5 + 1.5 * expected)[~is_jump], atol=0.01)

    def test_a_sine_has_32_points_in_each_period(self):
        curve = Lfo(2.0, 1.0).for_duration(4.0)
        assert sum(1.0 <= seconds < 1.5 for seconds, _ in curve.points) == 32

    def test_random_positions_are_those_of_the_seed(self):
        curves = [Lfo(2.0, 1.0, "random", seed=seed).for_duration(10.0) for seed in (1, 1, 2)]
        assert curves[0] == curves[1] != curves[2]
        octaves = [octaves for _, octaves in curves[0].points]
        assert len(octaves) == 21
        assert np.std(octaves) > 0.3
        assert np.abs(octaves).max() <= 1

    @pytest.mark.parametrize("shape", LFO_SHAPES)
    def test_it_stays_within_the_slider(self, shape):
        curve = Lfo(1.0, 6.0, shape, centre=2.0).for_duration(5.0)
        assert max(abs(octaves) for _, octaves in curve.points) <= 3

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("1", "a rate in Hz and a depth"), ("1:2:sine:3", "a rate in Hz and a depth"), ("a:1", "must be numbers"),
            ("0:1", "rate_hz=0.0"), ("nan:1", "rate_hz=nan"), ("30:1", "rate_hz=30.0"), ("1:-1", "depth=-1.0"),
            ("1:1:saw", "shape='saw'"), ("1e-9:1", "rate_hz=1e-09 must be within 0.000001 to 20"),
        ],
    )  # fmt: skip
    def test_text_that_describes_none_is_refused(self, text, reason):
        with pytest.raises(ValueError, match=reason):
            parse_lfo(text)

    def test_a_negative_seed_is_refused(self):
        with pytest.raises(ValueError, match="seed=-1 must be at least 0"):
            Lfo(1.0, 1.0, "random", seed=-1)

    @pytest.mark.parametrize("shape", LFO_SHAPES)
    def test_the_slowest_has_a_curve(self, shape):
        assert Lfo(MIN_LFO_HZ, 1.0, shape).for_duration(0.1).end_s == pytest.approx(1 / MIN_LFO_HZ)

    def test_text_is_read(self):
        assert parse_lfo("0.25:1.5") == Lfo(0.25, 1.5)
        assert parse_lfo("2:1:square") == Lfo(2.0, 1.0, "square")
