"""Move the grain of a sound along a curve, and measure that every second of it was moved:

    grain(out) in each second = grain(in) in the same second * 2**-s,   s the position of the slider there

Every second is solved on its own (`LocalAmounts`). The prediction along the whole curve, and then the rendered sound,
correct the seconds: one that moved by too much is asked for less. A second that can't be moved so far goes as far as it
can.

In: a `CurveSolver` and a `GrainCurve`. Out: a `CurveRendering`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from neural_grain.audio.limiter import CEILING, limit_peaks
from neural_grain.audio.sound import LevelMeter, Sound, cached_sound
from neural_grain.dsp.contour import Seconds, measure_local_grain
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.gains import AmountCurve, Amounts
from neural_grain.dsp.local_amounts import LocalAmounts
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.move import StoreSound, move_grain
from neural_grain.dsp.solver import AmountSolver


@dataclass(frozen=True)
class CurveSettings:
    """How the seconds are corrected."""

    predictions: int = 4  # of the whole curve, which cost little, before it is rendered
    renderings: int = 3
    tolerance_octaves: float = 0.03  # of a second that is measured: no further rendering is made for less
    max_error_octaves: float = 0.1  # beyond it a request was not met
    min_octaves: float = 0.1  # a smaller request can't be corrected by a ratio
    reach_share: float = 0.98  # of what a second can be moved, from where it counts as out of reach
    ratio_tolerance: float = 0.01  # of the ratios, from where on the prediction is not repeated
    wrong_way_factor: float = 0.25  # to what is requested of a second that moved the wrong way


CURVE = CurveSettings()
MOVED, SILENT, OUT_OF_REACH, MISSED = "moved", "silent", "out of reach", "missed"


@dataclass(frozen=True)
class GrainContour:
    """What was requested of each second of a sound and what it got, arrays of shape (seconds,), NaN where it is silent.

    Octaves are positive for smoother. What was requested is compared with the wet sound, if that was mixed with the
    input.
    """

    grain_before: np.ndarray
    grain_after: np.ndarray
    requested_octaves: np.ndarray
    is_out_of_reach: np.ndarray  # bool
    grain_wet: np.ndarray | None = None  # before the mix; None if that is the grain after

    def mixed(self, grain_after: np.ndarray) -> GrainContour:
        """The same after a mix that gave the seconds this grain."""
        return replace(self, grain_after=grain_after, grain_wet=self.grain_after)

    @property
    def achieved_octaves(self) -> np.ndarray:
        """Octaves by which each second became smoother."""
        return np.log2(self.grain_before / self.grain_after)

    @property
    def states(self) -> list[str]:
        """What became of each second: "moved", "silent", "out of reach" or "missed"."""
        error = self._all_errors()
        missed = np.where(self.is_out_of_reach, OUT_OF_REACH, MISSED)
        states = np.where(error <= CURVE.max_error_octaves, MOVED, missed)
        return np.where(np.isnan(error), SILENT, states).tolist()

    def errors(self) -> np.ndarray:
        """Absolute errors in octaves of the seconds that are neither silent nor out of reach."""
        return self.errors_where(np.array(self.states) != OUT_OF_REACH)

    def errors_where(self, mask: np.ndarray) -> np.ndarray:
        """Absolute errors in octaves of some of the seconds, without silent ones."""
        error = self._all_errors()
        return error[np.isfinite(error) & mask]

    def _all_errors(self) -> np.ndarray:
        """Absolute error in octaves of every second, before the mix."""
        grain = self.grain_after if self.grain_wet is None else self.grain_wet
        return np.abs(self.requested_octaves - np.log2(self.grain_before / grain))


@dataclass(frozen=True)
class CurveRendering:
    """A sound rendered along a curve, and what was measured on it."""

    sound: Sound
    curve: GrainCurve
    contour: GrainContour
    grain_before: float  # of the whole sound
    grain_after: float
    amounts: Amounts | AmountCurve  # the same for the whole sound where the curve is constant
    level_db: float  # change of the RMS level
    limited_db: float  # by which its highest peak would exceed the ceiling without the limiter
    mix: Mix = NO_MIX  # with the input


class SolvedCurve(NamedTuple):
    """How a curve is solved, arrays of shape (seconds,)."""

    ratios: np.ndarray  # for `LocalAmounts.amounts`
    predicted_octaves: np.ndarray


class CurveAttempt(NamedTuple):
    """One rendering in numbers. Its audio is not kept, because a whole file takes much memory."""

    ratios: np.ndarray  # (seconds,)
    contour: GrainContour


class CurveSolver:
    """Finds the amounts along curves, for one sound.

    Parameters
    ----------
    solver : AmountSolver of the sound
    seconds : Seconds of the sound, measured if None
    """

    def __init__(self, solver: AmountSolver, seconds: Seconds | None = None):
        self.solver = solver
        analysis = solver.analysis
        self.seconds = seconds or Seconds.of(
            analysis.sound, analysis.frames.active, analysis.settings.grain, analysis.threads
        )
        self.local = LocalAmounts(solver.field, self.seconds)

    def solve(self, curve: GrainCurve) -> SolvedCurve:
        """Find the ratios with which the prediction is what the curve requests."""
        ratios = self._first_ratios(curve)
        for _ in range(CURVE.predictions):
            predicted = self.local.predicted_octaves(self.local.amounts(curve, ratios))
            solved, ratios = SolvedCurve(ratios, predicted), self.corrected(curve, ratios, predicted)
            if np.allclose(ratios, solved.ratios, rtol=CURVE.ratio_tolerance):
                break
        return solved

    def estimate(self, curve: GrainCurve) -> AmountCurve:
        """Amounts that are not corrected yet. Once the reaches are known, they take little time."""
        return self.local.amounts(curve, self._first_ratios(curve))

    def _first_ratios(self, curve: GrainCurve) -> np.ndarray:
        """Ratios to begin with: every second is solved for what is requested, as far as it goes."""
        return np.minimum(1.0, self.largest_ratios(curve))

    def contour(self, curve: GrainCurve, flatness: np.ndarray, is_out_of_reach: np.ndarray) -> GrainContour:
        """What a rendering achieved, from the flatness of its frames as `measure_local_grain` gives it."""
        seconds = self.seconds
        requested = seconds.requested_octaves(curve)
        return GrainContour(seconds.grain, seconds.mean(flatness), requested, is_out_of_reach)

    def corrected(self, curve: GrainCurve, ratios: np.ndarray, achieved: np.ndarray) -> np.ndarray:
        """Ratios that are nearer to the request, from the octaves that these achieved."""
        requested = self.seconds.requested_octaves(curve)
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = requested / achieved
        usable = np.isfinite(factor) & (np.abs(requested) >= CURVE.min_octaves)
        # A second that moved the wrong way is moved much less.
        factor = np.where(factor > 0, np.clip(factor, 0.5, 2.0), CURVE.wrong_way_factor)
        return np.minimum(ratios * np.where(usable, factor, 1.0), self.largest_ratios(curve))

    def largest_ratios(self, curve: GrainCurve) -> np.ndarray:
        """The ratios with which each second is moved as far as it goes, shape (seconds,)."""
        octaves, largest = curve.octaves_at(self.seconds.places.times_s), np.full(self.seconds.n, np.inf)
        for sign in (-1.0, 1.0):
            asked = np.zeros(self.seconds.n)
            np.maximum.at(asked, self.seconds.places.of_second, sign * octaves)
            if asked.any():
                limit = np.divide(
                    self.local.reach_octaves(sign), asked, where=asked > 1e-9, out=np.full(len(asked), np.inf)
                )
                largest = np.minimum(largest, limit)
        return largest

    def falls_short(self, curve: GrainCurve, ratios: np.ndarray, achieved: np.ndarray) -> np.ndarray:
        """Which seconds moved less than requested with all that moves them, shape (seconds,), bool."""
        requested = self.seconds.requested_octaves(curve)
        is_at_end = ratios >= self.largest_ratios(curve) * CURVE.reach_share
        return (
            is_at_end & (np.sign(requested) * achieved < np.abs(requested)) & (np.abs(requested) >= CURVE.min_octaves)
        )


def move_along(
    solver: CurveSolver, curve: GrainCurve, *, ceiling: float = CEILING, store: StoreSound = cached_sound
) -> CurveRendering:
    """Move the grain of a sound along a curve, every second as far as it goes.

    A constant curve gives what `move_grain` gives: one amount for the whole sound.

    Parameters
    ----------
    ceiling : float > 0, largest sample of the result; higher peaks are limited
    store : keeps the rendered blocks; each rendering replaces the one before

    Raises
    ------
    PipelineError
        If the rendered sound has no grain.
    """
    if curve.is_constant:
        return _moved_by_constant(solver, curve, ceiling, store)
    ratios, predicted = solver.solve(curve)
    is_short = solver.falls_short(curve, ratios, predicted)
    attempts: list[CurveAttempt] = []
    for _ in range(CURVE.renderings):
        rendering = _rendered(solver, curve, ratios, ceiling, store)
        attempts.append(CurveAttempt(ratios, rendering.contour))
        if rendering.contour.errors_where(~is_short).max(initial=0) <= CURVE.tolerance_octaves:
            break
        achieved = rendering.contour.achieved_octaves
        is_short |= solver.falls_short(curve, ratios, achieved)
        ratios = solver.corrected(curve, ratios, achieved)
    best = min(attempts, key=lambda attempt: attempt.contour.errors_where(~is_short).sum())
    if best is not attempts[-1]:
        rendering = _rendered(solver, curve, best.ratios, ceiling, store)
    return replace(rendering, contour=replace(rendering.contour, is_out_of_reach=is_short))


def _rendered(
    solver: CurveSolver, curve: GrainCurve, ratios: np.ndarray, ceiling: float, store: StoreSound
) -> CurveRendering:
    """Render with some ratios, as `CurveSolver.solve` gives them, and measure."""
    analysis, amounts = solver.solver.analysis, solver.local.amounts(curve, ratios)
    before_limiter, output = LevelMeter(), LevelMeter()
    blocks = before_limiter.through(solver.solver.field.render(amounts))
    sound = store(analysis.sound, output.through(limit_peaks(blocks, ceiling, analysis.sound)))
    measured = measure_local_grain(sound, analysis.settings.grain, analysis.threads)
    return CurveRendering(
        sound=sound,
        curve=curve,
        contour=solver.contour(curve, measured.flatness, np.zeros(solver.seconds.n, bool)),
        grain_before=analysis.grain,
        grain_after=measured.grain,
        amounts=amounts,
        level_db=10 * math.log10(output.energy / analysis.energy),
        limited_db=20 * math.log10(max(1.0, before_limiter.peak / ceiling)),
    )


def _moved_by_constant(solver: CurveSolver, curve: GrainCurve, ceiling: float, store: StoreSound) -> CurveRendering:
    """Move the whole sound by the same amounts. The seconds need not be moved by the same octaves then."""
    analysis, octaves = solver.solver.analysis, curve.points[0][1]
    rendering = move_grain(solver.solver, octaves, ceiling=ceiling, store=store)
    flatness = solver.seconds.flatness
    if rendering.sound is not analysis.sound:
        flatness = measure_local_grain(rendering.sound, analysis.settings.grain, analysis.threads).flatness
    is_beyond = np.full(solver.seconds.n, not rendering.within_reach)
    return CurveRendering(
        sound=rendering.sound,
        curve=curve,
        contour=solver.contour(curve, flatness, is_beyond),
        grain_before=rendering.grain_before,
        grain_after=rendering.grain_after,
        amounts=rendering.amounts,
        level_db=rendering.level_db,
        limited_db=rendering.limited_db,
    )
