"""The scores of a training run, epoch by epoch, and how much the model improved on its starting point.

Three scores describe a model: two distances between moved tiles and what the critics expect (root mean
square over bands, in dB) and the violation (by how many octaves the measured change of grain differs from
the claimed one). Before training the model is a plain spectral expander, which serves as the reference.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from neural_grain.base.files import atomic_write


@dataclass(frozen=True)
class HeldOutScores:
    """Mean scores of a model on held-out tiles, over both directions; NaN where a critic had no opinion at all."""

    distance: float  # dB, from natural tiles of the same grain
    noise: float  # dB, from the same sound with more or less noise
    violation: float  # octaves


@dataclass(frozen=True)
class EpochScores:
    """One row of training_history.csv. "distance" and "noise" are in dB, "violation" is in octaves."""

    epoch: int
    distance_texture: float
    distance_smooth: float
    noise_texture: float
    noise_smooth: float
    violation_texture: float
    violation_smooth: float
    held_out_distance: float
    held_out_noise: float
    held_out_violation: float
    learning_rate: float
    gate_temperature: float
    seconds: float

    @property
    def held_out(self) -> HeldOutScores:
        """The scores on held-out tiles after this epoch."""
        return HeldOutScores(self.held_out_distance, self.held_out_noise, self.held_out_violation)


def distance_in_db(squares: Iterable[float], dynamic_range_db: float) -> float:
    """Root of the mean of squared differences of x, in dB; NaN values are left out, and NaN results if all are NaN."""
    known = [square for square in squares if not math.isnan(square)]
    return dynamic_range_db * math.sqrt(float(np.mean(known)) if known else math.nan)


def share_nearer(expander: HeldOutScores, trained: HeldOutScores, resemblance_weight: float) -> float:
    """By which share the distance to what the critics expect shrank from the untrained expander to the trained model.

    Parameters
    ----------
    expander, trained : HeldOutScores, of the same tiles
    resemblance_weight : float >= 0, weight of the resemblance critic as in training; the noise critic's is 1

    Returns
    -------
    float <= 1, negative if the distance grew; NaN if no critic had an opinion, or only about one of the two models
    """
    weights = {"noise": 1.0, "distance": resemblance_weight}
    known = [name for name in weights if not math.isnan(getattr(expander, name))]
    before, after = (
        sum(weights[name] * getattr(scores, name) ** 2 for name in known) for scores in (expander, trained)
    )
    return 1 - math.sqrt(after / before) if before else math.nan


def write_history(path: Path, history: list[EpochScores]) -> None:
    """Write training_history.csv, one row for each epoch."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(history[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
