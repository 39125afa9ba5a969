"""TODO"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from neural_grain.dsp.analysis import Analysis, evenly_spaced
from neural_grain.dsp.gains import HOLD_STEPS, Amounts, lerp_weights, limit_gain, normalise_energy, spectral_expander
from neural_grain.dsp.loudness import k_weighting
from neural_grain.dsp.mel import band_fractions, band_interpolation
from neural_grain.dsp.resynthesis import SpectralGain, render_blocks
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, STEP_FRAMES
from neural_grain.dsp.smoothing import smooth_pattern
from neural_grain.dsp.stft import edge_padding

COARSE_FRAMES = 192  # of these, to find about where to look
STEPS = 1.3 ** np.arange(-24, 1)  # amounts that the solver tries, of the largest
FAR_OCTAVES = (3.5, math.inf)  # it looks no farther: the slider ends at 3, other ways to ask don't
END_OCTAVES = 0.02  # the last of the way, where much gain does little
MAX_GAIN_SPREAD_DB = 120.0  # between the bins of a frame: beyond it a frame is one band and rounding noise
LOUDNESS_DB, LEVEL_DB = (
    0.85,
    0.4,
)  # change of loudness (BS.1770) that is left alone, and of level (RMS) to keep it there


@dataclass(frozen=True, eq=False)
class ReachCurve:
    """The way from no change to the end of the reach: amounts at some points of it, and the octaves there."""

    pattern: np.ndarray
    expander: np.ndarray
    octaves: np.ndarray  # >= 0, rising

    @property
    def end(self) -> float:
        """Position of the end; 0 if there is no way to go."""
        return len(self.octaves) - 1.0

    def at(self, position: float) -> Amounts:
        """The amounts at a position between 0 and `end`."""
        points = np.arange(len(self.octaves))
        return Amounts(*(float(np.interp(position, points, v)) for v in (self.pattern, self.expander)))

    def where(self, octaves: float) -> float:
        """The position where that many octaves are about reached; an end if there is none."""
        return float(np.interp(octaves, self.octaves, np.arange(len(self.octaves))))


@dataclass(frozen=True)
class MeasuredLimit:
    """The farthest that a sound was measured to go in one direction, and how it was rendered there."""

    position: float  # on the `Reach`
    level: float  # correction, a factor
    octaves: float  # measured


class AmountSolver:
    """Finds the amounts that move a sound's grain by so many octaves.

    As far as the pattern carries, it alone is used; where its reach ends it is faded into the
    spectral expander, which carries on for many sounds. So for each direction there is one way
    from no change to the end of the reach, along which grain moves one way only; what lies
    beyond the end is the end.

    Parameters
    ----------
    analysis : Analysis
    pattern_db : np.ndarray, shape (2, n_mels, cells) or (n_mels, cells), gain in dB for unit amount: of
        smoothing, which has positive amounts, and of texture, if it is another
    """

    def __init__(self, analysis: Analysis, pattern_db: np.ndarray):
        self.analysis = analysis
        settings, probe, sr = analysis.settings, analysis.probe, analysis.sound.sr
        self._shares = band_fractions(settings)
        self._cells_db = smooth_pattern(pattern_db.reshape(-1, *pattern_db.shape[-2:]), analysis.x, settings)
        n_steps = analysis.step_db.shape[1]
        starts = np.arange(0, len(analysis.onset), STEP_FRAMES)
        self._steady = 1 - 0.99 * np.maximum.reduceat(analysis.onset, starts)
        before, after, share = lerp_weights((probe.index + 0.5) / STEP_FRAMES, n_steps)
        steps = np.unique(np.concatenate((before, after)))
        self._probed = np.searchsorted(steps, before), np.searchsorted(steps, after), share
        self._probe_patterns = {to_texture: self._patterns_db(steps, to_texture) for to_texture in (False, True)}
        self._to_bins = np.float32(NEPER_PER_DB) * band_interpolation(settings, sr)[:, settings.grain.band_for(sr)]
        self._log_power = np.log(np.maximum(probe.power, np.finfo(np.float32).tiny))
        self._probe_mean = np.maximum(probe.power.mean(axis=1), np.finfo(np.float32).tiny)
        self._log_mean = np.log(self._probe_mean)
        bins_hz = np.fft.rfftfreq(settings.grain.n_fft_for(sr), 1 / sr)[settings.grain.band_for(sr)]
        self._k_weights = k_weighting(bins_hz).astype(np.float32)
        self._coarse = evenly_spaced(np.arange(len(probe.index)), COARSE_FRAMES)
        self._changer = SpectralGain(settings, sr, analysis.onset)
        self._reaches: dict[tuple[float, float], ReachCurve] = {}
        self.ends: dict[ReachCurve, MeasuredLimit] = {}  # those that were measured
        self._start = [self._log2_grain(Amounts(0.0, 0.0), frames) for frames in (self._coarse, slice(None))]

    def _patterns_db(self, steps: np.ndarray, to_texture: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pattern, expander and level at some steps, (n_mels, steps) each."""
        times = (steps + 0.5) * STEP_FRAMES / CELL_FRAMES
        cells_db = self._cells_db[-1 if to_texture else 0]
        before, after, share = lerp_weights(times, cells_db.shape[1])
        pattern_db = cells_db[:, before] * (1 - share) + cells_db[:, after] * share
        level_db = self.analysis.step_db[:, steps]
        return pattern_db, spectral_expander(level_db), level_db

    def _shape_db(self, amounts: Amounts, patterns_db: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """The gains before energies are held."""
        pattern_db, expander_db, level_db = patterns_db
        gain_db = np.float32(amounts.pattern) * pattern_db
        if amounts.expander:
            gain_db += np.float32(amounts.expander) * expander_db
        if amounts.to_texture:
            gain_db = limit_gain(gain_db, level_db, self._shares)
        return gain_db

    def gain_db(self, amounts: Amounts, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The gains that these amounts give at the steps from ``start`` to before ``stop``, (n_mels, steps)."""
        n_steps = self.analysis.step_db.shape[1]
        stop = n_steps if stop is None else min(stop, n_steps)
        first = max(0, start - HOLD_STEPS)
        steps = np.arange(first, min(n_steps, stop + HOLD_STEPS))
        return self._shape_at(amounts, steps)[:, start - first : stop - first]

    def gain_of_frames(self, amounts: Amounts, frames: np.ndarray) -> np.ndarray:
        """The gains in dB that these amounts give some rising frames, (n_mels, frames): what a picture shows."""
        start, stop = int(frames[0]) // STEP_FRAMES - 1, int(frames[-1]) // STEP_FRAMES + 2
        if stop - start > 2 * len(frames):  # far fewer columns than steps: each column its own step
            return self._shape_at(amounts, np.minimum(frames // STEP_FRAMES, self.analysis.step_db.shape[1] - 1))
        start = max(0, start)
        gain_db = self.gain_db(amounts, start, stop)
        before, after, share = lerp_weights((frames + 0.5) / STEP_FRAMES - start, gain_db.shape[1])
        return gain_db[:, before] * (1 - share) + gain_db[:, after] * share

    def _shape_at(self, amounts: Amounts, steps: np.ndarray) -> np.ndarray:
        patterns_db = self._patterns_db(steps, amounts.to_texture)
        return normalise_energy(self._shape_db(amounts, patterns_db), patterns_db[2], self._shares, self._steady[steps])

    def about(self, octaves: float) -> Amounts:
        """The amounts for some octaves by what is known already: at once, and not quite right."""
        reach = self.reach(octaves)
        return reach.at(reach.where(abs(octaves)))

    def render(self, amounts: Amounts, level: float = 1.0) -> Iterator[np.ndarray]:
        """The sound with these amounts of change, in blocks of samples; see `render_blocks`."""
        analysis = self.analysis
        gains = partial(self.gain_db, amounts)
        return render_blocks(analysis.sound, gains, self._changer, level, threads=analysis.threads)

    def render_part(self, y: np.ndarray, amounts: Amounts, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to before ``stop`` of what `render` gives, without the rest.

        Parameters
        ----------
        y : np.ndarray, shape (n_samples, channels), the sound itself

        Returns
        -------
        np.ndarray, shape (stop - start, channels), float32
        """
        changer = self._changer
        n_fft, hop_length, overlap = changer.n_fft, changer.hop_length, changer.overlap
        lead = n_fft - hop_length  # samples of padding before the first
        first = max(0, (start + lead - n_fft) // hop_length + 1)
        last = (stop - 1 + lead) // hop_length  # frames that hold a sample of the part
        from_sample = (first - 2 * overlap) * hop_length - lead
        to_sample = last * hop_length + n_fft - lead
        piece = np.zeros((y.shape[1], to_sample - from_sample), np.float32)
        inside = y[max(0, from_sample) : max(0, to_sample)]
        at = max(0, -from_sample)
        piece[:, at : at + len(inside)] = inside.T
        if first < overlap:
            piece[:, at - lead : at] = edge_padding(y[:n_fft], lead)[::-1].T
        if to_sample > len(y):
            beyond = edge_padding(y[: -n_fft - 1 : -1], to_sample - len(y))
            piece[:, at + len(inside) :] = beyond.T
        windows = np.lib.stride_tricks.sliding_window_view(piece, n_fft, axis=1)[:, ::hop_length]
        step = max(0, first // STEP_FRAMES - 1)
        gain_db = self.gain_db(amounts, step, last // STEP_FRAMES + 2)
        out = changer.changed(first, windows[:, 2 * overlap :], windows[:, : 2 * overlap], step, gain_db)
        at = start + lead - first * hop_length
        return np.ascontiguousarray(out[:, at : at + stop - start].T)

    def _log_power_after(self, amounts: Amounts, frames: np.ndarray | slice) -> np.ndarray:
        """Natural logarithm of the probe's powers with the gains, energies not yet held, (frames, bins)."""
        before, after, share = self._probed
        gain_db = self._shape_db(amounts, self._probe_patterns[amounts.to_texture])
        share = share[frames]
        level = (gain_db[:, before[frames]] * (1 - share) + gain_db[:, after[frames]] * share).T @ self._to_bins
        level += self._log_power[frames]
        return level

    def level_for_loudness_db(self, amounts: Amounts) -> float:
        """Change of level (RMS) that keeps loudness (BS.1770) near the input's, as little as will do.

        Loudness weighs treble more: at the same level, a sound with more texture is louder.
        """
        after = np.exp(self._log_power_after(amounts, slice(None)))
        after *= (self._probe_mean / after.mean(axis=1))[:, None]  # energies are held
        louder = float((after @ self._k_weights).sum() / (self.analysis.probe.power @ self._k_weights).sum())
        louder_db = 10 * math.log10(louder)
        too_loud_db = louder_db - float(np.clip(louder_db, -LOUDNESS_DB, LOUDNESS_DB))
        return float(np.clip(-too_loud_db, -LEVEL_DB, LEVEL_DB))

    def _log2_grain(self, amounts: Amounts, frames: np.ndarray | slice) -> float:
        level = self._log_power_after(amounts, frames)
        top = level.max(axis=1)
        log_mean = top + np.log(np.exp(level - top[:, None]).mean(axis=1, dtype=np.float32))
        held = self._log_mean[frames] - log_mean  # where the floor lies hangs on the levels
        floor = float((top + held).max()) + NEPER_PER_DB * self.analysis.settings.grain.floor_db
        np.maximum(level, (floor - held)[:, None], out=level)
        flatness = np.exp(level.mean(axis=1, dtype=np.float32) - log_mean)
        return math.log2(float(flatness.mean(dtype=np.float64)))

    def octaves(self, amounts: Amounts, *, coarse: bool = False) -> float:
        """Octaves by which these amounts lower grain (negative: raise it)."""
        frames = self._coarse if coarse else slice(None)
        return self._start[0 if coarse else 1] - self._log2_grain(amounts, frames)

    def solve(self, octaves: float, reach: ReachCurve | None = None) -> float:
        """Position on the reach (`reach` of these octaves if None) where grain is lower by so many, or the end."""
        sign, wanted = math.copysign(1.0, octaves), abs(octaves)
        reach = reach or self.reach(octaves)
        if reach.end == 0 or octaves == 0:
            return 0.0

        def missing(position: float) -> float:
            return sign * self.octaves(reach.at(position)) - wanted

        guess = reach.where(wanted)
        low, high = max(0.0, guess - 0.5), min(reach.end, guess + 0.5)
        if missing(low) > 0:
            low, high = 0.0, low
        elif missing(high) < 0:
            if high == reach.end or missing(reach.end) <= 0:
                return reach.end
            low, high = high, reach.end
        return _root(missing, low, high)

    def reach(self, octaves: float) -> ReachCurve:
        """The way to the end of the reach in the direction of these octaves, and as far as they lie (positive: smoother)."""
        sign, far = math.copysign(1.0, octaves), next(far for far in FAR_OCTAVES if abs(octaves) < far)
        if (sign, far) not in self._reaches:
            self._reaches[sign, far] = self._find_reach(sign, far)
        return self._reaches[sign, far]

    def _find_reach(self, sign: float, far: float) -> ReachCurve:
        def moved(amounts: Amounts) -> float:
            return sign * self.octaves(amounts, coarse=True)

        def follow(which: int) -> list[tuple[Amounts, float]]:
            """One pattern from 0 until grain no longer moves."""
            spread = float(np.max(np.ptp(self._probe_patterns[sign < 0][which], axis=0)))
            if spread < 1e-6:
                return []
            found = []
            for size in sign * MAX_GAIN_SPREAD_DB / spread * STEPS:
                amounts = Amounts(size, 0.0) if which == 0 else Amounts(0.0, size)
                found.append((amounts, moved(amounts)))
                if found[-1][1] > far:
                    break
            return found

        found = follow(0)
        farthest = max(found, key=lambda item: item[1], default=(Amounts(0.0, 0.0), 0.0))
        if farthest[1] <= 0:
            farthest = (Amounts(0.0, 0.0), 0.0)
        if farthest[1] < far:
            other = max(follow(1), key=lambda item: item[1], default=farthest)[0].expander
            for share in np.linspace(0, 1, 9)[1:]:
                amounts = Amounts((1 - share) * farthest[0].pattern, share * other)
                found.append((amounts, moved(amounts)))
        points = [(Amounts(0.0, 0.0), 0.0)]
        for amounts, octaves in found:
            if octaves > points[-1][1]:
                points.append((amounts, octaves))
        reach = ReachCurve(
            np.array([amounts.pattern for amounts, _ in points]),
            np.array([amounts.expander for amounts, _ in points]),
            np.array([octaves for _, octaves in points]),
        )
        return _before_the_end(reach)


def _before_the_end(reach: ReachCurve) -> ReachCurve:
    """The reach without its last END_OCTAVES, where much gain does little and may do the opposite."""
    last = reach.octaves[-1] - END_OCTAVES
    if last <= 0:
        return ReachCurve(*(np.zeros(1) for _ in range(3)))
    keep = reach.octaves < last
    end = reach.at(reach.where(last))
    return ReachCurve(
        np.append(reach.pattern[keep], end.pattern),
        np.append(reach.expander[keep], end.expander),
        np.append(reach.octaves[keep], last),
    )


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=2e-3, rtol=1e-6))
