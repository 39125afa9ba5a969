"""The scores of a training run, epoch by epoch, and how much the model improved on its starting point.

Two scores describe a model: the distance between moved tiles and what the critic expects (root mean square over bands, in
dB) and the violation (by how many octaves the measured change of grain differs from the claimed one). Before training,
the whole texture gets the same gain, which is the reference.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from neural_grain.base.files import atomic_write


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of a model on held-out tiles: distances in dB at the exact claim, and the violation in octaves."""

    distance_texture: float
    distance_smooth: float
    violation: float

    @property
    def distance(self) -> float:
        """Root of the mean square of both distances."""
        return ((self.distance_texture**2 + self.distance_smooth**2) / 2) ** 0.5


@dataclass(frozen=True)
class EpochScores:
    """One row of training_history.csv. Distances are in dB, violations in octaves."""

    epoch: int
    distance_texture: float
    distance_smooth: float
    violation_texture: float
    violation_smooth: float
    held_out_distance_texture: float
    held_out_distance_smooth: float
    held_out_violation: float
    learning_rate: float
    gate_temperature: float
    seconds: float

    @property
    def held_out(self) -> HeldOutScores:
        """The scores on held-out tiles after this epoch."""
        return HeldOutScores(self.held_out_distance_texture, self.held_out_distance_smooth, self.held_out_violation)


def share_nearer(one_gain: HeldOutScores, trained: HeldOutScores) -> float:
    """By which share the distance to what the critic expects shrank from one gain to the trained model; <= 1."""
    return 1 - trained.distance / one_gain.distance


def write_history(path: Path, history: list[EpochScores]) -> None:
    """Write training_history.csv, one row for each epoch."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(history[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
