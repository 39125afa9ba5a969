"""Move the grain of a sound by a requested number of octaves, and measure that it was moved:

    grain(out) = grain(in) * 2**-octaves

The solver predicts grain on a probe. The real output differs from the prediction, because overlapping frames
influence each other, the limiter works, samples are rounded to the format of the output, and the probe leaves frames
out. So the output is rendered and measured, and the position on the solver's curve is corrected until grain is within
a tolerance. Near the end of the curve the farthest position is measured, once a sound and direction, because some
sounds turn back before the end.

In: an `AmountSolver`, and octaves (positive is smoother). Out: a `Rendering`, which holds the audio and what was
measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from neural_grain.audio.limiter import CEILING, limit_peaks
from neural_grain.audio.sound import LevelMeter, Sound, cached_sound
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.reach import ReachCurve
from neural_grain.dsp.solver import AmountSolver, MeasuredLimit


@dataclass(frozen=True)
class CorrectionSettings:
    """How a rendering is corrected until it has the requested grain and level."""

    tolerance_octaves: float = 0.02  # of the measured grain, which is 1.4 %
    max_error_octaves: float = 0.1  # beyond it a request was not met: grain jumps where quiet frames begin to count
    max_corrections: int = 6  # renderings after the first; most sounds take one or two
    level_tolerance_db: float = 0.1  # of the RMS level
    max_level_corrections: int = 8  # renderings for the level alone: the limiter takes energy away, each time less
    max_level: float = 100.0  # of all corrections of the level together: more of it only drives the limiter
    max_excess: float = 4.0  # of the input's peak to the ceiling, beyond which its level can't be kept
    min_movable_octaves: float = 0.05  # a sound that moves less is returned as it is, not changed much for nothing
    uncertain_octaves: float = 0.3  # from so far before the end of the curve on, the farthest position is measured
    limit_trials: int = 12  # positions at which it is measured, from the end backwards, until none can move farther
    turning_octaves: float = 0.05  # a sound that moves so much less than predicted may turn back before the end
    turning_trials: int = 6  # renderings to find the position at which it turns
    min_position_interval: float = 1e-4  # between two renderings; a smaller one can't be told apart


CORRECTION = CorrectionSettings()

StoreSound = Callable[[Sound, Iterator[np.ndarray]], Sound]
"""Stores blocks of samples, at the latest when they are first read. Its first argument has their rate and length."""


@dataclass(frozen=True)
class Rendering:
    """A rendered sound and what was measured on it. Octaves are positive for smoother sounds."""

    sound: Sound
    requested_octaves: float
    grain_before: float
    grain_after: float
    within_reach: bool  # False if the sound could not be moved by what was requested
    amounts: Amounts  # the expander's is 0 as far as the texture reaches
    level_db: float  # change of the RMS level
    limited_db: float  # by which its highest peak would exceed the ceiling if it were as loud without the limiter
    mix: Mix = NO_MIX  # with the input; requested_octaves, within_reach and amounts are those of the wet sound

    @property
    def achieved_octaves(self) -> float:
        """Octaves of measured grain by which the sound became smoother."""
        return math.log2(self.grain_before / self.grain_after)


@dataclass(frozen=True)
class Attempt:
    """One rendering in numbers. Its audio is not kept, because a whole file takes much memory."""

    position: float  # on the curve
    level: float  # factor on the samples that corrects the predicted one
    octaves: float  # distance measured, positive in the direction of the curve
    level_error: float  # factor by which the samples are too quiet
    grain: float
    level_db: float  # change of the RMS level
    limited_db: float  # as in `Rendering`

    @property
    def has_right_level(self) -> bool:
        """True if the level is within its tolerance."""
        return abs(20 * math.log10(self.level_error)) <= CORRECTION.level_tolerance_db

    @property
    def corrected_level(self) -> float:
        """The factor on the samples that this attempt should have had."""
        return min(self.level * self.level_error, CORRECTION.max_level)


RenderAttempt = Callable[[float, float], Attempt]
"""Renders at a position with a factor on the samples."""


def move_grain(
    solver: AmountSolver, octaves: float, *, ceiling: float = CEILING, store: StoreSound = cached_sound
) -> Rendering:
    """Move the grain of a sound by so many octaves, or as far as it goes.

    Parameters
    ----------
    octaves : float, positive is smoother; 0 returns the sound itself
    ceiling : float > 0, largest sample of the result; higher peaks are limited
    store : keeps the rendered blocks; each rendering replaces the one before

    Raises
    ------
    PipelineError
        If the rendered sound has no grain.
    """
    if octaves == 0:
        return unchanged_rendering(solver.analysis, octaves)
    renderer = AttemptRenderer(solver, octaves, ceiling, store)
    attempts = run_attempts(solver, octaves, renderer.render)
    if not attempts:
        return unchanged_rendering(solver.analysis, octaves)
    best = best_attempt(attempts, abs(octaves))
    for _ in range(CORRECTION.max_level_corrections):
        if not best.has_right_level:
            best = renderer.render(best.position, best.corrected_level)
    limit = solver.measured_limits.get(solver.reach(octaves))
    is_beyond = limit is not None and abs(octaves) > limit.octaves + CORRECTION.tolerance_octaves
    is_near = abs(abs(octaves) - best.octaves) <= CORRECTION.max_error_octaves
    return renderer.rendering(best, within_reach=is_near and not is_beyond)


def best_attempt(attempts: list[Attempt], distance_octaves: float) -> Attempt:
    """The attempt nearest to the requested distance, or if grain jumps over that, the nearest on this side of the jump."""
    nearest = min(attempts, key=lambda attempt: abs(distance_octaves - attempt.octaves))
    short = [attempt for attempt in attempts if attempt.octaves <= distance_octaves]
    if abs(distance_octaves - nearest.octaves) <= CORRECTION.max_error_octaves or not short:
        return nearest
    return max(short, key=lambda attempt: attempt.octaves)


def unchanged_rendering(analysis: Analysis, octaves: float) -> Rendering:
    """The sound itself, for 0 octaves and for sounds that can't be moved."""
    grain, sound = analysis.grain, analysis.sound
    return Rendering(sound, octaves, grain, grain, octaves == 0, Amounts(0.0, 0.0), level_db=0.0, limited_db=0.0)


def energy_to_keep(analysis: Analysis, ceiling: float) -> float:
    """Energy of the sound, or what the limiter leaves of it if it lies far above the ceiling, as in some float files."""
    if analysis.peak <= CORRECTION.max_excess * ceiling:
        return analysis.energy
    limited = LevelMeter()
    for _ in limited.through(limit_peaks(analysis.sound.blocks(), ceiling, analysis.sound)):
        pass
    return limited.energy


class AttemptRenderer:
    """Renders a sound at positions on one curve, measures the result, and keeps the audio of the last one only.

    Parameters
    ----------
    octaves : float, not 0, requested; they decide the curve
    """

    def __init__(self, solver: AmountSolver, octaves: float, ceiling: float, store: StoreSound):
        self._solver, self._octaves, self._ceiling, self._store = solver, octaves, ceiling, store
        self._reach = solver.reach(octaves)
        self._energy = energy_to_keep(solver.analysis, ceiling)
        self._attempt: Attempt | None = None
        self._amounts = Amounts(0.0, 0.0)
        self._sound: Sound | None = None

    def render(self, position: float, level: float) -> Attempt:
        """Render at a position with a factor on the samples, and measure; nothing to do if that was the last one."""
        if self._attempt and (position, level) == (self._attempt.position, self._attempt.level):
            return self._attempt
        self._attempt = self._sound = None  # released before the next rendering takes its memory
        analysis, amounts = self._solver.analysis, self._reach.amounts_at(position)
        predicted = self._solver.predict_level(amounts)
        self._amounts = replace(amounts, level=level * predicted.factor)
        before_limiter, output = LevelMeter(), LevelMeter()
        blocks = before_limiter.through(self._solver.field.render(self._amounts))
        blocks = output.through(limit_peaks(blocks, self._ceiling, analysis.sound))
        self._sound = self._store(analysis.sound, blocks)
        grain = measure_grain(self._sound, analysis.settings.grain, analysis.threads)
        # The level corrections that make up for what the limiter takes away would raise the peak further, so it is
        # compared at the level of the output.
        unlimited_peak = before_limiter.peak * math.sqrt(output.energy / before_limiter.energy)
        self._attempt = Attempt(
            position=position,
            level=level,
            octaves=math.copysign(1.0, self._octaves) * math.log2(analysis.grain / grain),
            level_error=math.sqrt(self._energy * 10 ** (predicted.change_db / 10) / output.energy),
            grain=grain,
            level_db=10 * math.log10(output.energy / analysis.energy),
            limited_db=20 * math.log10(max(1.0, unlimited_peak / self._ceiling)),
        )
        return self._attempt

    def rendering(self, attempt: Attempt, *, within_reach: bool) -> Rendering:
        """The audio of an attempt, rendered again unless it was the last one."""
        self.render(attempt.position, attempt.level)
        return Rendering(
            sound=self._sound,
            requested_octaves=self._octaves,
            grain_before=self._solver.analysis.grain,
            grain_after=attempt.grain,
            within_reach=within_reach,
            amounts=self._amounts,
            level_db=attempt.level_db,
            limited_db=attempt.limited_db,
        )


def run_attempts(solver: AmountSolver, octaves: float, render: RenderAttempt) -> list[Attempt]:
    """Render at positions that come nearer and nearer to the requested octaves.

    Returns
    -------
    list of Attempt
        In the order of rendering; only the one at the measured limit if the request lies beyond it; empty if the sound
        can't be moved.
    """
    distance, reach = abs(octaves), solver.reach(octaves)
    position, level = solver.solve(octaves), 1.0
    attempts: list[Attempt] = []
    while position and len(attempts) <= CORRECTION.max_corrections:
        is_uncertain = position >= reach.position_of(reach.octaves[-1] - CORRECTION.uncertain_octaves)
        limit = measured_limit(solver, reach, render) if is_uncertain else solver.measured_limits.get(reach)
        if limit and limit.octaves < CORRECTION.min_movable_octaves:
            return []
        if limit and is_at_limit(distance, limit):
            return [render(limit.position, limit.level)]
        attempts.append(render(position, level))
        level = attempts[-1].corrected_level
        position = next_position(solver, octaves, attempts)
    error_octaves = min((abs(distance - attempt.octaves) for attempt in attempts), default=0.0)
    if error_octaves > CORRECTION.turning_octaves:  # the sound turns back long before the end of the curve
        limit = measured_limit(solver, reach, render)
        if is_at_limit(distance, limit):
            return [render(limit.position, limit.level)]
    return attempts


def is_at_limit(distance_octaves: float, limit: MeasuredLimit) -> bool:
    """True if the rendering at the limit is the best for this distance: it lies beyond the limit or just before it."""
    return distance_octaves >= limit.octaves - CORRECTION.tolerance_octaves


def measured_limit(solver: AmountSolver, reach: ReachCurve, render: RenderAttempt) -> MeasuredLimit:
    """How far the sound moves along a curve, measured once and kept by the solver."""
    if reach not in solver.measured_limits:
        farthest = find_measured_limit(reach, render)
        solver.measured_limits[reach] = MeasuredLimit(farthest.position, farthest.level, farthest.octaves)
    return solver.measured_limits[reach]


def find_measured_limit(reach: ReachCurve, render: RenderAttempt) -> Attempt:
    """Find the rendering that moves grain farthest: at the end of the curve, or before it if the sound turns back there.

    The result does not depend on the requested octaves, so that all requests beyond the limit give the same audio.
    """
    from scipy.optimize import minimize_scalar

    attempts: list[Attempt] = []

    def negative_octaves(position: float) -> float:
        attempts.append(render(position, attempts[-1].corrected_level if attempts else 1.0))
        return -attempts[-1].octaves

    farthest, grid = 0.0, np.linspace(reach.octaves[-1], 0, CORRECTION.limit_trials + 1)
    for predicted in grid[:-1]:
        if predicted < farthest:  # no sound moves noticeably farther than predicted
            break
        farthest = max(farthest, -negative_octaves(reach.position_of(predicted)))
    if farthest < reach.octaves[-1] - CORRECTION.turning_octaves:
        i = max(range(len(attempts)), key=lambda i: attempts[i].octaves)
        bounds = reach.position_of(grid[i + 1]), reach.position_of(grid[max(i - 1, 0)])
        options = {"maxiter": CORRECTION.turning_trials, "xatol": 1e-3}
        minimize_scalar(negative_octaves, bounds=bounds, method="bounded", options=options)
    best = max(attempts, key=lambda attempt: attempt.octaves)
    return render(best.position, best.corrected_level)


def next_position(solver: AmountSolver, octaves: float, attempts: list[Attempt]) -> float | None:
    """Position of the next attempt, or None if the last one is good enough or can't be improved.

    The first correction asks the solver for what is missing in addition. Once two attempts enclose the request, the
    position is found between them by false position, or by halving where that stalls.
    """
    sign, distance, reach = math.copysign(1.0, octaves), abs(octaves), solver.reach(octaves)
    last, limit = attempts[-1], solver.measured_limits.get(reach)
    if abs(distance - last.octaves) <= CORRECTION.tolerance_octaves:
        return None
    short = max((a for a in attempts if a.octaves <= distance), key=lambda a: a.position, default=None)
    far = min((a for a in attempts if a.octaves > distance), key=lambda a: a.position, default=None)
    low, low_octaves = (short.position, short.octaves) if short else (0.0, 0.0)
    high = far.position if far else limit.position if limit else reach.end
    if short and far and len(attempts) > 2:
        if high - low <= CORRECTION.min_position_interval:
            return None
        stalled = abs(distance - last.octaves) > 0.5 * abs(distance - attempts[-2].octaves)
        share = 0.5 if stalled else (distance - low_octaves) / (far.octaves - low_octaves)
        return low + share * (high - low)
    predicted = sign * solver.octaves(reach.amounts_at(last.position))
    position = solver.solve(sign * max(predicted + distance - last.octaves, 0.0), reach)
    if not low < position < high:
        position = high if far is None and not limit and position >= high else (low + high) / 2
    return position
