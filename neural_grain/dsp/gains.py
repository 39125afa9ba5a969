"""TODO"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neural_grain.dsp.settings import NEPER_PER_DB

HOLD_STEPS, HOLD_ALIKE_DB = 12, 6.0  # 0.56 s to either side


@dataclass(frozen=True)
class Amounts:
    """How much of the pattern, and of the expander beyond the pattern's reach, is used."""

    pattern: float
    expander: float

    @property
    def to_texture(self) -> bool:
        """Whether they raise grain."""
        return self.pattern + self.expander < 0


def spectral_expander(level_db: np.ndarray) -> np.ndarray:
    """The pattern that knows nothing: every band away from the mean of its time. Gain in dB for unit amount."""
    return level_db - level_db.mean(axis=0, keepdims=True)


def limit_gain(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Keep every band at or below the loudest of its time: texture may fill a sound up, not drown it.

    Gains count from the mean gain, weighted by power; from there a band may rise by its distance
    to the loudest band and no further. Without it a large amount turns the spectrum over: the
    sound grows less grainy again, and its energy goes into a click.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, steps)
    shares : np.ndarray, shape (n_mels,), `band_fractions`

    Returns
    -------
    np.ndarray, shape (n_mels, steps)
    """
    top_db = level_db.max(axis=0)
    weights = np.exp(np.float32(NEPER_PER_DB) * (level_db - top_db)) * shares[:, None].astype(np.float32)
    mean_gain_db = (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
    return np.minimum(gain_db, top_db - level_db + mean_gain_db)


def normalise_energy(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gains moved by so many dB that the energy of each time stays what it was.

    So dynamics and loudness stay, and stage 1 counts the same frames as active. The change of level is
    a mean over the times around where it is alike (a bilateral filter: Tomasi and Manduchi, ICCV 1998):
    without it, gains would flutter with a noise; with a plain mean, decays would not be held.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, steps)
    shares : np.ndarray, shape (n_mels,), `band_fractions`
    weights : np.ndarray, shape (steps,), what each step says about its time

    Returns
    -------
    np.ndarray, shape (n_mels, steps)
    """
    power = np.exp(np.float32(NEPER_PER_DB) * level_db) * shares[:, None].astype(np.float32)
    top_db = gain_db.max(axis=0)
    after = (power * np.exp(np.float32(NEPER_PER_DB) * (gain_db - top_db))).sum(axis=0)
    change_db = top_db + 10 * np.log10(after / power.sum(axis=0))
    total, norm = change_db * weights, weights.copy()
    kernel = np.hanning(2 * HOLD_STEPS + 3)[HOLD_STEPS + 1 : -1]
    for lag in range(1, min(len(kernel), len(total))):
        alike = kernel[lag] * np.exp(-np.square((change_db[lag:] - change_db[:-lag]) / HOLD_ALIKE_DB))
        total[lag:] += alike * (weights * change_db)[:-lag]
        total[:-lag] += alike * (weights * change_db)[lag:]
        norm[lag:] += alike * weights[:-lag]
        norm[:-lag] += alike * weights[lag:]
    return gain_db - (total / norm).astype(np.float32)


def lerp_weights(times: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where times lie between the centres of n intervals of length 1: the ones before and after, and the share of the latter."""
    position = np.clip(times - 0.5, 0, n - 1)
    before = np.minimum(position.astype(int), max(n - 2, 0))
    after = np.minimum(before + 1, n - 1)
    return before, after, (position - before).astype(np.float32)
