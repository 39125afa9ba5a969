"""From octaves to amounts: which amounts change the grain of a sound by a requested number of octaves.

The solver predicts grain on a probe, which is a subset of the active frames, without rendering. A curve of amounts
(`ReachCurve`) leads from no change to the end of the reach; a position on it is a single number, which a root finder
finds.

In: a `GainField`, and octaves (positive is smoother). Out: positions on a curve, and `Amounts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.loudness import k_weighting
from neural_grain.dsp.predictor import PowerPredictor, log_mean_power
from neural_grain.dsp.reach import NO_CHANGE, ReachCurve, find_reach
from neural_grain.dsp.settings import NEPER_PER_DB


@dataclass(frozen=True)
class SolverSettings:
    """How the curves of amounts are found, and how precisely amounts are solved on them."""

    coarse_frames: int = 192  # of the probe; they place the points of a curve, which is then solved on the whole probe
    far_octaves: tuple[float, ...] = (3.5, math.inf)  # curves end here: the slider ends at 3, --target-grain does not
    octaves_tolerance: float = 2e-3  # of the root finder: a tenth of what a rendering may differ
    position_tolerance: float = 2e-3  # of the same, in points of the curve
    loudness_tolerance_db: float = 0.85  # change of loudness that is left alone
    max_level_change_db: float = 0.4  # change of level (RMS) that may be made to keep loudness; 0.5 is promised


SOLVER = SolverSettings()


class PredictedLevel(NamedTuple):
    """The level that a sound gets after its gains."""

    factor: float  # on the samples
    change_db: float  # of RMS, which loudness asks for


@dataclass(frozen=True)
class MeasuredLimit:
    """The farthest that a sound was measured to move in one direction, and how it was rendered there."""

    position: float  # on the curve
    level: float  # factor that corrected the level
    octaves: float  # distance measured, >= 0


class SliderZones(NamedTuple):
    """How far a sound can be moved, in octaves: (towards texture, towards smooth), both >= 0."""

    texture: tuple[float, float]  # by its texture alone
    whole: tuple[float, float]  # with all that moves it


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
        self.field, self.predictor = field, PowerPredictor(field, field.analysis.probe)
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
            self._reaches[sign, far] = find_reach(self.predictor, partial(self.octaves, coarse=True), sign, far)
        return self._reaches[sign, far]

    @property
    def zones(self) -> SliderZones:
        """How far the sound can be moved, as predicted, or as measured where it was moved as far as it goes."""
        texture, whole = [], []
        for reach in (self.reach(-1.0), self.reach(1.0)):
            limit = self.measured_limits.get(reach)
            whole.append(limit.octaves if limit else float(reach.octaves[-1]))
            texture.append(min(whole[-1], reach.texture_octaves))
        return SliderZones(tuple(texture), tuple(whole))

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
        power, weights = np.exp(self.predictor.log_power(amounts, frames)), self.analysis.probe.weights[frames]
        rms, loudness = (np.average(each, weights=weights) for each in (power.mean(axis=1), power @ self._k_weights))
        return 10 * math.log10(rms), 10 * math.log10(loudness)

    def _log2_grain(self, amounts: Amounts, frames: np.ndarray | slice) -> float:
        """Predicted log2 of the mean flatness of some frames of the probe, by the rules of `measure_grain`."""
        grain = self.analysis.settings.grain
        log_power = self.predictor.log_power(amounts, frames)
        log_mean = log_mean_power(log_power)
        floor = float(log_power.max()) + NEPER_PER_DB * grain.floor_db
        active = log_mean >= log_mean.max() - NEPER_PER_DB * grain.active_range_db
        flatness = np.exp(np.maximum(log_power[active], floor).mean(axis=1, dtype=np.float32) - log_mean[active])
        return math.log2(np.average(flatness, weights=self.analysis.probe.weights[frames][active]))
