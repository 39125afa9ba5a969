"""Amounts for every second of a sound: what moves it by the octaves that a curve asks for there.

Each second is solved as a sound of its own, on some of its frames, so it has its own curves of reach. At any time the
amounts are those of its second for the position of the slider at that time; near the border of two seconds they are
interpolated. So where the slider is at 0 nothing changes, and where it jumps the amounts jump.

The level is kept in the same way: each second has the energy that it had before.

In: a `GainField`, `Seconds`, and a `GrainCurve`. Out: an `AmountCurve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.contour import Seconds
from neural_grain.dsp.curve import SLIDER_RANGE, GrainCurve
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import AmountCurve, Amounts, lerp_weights, power_of
from neural_grain.dsp.predictor import PowerPredictor, log_mean_power
from neural_grain.dsp.probe import ChosenFrames, choose_by_importance, probe_of
from neural_grain.dsp.reach import NO_CHANGE, ReachCurve, find_reach, rising_curve
from neural_grain.dsp.settings import NEPER_PER_DB, STEP_FRAMES


@dataclass(frozen=True)
class LocalSettings:
    """How the seconds are solved."""

    frames_per_second: int = 24  # of which grain is predicted
    far_octaves: float = 3.5  # where a curve of reach ends: the slider ends at 3
    min_movable_octaves: float = 0.05  # a second that moves less stays as it is, not changed much for nothing
    fade_s: float = 0.1  # around the border of two seconds, within which the amounts of both are mixed
    grid_octaves: float = 0.125  # between the positions of the slider for which amounts are tabulated


LOCAL = LocalSettings()


class SecondReach(NamedTuple):
    """How far a second can be moved in one direction."""

    curve: ReachCurve
    power_db: np.ndarray  # (points,), change of the power of the second at the points of the curve


class AmountTable(NamedTuple):
    """Amounts, and the change of power they make, for every second and position of the slider: (seconds, grid) each."""

    texture_db: np.ndarray
    expander: np.ndarray
    fill: np.ndarray
    power_db: np.ndarray


class SecondPredictor:
    """Predicts the grain and the power of one second.

    Parameters
    ----------
    chosen : ChosenFrames of the second
    """

    def __init__(self, field: GainField, chosen: ChosenFrames):
        analysis = field.analysis
        probe = probe_of(analysis.layers, chosen, analysis.settings, analysis.sound.sr)
        self.power = PowerPredictor(field, probe, balanced=False)  # the gains that keep it hardly change grain
        self._floor_db = analysis.settings.grain.floor_db
        self._known: dict[Amounts, tuple[float, float]] = {}
        self._before = self._log_grain_and_power(NO_CHANGE.amounts)

    def octaves(self, amounts: Amounts | AmountCurve) -> float:
        """Octaves by which the second becomes smoother."""
        return (self._before[0] - self._log_grain_and_power(amounts)[0]) / math.log(2)

    def power_db(self, amounts: Amounts | AmountCurve) -> float:
        """Change of the power of the second, before its level is corrected."""
        return (self._log_grain_and_power(amounts)[1] - self._before[1]) / NEPER_PER_DB

    def reach(self, sign: float) -> SecondReach:
        """How far the second can be moved in a direction: 1 for smoother, -1 for more texture."""
        curve = find_reach(self.power, self.octaves, sign, LOCAL.far_octaves)
        if curve.octaves[-1] < LOCAL.min_movable_octaves:
            curve = rising_curve([])
        points = [curve.amounts_at(position) for position in range(len(curve.octaves))]
        return SecondReach(curve, np.array([self.power_db(amounts) for amounts in points]))

    def _log_grain_and_power(self, amounts: Amounts | AmountCurve) -> tuple[float, float]:
        """Natural logarithms of the mean flatness and the mean power."""
        if amounts not in self._known:
            log_power = self.power.log_power(amounts)
            log_mean = log_mean_power(log_power)
            floor = float(log_power.max()) + NEPER_PER_DB * self._floor_db
            log_flatness = np.maximum(log_power, floor).mean(axis=1, dtype=np.float32) - log_mean
            self._known[amounts] = tuple(
                math.log(np.average(np.exp(values), weights=self.power.probe.weights))
                for values in (log_flatness, log_mean)
            )
        return self._known[amounts]


class LocalAmounts:
    """The amounts for every second of a sound and every position of the slider.

    Parameters
    ----------
    field : GainField
    seconds : Seconds of the same sound

    Attributes
    ----------
    on_second : called before each second is looked at, with the share of them that is done; what it raises stops that,
        and a search for reaches goes on from there the next time
    """

    def __init__(self, field: GainField, seconds: Seconds):
        self.field, self.seconds = field, seconds
        self.on_second: Callable[[float], None] = lambda share: None
        self._chosen = [self._choose_frames(i) for i in range(seconds.n)]
        self._found: dict[float, list[SecondReach | None]] = {-1.0: [], 1.0: []}  # None for a silent second
        n_grid = round(2 * SLIDER_RANGE / LOCAL.grid_octaves) + 1
        self._grid = np.linspace(-SLIDER_RANGE, SLIDER_RANGE, n_grid)

    def _choose_frames(self, i: int) -> ChosenFrames:
        """Some of the frames of a second that count, by flatness and energy; none if it is silent."""
        first, stop = np.searchsorted(self.seconds.places.of_second, (i, i + 1))
        active = first + np.flatnonzero(self.seconds.counts[first:stop])
        lead, settings = self.field.renderer.n_fft // self.field.renderer.hop_length - 1, self.field.analysis.settings
        level_db = settings.dynamic_range_db * (self.field.analysis.x[:, active + lead] - 1)
        importances = self.seconds.flatness[active], self.field.shares @ power_of(level_db)
        return choose_by_importance(active, importances, LOCAL.frames_per_second)

    def predictors(self, first: int = 0) -> Iterator[SecondPredictor | None]:
        """The predictor of each second from one on, made when it is needed; None if the second is silent."""
        for i, chosen in enumerate(self._chosen[first:], first):
            self.on_second(i / self.seconds.n)
            yield SecondPredictor(self.field, chosen) if len(chosen.numbers) else None

    def reaches(self, sign: float) -> list[SecondReach]:
        """How far each second can be moved in a direction. A silent one moves like the nearest that is not."""
        found = self._found[sign]
        for predictor in self.predictors(len(found)):
            found.append(predictor.reach(sign) if predictor else None)
        audible = np.flatnonzero([reach is not None for reach in found])
        return [found[audible[np.abs(audible - i).argmin()]] for i in range(len(found))]

    def reach_octaves(self, sign: float) -> np.ndarray:
        """Octaves by which each second can be moved in a direction, (seconds,)."""
        return np.array([reach.curve.octaves[-1] for reach in self.reaches(sign)])

    def predicted_octaves(self, amounts: AmountCurve) -> np.ndarray:
        """Octaves by which each second becomes smoother, (seconds,), NaN if it is silent."""
        return np.array([predictor.octaves(amounts) if predictor else np.nan for predictor in self.predictors()])

    def amounts(self, curve: GrainCurve, ratios: np.ndarray) -> AmountCurve:
        """The amounts along a curve.

        Parameters
        ----------
        ratios : np.ndarray, shape (seconds,), > 0; of the octaves for which each second is solved to those requested
        """
        times_s = self._step_times_s()
        table, octaves = self._table(curve, ratios), curve.octaves_at(times_s)
        border = np.round(times_s)
        rows = lerp_weights(border + np.clip((times_s - border) / LOCAL.fade_s, -0.5, 0.5), self.seconds.n)
        columns = lerp_weights((octaves - self._grid[0]) / LOCAL.grid_octaves + 0.5, len(self._grid))

        def at_steps(values: np.ndarray) -> np.ndarray:
            """Interpolate a table of shape (seconds, grid)."""
            before, after = (
                values[row, columns.before] * (1 - columns.share) + values[row, columns.after] * columns.share
                for row in (rows.before, rows.after)
            )
            return (before * (1 - rows.share) + after * rows.share).astype(np.float32)

        level_db = -at_steps(table.power_db)[None]
        balance_db = self._balance_db(table)
        if len(balance_db) > 1:
            level_db = level_db + columns.interpolate(balance_db).astype(np.float32)
        return AmountCurve(at_steps(table.texture_db), at_steps(table.expander), at_steps(table.fill), level_db)

    def _step_times_s(self) -> np.ndarray:
        """Time of the middle of each step."""
        analysis, renderer = self.field.analysis, self.field.renderer
        middle_frames = STEP_FRAMES * np.arange(self.field.n_steps) + (STEP_FRAMES - 1) / 2
        return (middle_frames * renderer.hop_length - renderer.lead + renderer.n_fft / 2) / analysis.sound.sr

    def _table(self, curve: GrainCurve, ratios: np.ndarray) -> AmountTable:
        """Amounts for every second and position of the grid, in the directions that the curve takes."""
        table = AmountTable(*np.zeros((4, self.seconds.n, len(self._grid))))
        octaves = [octaves for _, octaves in curve.points]
        for sign in (sign for sign in (-1.0, 1.0) if max(sign * each for each in octaves) > 0):
            places = np.flatnonzero(sign * self._grid > 0)
            for i, (reach, power_db) in enumerate(self.reaches(sign)):
                distance = ratios[i] * np.abs(self._grid[places])
                for values, of_points in zip(
                    table, (reach.texture_db, reach.expander, reach.fill, power_db), strict=True
                ):
                    values[i, places] = np.interp(distance, reach.octaves, of_points)
        return table

    def _balance_db(self, table: AmountTable) -> np.ndarray:
        """Gain for every channel and position that keeps the balance of the channels: (channels or 1, grid)."""
        whole = np.arange(0, len(self._grid), round(1 / LOCAL.grid_octaves))  # one octave apart
        mean = [values[:, whole].mean(axis=0) for values in table[:3]]
        factors = [
            np.atleast_1d(self.field.channel_factors(Amounts(float(texture_db), float(expander), fill=float(fill))))
            for texture_db, expander, fill in zip(*mean, strict=True)
        ]
        db = 20 * np.log10(np.array(factors)).T
        return np.stack([np.interp(self._grid, self._grid[whole], channel) for channel in db])
