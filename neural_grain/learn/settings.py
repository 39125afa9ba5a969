"""What stage 3 and its users must agree on, in a module that does not import torch.

The command line reads its defaults here, so that ``--help`` does not wait for torch.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL_DIR = "grain_processor_v2_output"
FINAL_NAME = "final_grain_processor_v2.pt"
LATEST_NAME = "checkpoints/latest.pt"  # what an interrupted run is resumed from
AUDIT_NAME = "audit.json"
AUDIT_VERSION = 3
MIN_FILES = 4  # recordings that a model needs; fewer leave no held-out file
MAX_EPOCHS = 10_000  # a hundred times what most libraries need
MAX_BATCH_SIZE = 4096  # pairs of tiles, which take 2 GB of memory
CONTROL_RANGE = 3.0  # octaves: the model is trained to move grain by at most this much in either direction
CLAIM_OCTAVES = 0.3  # octaves: the smallest move that training asks for; less would be lost in measurement noise


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run. Together with the tiles they determine the weights.

    Parameters
    ----------
    epochs : int within 1 to MAX_EPOCHS
    batch_size : int within 1 to MAX_BATCH_SIZE, pairs of tiles, each moved in both directions
    seed : int >= 0
    """

    epochs: int = 100
    batch_size: int = 16
    seed: int = 0
