"""The points of a curve while they are edited: the one that is selected, undo and redo, and some shapes to begin with.

In: edits in seconds and octaves, from whatever shows the points. Out: points as those of a `GrainCurve`, or none.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Hashable
from dataclasses import dataclass

from neural_grain.dsp.curve import JUMP_S, MAX_LFO_HZ, SLIDER_RANGE, GrainCurve, Lfo

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class EditSettings:
    """How points are edited."""

    max_undo: int = 500  # edits that can be undone
    second_digits: int = 4  # to which times are rounded
    octave_digits: int = 3


@dataclass(frozen=True)
class ShapeSettings:
    """The shapes of a curve, over the length of the sound."""

    depth: float = 2.0  # octaves to either side of 0, which most sounds reach
    n_periods: int = 2  # of a sine
    n_steps: int = 5  # of a staircase
    n_random: int = 8  # random positions


EDIT = EditSettings()
SHAPE = ShapeSettings()
SHAPES = ("ramp", "sine", "steps", "random")


class CurveEditor:
    """Points of a curve, and what happened to them.

    Parameters
    ----------
    duration_s : float >= 0, length of the sound; no point is moved beyond it

    Attributes
    ----------
    points : tuples of seconds, rising and >= 0, and octaves within -3 to +3; perhaps none
    selected : int or None, number of the selected point
    """

    def __init__(self, duration_s: float = 0.0):
        self.duration_s = duration_s
        self.points: Points = ()
        self.selected: int | None = None
        self._undo: list[Points] = []
        self._redo: list[Points] = []
        self._gesture: Hashable = None  # what made the last edit
        self._curve: GrainCurve | None = None  # as `curve` gave it last

    @property
    def curve(self) -> GrainCurve | None:
        """The curve through the points, None without any."""
        if not self.points:
            return None
        if self._curve is None or self._curve.points is not self.points:
            self._curve = GrainCurve(self.points)
        return self._curve

    @property
    def selected_point(self) -> tuple[float, float] | None:
        """Seconds and octaves of the selected point."""
        return None if self.selected is None else self.points[self.selected]

    def begin(self, duration_s: float) -> None:
        """Begin with a sound of some length, without points. Undo brings the points of the last sound back."""
        self.duration_s = duration_s
        self.replace(())

    def select(self, number: int | None) -> None:
        """Select a point, or none."""
        self.selected, self._gesture = number, None

    def add(self, seconds: float, octaves: float, gesture: Hashable = None) -> bool:
        """Add a point and select it; returns False where two others leave no room for it."""
        place = bisect([time for time, _ in self.points], seconds)
        low, high = self._bounds(place - 1, place)
        if low > high:
            return False
        self._edit((*self.points[:place], _rounded(seconds, octaves, low, high), *self.points[place:]), gesture)
        self.selected = place
        return True

    def move(self, seconds: float, octaves: float, gesture: Hashable) -> None:
        """Move the selected point to a place, as near as its neighbours and the ends of the lane allow.

        All moves in a row with the same ``gesture``, such as those of one drag, are undone together.
        """
        i = self.selected
        point = _rounded(seconds, octaves, *self._bounds(i - 1, i + 1))
        if point != self.points[i]:
            self._edit((*self.points[:i], point, *self.points[i + 1 :]), gesture)

    def remove(self) -> None:
        """Remove the selected point."""
        i, self.selected = self.selected, None
        self._edit(self.points[:i] + self.points[i + 1 :])

    def replace(self, points: Points) -> None:
        """Take other points in place of all."""
        self.selected = None
        if points != self.points:
            self._edit(points)

    def undo(self) -> bool:
        """Undo the last edit; returns False if there is none."""
        return self._go(self._undo, self._redo)

    def redo(self) -> bool:
        """Do again what was undone last; returns False if there is nothing."""
        return self._go(self._redo, self._undo)

    def _bounds(self, before: int, after: int) -> tuple[float, float]:
        """Times between which a point has room between two others, given by their numbers."""
        low = self.points[before][0] + JUMP_S if before >= 0 else 0.0
        high = self.points[after][0] - JUMP_S if after < len(self.points) else self.duration_s
        return low, min(high, self.duration_s)

    def _edit(self, points: Points, gesture: Hashable = None) -> None:
        if gesture is None or gesture != self._gesture:
            self._undo = [*self._undo[-EDIT.max_undo + 1 :], self.points]
        self._redo.clear()
        self.points, self._gesture = points, gesture

    def _go(self, source: list[Points], target: list[Points]) -> bool:
        if not source:
            return False
        target.append(self.points)
        self.points, self._gesture = source.pop(), None
        if self.selected is not None and self.selected >= len(self.points):
            self.selected = None
        return True


def _rounded(seconds: float, octaves: float, low: float, high: float) -> tuple[float, float]:
    """A point of round numbers, within bounds of its time as far as these allow, and within the slider's range."""
    seconds = max(low, min(round(seconds, EDIT.second_digits), high))
    octaves = max(-SLIDER_RANGE, min(round(octaves, EDIT.octave_digits), SLIDER_RANGE))
    return seconds, octaves + 0.0  # turns -0.0 into 0.0


def shaped_curve(shape: str, duration_s: float, seed: int = 0) -> GrainCurve:
    """A curve of one of the `SHAPES` over the length of a sound.

    Parameters
    ----------
    duration_s : float > 0
    seed : int, of the random shape
    """
    depth = SHAPE.depth
    if shape == "ramp":
        return GrainCurve(((0.0, -depth), (duration_s, depth)))
    if shape == "steps":
        n = SHAPE.n_steps
        octaves = [depth * (2 * i / (n - 1) - 1) for i in range(n)]
        starts = [i * duration_s / n for i in range(n)]
        ends = [max(start - JUMP_S, 0.5 * start) for start in starts[1:]]
        points = [(starts[0], octaves[0])]
        for i, end in enumerate(ends):
            points += [(end, octaves[i]), (starts[i + 1], octaves[i + 1])]
        return GrainCurve.of(points)
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r} must be one of {', '.join(SHAPES)}")
    n_periods = SHAPE.n_periods if shape == "sine" else SHAPE.n_random
    curve = Lfo(min(n_periods / duration_s, MAX_LFO_HZ), depth, shape, seed=seed).for_duration(duration_s)
    return GrainCurve(tuple(point for point in curve.points if point[0] <= duration_s))
