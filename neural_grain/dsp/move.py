"""TODO"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from neural_grain.audio.limiter import CEILING, limit_peaks
from neural_grain.audio.sound import LevelMeter, Sound, cached_sound
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.solver import AmountSolver, MeasuredLimit, ReachCurve

LEVEL_TOLERANCE_DB = 0.1  # of the level
GRAIN_TOLERANCE_OCTAVES = 0.02  # what the correcting passes are content with
LEAST_OCTAVES = 0.05  # a sound that goes no farther is left as it is, rather than changed much for nothing
UNSURE_OCTAVES = 0.3  # before the end of the reach: from there on it is measured how far the sound really goes
END_TRIES = 12  # positions at which that is measured, from the end on, while one may yet go farther
TURN_OCTAVES, TOP_TRIES = 0.05, 6  # if it goes so much less far than it should: renderings to find the top
MAX_CORRECTIONS = 6
MAX_LEVELS = 3  # renderings for the level alone


@dataclass(frozen=True)
class Rendering:
    """A rendered sound and what became of its grain (octaves: positive is smoother)."""

    sound: Sound
    asked_octaves: float
    grain_before: float
    grain_after: float
    within_reach: bool
    amounts: Amounts  # of the expander none as far as the learned pattern carries
    level_db: float  # change of loudness (RMS)
    limited_db: float  # by so much the highest peak was turned down so as not to clip

    @property
    def got_octaves(self) -> float:
        """Octaves of measured grain by which the sound became smoother."""
        return math.log2(self.grain_before / self.grain_after)


@dataclass(frozen=True)
class Attempt:
    position: float  # on the solver's reach
    got: float  # octaves measured, of those asked for the sign taken away
    rendering: Rendering
    factor: float  # by which its level misses the one that it should have
    level: float  # correction that it was rendered with

    @property
    def is_loud_enough(self) -> bool:
        return abs(20 * math.log10(self.factor)) <= LEVEL_TOLERANCE_DB


def move_grain(
    solver: AmountSolver,
    octaves: float,
    *,
    ceiling: float = CEILING,
    store: Callable[[Sound, Iterator[np.ndarray]], Sound] = cached_sound,
) -> Rendering:
    """Move a sound's grain along a pattern: grain(out) = grain(in) * 2**-octaves, measured, not hoped.

    The amount solved on the bins of a probe is off by what overlapping frames do to each other, by
    the rounding to the file's sample format, and by what the probe leaves out; so the real output
    is measured and the position on the solver's reach corrected.

    Parameters
    ----------
    octaves : float, positive is smoother; 0 returns the sound itself
    ceiling : float, largest sample that the result may hold; peaks above it are limited
    store : keeps the rendered blocks, at the latest when they are first read, and gives back a `Sound`

    Raises
    ------
    PipelineError
        If the rendered sound has no grain.
    """
    analysis = solver.analysis
    sound = analysis.sound
    unchanged = Rendering(sound, octaves, analysis.grain, analysis.grain, octaves == 0, Amounts(0.0, 0.0), 0.0, 0.0)
    if octaves == 0:
        return unchanged
    sign, reach = math.copysign(1.0, octaves), solver.reach(octaves)

    def attempt(position: float, level: float) -> Attempt:
        amounts = reach.at(position)
        level_db = solver.level_for_loudness_db(amounts)
        before, after = LevelMeter(), LevelMeter()
        blocks = before.through(solver.render(amounts, level * 10 ** (level_db / 20)))
        result = store(sound, after.through(limit_peaks(blocks, ceiling, sound)))
        grain = measure_grain(result, analysis.settings.grain, analysis.threads)
        got = math.log2(analysis.grain / grain)
        rendering = Rendering(
            sound=result,
            asked_octaves=octaves,
            grain_before=analysis.grain,
            grain_after=grain,
            within_reach=False,  # known when the end is
            amounts=amounts,
            level_db=10 * math.log10(after.energy / analysis.energy),
            limited_db=20 * math.log10(max(1.0, before.peak / ceiling)),
        )
        wanted_energy = analysis.energy * 10 ** (level_db / 10)
        return Attempt(position, sign * got, rendering, math.sqrt(wanted_energy / after.energy), level)

    tried = run_attempts(solver, octaves, attempt)
    if not tried:
        return unchanged
    best = min(tried, key=lambda t: abs(abs(octaves) - t.got))
    if best is not tried[-1] and best.is_loud_enough:
        best = attempt(best.position, best.level)  # only the last one is stored; grain hangs on the level a little
    for _ in range(MAX_LEVELS):  # what the limiter takes away is missing again
        if not best.is_loud_enough:
            best = attempt(best.position, best.level * best.factor)
    is_end = reach in solver.ends and abs(octaves) > solver.ends[reach].octaves + GRAIN_TOLERANCE_OCTAVES
    return replace(best.rendering, within_reach=not is_end)


def run_attempts(solver: AmountSolver, octaves: float, attempt: Callable[[float, float], Attempt]) -> list[Attempt]:
    """Renderings on the way to what is asked; only the end's if that is as far as the sound goes, none if it can't move."""
    wanted, reach = abs(octaves), solver.reach(octaves)
    position, level = solver.solve(octaves), 1.0
    tried: list[Attempt] = []
    while position and len(tried) <= MAX_CORRECTIONS:
        is_unsure = position >= reach.where(reach.octaves[-1] - UNSURE_OCTAVES)
        end = _measured_end(solver, reach, attempt) if is_unsure else solver.ends.get(reach)
        if end and end.octaves < LEAST_OCTAVES:
            return []
        if end and wanted >= end.octaves - GRAIN_TOLERANCE_OCTAVES:
            return [attempt(end.position, end.level)]
        tried.append(attempt(position, level))
        level = tried[-1].level * tried[-1].factor
        position = _next_position(solver, octaves, tried)
    if tried and min(abs(wanted - t.got) for t in tried) > TURN_OCTAVES:  # it turns back long before the end
        end = _measured_end(solver, reach, attempt)
        if wanted >= end.octaves - GRAIN_TOLERANCE_OCTAVES:
            return [attempt(end.position, end.level)]
    return tried


def _measured_end(solver: AmountSolver, reach: ReachCurve, attempt: Callable[[float, float], Attempt]) -> MeasuredLimit:
    """How far the sound goes, measured once."""
    if reach not in solver.ends:
        farthest = find_measured_limit(reach, attempt)
        solver.ends[reach] = MeasuredLimit(farthest.position, farthest.level, farthest.got)
    return solver.ends[reach]


def find_measured_limit(reach: ReachCurve, attempt: Callable[[float, float], Attempt]) -> Attempt:
    """The rendering that goes farthest: at the end of the reach, or before it if the sound turns back there.

    It hangs on nothing that was asked for, so that all that lies beyond it comes out the same.
    """
    from scipy.optimize import minimize_scalar

    tried: list[Attempt] = []

    def fall(position: float) -> float:
        tried.append(attempt(position, tried[-1].level * tried[-1].factor if tried else 1.0))
        return -tried[-1].got

    farthest, grid = 0.0, np.linspace(reach.octaves[-1], 0, END_TRIES + 1)
    for octaves in grid[:-1]:
        if octaves < farthest:  # no sound goes farther than the solver says, but for a little
            break
        fall(reach.where(octaves))
        farthest = max(farthest, tried[-1].got)
    if farthest < reach.octaves[-1] - TURN_OCTAVES:
        i = max(range(len(tried)), key=lambda i: tried[i].got)
        bounds = reach.where(grid[i + 1]), reach.where(grid[max(i - 1, 0)])
        minimize_scalar(fall, bounds=bounds, method="bounded", options={"maxiter": TOP_TRIES, "xatol": 1e-3})
    best = max(tried, key=lambda t: t.got)
    return attempt(best.position, best.level * best.factor)


def _next_position(solver: AmountSolver, octaves: float, tried: list[Attempt]) -> float | None:
    """Where to render next, or None if the last try has what is wanted or can't get nearer to it.

    What is missing is asked of the solver in addition, or found by false position between two tries
    that enclose what is wanted, by halving where that stalls.
    """
    sign, wanted, reach = math.copysign(1.0, octaves), abs(octaves), solver.reach(octaves)
    last, end = tried[-1], solver.ends.get(reach)
    if abs(wanted - last.got) <= GRAIN_TOLERANCE_OCTAVES:
        return None
    short = max((t for t in tried if t.got <= wanted), key=lambda t: t.position, default=None)
    far = min((t for t in tried if t.got > wanted), key=lambda t: t.position, default=None)
    low, low_got = (short.position, short.got) if short else (0.0, 0.0)
    high = far.position if far else end.position if end else reach.end
    if short and far and len(tried) > 2:
        stalled = abs(wanted - last.got) > 0.5 * abs(wanted - tried[-2].got)
        share = 0.5 if stalled else (wanted - low_got) / (far.got - low_got)
        return low + share * (high - low) if high - low > 1e-4 else None
    predicted = sign * solver.octaves(reach.at(last.position))
    position = solver.solve(sign * max(predicted + wanted - last.got, 0.0), reach)
    if not low < position < high:
        position = high if far is None and not end and position >= high else (low + high) / 2
    return position
