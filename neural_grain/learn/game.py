"""The audit game: texture is taken away from sounds of the library, and the model has to give it back, and the reverse.

A pair is a tile of the library, and the same tile with its texture turned down, so far that some or all of it may
vanish below the floor: then only the tones are left to tell what texture belongs to them. In half of the pairs both also
hold a background from another tile, which stays. Two referees judge how the model moves one tile of a pair to the other:

- The critic compares the result with the other tile. The library's own sound is the truth: the same tones, with as much
  texture as they really have.
- The auditor measures the violation: by how many octaves the change of grain differs from the claim, the octaves
  between both tiles.

In: a model and the tiles of a library. Out: a `Judgement` for each direction, with gradients for the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import audited_octaves, bands_of
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import GrainModel, move_texture
from neural_grain.learn.settings import CLAIM_OCTAVES


@dataclass(frozen=True)
class GameSettings:
    """Which pairs are made and how they are compared."""

    natural_share: float = 0.3  # of the pairs whose tile with more texture has as much as it has in the library
    start_db: tuple[float, float] = (0.0, 50.0)  # by which texture is turned down in both tiles of the other pairs
    reduction_db: tuple[float, float] = (3.0, 60.0)  # by which it is turned down further in one of them
    background_share: float = 0.5  # of the pairs that hold a background from another tile
    background_db: tuple[float, float] = (-30.0, 0.0)  # its level, relative to the texture of the other tile
    max_octaves: float = 4.0  # between the tiles of a pair: the slider ends at 3
    audible_db: float = 80.0  # below the loudest band of a tile; what lies deeper is not compared
    amount_range_db: float = 60.0  # of texture that may be added or removed, in either direction
    bisections: int = 10  # of that range: to within 0.1 dB


GAME = GameSettings()


class Pair(NamedTuple):
    """Tiles that exist twice. Levels of shape (batch, n_mels, cells), octaves of shape (batch,)."""

    tones: Tensor
    less: Tensor  # texture
    more: Tensor  # texture of the same tiles with more grain
    octaves: Tensor  # between them, > 0


@dataclass(frozen=True)
class Judgement:
    """What the referees say of the tiles that were moved in one direction; tensors without shape."""

    distance: Tensor  # dB**2, mean over tiles, bands and cells
    violation: Tensor  # octaves, mean over tiles


class AuditGame:
    """Makes pairs of a library's tiles and judges how a model moves one to the other.

    Parameters
    ----------
    settings : SpectrogramSettings
    device : str
    """

    def __init__(self, settings: SpectrogramSettings, device: str = "cpu"):
        self.settings = settings
        self.bands = bands_of(settings, device)

    @torch.no_grad()
    def draw_pairs(self, tiles: Tiles, n: int, rng: np.random.Generator) -> Pair:
        """Make ``n`` pairs; those whose grain differs by too little or too much are left out."""
        index, other = rng.integers(len(tiles.tones), size=(2, n))
        tones, natural = tiles.tones[index], tiles.texture[index]

        def column(low: float, high: float) -> Tensor:
            return torch.as_tensor(rng.uniform(low, high, n), dtype=torch.float32, device=natural.device)

        start_db = torch.where(
            column(0, 1) < GAME.natural_share, torch.zeros(n, device=natural.device), column(*GAME.start_db)
        )
        natural = natural - NEPER_PER_DB * start_db[:, None, None]
        amount_db = column(*GAME.reduction_db)
        background_db = torch.where(column(0, 1) < GAME.background_share, column(*GAME.background_db), -math.inf)
        background = tiles.texture[other] + NEPER_PER_DB * background_db[:, None, None]
        more = torch.logaddexp(natural, background).clamp(min=self.bands.floor)
        less = torch.logaddexp(natural - NEPER_PER_DB * amount_db[:, None, None], background).clamp(
            min=self.bands.floor
        )
        octaves = -audited_octaves(tones, less, more, self.bands)
        good = (octaves > CLAIM_OCTAVES) & (octaves < GAME.max_octaves)
        good[0] |= ~good.any()
        return Pair(tones[good], less[good], more[good], octaves[good])

    def judge(self, model: GrainModel, pair: Pair) -> dict[str, Judgement]:
        """Move pairs in both directions and judge the results.

        The critic judges where a pattern changes a sound, and the auditor how much it does. So the critic sees tiles that
        were moved by exactly the claim, with whatever amount that takes, as rendering does.

        Returns
        -------
        dict with the keys "texture" and "smooth"
        """
        judgements = {}
        for name, source, target, sign in (("texture", pair.less, pair.more, 1), ("smooth", pair.more, pair.less, -1)):
            claim = -sign * pair.octaves
            pattern_db = model.pattern_db(pair.tones, source, claim)
            amount_db = self.solve_amount(pair.tones, source, pattern_db.detach(), claim)
            distance = self._distance(pair.tones, move_texture(source, pattern_db, amount_db), target)
            own = move_texture(source, pattern_db.detach(), model.amount_db(claim))
            violation = (audited_octaves(pair.tones, source, own, self.bands) - claim).abs().mean()
            judgements[name] = Judgement(distance, violation)
        return judgements

    @torch.no_grad()
    def solve_amount(self, tones: Tensor, texture: Tensor, pattern_db: Tensor, claim: Tensor) -> Tensor:
        """The amounts of a pattern that move grain by the claims, or as far as it goes, by bisection: (batch,)."""
        sign = -claim.sign()
        low, high = torch.zeros_like(claim), torch.full_like(claim, GAME.amount_range_db)
        for _ in range(GAME.bisections):
            middle = (low + high) / 2
            moved = move_texture(texture, pattern_db, sign * middle)
            is_short = audited_octaves(tones, texture, moved, self.bands).abs() < claim.abs()
            low, high = torch.where(is_short, middle, low), torch.where(is_short, high, middle)
        return sign * (low + high) / 2

    def _distance(self, tones: Tensor, moved: Tensor, target: Tensor) -> Tensor:
        """Mean square difference of the whole sounds in dB, within the audible range."""
        levels = [torch.logaddexp(tones, texture) / NEPER_PER_DB for texture in (moved, target)]
        floor = levels[1].amax((1, 2), keepdim=True) - GAME.audible_db
        return (torch.maximum(levels[0], floor) - torch.maximum(levels[1], floor)).square().mean()
