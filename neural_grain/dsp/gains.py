"""From a pattern to gains: how much every mel band is raised or lowered at every step of 46 ms.

The gain in dB is a sum of two patterns, each times its amount (`Amounts`):

    gain_db[b, t] = a_pattern * pattern_db[b, t] + a_expander * expander_db[b, t]

The pattern is learned; the spectral expander takes over where the pattern reaches no farther. Two operations keep
the result musical. `limit_gain` keeps every band at or below the loudest of its time, and `normalise_energy` moves
the gains of each step so that dynamics and loudness stay as they were.

In: patterns and band levels in dB, shape (n_mels, steps). Out: gains in dB, of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.settings import NEPER_PER_DB


@dataclass(frozen=True)
class EnergySettings:
    """The bilateral filter over time in `normalise_energy`."""

    half_width_steps: int = 12  # 0.56 s to either side: longer than the fluctuation of a noise, shorter than a phrase
    similarity_db: float = 6.0  # a step whose level changes by this much more or less counts 1/e
    onset_discount: float = 0.99  # of the weight of a step in which a sound begins: it says little about its time


ENERGY = EnergySettings()


@dataclass(frozen=True)
class Amounts:
    """How much of the pattern and of the spectral expander is applied. Positive amounts make a sound smoother.

    ``level`` is a factor on the samples after the gains.
    """

    pattern: float
    expander: float
    level: float = 1.0

    @property
    def to_texture(self) -> bool:
        """True if these amounts increase grain."""
        return self.pattern + self.expander < 0


class GainComponents(NamedTuple):
    """What the gains at some steps are made of: three arrays of shape (n_mels, steps) in dB."""

    pattern_db: np.ndarray  # gain for a pattern amount of 1
    expander_db: np.ndarray  # gain for an expander amount of 1
    level_db: np.ndarray  # level of the bands, relative to the loudest of the sound


class LerpWeights(NamedTuple):
    """Linear interpolation between columns: of ``before`` and ``after``, the latter with weight ``share``."""

    before: np.ndarray
    after: np.ndarray
    share: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Interpolate between the columns of ``values``, shape (rows, n)."""
        return values[:, self.before] * (1 - self.share) + values[:, self.after] * self.share

    def select(self, places: np.ndarray | slice) -> LerpWeights:
        """The weights of some of the places."""
        return LerpWeights(self.before[places], self.after[places], self.share[places])


def lerp_weights(times: np.ndarray, n: int) -> LerpWeights:
    """Place times between the centres of ``n`` intervals of length 1, which lie at 0.5, 1.5, and so on.

    A time before the first centre or after the last takes the value of that centre.
    """
    position = np.clip(times - 0.5, 0, n - 1)
    before = np.minimum(position.astype(int), max(n - 2, 0))
    after = np.minimum(before + 1, n - 1)
    return LerpWeights(before, after, (position - before).astype(np.float32))


def spectral_expander(level_db: np.ndarray) -> np.ndarray:
    """Spectral expander: a pattern that needs no training and moves every band away from the mean level of its time.

    Parameters
    ----------
    level_db : np.ndarray, shape (n_mels, steps), dB

    Returns
    -------
    np.ndarray, shape (n_mels, steps), gain in dB for an amount of 1
    """
    return level_db - level_db.mean(axis=0, keepdims=True)


def combine_gains(components: GainComponents, amounts: Amounts, shares: np.ndarray) -> np.ndarray:
    """Gains that some amounts give, before energy is normalised.

    Parameters
    ----------
    shares : np.ndarray, shape (n_mels,), `band_fractions`

    Returns
    -------
    np.ndarray, shape (n_mels, steps), float32, dB
    """
    gain_db = np.float32(amounts.pattern) * components.pattern_db
    if amounts.expander:
        gain_db += np.float32(amounts.expander) * components.expander_db
    if amounts.to_texture:
        gain_db = limit_gain(gain_db, components.level_db, shares)
    return gain_db


def limit_gain(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Keep every band at or below the loudest band of its time, so that texture can fill a sound but not drown it.

    Gains are counted from the mean gain of their time, weighted by power. From there a band may rise by its distance
    to the loudest band and no further. Without this limit a large amount turns the spectrum upside down: the sound
    loses grain again, and its energy goes into clicks.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, steps), dB
    shares : np.ndarray, shape (n_mels,), `band_fractions`

    Returns
    -------
    np.ndarray, shape (n_mels, steps), dB
    """
    top_db = level_db.max(axis=0)
    weights = np.exp(np.float32(NEPER_PER_DB) * (level_db - top_db)) * shares[:, None].astype(np.float32)
    mean_gain_db = (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
    return np.minimum(gain_db, top_db - level_db + mean_gain_db)


def normalise_energy(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Move the gains of each step by one number of dB so that its energy stays what it was.

    Dynamics and loudness stay, and the measure of grain counts the same frames as active. The change of level is
    smoothed over time by a bilateral filter (Tomasi and Manduchi, "Bilateral filtering for gray and color images",
    ICCV 1998): a mean over the steps around, in which those whose level changes alike count more. Without smoothing,
    the gains would flutter with a noise. With a plain mean, energy would not be kept in decays.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, steps), dB
    shares : np.ndarray, shape (n_mels,), `band_fractions`
    weights : np.ndarray, shape (steps,), weight of each step in the means over the steps around it

    Returns
    -------
    np.ndarray, shape (n_mels, steps), dB
    """
    power = np.exp(np.float32(NEPER_PER_DB) * level_db) * shares[:, None].astype(np.float32)
    top_db = gain_db.max(axis=0)  # taken out of the exponent, where a large gain would overflow
    power_after = (power * np.exp(np.float32(NEPER_PER_DB) * (gain_db - top_db))).sum(axis=0)
    change_db = top_db + 10 * np.log10(power_after / power.sum(axis=0))
    total, norm = change_db * weights, weights.copy()
    kernel = np.hanning(2 * ENERGY.half_width_steps + 3)[ENERGY.half_width_steps + 1 : -1]
    for lag in range(1, min(len(kernel), len(total))):
        similarity = kernel[lag] * np.exp(-np.square((change_db[lag:] - change_db[:-lag]) / ENERGY.similarity_db))
        total[lag:] += similarity * (weights * change_db)[:-lag]
        total[:-lag] += similarity * (weights * change_db)[lag:]
        norm[lag:] += similarity * weights[:-lag]
        norm[:-lag] += similarity * weights[lag:]
    return gain_db - (total / norm).astype(np.float32)
