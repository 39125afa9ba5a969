"""The audit game: the model moves sounds to another grain, and two referees judge what it made of them.

- The auditor measures the violation: by how many octaves the measured change of grain differs from the claimed one.
- The critic knows how the sound should look, because it made the pair itself. A pair is a tile of the library and the
  same tile with more texture, taken from the library's own layers: from another tile, or more of its own. So the moved
  tile is compared with a sound that has that much more, or less, of the library's texture and the same tones.

In: a model and the tiles of a library. Out: a `Judgement` for each direction, with gradients for the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import audited_octaves, bands_of
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import GrainModel, move_texture
from neural_grain.learn.settings import CLAIM_OCTAVES, CONTROL_RANGE


@dataclass(frozen=True)
class GameSettings:
    """Which pairs are made and how they are compared."""

    own_share: float = 0.5  # of the pairs in which a tile gets more of its own texture, which one gain does exactly
    audible_db: float = 80.0  # below the loudest band of a tile; what lies deeper is not compared
    amount_range_db: float = 80.0  # of texture that may be added or removed, in either direction
    bisections: int = 14  # of that range: to within 0.01 dB


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


def solve(reached: Callable[[Tensor], Tensor], wanted: Tensor, low: float, high: float) -> Tensor:
    """Find arguments within ``low`` to ``high`` at which a rising function of shape (batch,) has some values."""
    bounds = torch.full_like(wanted, low), torch.full_like(wanted, high)
    for _ in range(GAME.bisections):
        middle = (bounds[0] + bounds[1]) / 2
        is_short = reached(middle) < wanted
        bounds = torch.where(is_short, middle, bounds[0]), torch.where(is_short, bounds[1], middle)
    return (bounds[0] + bounds[1]) / 2


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
        """Make ``n`` pairs whose grain differs by a random claim, or as far as texture can move it."""
        index = rng.integers(len(tiles.tones), size=n)
        source = np.where(rng.random(n) < GAME.own_share, index, rng.integers(len(tiles.tones), size=n))
        tones, less = tiles.tones[index], tiles.texture[index]
        shift = np.where(source == index, 0, rng.integers(less.shape[2], size=n))
        place = (np.arange(less.shape[2]) + shift[:, None]) % less.shape[2]
        added = tiles.texture[source].gather(2, torch.from_numpy(place).to(less.device)[:, None].expand_as(less))
        claim = torch.as_tensor(rng.uniform(CLAIM_OCTAVES, CONTROL_RANGE, n), dtype=torch.float32, device=less.device)

        def with_amount(amount_db: Tensor) -> Tensor:
            return torch.logaddexp(less, added + NEPER_PER_DB * amount_db[:, None, None])

        def reached(amount_db: Tensor) -> Tensor:
            return -audited_octaves(tones, less, with_amount(amount_db), self.bands)

        more = with_amount(solve(reached, claim, -GAME.amount_range_db, GAME.amount_range_db))
        octaves = -audited_octaves(tones, less, more, self.bands)
        good = octaves > CLAIM_OCTAVES / 2  # a tile that is noise already can't get more grain
        good[0] |= ~good.any()
        return Pair(tones[good], less[good], more[good], octaves[good])

    def judge(self, model: GrainModel, pair: Pair, *, solved: bool = False) -> dict[str, Judgement]:
        """Move pairs in both directions and judge the results.

        Parameters
        ----------
        solved : solve the amount for the claim exactly, as rendering does, instead of using the model's own

        Returns
        -------
        dict with the keys "texture" and "smooth"
        """
        judgements = {}
        for name, source, target, claim in (
            ("texture", pair.less, pair.more, -pair.octaves),
            ("smooth", pair.more, pair.less, pair.octaves),
        ):
            own = model(pair.tones, source, claim)
            violation = (audited_octaves(pair.tones, source, own, self.bands) - claim).abs().mean()
            moved = self._solved(model, pair.tones, source, claim) if solved else own
            judgements[name] = Judgement(self._distance(pair.tones, moved, target), violation)
        return judgements

    def _solved(self, model: GrainModel, tones: Tensor, texture: Tensor, claim: Tensor) -> Tensor:
        pattern_db = model.pattern_db(tones, texture, claim)
        sign = -claim.sign()  # of the amount

        def reached(size_db: Tensor) -> Tensor:
            moved = move_texture(texture, pattern_db, sign * size_db)
            return audited_octaves(tones, texture, moved, self.bands).abs()

        return move_texture(texture, pattern_db, sign * solve(reached, claim.abs(), 0.0, GAME.amount_range_db))

    def _distance(self, tones: Tensor, moved: Tensor, target: Tensor) -> Tensor:
        """Mean square difference of the whole sounds in dB, within the audible range."""
        levels = [torch.logaddexp(tones, texture) / NEPER_PER_DB for texture in (moved, target)]
        floor = levels[1].amax((1, 2), keepdim=True) - GAME.audible_db
        return (torch.maximum(levels[0], floor) - torch.maximum(levels[1], floor)).square().mean()


def root_db(judgements: dict[str, Judgement]) -> float:
    """Root of the mean square difference over both directions, in dB."""
    return math.sqrt(float(np.mean([judgement.distance.item() for judgement in judgements.values()])))
