"""How far a sound can be moved, and with which amounts: the curves of reach.

The texture alone is moved as far as that reaches. From there the spectral expander thins out weak partials when a sound
is made smoother; towards texture, weak bands are filled with noise, and what that leaves is flattened by the expander.
So each direction has one curve of amounts, from no change to the end of the reach, along which grain moves
one way only (`ReachCurve`).

In: a `PowerPredictor`, and a function that predicts the octaves that amounts give. Out: a `ReachCurve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.predictor import PowerPredictor


@dataclass(frozen=True)
class ReachSettings:
    """Which amounts are tried to find a curve, and where it ends."""

    texture_steps_db: tuple[float, ...] = (
        0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 26, 30, 35, 40, 45, 50, 55, 60,
    )  # fmt: skip
    min_octaves_per_db: float = 0.03  # of more texture, below which noise is generated instead: only hits grow louder
    max_raise_db: float = 10.0  # of what is left without texture: a hundredth of noise counts as tones by chance
    fill_count: int = 20  # steps of the fill
    expander_ratio: float = 1.3  # between the amounts of the expander that are tried
    expander_count: int = 20  # from 0.7 % of the largest amount up to it
    max_expander: float = 4.0  # beyond it the small differences of a white noise would become tones
    max_gain_spread_db: float = 120.0  # between the bands of a step: beyond it one band and rounding noise remain
    end_margin_octaves: float = 0.02  # at the end of a curve, where much gain does little and may do the opposite

    @property
    def expander_amounts(self) -> np.ndarray:
        """The amounts of the expander that are tried, relative to the largest, rising to 1."""
        return self.expander_ratio ** np.arange(1 - self.expander_count, 1)


REACH = ReachSettings()


class ReachPoint(NamedTuple):
    """Amounts, and the octaves by which they move grain in the direction of the curve."""

    amounts: Amounts
    octaves: float


NO_CHANGE = ReachPoint(Amounts(0.0, 0.0), 0.0)


@dataclass(frozen=True, eq=False)
class ReachCurve:
    """A curve of amounts from no change to the end of the reach, interpolated linearly between its points.

    A position on the curve is a number from 0 to `end`; whole numbers are the points. The arrays have the shape
    (points,) and begin with 0.
    """

    texture_db: np.ndarray  # amounts of the texture
    fill: np.ndarray  # amounts of the fill
    expander: np.ndarray  # amounts of the expander
    octaves: np.ndarray  # distance from no change, rising

    @property
    def end(self) -> float:
        """Position of the end; 0 if grain can't be moved in this direction."""
        return len(self.octaves) - 1.0

    @property
    def texture_octaves(self) -> float:
        """Distance that the texture alone reaches."""
        alone = (self.fill == 0) & (self.expander == 0)
        return float(self.octaves[alone].max())

    def amounts_at(self, position: float) -> Amounts:
        """Amounts at a position."""
        points = np.arange(len(self.octaves))
        names = "texture_db", "fill", "expander"
        return Amounts(**{name: float(np.interp(position, points, getattr(self, name))) for name in names})

    def position_of(self, octaves: float) -> float:
        """Position of a distance in octaves by linear interpolation; the end if it lies beyond."""
        return float(np.interp(octaves, self.octaves, np.arange(len(self.octaves))))


def rising_curve(points: Iterable[ReachPoint]) -> ReachCurve:
    """A curve through those points that lie farther than every point before them, without its flat end."""
    rising = [NO_CHANGE]
    for point in points:
        if point.octaves > rising[-1].octaves:
            rising.append(point)
    curve = ReachCurve(
        np.array([point.amounts.texture_db for point in rising]),
        np.array([point.amounts.fill for point in rising]),
        np.array([point.amounts.expander for point in rising]),
        np.array([point.octaves for point in rising]),
    )
    return _without_flat_end(curve)


def _without_flat_end(curve: ReachCurve) -> ReachCurve:
    """The curve without its last ``end_margin_octaves``."""
    last = curve.octaves[-1] - REACH.end_margin_octaves
    if last <= 0:
        return ReachCurve(*(np.zeros(1) for _ in range(4)))
    keep = curve.octaves < last
    end = curve.amounts_at(curve.position_of(last))
    return ReachCurve(
        np.append(curve.texture_db[keep], end.texture_db),
        np.append(curve.fill[keep], end.fill),
        np.append(curve.expander[keep], end.expander),
        np.append(curve.octaves[keep], last),
    )


def _texture_part(points: list[ReachPoint], min_octaves_per_db: float) -> list[ReachPoint]:
    """The points up to the end of the texture, where more of it does hardly anything."""
    end, farthest = points[0], max(point.octaves for point in points)
    for before, point in pairwise(points):
        slope = (point.octaves - before.octaves) / abs(point.amounts.texture_db - before.amounts.texture_db)
        if point.octaves > end.octaves and slope >= min_octaves_per_db:
            end = point
        if end.octaves >= farthest - REACH.end_margin_octaves:
            break
    return points[: points.index(end) + 1]


def find_reach(
    predictor: PowerPredictor, octaves_of: Callable[[Amounts], float], sign: float, far: float
) -> ReachCurve:
    """Move the texture from no change, and go on with other means from where that does not reach ``far``.

    Parameters
    ----------
    octaves_of : predicts the octaves by which amounts make the sound smoother
    sign : 1 for smoother, -1 for more texture
    far : float > 0, octaves beyond which the curve ends
    """
    points = [NO_CHANGE]

    def add(amounts: Amounts) -> bool:
        points.append(ReachPoint(amounts, sign * octaves_of(amounts)))
        return points[-1].octaves > far

    for step_db in REACH.texture_steps_db:
        if sign > 0 and predictor.power_left_db(-step_db) < -REACH.max_raise_db:
            break
        if add(Amounts(-sign * step_db, 0.0)):
            return rising_curve(points)
    points = _texture_part(points, REACH.min_octaves_per_db if sign < 0 else 0.0)
    for amounts in _beyond_texture(points[-1].amounts, sign, predictor.expander_spread_db):
        if add(amounts):
            break
    return rising_curve(points)


def _beyond_texture(end: Amounts, sign: float, expander_spread_db: float) -> Iterator[Amounts]:
    """Amounts that go on from the end of the texture: to fill weak bands and then flatten, or to thin out."""
    if sign < 0:
        amounts = np.arange(1, REACH.fill_count + 1) / REACH.fill_count
        yield from (replace(end, fill=amount) for amount in amounts)
        yield from (replace(end, fill=1.0, expander=-amount) for amount in amounts[1::2])
    elif expander_spread_db > 1e-6:  # a flat spectrum has no expander
        largest = min(REACH.max_gain_spread_db / expander_spread_db, REACH.max_expander)
        yield from (replace(end, expander=amount) for amount in largest * REACH.expander_amounts)
