"""The points of a curve while they are edited: the one that is selected, and some shapes to begin with.

In: edits in seconds and octaves, from whatever shows the points. Out: points as those of a `GrainCurve`, or none.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass

from neural_grain.dsp.curve import JUMP_S, MAX_LFO_HZ, SLIDER_RANGE, GrainCurve, Lfo

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class EditSettings:
    """How points are edited."""

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
    """Points of a curve, and which of them is selected.

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
        """Begin with a sound of some length, without points."""
        self.duration_s = duration_s
        self.replace(())

    def select(self, number: int | None) -> None:
        """Select a point, or none."""
        self.selected = number

    def add(self, seconds: float, octaves: float) -> bool:
        """Add a point and select it; returns False where two others leave no room for it."""
        place = bisect([time for time, _ in self.points], seconds)
        low, high = self._bounds(place - 1, place)
        if low > high:
            return False
        self.points = (*self.points[:place], _rounded(seconds, octaves, low, high), *self.points[place:])
        self.selected = place
        return True

    def move(self, seconds: float, octaves: float) -> None:
        """Move the selected point to a place, as near as its neighbours and the ends of the lane allow."""
        i = self.selected
        low, high = self._bounds(i - 1, i + 1)
        if low > high:  # its neighbours, or the end of the sound, leave no room to move in time
            low = high = self.points[i][0]
        point = _rounded(seconds, octaves, low, high)
        if point != self.points[i]:
            self.points = (*self.points[:i], point, *self.points[i + 1 :])

    def remove(self) -> None:
        """Remove the selected point."""
        i, self.selected = self.selected, None
        self.points = self.points[:i] + self.points[i + 1 :]

    def replace(self, points: Points) -> None:
        """Take other points in place of all."""
        self.selected, self.points = None, points

    def _bounds(self, before: int, after: int) -> tuple[float, float]:
        """Times between which a point has room between two others, given by their numbers."""
        low = self.points[before][0] + JUMP_S if before >= 0 else 0.0
        high = self.points[after][0] - JUMP_S if after < len(self.points) else self.duration_s
        return low, min(high, self.duration_s)


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
