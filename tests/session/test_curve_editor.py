"""Points of a curve are edited without a window."""

from __future__ import annotations

import pytest

from neural_grain.dsp.curve import JUMP_S, SLIDER_RANGE, GrainCurve
from neural_grain.session.curve_editor import SHAPES, CurveEditor, shaped_curve


@pytest.fixture
def editor() -> CurveEditor:
    """A curve of three points in a sound of four seconds."""
    editor = CurveEditor(4.0)
    for seconds in (1.0, 2.0, 3.0):
        assert editor.add(seconds, 0.0)
    return editor


def test_without_points_there_is_no_curve():
    assert CurveEditor(1.0).curve is None


def test_points_are_added_in_the_order_of_their_times_and_selected(editor):
    assert editor.add(1.5, -1.0)
    assert editor.points == ((1.0, 0.0), (1.5, -1.0), (2.0, 0.0), (3.0, 0.0))
    assert editor.selected_point == (1.5, -1.0)
    assert editor.curve == GrainCurve(editor.points)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ((1.2345678, 0.98765), (1.2346, 0.988)),
        ((9.0, 0.0), (3.0 - JUMP_S, 0.0)),
        ((-9.0, 0.0), (1.0 + JUMP_S, 0.0)),
        ((2.0, 7.0), (2.0, SLIDER_RANGE)),
        ((2.0, -7.0), (2.0, -SLIDER_RANGE)),
    ],
)
def test_a_point_stays_between_its_neighbours_and_within_the_range(editor, asked, got):
    editor.select(1)
    editor.move(*asked)
    assert editor.points[1] == got
    assert editor.curve is not None  # which checks the points


def test_the_outer_points_stay_within_the_sound(editor):
    editor.select(0)
    editor.move(-1.0, 0.0)
    editor.select(2)
    editor.move(9.0, 0.0)
    assert (editor.points[0][0], editor.points[2][0]) == (0.0, 4.0)


def test_there_is_no_room_for_a_point_in_a_jump(editor):
    editor.replace(((1.0, 0.0), (1.0 + JUMP_S, 1.0)))
    assert not editor.add(1.0 + JUMP_S / 2, 0.5)
    assert len(editor.points) == 2


def test_a_point_without_room_keeps_its_time(editor):
    editor.replace(((1.0, 0.0), (1.0005, 1.0), (1.001, 0.0)))
    editor.select(1)
    editor.move(1.0, 0.5)
    assert editor.points == ((1.0, 0.0), (1.0005, 0.5), (1.001, 0.0))
    editor.replace(((5.0, 0.0), (9.0, 1.0)))  # in a sound of four seconds
    editor.select(1)
    editor.move(2.0, 0.5)
    assert editor.points == ((5.0, 0.0), (9.0, 0.5))
    assert editor.curve is not None  # which checks the points


def test_points_after_the_end_of_the_sound_stay(editor):
    editor.replace(((1.0, 0.0), (9.0, 1.0)))
    editor.select(0)
    editor.move(5.0, 0.0)
    assert editor.points == ((4.0, 0.0), (9.0, 1.0))


def test_a_removed_point_is_not_selected(editor):
    editor.select(2)
    editor.remove()
    assert editor.selected is None
    assert editor.points == ((1.0, 0.0), (2.0, 0.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("duration_s", [0.5, 3.0, 61.7, 3600.0])
def test_shapes_last_as_long_as_the_sound(shape, duration_s):
    curve = shaped_curve(shape, duration_s)
    assert 0 <= curve.end_s <= duration_s
    assert not curve.is_constant


def test_a_random_shape_depends_on_its_seed():
    assert shaped_curve("random", 3.0, 1) == shaped_curve("random", 3.0, 1) != shaped_curve("random", 3.0, 2)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="shape='saw'"):
        shaped_curve("saw", 1.0)
