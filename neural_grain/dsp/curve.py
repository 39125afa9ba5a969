"""The slider over time: breakpoints of seconds and slider positions, linear in between.

It is the breakpoint format of the Composers Desktop Project: a text file with two columns. Before the first point and
after the last one the position is constant.

In: text, or the settings of a low-frequency oscillator (LFO). Out: a `GrainCurve`, in octaves, positive is smoother.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from neural_grain.base.errors import PipelineError, printable

SLIDER_RANGE = 3.0  # octaves in either direction
MAX_POINTS = 100_000
COMMENTS = re.compile(r"[;#].*")
SEPARATORS = re.compile(r"[\s,]+")


@dataclass(frozen=True)
class GrainCurve:
    """Positions of the slider over time.

    Parameters
    ----------
    points : tuples of seconds, rising and >= 0, and octaves within -3 to +3; at least one

    Raises
    ------
    ValueError
        If a point is not as described.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        """Check the points."""
        if not self.points:
            raise ValueError("points=() must hold at least one point")
        for i, point in enumerate(self.points):
            before = self.points[i - 1][0] if i else -math.inf
            if fault := fault_of_point(*point, before):
                raise ValueError(f"points[{i}]={point}: {fault}")

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> GrainCurve:
        """A curve through pairs of any two numbers."""
        return cls(tuple((float(seconds), float(octaves)) for seconds, octaves in points))

    @property
    def is_constant(self) -> bool:
        """True if the slider never moves."""
        return len({octaves for _, octaves in self.points}) == 1

    @property
    def end_s(self) -> float:
        """Time of the last point."""
        return self.points[-1][0]

    def octaves_at(self, seconds: np.ndarray) -> np.ndarray:
        """Positions at some times."""
        times, octaves = np.array(self.points).T
        return np.interp(seconds, times, octaves)

    def for_duration(self, duration_s: float) -> GrainCurve:
        """The curve for a sound of some length: this one."""
        return self


@dataclass(frozen=True)
class FittedCurve:
    """A curve that is stretched to the length of every sound, so that its last point lies at the end."""

    curve: GrainCurve

    @property
    def is_constant(self) -> bool:
        """True if the slider never moves."""
        return self.curve.is_constant

    def for_duration(self, duration_s: float) -> GrainCurve:
        """The curve for a sound of some length, > 0. Of points that rounding makes coincide, the last one remains."""
        end_s = self.curve.end_s or duration_s
        octaves_at = {seconds / end_s * duration_s: octaves for seconds, octaves in self.curve.points}
        return GrainCurve(tuple(octaves_at.items()))


def fault_of_point(seconds: float, octaves: float, before_s: float) -> str:
    """What is wrong with a point that follows one at ``before_s``; empty if nothing is."""
    if not (math.isfinite(seconds) and math.isfinite(octaves)):
        return "not a finite number"
    if seconds < 0:
        return f"the time {seconds:g} s is negative"
    if seconds <= before_s:
        return f"the time {seconds:g} s does not come after {before_s:g} s"
    if abs(octaves) > SLIDER_RANGE:
        return f"the position {octaves:g} is not within -{SLIDER_RANGE:g} to +{SLIDER_RANGE:g}"
    return ""


def parse_curve(text: str) -> GrainCurve:
    """Read a curve from text: two columns, separated by blanks or a comma; ; and # begin a comment.

    Raises
    ------
    PipelineError
        That names the line that is wrong.
    """
    points: list[tuple[float, float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (content := COMMENTS.sub("", line).strip(" \t\r,\ufeff")):
            continue
        columns = SEPARATORS.split(content)
        if len(columns) != 2:
            raise PipelineError(
                f"line {number}: {len(columns)} column{'s' if len(columns) > 1 else ''} instead of two, "
                "seconds and slider position"
            )
        try:
            seconds, octaves = map(float, columns)
        except ValueError:
            raise PipelineError(f"line {number}: {printable(content[:40])} is not two numbers") from None
        if fault := fault_of_point(seconds, octaves, points[-1][0] if points else -math.inf):
            raise PipelineError(f"line {number}: {fault}")
        points.append((seconds, octaves))
        if len(points) > MAX_POINTS:
            raise PipelineError(f"line {number}: more than {MAX_POINTS} points")
    if not points:
        raise PipelineError("no points in it: every line is blank or a comment")
    return GrainCurve(tuple(points))


def format_curve(curve: GrainCurve) -> str:
    """The text that `parse_curve` reads, one point a line. Of points that rounding makes coincide, the last one remains."""
    octaves_at = {f"{round(seconds, 6):.12g}": octaves for seconds, octaves in curve.points}
    return "".join(f"{seconds} {octaves:.6g}\n" for seconds, octaves in octaves_at.items())


LFO_SHAPES = ("sine", "triangle", "square", "random")
LFO_POINTS = 32  # of a sine, in each period
JUMP_S = 1e-3  # between the two points of a jump
MIN_LFO_HZ, MAX_LFO_HZ = 1e-6, 20.0  # one period in twelve days; a step of the gains lasts 46 ms


@dataclass(frozen=True)
class Lfo:
    """A low-frequency oscillator that moves the slider.

    Parameters
    ----------
    rate_hz : float within 0.000001 to 20
    depth : float >= 0, octaves to either side of the centre; positions beyond the slider's ends stay there
    shape : one of `LFO_SHAPES`; "random" goes to a new random position in every period
    centre : float, octaves
    seed : int >= 0, of the random shape
    """

    rate_hz: float
    depth: float
    shape: str = "sine"
    centre: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not MIN_LFO_HZ <= self.rate_hz <= MAX_LFO_HZ:
            raise ValueError(f"rate_hz={self.rate_hz} must be within {MIN_LFO_HZ:f} to {MAX_LFO_HZ:g}")
        if not 0 <= self.depth <= 2 * SLIDER_RANGE:
            raise ValueError(f"depth={self.depth} must be within 0 to {2 * SLIDER_RANGE:g}")
        if self.shape not in LFO_SHAPES:
            raise ValueError(f"shape={self.shape!r} must be one of {', '.join(LFO_SHAPES)}")
        if not abs(self.centre) <= SLIDER_RANGE:
            raise ValueError(f"centre={self.centre} must be within -{SLIDER_RANGE:g} to {SLIDER_RANGE:g}")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be at least 0")

    def for_duration(self, duration_s: float) -> GrainCurve:
        """The curve for a sound of some length."""
        n_periods = max(1, math.ceil(duration_s * self.rate_hz))
        phase, height = self._period(n_periods + 1)
        phases = (np.arange(n_periods + 1)[:, None] + phase).ravel()
        heights = np.broadcast_to(height, (n_periods + 1, len(phase))).ravel()
        phases, heights = phases[phases <= n_periods], heights[phases <= n_periods]
        octaves = np.clip(self.centre + self.depth * heights, -SLIDER_RANGE, SLIDER_RANGE)
        return GrainCurve.of(zip(phases / self.rate_hz, octaves, strict=True))

    def _period(self, n_periods: int) -> tuple[np.ndarray, np.ndarray]:
        """Phases (points,) and heights (periods or 1, points) of the points of one period."""
        if self.shape == "random":
            return np.zeros(1), np.random.default_rng(self.seed).uniform(-1, 1, (n_periods, 1))
        if self.shape == "sine":
            phase = np.arange(LFO_POINTS) / LFO_POINTS
            return phase, np.sin(2 * np.pi * phase)
        if self.shape == "triangle":
            return np.array([0, 0.25, 0.75]), np.array([0.0, 1.0, -1.0])
        jump = min(JUMP_S * self.rate_hz, 0.1)
        return np.array([0, 0.5 - jump, 0.5, 1 - jump]), np.array([1.0, 1.0, -1.0, -1.0])


def parse_lfo(text: str) -> Lfo:
    """Read an LFO from RATE_HZ:DEPTH or RATE_HZ:DEPTH:SHAPE; a ValueError says what is wrong."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise ValueError("it must be a rate in Hz and a depth in octaves, such as 0.25:1.5 or 2:1:square")
    try:
        rate_hz, depth = map(float, parts[:2])
    except ValueError:
        raise ValueError(f"{parts[0]} and {parts[1]} must be numbers") from None
    return Lfo(rate_hz, depth, *parts[2:])
