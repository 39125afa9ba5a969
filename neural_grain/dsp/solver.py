"""From octaves to amounts: which amounts change the grain of a sound by a requested number of octaves.

The solver predicts grain on a probe, which is a subset of the active frames, without rendering:

    P'[t, k] = exp(`GainField.probe_log_power`)

The texture alone is moved as far as that reaches. From there the spectral expander thins out weak partials when a sound
is made smoother; towards texture, weak bands are filled with noise, and what that leaves is flattened by the expander.
So each direction has one curve of amounts, from no change to the end of the reach, along which grain moves
one way only (`ReachCurve`); a position on it is a single number, which a root finder finds.

In: a `GainField`, and octaves (positive is smoother). Out: positions on a curve, and `Amounts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gain_field import GainField, log_mean_power
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.loudness import k_weighting
from neural_grain.dsp.settings import NEPER_PER_DB


@dataclass(frozen=True)
class SolverSettings:
    """How the curves of amounts are found, and how precisely amounts are solved on them."""

    coarse_frames: int = 192  # of the probe; they place the points of a curve, which is then solved on the whole probe
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
    far_octaves: tuple[float, ...] = (3.5, math.inf)  # curves end here: the slider ends at 3, --target-grain does not
    end_margin_octaves: float = 0.02  # at the end of a curve, where much gain does little and may do the opposite
    octaves_tolerance: float = 2e-3  # of the root finder: a tenth of what a rendering may differ
    position_tolerance: float = 2e-3  # of the same, in points of the curve
    loudness_tolerance_db: float = 0.85  # change of loudness that is left alone
    max_level_change_db: float = 0.4  # change of level (RMS) that may be made to keep loudness; 0.5 is promised

    @property
    def expander_amounts(self) -> np.ndarray:
        """The amounts of the expander that are tried, relative to the largest, rising to 1."""
        return self.expander_ratio ** np.arange(1 - self.expander_count, 1)


SOLVER = SolverSettings()


class ReachPoint(NamedTuple):
    """Amounts, and the octaves by which they move grain in the direction of the curve."""

    amounts: Amounts
    octaves: float


class PredictedLevel(NamedTuple):
    """The level that a sound gets after its gains."""

    factor: float  # on the samples
    change_db: float  # of RMS, which loudness asks for


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

    def amounts_at(self, position: float) -> Amounts:
        """Amounts at a position."""
        points = np.arange(len(self.octaves))
        names = "texture_db", "fill", "expander"
        return Amounts(**{name: float(np.interp(position, points, getattr(self, name))) for name in names})

    def position_of(self, octaves: float) -> float:
        """Position of a distance in octaves by linear interpolation; the end if it lies beyond."""
        return float(np.interp(octaves, self.octaves, np.arange(len(self.octaves))))


@dataclass(frozen=True)
class MeasuredLimit:
    """The farthest that a sound was measured to move in one direction, and how it was rendered there."""

    position: float  # on the curve
    level: float  # factor that corrected the level
    octaves: float  # distance measured, >= 0


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
    last = curve.octaves[-1] - SOLVER.end_margin_octaves
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
        if end.octaves >= farthest - SOLVER.end_margin_octaves:
            break
    return points[: points.index(end) + 1]


class AmountSolver:
    """Finds the amounts that move the grain of a sound by a requested number of octaves.

    Parameters
    ----------
    field : GainField

    Attributes
    ----------
    measured_limits : dict[ReachCurve, MeasuredLimit]
        How far the sound was measured to move along a curve. Rendering fills it in.
    """

    def __init__(self, field: GainField):
        self.field = field
        self.measured_limits: dict[ReachCurve, MeasuredLimit] = {}
        self._reaches: dict[tuple[float, float], ReachCurve] = {}
        self._estimates: dict[float, Amounts] = {}  # asked for several times for each position of the slider
        settings, sr = self.analysis.settings, self.analysis.sound.sr
        bins_hz = np.fft.rfftfreq(settings.grain.n_fft_for(sr), 1 / sr)[settings.grain.band_for(sr)]
        self._k_weights = k_weighting(bins_hz).astype(np.float32)
        n_frames = len(self.analysis.probe.index)
        self._coarse_frames = np.linspace(0, n_frames - 1, min(SOLVER.coarse_frames, n_frames)).round().astype(int)
        self._coarse_log2_grain = self._log2_grain(NO_CHANGE.amounts, self._coarse_frames)
        self._full_log2_grain = self._log2_grain(NO_CHANGE.amounts, slice(None))
        self._levels_before_db = [
            self._mean_levels_db(NO_CHANGE.amounts, frames) for frames in (slice(None), self._coarse_frames)
        ]

    @property
    def analysis(self) -> Analysis:
        """The analysis of the sound."""
        return self.field.analysis

    def octaves(self, amounts: Amounts, *, coarse: bool = False) -> float:
        """Predicted octaves by which these amounts make the sound smoother; negative if they increase grain.

        Parameters
        ----------
        coarse : use a few frames of the probe only
        """
        if coarse:
            return self._coarse_log2_grain - self._log2_grain(amounts, self._coarse_frames)
        return self._full_log2_grain - self._log2_grain(amounts, slice(None))

    def reach(self, octaves: float) -> ReachCurve:
        """The curve in the direction of these octaves. It ends near 3.5 octaves unless more are requested."""
        sign = math.copysign(1.0, octaves)
        far = next(far for far in SOLVER.far_octaves if abs(octaves) < far)
        if (sign, far) not in self._reaches:
            self._reaches[sign, far] = self._find_reach(sign, far)
        return self._reaches[sign, far]

    def solve(self, octaves: float, reach: ReachCurve | None = None) -> float:
        """Position on a curve at which the predicted change is ``octaves``, or the end if they lie beyond it.

        Parameters
        ----------
        reach : curve to search, the one in the direction of these octaves if None
        """
        from scipy.optimize import brentq

        sign, distance = math.copysign(1.0, octaves), abs(octaves)
        reach = reach or self.reach(octaves)
        if reach.end == 0 or octaves == 0:
            return 0.0

        @cache
        def excess(position: float) -> float:
            octaves = sign * self.octaves(reach.amounts_at(position)) - distance
            return octaves if abs(octaves) > SOLVER.octaves_tolerance else 0.0

        guess = reach.position_of(distance)
        low, high = max(0.0, guess - 0.5), min(reach.end, guess + 0.5)
        if excess(low) > 0:
            low, high = 0.0, low
        elif excess(high) < 0:
            if high == reach.end or excess(reach.end) <= 0:
                return reach.end
            low, high = high, reach.end
        return float(brentq(excess, low, high, xtol=SOLVER.position_tolerance, rtol=1e-6))

    def estimate(self, octaves: float) -> Amounts:
        """Amounts for these octaves, interpolated on the curve: immediate, but less exact than `solve`.

        Their level is predicted. It can't make up for what a limiter would take away.
        """
        if octaves not in self._estimates:
            reach = self.reach(octaves)
            amounts = reach.amounts_at(reach.position_of(abs(octaves)))
            self._estimates[octaves] = replace(amounts, level=self.predict_level(amounts, coarse=True).factor)
        return self._estimates[octaves]

    @ONE_BLAS_THREAD
    def predict_level(self, amounts: Amounts, *, coarse: bool = False) -> PredictedLevel:
        """The factor on the samples that keeps RMS, and loudness (ITU-R BS.1770) as far as RMS may change for that.

        At the same RMS a sound with more texture is louder, because loudness gives more weight to treble. The change of
        RMS is the smallest that keeps loudness within its tolerance, and is limited itself.

        Parameters
        ----------
        coarse : use a few frames of the probe only
        """
        frames = self._coarse_frames if coarse else slice(None)
        rms_before, loudness_before = self._levels_before_db[coarse]
        rms, loudness = self._mean_levels_db(amounts, frames)
        rms_change_db = rms - rms_before
        excess_db = loudness - loudness_before - rms_change_db
        excess_db -= float(np.clip(excess_db, -SOLVER.loudness_tolerance_db, SOLVER.loudness_tolerance_db))
        change_db = float(np.clip(-excess_db, -SOLVER.max_level_change_db, SOLVER.max_level_change_db))
        return PredictedLevel(10 ** ((change_db - rms_change_db) / 20), change_db)

    def _mean_levels_db(self, amounts: Amounts, frames: np.ndarray | slice) -> tuple[float, float]:
        """Level of the mean power of some frames of the probe, without weights and with those of loudness."""
        power, weights = np.exp(self.field.probe_log_power(amounts, frames)), self.analysis.probe.weights[frames]
        rms, loudness = (np.average(each, weights=weights) for each in (power.mean(axis=1), power @ self._k_weights))
        return 10 * math.log10(rms), 10 * math.log10(loudness)

    def _log2_grain(self, amounts: Amounts, frames: np.ndarray | slice) -> float:
        """Predicted log2 of the mean flatness of some frames of the probe, by the rules of `measure_grain`."""
        grain = self.analysis.settings.grain
        log_power = self.field.probe_log_power(amounts, frames)
        log_mean = log_mean_power(log_power)
        floor = float(log_power.max()) + NEPER_PER_DB * grain.floor_db
        active = log_mean >= log_mean.max() - NEPER_PER_DB * grain.active_range_db
        flatness = np.exp(np.maximum(log_power[active], floor).mean(axis=1, dtype=np.float32) - log_mean[active])
        return math.log2(np.average(flatness, weights=self.analysis.probe.weights[frames][active]))

    def _find_reach(self, sign: float, far: float) -> ReachCurve:
        """Move the texture from no change, and go on with other means from where that does not reach ``far``."""
        points = [NO_CHANGE]
        for step_db in SOLVER.texture_steps_db:
            if sign > 0 and self._power_left_db(-step_db) < -SOLVER.max_raise_db:
                break
            points.append(self._point(Amounts(-sign * step_db, 0.0), sign))
            if points[-1].octaves > far:
                return rising_curve(points)
        points = _texture_part(points, SOLVER.min_octaves_per_db if sign < 0 else 0.0)
        for amounts in self._beyond_texture(points[-1].amounts, sign):
            points.append(self._point(amounts, sign))
            if points[-1].octaves > far:
                break
        return rising_curve(points)

    def _power_left_db(self, texture_db: float) -> float:
        """Change of the power of the probe, before the level is corrected, where the whole texture gets this gain."""
        probe, factor = self.analysis.probe, 10 ** (texture_db / 20)
        tones, cross, texture = (
            float(probe.weights @ power.mean(axis=1)) for power in (probe.tones, probe.cross, probe.texture)
        )
        left = tones + factor * cross + factor**2 * texture
        return 10 * math.log10(max(left, 1e-20) / (tones + cross + texture))

    def _beyond_texture(self, end: Amounts, sign: float) -> Iterator[Amounts]:
        """Amounts that go on from the end of the texture: to fill weak bands and then flatten, or to thin out."""
        if sign < 0:
            amounts = np.arange(1, SOLVER.fill_count + 1) / SOLVER.fill_count
            yield from (replace(end, fill=amount) for amount in amounts)
            yield from (replace(end, fill=1.0, expander=-amount) for amount in amounts[1::2])
        else:
            spread_db = float(np.max(np.ptp(self.field.probe_components.expander_db, axis=0)))
            if spread_db > 1e-6:  # a flat spectrum has no expander
                largest = min(SOLVER.max_gain_spread_db / spread_db, SOLVER.max_expander)
                yield from (replace(end, expander=amount) for amount in largest * SOLVER.expander_amounts)

    def _point(self, amounts: Amounts, sign: float) -> ReachPoint:
        return ReachPoint(amounts, sign * self.octaves(amounts, coarse=True))
