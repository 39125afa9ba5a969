"""TODO"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from neural_grain.base.files import atomic_write


@dataclass(frozen=True)
class EpochScores:
    """One row of training_history.csv."""

    epoch: int
    distance_texture: float  # dB
    distance_smooth: float
    noise_texture: float  # dB
    noise_smooth: float
    violation_texture: float  # octaves
    violation_smooth: float
    held_out_distance: float
    held_out_noise: float
    held_out_violation: float
    learning_rate: float
    gate_temperature: float
    seconds: float


def mean_of_known(scores: Iterable[float]) -> float:
    """Mean of scores, without those that are NaN; NaN if there is no other."""
    told = [score for score in scores if not math.isnan(score)]
    return float(np.mean(told)) if told else math.nan


def distance_in_db(squares: Iterable[float], dynamic_range_db: float) -> float:
    """Mean squares of x as a root mean square in dB."""
    return dynamic_range_db * math.sqrt(mean_of_known(squares))


def share_nearer(expander: dict[str, float], trained: dict[str, float], doubt: float) -> float:
    """By what share of its distance a model comes nearer to what the critics expect than the expander it began as.

    Both as `judge` returns them, of the same tiles; the critics are weighed by the game's ``doubt``, as in
    training. NaN if neither could tell, or a model has no score where the other has.
    """
    weights = {"held_out_noise": 1.0, "held_out_distance": doubt}
    told = [name for name in weights if not math.isnan(expander[name])]
    before, after = (sum(weights[name] * scores[name] ** 2 for name in told) for scores in (expander, trained))
    return 1 - math.sqrt(after / before) if before else math.nan


def write_history(path: Path, history: list[EpochScores]) -> None:
    """Write training_history.csv, one row an epoch."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(history[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
