"""The audit game: tiles of the library are moved to other grains, and three referees judge what the model made of them.

- The auditor measures the violation: by how many octaves the measured change of grain differs from the claimed one.
- The noise critic (`noise_law`) knows how a sound with more or less of its own noise would look. Its distance is the
  mean square difference from that, over bands.
- The resemblance critic compares moved tiles with natural tiles of the same grain (`natural_distance`).

The two critics judge where a pattern changes a sound, and the auditor how much it does. Therefore the critics see
tiles that are moved by exactly the octaves in question, with whatever amount of the pattern that takes.

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

from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.learn.auditor import audited_octaves, band_fractions_column, log2_flatness, renormalise
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import KERNEL, GrainModel
from neural_grain.learn.noise_law import train_noise_law
from neural_grain.learn.settings import CLAIM_OCTAVES, CONTROL_RANGE


@dataclass(frozen=True)
class GameSettings:
    """What is asked of the model, and how the amount of a pattern is found. Levels are in units of x (0.01 is 1 dB)."""

    flattest_octaves: float = 0.2  # no tile is asked to come nearer to a flat spectrum than this
    noise_range: tuple[float, float] = (0.03, 0.28)  # by which the noise critic's pairs differ, in either direction
    free_spread: float = 0.1  # spread of the noise around its law at which both critics get the same weight
    bare_share: float = 0.6  # of the steps in which tiles lose the tones of some bands, if the law holds exactly
    max_bare_weight: float = 0.1  # resemblance weight from which on none do: there it made results 3 % worse
    amount_grid: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # in claims; brackets the amount
    bisections: int = 8  # of the bracket: to within 1 % of a claim
    implicit_step: float = 0.02  # relative change of the amount with which the slope of grain is measured


@dataclass(frozen=True)
class ResemblanceSettings:
    """What the resemblance critic compares."""

    moved_tiles: int = 8  # in each direction and step
    near_octaves: float = 0.5  # natural tiles that are this near in grain are compared with
    min_tiles: int = 8  # the nearest ones are taken if there are fewer
    max_tiles: int = 256  # bounds the time of a step
    kernel: float = 0.002  # variance of the kernel, (4.5 dB)^2: tiles further than that have little weight


GAME = GameSettings()
RESEMBLANCE = ResemblanceSettings()


@dataclass(frozen=True)
class Judgement:
    """What the referees say of the tiles that were moved in one direction: means over tiles, tensors without shape.

    Tiles that the noise critic can't judge count as distance 0, so that they have no gradient.
    """

    natural_distance: Tensor | None  # square of x; None if no tile is far enough from the grain in question
    noise_distance: Tensor  # square of x
    noise_judged_share: Tensor  # of the tiles that the noise critic can judge
    violation: Tensor  # octaves

    def scores(self) -> dict[str, float]:
        """Means over the tiles that could be judged; NaN if none could."""
        return {
            "distance": math.nan if self.natural_distance is None else self.natural_distance.item(),
            "noise": (self.noise_distance / self.noise_judged_share).item(),
            "violation": self.violation.item(),
        }


class NoiseJudgement(NamedTuple):
    """What the noise critic says of each tile."""

    distance: Tensor  # (batch,), square of x; 0 for tiles that it can't judge
    is_judged: Tensor  # (batch,), 1 or 0


def natural_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """The resemblance critic: mean square over bands from moved tiles to the natural tiles that they resemble most.

    It is minus the log likelihood under a Gaussian kernel density of the natural tiles, in units of the kernel.

    Parameters
    ----------
    moved : Tensor, shape (batch, n_mels), means over time
    natural : Tensor, shape (tiles, n_mels)

    Returns
    -------
    Tensor, shape (batch,)
    """
    squares = (moved[:, None] - natural).square().mean(2)
    return RESEMBLANCE.kernel * (math.log(len(natural)) - torch.logsumexp(-squares / RESEMBLANCE.kernel, 1))


def tiles_of_grain(natural: Tiles, log2_grain: float) -> Tensor:
    """Means over time of the natural tiles that are nearest to a grain: (tiles, n_mels)."""
    distance = np.abs(natural.log2_grain - log2_grain)
    n_near = np.count_nonzero(distance <= RESEMBLANCE.near_octaves)
    n_tiles = np.clip(n_near, RESEMBLANCE.min_tiles, RESEMBLANCE.max_tiles)
    return natural.means[np.argsort(distance, kind="stable")[:n_tiles]]


def solve_amount(octaves_at: Callable[[Tensor], Tensor], claim: Tensor) -> Tensor:
    """The smallest amount that moves grain by the claim, or the amount that comes nearest if none does.

    A grid of amounts brackets the solution, because grain may turn back at large amounts; bisection refines it.

    Parameters
    ----------
    octaves_at : function from amounts (batch,) to octaves (batch,)
    claim : Tensor, shape (batch,), octaves; amounts have its sign

    Returns
    -------
    Tensor, shape (batch,)
    """

    def reached(share: Tensor) -> Tensor:
        return claim.sign() * octaves_at(claim * share)

    low, high, before = torch.zeros_like(claim), torch.zeros_like(claim), torch.zeros_like(claim)
    best, best_reached = torch.zeros_like(claim), torch.zeros_like(claim)
    found = torch.zeros_like(claim, dtype=torch.bool)
    for step in GAME.amount_grid:
        share = torch.full_like(claim, step)
        moved = reached(share)
        hit = ~found & (moved >= claim.abs())
        low, high, found = torch.where(hit, before, low), torch.where(hit, share, high), found | hit
        better = ~found & (moved > best_reached)
        best, best_reached = torch.where(better, share, best), torch.where(better, moved, best_reached)
        before = share
    for _ in range(GAME.bisections):
        middle = (low + high) / 2
        short = reached(middle) < claim.abs()
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return claim * torch.where(found, (low + high) / 2, best)


class AuditGame:
    """Moves tiles of a library to other grains and lets the referees judge what a model made of them.

    The noise critic is trained first: natural noise does not depend on the model.

    Parameters
    ----------
    settings : SpectrogramSettings
    natural : Tiles, which the noise critic learns from and the resemblance critic compares with
    seed : int, of the batches that the noise critic sees; its weights start from torch's generator
    """

    def __init__(self, settings: SpectrogramSettings, natural: Tiles, seed: int):
        self.settings = settings
        self.natural = natural
        self.fractions = band_fractions_column(settings).to(natural.device)
        # MPS has no log_ndtr; the critic is small enough for the CPU.
        device = "cpu" if natural.device == "mps" else natural.device
        rng = np.random.default_rng([seed, 2**31 + 1])
        self.critic = train_noise_law(settings, natural.levels.to(device), natural.fluctuations.to(device), rng)
        # The less exactly the library's noise follows a law, the more the resemblance critic counts.
        self.resemblance_weight = float(self.critic.typical_spread / GAME.free_spread) ** 2

    def log2_flatness(self, x: Tensor) -> Tensor:
        """log2 of the flatness of pictures (batch, n_mels, frames): (batch,)."""
        return log2_flatness(x, self.fractions, self.settings.dynamic_range_db)

    def octaves(self, x: Tensor, change: Tensor) -> Tensor:
        """Octaves by which a change lowers the grain of pictures, as the auditor measures it: (batch,)."""
        settings = self.settings
        return audited_octaves(x, change, self.fractions, settings.dynamic_range_db, settings.grain.active_range_db)

    def apply(self, x: Tensor, change: Tensor) -> Tensor:
        """Pictures after a change, with the energy over time that they had before: (batch, n_mels, frames)."""
        return renormalise(x, change, self.fractions.log(), self.settings.dynamic_range_db)

    @torch.no_grad()
    def solve_amount(self, x: Tensor, pattern: Tensor, claim: Tensor) -> Tensor:
        """The amount of a pattern that moves the grain of pictures by the claim, or as far as it goes: (batch,)."""
        return solve_amount(lambda amount: self.octaves(x, pattern * amount[:, None, None]), claim)

    def judge_batch(
        self,
        model: GrainModel,
        tiles: Tiles,
        batch_size: int,
        rng: np.random.Generator,
        *,
        keep_tones: bool = False,
    ) -> dict[str, Judgement]:
        """Move random crops of tiles in both directions and judge the results.

        Parameters
        ----------
        model : GrainModel
        tiles : Tiles, which are moved
        batch_size : int >= 2, half of it is moved in each direction
        rng : np.random.Generator, of all draws
        keep_tones : judge the tiles as they are; by default some lose their tones in some bands

        Returns
        -------
        dict with the keys "texture" and "smooth"
        """
        x, fluctuation = tiles.crops(batch_size, rng)
        sign = np.where(np.arange(batch_size) % 2, 1, -1)
        claim = torch.as_tensor(rng.uniform(CLAIM_OCTAVES, CONTROL_RANGE, batch_size) * sign, dtype=torch.float32)
        claim = torch.maximum(claim.to(x.device), self.log2_flatness(x) + GAME.flattest_octaves)
        more = rng.uniform(*GAME.noise_range, batch_size) * -sign
        more = torch.as_tensor(more, dtype=torch.float32, device=x.device)
        bare = self._draw_bare_bands(batch_size, rng)
        bared = (x, fluctuation)
        if not keep_tones and bare.any():
            bared = self.critic.without_tones(x, fluctuation, bare)
        noise = self._noise_distance(model, *bared, more)
        violation = (self.octaves(x, model(x, claim, fluctuation)) - claim).abs()
        distances = self._natural_distances(model, tiles, rng)
        return {
            direction: Judgement(
                distances.get(direction),
                noise.distance[first::2].mean(),
                noise.is_judged[first::2].mean(),
                violation[first::2].mean(),
            )
            for first, direction in enumerate(("texture", "smooth"))
        }

    def _draw_bare_bands(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """The bands that lose their tones, (batch, n_mels): in some steps a random span for each tile, otherwise none.

        Where all of the library's sounds have tones, D would otherwise never see what noise does without them.
        """
        bands = np.arange(self.settings.n_mels)
        first, end = np.sort(rng.integers(0, len(bands) + 1, (2, batch_size, 1)), axis=0)
        share = GAME.bare_share * (1 - self.resemblance_weight / GAME.max_bare_weight)
        is_bare = rng.random() < share
        return torch.as_tensor(is_bare & (first <= bands) & (bands < end), device=self.natural.device)

    def _noise_distance(self, model: GrainModel, x: Tensor, fluctuation: Tensor, more: Tensor) -> NoiseJudgement:
        """Compare moved tiles with the same sounds with more or less of their noise, at the same grain.

        Parameters
        ----------
        x, fluctuation : Tensor, shapes (batch, n_mels, frames) and (batch, n_mels)
        more : Tensor, shape (batch,), change of the amount of noise
        """
        pattern = model.pattern(x, -more, fluctuation)
        change = self.critic.level_change(x, fluctuation, more)[:, :, None].expand_as(x)
        octaves = self.octaves(x, change)
        expected = self.apply(x, change)
        moved = self._move(x, pattern, octaves)
        # Nothing can be said where more noise does not raise grain, or hardly, or beyond what the model is asked for.
        is_judged = (octaves * more < 0) & (octaves.abs() > KERNEL.slope_step) & (octaves.abs() < CONTROL_RANGE + 1)
        distance = (moved.clamp(0, 1).mean(2) - expected.clamp(0, 1).mean(2)).square().mean(1)
        return NoiseJudgement(torch.where(is_judged, distance, 0.0), is_judged.float())

    def _natural_distances(self, model: GrainModel, tiles: Tiles, rng: np.random.Generator) -> dict[str, Tensor]:
        """Move tiles to one random grain of theirs and compare them with natural tiles of that grain.

        Returns
        -------
        dict with "texture" if there are tiles of a lower grain, and "smooth" if there are tiles of a higher one
        """
        target = float(tiles.log2_grain[rng.integers(len(tiles.log2_grain))])
        natural = tiles_of_grain(self.natural, target)
        distances = {}
        for direction, sign in (("texture", -1), ("smooth", 1)):
            octaves = sign * (tiles.log2_grain - target)
            candidates = np.flatnonzero((octaves >= CLAIM_OCTAVES) & (octaves <= CONTROL_RANGE))
            if len(candidates):
                x, fluctuation = tiles.crops(RESEMBLANCE.moved_tiles, rng, candidates)
                claim = self.log2_flatness(x) - target
                moved = self._move(x, model.pattern(x, claim, fluctuation), claim)
                distances[direction] = natural_distance(moved.clamp(0, 1).mean(2), natural).mean()
        return distances

    def _move(self, x: Tensor, pattern: Tensor, claim: Tensor) -> Tensor:
        """Move pictures along a pattern by exactly the claimed octaves, with gradients for the pattern.

        The pattern is scaled to unit size first. Otherwise it could please the critics by being too weak to move
        anything.
        """
        shape = KERNEL.unit_pattern * pattern / pattern.square().mean((1, 2), keepdim=True).clamp(min=1e-12).sqrt()
        amount = self.solve_amount(x, shape.detach(), claim)
        # The solved amount depends on the shape. Its gradient is added by implicit differentiation, so that the
        # critics do not push the shape in a direction that the amount would undo.
        moved = self.octaves(x, shape * amount[:, None, None])
        with torch.no_grad():
            step = GAME.implicit_step * amount
            further = self.octaves(x, shape * ((1 + GAME.implicit_step) * amount)[:, None, None])
            slope = (further - moved) / torch.where(amount.abs() > 1e-3, step, 1e9)
            gain = torch.where(slope > KERNEL.min_slope, 1 / slope.clamp(min=KERNEL.min_slope), 0.0)
        amount = amount - gain * (moved - moved.detach())
        return self.apply(x, shape * amount[:, None, None])
