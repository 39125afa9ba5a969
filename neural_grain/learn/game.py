"""The audit game: texture is taken away from sounds of the library, and the model has to give it back, and the reverse.

A pair is a tile of the library, and the same tile with its texture turned down, so far that some or all of it may
vanish below the floor: then only the tones are left to tell what texture belongs to them. Two referees judge how the
model moves one tile of a pair to the other:

- The critic compares the tile that got its texture back with the other one. The library's own sound is the truth: the
  same tones, with as much texture as they really have.
- The auditor measures the violation, in both directions: by how many octaves the change of grain differs from the
  claim, the octaves between both tiles.

In: a model and the tiles of a library. Out: a `Judgement`, with gradients for the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import bands_of, log2_grain
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import GrainModel, move_texture
from neural_grain.learn.settings import CLAIM_OCTAVES


@dataclass(frozen=True)
class GameSettings:
    """Which pairs are made and how they are compared."""

    natural_share: float = 0.3  # of the pairs whose tile with more texture has as much as it has in the library
    start_db: tuple[float, float] = (0.0, 50.0)  # by which texture is turned down in both tiles of the other pairs
    reduction_db: tuple[float, float] = (3.0, 60.0)  # by which it is turned down further in one of them
    max_octaves: float = 4.0  # between the tiles of a pair: the slider ends at 3
    audible_db: float = 80.0  # below the loudest band of a tile; what lies deeper is not compared
    amount_range_db: float = 100.0  # of texture that may be added: from the floor up to the tones
    bisections: int = 10  # of that range: to within 0.1 dB
    slope_step_db: float = 0.1  # over which the slope of grain is taken
    min_slope: float = 0.01  # octaves for a dB: where grain hardly rises, the gradient of the amount is not trusted
    reached_octaves: float = 0.05  # a tile that no amount brings so near to the claim is not compared


GAME = GameSettings()


class Pair(NamedTuple):
    """Tiles that exist twice. Levels of shape (batch, n_mels, cells), octaves of shape (batch,)."""

    tones: Tensor
    less: Tensor  # texture
    more: Tensor  # texture of the same tiles with more grain
    octaves: Tensor  # between them, > 0


@dataclass(frozen=True)
class Judgement:
    """What the referees say of a batch; tensors without shape."""

    distance: Tensor  # dB**2, mean over bands, cells and the tiles that reach the claim
    correction: Tensor  # dB**2, mean square of what D adds to the library's typical texture
    violation_texture: Tensor  # octaves, mean over tiles
    violation_smooth: Tensor


class AuditGame:
    """Makes pairs of a library's tiles and judges how a model moves one to the other.

    Parameters
    ----------
    settings : SpectrogramSettings
    device : str
    """

    def __init__(self, settings: SpectrogramSettings, device: str = "cpu"):
        self.bands = bands_of(settings, device)
        self._floor = -NEPER_PER_DB * settings.dynamic_range_db

    def log2_grain(self, tones: Tensor, texture: Tensor) -> Tensor:
        """log2 of the grain of tiles, given as levels, as the auditor measures it: (batch,)."""
        return log2_grain(tones.exp(), texture.exp(), self.bands)

    @torch.no_grad()
    def draw_pairs(self, tiles: Tiles, n: int, rng: np.random.Generator) -> Pair:
        """Make ``n`` pairs; those whose grain differs by too little or too much are left out."""
        index = rng.integers(len(tiles.tones), size=n)
        tones, natural = tiles.tones[index], tiles.texture[index]

        def column(low: float, high: float) -> np.ndarray:
            return rng.uniform(low, high, n)

        start_db = np.where(column(0, 1) < GAME.natural_share, 0, column(*GAME.start_db))
        more, less = (
            (natural - self._nepers(down_db, natural)).clamp(min=self._floor)
            for down_db in (start_db, start_db + column(*GAME.reduction_db))
        )
        octaves = self.log2_grain(tones, more) - self.log2_grain(tones, less)
        good = (octaves > CLAIM_OCTAVES) & (octaves < GAME.max_octaves)
        good[0] |= ~good.any()  # a batch is never empty
        return Pair(tones[good], less[good], more[good], octaves[good])

    def judge(self, model: GrainModel, pair: Pair) -> Judgement:
        """Move pairs in both directions and judge the results.

        The critic judges where a pattern changes a sound, and the auditor how much it does. So the critic sees tiles
        that were moved by exactly the claim, with whatever amount that takes, as rendering does; what can't be moved by
        the claim is left out.
        """
        tones, correction_db = pair.tones, model.detector(pair.tones, pair.less)
        pattern = model.pattern(tones, pair.less, correction_db)
        wanted = self.log2_grain(tones, pair.more)
        moved = move_texture(pair.less, pattern, self.amount_for(tones, pair.less, pattern, wanted))
        is_reached = (self.log2_grain(tones, moved) - wanted).abs() < GAME.reached_octaves
        distance = self._distances(tones, moved, pair.more) @ is_reached.float() / is_reached.sum().clamp(min=1)
        # From the violation only the scale of the amounts learns. The pattern learns from the critic.
        raised = move_texture(pair.less, pattern.detach(), model.amount_db(-pair.octaves))
        lowered = move_texture(pair.more, pair.more, model.amount_db(pair.octaves))
        violations = (
            (self.log2_grain(tones, moved) - target).abs().mean()
            for moved, target in ((raised, wanted), (lowered, wanted - pair.octaves))
        )
        return Judgement(distance, correction_db.square().mean(), *violations)

    def amount_for(self, tones: Tensor, texture: Tensor, pattern: Tensor, wanted: Tensor) -> Tensor:
        """What `solve_amount` returns, with the gradient that the pattern has through it.

        When a pattern changes, the amount changes so that grain stays the same (implicit function theorem). Without
        this gradient the pattern grew without limit in bands that tones mask.
        """
        amount_db = self.solve_amount(tones, texture, pattern.detach(), wanted)
        grain = self.log2_grain(tones, move_texture(texture, pattern, amount_db))
        above = move_texture(texture, pattern.detach(), amount_db + GAME.slope_step_db)
        slope = (self.log2_grain(tones, above) - grain.detach()) / GAME.slope_step_db
        return amount_db - (grain - grain.detach()) / slope.clamp(min=GAME.min_slope)

    @torch.no_grad()
    def solve_amount(self, tones: Tensor, texture: Tensor, pattern: Tensor, wanted: Tensor) -> Tensor:
        """The amounts of a pattern that give tiles a wanted log2 of grain, by bisection: dB, shape (batch,).

        Parameters
        ----------
        tones, texture, pattern : Tensor, shape (batch, n_mels, cells), levels
        wanted : Tensor, shape (batch,)
        """
        tones, texture, pattern = tones.exp(), texture.exp(), pattern.exp()
        low, high = torch.zeros_like(wanted), torch.full_like(wanted, GAME.amount_range_db)
        for _ in range(GAME.bisections):
            middle = (low + high) / 2
            moved = texture + pattern * torch.expm1(NEPER_PER_DB * middle)[:, None, None]
            is_short = log2_grain(tones, moved, self.bands) < wanted
            low, high = torch.where(is_short, middle, low), torch.where(is_short, high, middle)
        return (low + high) / 2

    def _distances(self, tones: Tensor, moved: Tensor, target: Tensor) -> Tensor:
        """Mean square difference of each of the whole sounds, within the audible range: dB**2, shape (batch,)."""
        levels = [torch.logaddexp(tones, texture) / NEPER_PER_DB for texture in (moved, target)]
        floor = levels[1].amax((1, 2), keepdim=True) - GAME.audible_db
        return (torch.maximum(levels[0], floor) - torch.maximum(levels[1], floor)).square().mean((1, 2))

    def _nepers(self, db: np.ndarray, like: Tensor) -> Tensor:
        """Decibels (batch,) as natural logarithms of power, for tiles."""
        return torch.as_tensor(NEPER_PER_DB * db, dtype=like.dtype, device=like.device)[:, None, None]
