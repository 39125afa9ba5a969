"""What the learned pattern is compared with: patterns written by hand, and trainings with parts changed or left out.

A contender is a function from a picture (n_mels, frames) to gains in dB, (n_mels, cells) or (2, n_mels, cells) for
smoothing and texture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor, nn

from neural_grain.dsp.gains import spectral_expander
from neural_grain.dsp.settings import CELL_FRAMES, DYNAMIC_RANGE_DB, SpectrogramSettings
from neural_grain.learn import game, training
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import GAME, AuditGame, Judgement, NoiseJudgement
from neural_grain.learn.model import KERNEL, GrainModel, pattern_in_db
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import TRAINING

Contender = Callable[[np.ndarray], np.ndarray]


def cell_means(x: np.ndarray) -> np.ndarray:
    """Mean of a picture (n_mels, frames) over each cell: (n_mels, cells)."""
    starts = np.arange(0, x.shape[1], CELL_FRAMES)
    return np.add.reduceat(x, starts, axis=1) / np.diff(np.append(starts, x.shape[1]))


HAND_MADE: dict[str, Contender] = {
    # "Pointwise compression", p = -x, gives the same result once the energy is normalised.
    "expander": lambda x: spectral_expander(DYNAMIC_RANGE_DB * cell_means(x)),
    "tilt": lambda x: np.linspace(0, -40, x.shape[0], dtype=np.float32)[:, None] + 0 * cell_means(x),
}


class SingleKernelDetector(nn.Module):
    """One 3 x 3 kernel over the picture, the same for both directions."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate")
        # Training copies the library's fluctuation into every detector; this one does not use it.
        self.register_buffer("full_fluctuation", torch.ones(128), persistent=False)

    def forward(self, x: Tensor, _direction: Tensor | None = None, _fluctuations: Tensor | None = None) -> Tensor:
        """Pattern of the picture's shape, with zero mean over bands."""
        pattern = self.kernel(x[:, None])[:, 0]
        return pattern - pattern.mean(1, keepdim=True)

    def cells(self, x: Tensor) -> Tensor:
        """Mean of the pattern of one picture over each cell: (1, 2, n_mels, cells)."""
        return torch.from_numpy(cell_means(self(x)[0].detach().numpy())).expand(1, 2, -1, -1)


class SingleKernelModel(GrainModel):
    """The paper's model: one 3 x 3 kernel with a bias, and the scale, which are 11 parameters."""

    def __init__(self, settings: SpectrogramSettings):
        super().__init__(settings)
        self.detector = SingleKernelDetector()


def energy_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Alternative resemblance critic: the energy distance of the two sets (Szekely and Rizzo, 2013)."""

    def mean_distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] - b).square().mean(2) + 1e-6).sqrt().mean()

    n, m = len(moved), len(natural)
    within = mean_distance(moved, moved) * n / (n - 1) + mean_distance(natural, natural) * m / (m - 1)
    return (2 * mean_distance(moved, natural) - within).clamp(min=0).expand(n)


def wasserstein_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Alternative resemblance critic: the squared 2-Wasserstein distance of each band's values, averaged over bands."""
    quantiles = (torch.arange(len(moved)) + 0.5) / len(moved)
    return (moved.sort(0).values - torch.quantile(natural, quantiles, dim=0)).square().mean(1)


class ResemblanceGame(AuditGame):
    """Without the noise critic."""

    def _noise_distance(self, _model: GrainModel, x: Tensor, *_args) -> NoiseJudgement:
        return NoiseJudgement(torch.zeros(len(x)), torch.zeros(len(x)))


class NoiseGame(AuditGame):
    """Without the resemblance critic."""

    def _natural_distances(self, *_args) -> dict[str, Tensor]:
        return {}


class FixedWeightGame(AuditGame):
    """With a resemblance weight that is typical of real libraries, in all libraries; no tile loses its tones."""

    def __init__(self, *args):
        super().__init__(*args)
        self.resemblance_weight = 0.17


class OneWayGame(AuditGame):
    """With the violation of smoothing alone in the loss."""

    def judge_batch(self, *args, **options) -> dict[str, Judgement]:
        """The same judgements; the violation of texture has no gradient."""
        judgements = super().judge_batch(*args, **options)
        texture = judgements["texture"]
        return {**judgements, "texture": replace(texture, violation=texture.violation.detach())}


def without_inputs(model: GrainModel, inputs: list[int]) -> GrainModel:
    """A model whose detector sees 0 in place of some of its inputs."""

    def hide(_module: nn.Module, args: tuple) -> tuple:
        h = args[0].clone()
        h[:, inputs] = 0
        return (h,)

    model.detector.layers[0].register_forward_pre_hook(hide)
    model.detector.direct.register_forward_pre_hook(hide)
    return model


@dataclass(frozen=True)
class Variant:
    """A training with something changed; ``patch`` is the module, the name in it, and the other value."""

    game: type[AuditGame] = AuditGame
    model: Callable[[SpectrogramSettings], GrainModel] = GrainModel
    patch: tuple[ModuleType, str, object] | None = None


VARIANTS: dict[str, Variant] = {
    "full": Variant(),
    "resemblance critic alone": Variant(game=ResemblanceGame),
    "noise critic alone": Variant(game=NoiseGame),
    "the same resemblance weight in all libraries": Variant(game=FixedWeightGame),
    "no tiles without their tones": Variant(patch=(game, "GAME", replace(GAME, bare_share=0.0))),
    "Wasserstein distance": Variant(patch=(game, "natural_distance", wasserstein_distance)),
    "energy distance": Variant(patch=(game, "natural_distance", energy_distance)),
    "no critic": Variant(patch=(training, "TRAINING", replace(TRAINING, critic_weight=0.0))),
    "no violation": Variant(patch=(training, "TRAINING", replace(TRAINING, violation_weight=0.0))),
    "violation one way": Variant(game=OneWayGame),
    "no gate": Variant(patch=(training, "KERNEL", replace(KERNEL, gate_temperatures=(1e3, 1e3)))),
    "D without frequency": Variant(model=lambda settings: without_inputs(GrainModel(settings), [5])),
    "D without the share of noise": Variant(model=lambda settings: without_inputs(GrainModel(settings), [3, 4])),
    "D with 8 channels": Variant(model=lambda settings: GrainModel(settings, 8)),
    "D with 48 channels": Variant(model=lambda settings: GrainModel(settings, 48)),
    "the paper's 3 x 3 kernel": Variant(model=SingleKernelModel),
}


def variants_of(argument: str) -> list[str]:
    """The variants that an option names, separated by semicolons, or all."""
    return list(VARIANTS) if argument == "all" else argument.split(";")


def train_on(
    arrays: list[np.ndarray], settings: SpectrogramSettings, variant_name: str, seed: int, epochs: int
) -> GrainModel:
    """Train a variant on tiles in memory, as stage 3 does."""
    variant, options = VARIANTS[variant_name], TrainOptions(epochs=epochs, seed=seed)
    with ExitStack() as patches:
        if variant.patch:
            patches.enter_context(patch.object(*variant.patch))
        torch.manual_seed(seed)
        model, tiles = variant.model(settings), Tiles.of(arrays, settings)
        audit_game = variant.game(settings, tiles, seed)
        model.detector.full_fluctuation.copy_(audit_game.critic.full_fluctuation)
        optimizer = torch.optim.Adam(model.parameters(), TRAINING.learning_rate, betas=TRAINING.adam_betas)
        for epoch in range(1, epochs + 1):
            training.train_epoch(audit_game, model, optimizer, tiles, epoch, options)
    return model.eval()


def contender(model: GrainModel, settings: SpectrogramSettings) -> Contender:
    """A model as a contender."""
    return lambda x: pattern_in_db(model, x, settings)
