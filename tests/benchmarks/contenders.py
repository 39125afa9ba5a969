"""What the learned pattern is compared with: patterns written by hand, and the training with parts left out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

import cak_grain_processor as stage3
from neural_grain.data.tiles import tile_starts
from neural_grain.dsp.gains import spectral_expander
from neural_grain.dsp.settings import CELL_FRAMES, DYNAMIC_RANGE_DB, SpectrogramSettings
from neural_grain.learn import training as learn_training
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import AuditGame, Moves
from neural_grain.learn.model import GrainModel, pattern_in_db
from neural_grain.learn.settings import TrainSettings

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def in_cells(x: np.ndarray) -> np.ndarray:
    """Mean of a picture (n_mels, frames) over each cell: (n_mels, cells)."""
    starts = np.arange(0, x.shape[1], CELL_FRAMES)
    return np.add.reduceat(x, starts, axis=1) / np.diff(np.append(starts, x.shape[1]))


# Each gives gains in dB, (n_mels, cells), for a picture.
HAND_MADE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    # "Pointwise compression", p = -x, is the same once energies are held: identical to all digits.
    "expander": lambda x: spectral_expander(DYNAMIC_RANGE_DB * in_cells(x)),
    "tilt": lambda x: np.linspace(0, -40, x.shape[0], dtype=np.float32)[:, None] + 0 * in_cells(x),
}


class Kernel(nn.Module):
    """One 3 x 3 kernel over the picture."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate")
        self.register_buffer("full_fluctuation", torch.ones(128), persistent=False)  # which it has no use for

    def forward(self, x: Tensor, _direction: Tensor | None = None, _fluctuations: Tensor | None = None) -> Tensor:
        """Pattern with zero mean over bands, of the picture's shape."""
        pattern = self.kernel(x[:, None])[:, 0]
        return pattern - pattern.mean(1, keepdim=True)

    def cells(self, x: Tensor) -> Tensor:
        """Its mean over each cell, the same in both directions."""
        return torch.from_numpy(in_cells(self(x)[0].detach().numpy())).expand(1, 2, -1, -1)


class SingleKernel(GrainModel):
    """The paper's detector: one 3 x 3 kernel with a bias, and the scale: 11 parameters."""

    def __init__(self, settings: SpectrogramSettings):
        super().__init__(settings)
        self.detector = Kernel()


def energy_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Another resemblance critic: energy distance of the two sets (Szekely and Rizzo, 2013)."""

    def mean_distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] - b).square().mean(2) + 1e-6).sqrt().mean()

    n, m = len(moved), len(natural)
    own = mean_distance(moved, moved) * n / (n - 1) + mean_distance(natural, natural) * m / (m - 1)
    return (2 * mean_distance(moved, natural) - own).clamp(min=0).expand(n)


def wasserstein_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Another: squared 2-Wasserstein distance of each band's values, mean over bands."""
    quantiles = (torch.arange(len(moved)) + 0.5) / len(moved)
    return (moved.sort(0).values - torch.quantile(natural, quantiles, dim=0)).square().mean(1)


class ResemblanceGame(AuditGame):
    """Without the noise critic."""

    def _noise_distance(self, x: Tensor, *_args) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(x)), torch.zeros(len(x))


class FixedGame(AuditGame):
    """The law of noise is doubted as much in every library: about what it is in a real one, so no tile loses tones."""

    def __init__(self, *args):
        super().__init__(*args)
        self.doubt = 0.17


class NoiseGame(AuditGame):
    """Without the resemblance critic."""

    def _natural_distances(self, *_args) -> dict[str, torch.Tensor]:
        return {}


class OneWayGame(AuditGame):
    """The violation of smoothing alone is charged."""

    def play(self, *args, **options) -> dict[str, Moves]:
        """The same game; texture's violation is not charged."""
        scores = super().play(*args, **options)
        texture = scores["texture"]
        return {**scores, "texture": replace(texture, violation=texture.violation.detach())}


def blind(model: GrainModel, inputs: list[int]) -> GrainModel:
    """Some inputs of D held at 0."""

    def hide(_module: nn.Module, args: tuple) -> tuple:
        h = args[0].clone()
        h[:, inputs] = 0
        return (h,)

    model.detector.layers[0].register_forward_pre_hook(hide)
    model.detector.direct.register_forward_pre_hook(hide)
    return model


# name: (constants of stage 3 that are other, game, model)
VARIANTS: dict[str, tuple[dict, type[AuditGame], Callable]] = {
    "full": ({}, AuditGame, GrainModel),
    "resemblance critic alone": ({}, ResemblanceGame, GrainModel),
    "noise critic alone": ({}, NoiseGame, GrainModel),
    "doubt the same in all libraries": ({}, FixedGame, GrainModel),
    "no tiles without their tones": ({"BARE_STEPS": 0.0}, AuditGame, GrainModel),
    "Wasserstein distance": ({"natural_distance": wasserstein_distance}, AuditGame, GrainModel),
    "energy distance": ({"natural_distance": energy_distance}, AuditGame, GrainModel),
    "no critic": ({"CRITIC_WEIGHT": 0.0}, AuditGame, GrainModel),
    "no violation": ({"VIOLATION_WEIGHT": 0.0}, AuditGame, GrainModel),
    "violation one way": ({}, OneWayGame, GrainModel),
    "no gate": ({"GATE_TEMPERATURES": (1e3, 1e3)}, AuditGame, GrainModel),
    "D without frequency": ({}, AuditGame, lambda settings: blind(GrainModel(settings), [5])),
    "D without the share of noise": ({}, AuditGame, lambda settings: blind(GrainModel(settings), [3, 4])),
    "D with 8 channels": ({}, AuditGame, lambda settings: GrainModel(settings, 8)),
    "D with 48 channels": ({}, AuditGame, lambda settings: GrainModel(settings, 48)),
    "the paper's 3 x 3 kernel": ({}, AuditGame, SingleKernel),
}


def train_on(
    arrays: list[np.ndarray], settings: SpectrogramSettings, variant: str, seed: int, epochs: int
) -> GrainModel:
    """Train a variant on tiles in memory, as stage 3 does."""
    constants, game_class, model_class = VARIANTS[variant]
    with ExitStack() as patches:
        for name, value in constants.items():
            patches.enter_context(patch.object(stage3, name, value))
        torch.manual_seed(seed)
        model = model_class(settings)
        movers = Tiles.of(arrays, settings)
        game = game_class(settings, movers, seed)
        model.detector.full_fluctuation.copy_(game.critic.full_fluctuation)
        optimizer = torch.optim.Adam(model.parameters(), learn_training.LEARNING_RATE, betas=(0.9, 0.99))
        for epoch in range(1, epochs + 1):
            learn_training.train_epoch(game, model, optimizer, movers, epoch, TrainSettings(epochs=epochs, seed=seed))
    return model.eval()


def contender(model: GrainModel, settings: SpectrogramSettings) -> Callable[[np.ndarray], np.ndarray]:
    """A model as a function from a picture to gains in dB, (2, n_mels, cells)."""
    return lambda x: pattern_in_db(model, x, settings)


def tiles_of(x: np.ndarray, settings: SpectrogramSettings) -> list[np.ndarray]:
    """A picture (n_mels, frames) cut as stage 2 does."""
    return [x[:, start : start + settings.tile_frames] for start in tile_starts(x.shape[1], settings.tile_frames)]
