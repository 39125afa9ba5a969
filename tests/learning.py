"""What the tests of learn/ share: levels, models with random weights, a library of breath, and short training runs.

The trained fixtures that use it are in conftest.py, so that this module and torch are imported only when needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from neural_grain.data.tiles import TrainingPairs, read_pairs
from neural_grain.dsp.settings import NEPER_PER_DB, GrainSettings, default_settings
from neural_grain.learn.auditor import bands_of
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import TrainedModel, train

SETTINGS = default_settings(GrainSettings())
BANDS = bands_of(SETTINGS)
N_CELLS = 8
BREATH_BAND = 64  # the breath of `breathy_tiles` lies in this band and above


def random_levels(n: int = 3, cells: int = N_CELLS, seed: int = 0, low_db: float = -60.0) -> torch.Tensor:
    """Levels (n, n_mels, cells) of independent uniform values in dB."""
    return NEPER_PER_DB * low_db * torch.rand(n, 128, cells, generator=torch.Generator().manual_seed(seed))


def randomised(seed: int = 0) -> GrainModel:
    """A model whose last layer is not zero, as after training."""
    torch.manual_seed(seed)
    model = GrainModel(SETTINGS)
    torch.nn.init.normal_(model.detector.mix.weight, std=0.1)
    return model.eval()


def breathy_tiles(n: int = 32, seed: int = 0) -> Tiles:
    """Tiles with partials in every eighth band below band 64 and breath above it, at any level."""
    generator = torch.Generator().manual_seed(seed)
    tones = torch.full((n, 128, N_CELLS), -100.0)
    tones[:, :64:8] = -20 * torch.rand(n, 8, 1, generator=generator)
    texture = -90 + torch.randn(n, 128, N_CELLS, generator=generator)
    texture[:, BREATH_BAND:] += 20 + 40 * torch.rand(n, 1, 1, generator=generator)
    return Tiles(NEPER_PER_DB * tones, NEPER_PER_DB * texture)


def output_folder(folder: Path) -> Path:
    """An output folder with the subfolders that stage 3 makes."""
    for name in ("checkpoints", "samples"):
        (folder / name).mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class ShortRun:
    """A training run of two epochs with small batches, made in this process."""

    pairs: TrainingPairs
    options: TrainOptions
    folder: Path
    trained: TrainedModel

    @classmethod
    def of(cls, project: Path, folder: Path) -> ShortRun:
        pairs, options = read_pairs(project / "training_pairs.json"), TrainOptions(epochs=2, batch_size=4)
        return cls(pairs, options, folder, train(pairs, options, output_folder(folder)))
