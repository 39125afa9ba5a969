"""TODO"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL_DIR = "grain_processor_v2_output"
FINAL_NAME = "final_grain_processor_v2.pt"
CONTROL_RANGE = 3.0  # octaves to either side of 0


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights, beside the tiles."""

    epochs: int = 100
    batch_size: int = 32
    seed: int = 0
