"""The scores of a training run, epoch by epoch, and how much the model improved on its starting point.

Two scores describe a model: the distance between tiles that got their texture back and the truth (root mean square over
bands, in dB) and the violation (by how many octaves the measured change of grain differs from the claimed one). The
reference is what works without a model: the same gain for the whole texture, and white noise where there is none.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from neural_grain.base.files import atomic_write


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of a model on held-out tiles: the distance in dB at the exact claim, and the violation in octaves."""

    distance: float
    violation: float


@dataclass(frozen=True)
class EpochScores:
    """One row of training_history.csv. Distances and corrections are in dB, violations in octaves."""

    epoch: int
    distance: float
    correction: float
    violation_texture: float
    violation_smooth: float
    held_out_distance: float
    held_out_violation: float
    learning_rate: float
    gate_temperature: float
    seconds: float

    @property
    def held_out(self) -> HeldOutScores:
        """The scores on held-out tiles after this epoch."""
        return HeldOutScores(self.held_out_distance, self.held_out_violation)


def share_nearer(one_gain: HeldOutScores, trained: HeldOutScores) -> float:
    """By which share the distance to the truth shrank from one gain to the trained model; <= 1."""
    return 1 - trained.distance / one_gain.distance


def write_history(path: Path, history: list[EpochScores]) -> None:
    """Write training_history.csv, one row for each epoch."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(history[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
