"""The gain field of a sound: from two amounts to the gain of every band and step, and from there to audio.

A sound and its pattern leave two numbers free: how much of the pattern and how much of the spectral expander is
applied (`Amounts`). The gain field turns them into gains in dB, shape (n_mels, steps), and renders the sound with
them, whole or in part. For the solver it also predicts the powers that the amounts give the frames of the probe:

    P'[t, k] = P[t, k] 10**(gain_db[t, k] / 10)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from neural_grain.audio.limiter import limit_peaks, limiter_reach
from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gains import (
    ENERGY,
    Amounts,
    GainComponents,
    combine_gains,
    lerp_weights,
    normalise_energy,
    spectral_expander,
)
from neural_grain.dsp.mel import band_fractions, band_interpolation
from neural_grain.dsp.resynthesis import SpectralGain, render_blocks, render_range
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, STEP_FRAMES
from neural_grain.dsp.smoothing import smooth_pattern


class GainField:
    """The gains that a pattern gives a sound, for any amounts.

    Parameters
    ----------
    analysis : Analysis
    pattern_db : np.ndarray, shape (n_mels, cells) or (2, n_mels, cells)
        Gain in dB for an amount of 1. The first of two patterns is used for positive amounts (smoother), the second
        for negative ones (more texture); a single one is used for both.
    """

    def __init__(self, analysis: Analysis, pattern_db: np.ndarray):
        self.analysis = analysis
        settings, probe, sr = analysis.settings, analysis.probe, analysis.sound.sr
        self._shares = band_fractions(settings)
        self._cells_db = smooth_pattern(pattern_db.reshape(-1, *pattern_db.shape[-2:]), analysis.x, settings)
        step_starts = np.arange(0, len(analysis.onset), STEP_FRAMES)
        self._step_weights = 1 - ENERGY.onset_discount * np.maximum.reduceat(analysis.onset, step_starts)
        self._spectral_gain = SpectralGain(settings, sr, analysis.onset)
        lerp = lerp_weights((probe.index + 0.5) / STEP_FRAMES, self.n_steps)
        steps = np.unique(np.concatenate((lerp.before, lerp.after)))
        self._probe_lerp = lerp._replace(
            before=np.searchsorted(steps, lerp.before), after=np.searchsorted(steps, lerp.after)
        )
        self._probe_components = {to_texture: self._components(steps, to_texture) for to_texture in (False, True)}
        self._to_log_power = np.float32(NEPER_PER_DB) * band_interpolation(settings, sr)[:, settings.grain.band_for(sr)]
        self._probe_log_power = np.log(np.maximum(probe.power, np.finfo(np.float32).tiny))

    @property
    def n_steps(self) -> int:
        """Number of steps of the sound."""
        return self.analysis.step_db.shape[1]

    def gain_db(self, amounts: Amounts, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Gains at the steps from ``start`` up to but not including ``stop``; up to the end if it is None.

        Returns
        -------
        np.ndarray, shape (n_mels, stop - start), float32, dB
        """
        stop = self.n_steps if stop is None else min(stop, self.n_steps)
        first = max(0, start - ENERGY.half_width_steps)
        steps = np.arange(first, min(self.n_steps, stop + ENERGY.half_width_steps))
        return self._gain_db_at(amounts, steps)[:, start - first : stop - first]

    def gain_db_of_frames(self, amounts: Amounts, frames: np.ndarray) -> np.ndarray:
        """Gains at some frames, for a picture.

        Where the frames are much sparser than the steps, each takes the gain of its step and energy is normalised
        over the chosen steps alone, so that the cost does not grow with the length of the sound.

        Parameters
        ----------
        frames : np.ndarray of int, rising frame numbers of the padded sound

        Returns
        -------
        np.ndarray, shape (n_mels, len(frames)), float32, dB
        """
        start, stop = int(frames[0]) // STEP_FRAMES - 1, int(frames[-1]) // STEP_FRAMES + 2
        if stop - start > 2 * len(frames):
            return self._gain_db_at(amounts, np.minimum(frames // STEP_FRAMES, self.n_steps - 1))
        start = max(0, start)
        gain_db = self.gain_db(amounts, start, stop)
        return lerp_weights((frames + 0.5) / STEP_FRAMES - start, gain_db.shape[1]).interpolate(gain_db)

    def render(self, amounts: Amounts) -> Iterator[np.ndarray]:
        """Render the whole sound in blocks of samples, as `render_blocks` does, without a limiter."""
        sound, threads, gains = self.analysis.sound, self.analysis.threads, partial(self.gain_db, amounts)
        return render_blocks(sound, gains, self._spectral_gain, amounts.level, threads=threads)

    def render_part(
        self, y: np.ndarray, amounts: Amounts, start: int, stop: int, ceiling: float = math.inf
    ) -> np.ndarray:
        """Render the samples from ``start`` up to but not including ``stop``, as `render` and `limit_peaks` give them.

        Parameters
        ----------
        y : np.ndarray, shape (n_samples, channels), the whole sound before rendering
        ceiling : float > 0, of the limiter

        Returns
        -------
        np.ndarray, shape (stop - start, channels), float32
        """
        sound, gains = self.analysis.sound, partial(self.gain_db, amounts)
        # The limiter has no memory, so it gives these samples the same gain with only its own reach around them.
        first, last = max(0, start - limiter_reach(sound.sr)), min(len(y), stop + limiter_reach(sound.sr))
        part = render_range(y, gains, self._spectral_gain, first, last, amounts.level)
        return np.concatenate(list(limit_peaks([part], ceiling, sound)))[start - first : stop - first]

    def probe_components(self, to_texture: bool) -> GainComponents:
        """Pattern, expander and level at the steps around the frames of the probe."""
        return self._probe_components[to_texture]

    @ONE_BLAS_THREAD
    def probe_log_power(self, amounts: Amounts, frames: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Natural logarithm of the probe's powers after the gains, before energy is normalised.

        Parameters
        ----------
        frames : np.ndarray of int or slice, which frames of the probe

        Returns
        -------
        np.ndarray, shape (frames, bins of the analysis band), float32
        """
        gain_db = combine_gains(self._probe_components[amounts.to_texture], amounts, self._shares)
        log_power = self._probe_lerp.select(frames).interpolate(gain_db).T @ self._to_log_power
        log_power += self._probe_log_power[frames]
        return log_power

    def _gain_db_at(self, amounts: Amounts, steps: np.ndarray) -> np.ndarray:
        """Gains at some rising steps, with energy normalised over them."""
        components = self._components(steps, amounts.to_texture)
        gain_db = combine_gains(components, amounts, self._shares)
        return normalise_energy(gain_db, components.level_db, self._shares, self._step_weights[steps])

    def _components(self, steps: np.ndarray, to_texture: bool) -> GainComponents:
        """What the gains at some steps are made of."""
        cells_db = self._cells_db[-1 if to_texture else 0]
        lerp = lerp_weights((steps + 0.5) * STEP_FRAMES / CELL_FRAMES, cells_db.shape[1])
        level_db = self.analysis.step_db[:, steps]
        return GainComponents(lerp.interpolate(cells_db), spectral_expander(level_db), level_db)
