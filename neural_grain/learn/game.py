"""TODO"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.learn.auditor import audited_octaves, band_fractions_column, log2_flatness, renormalise
from neural_grain.learn.dataset import CLAIM_OCTAVES, Tiles
from neural_grain.learn.model import LEAST_SLOPE, SLOPE_STEP, UNIT_PATTERN, GrainModel
from neural_grain.learn.modulation import full_fluctuation
from neural_grain.learn.noise_law import (
    LAW_BATCH,
    LAW_RATE,
    LAW_STARTS,
    LAW_STEPS,
    LAW_TRIAL_STEPS,
    NaturalNoise,
    spread_indices,
)
from neural_grain.learn.settings import CONTROL_RANGE
from neural_grain.learn.team import ALONE, Team

FLATTEST_OCTAVES = 0.2  # no tile is asked for more texture than to within this of flat bands
FREE_SPREAD = 0.1  # of x, 10 dB: of noise that spreads so far about its law, both critics have the same to say
MOVED_TILES = 8  # in each direction, that a step shows to the resemblance critic
LIKE_OCTAVES = 0.5  # natural tiles so near in grain, but so many at least and at most, are what it compares with
LIKE_TILES = (8, 256)
LIKE_KERNEL = 0.002  # square of x, (4.5 dB)^2: tiles further than that from the nearest say little
CONTROL_STEPS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # where the auditor looks for the amount, in claims
BISECTIONS = 8
BARE_STEPS = 0.6  # share of steps in which tiles lose the tones of some bands; the fewer, the more the law is doubted,
LAWFUL_DOUBT = 0.1  # and none from so much on: there they cost 3 % of the distance to real sounds
MORE_NOISE = (0.03, 0.28)  # of x, 3 to 28 dB: by how much the critic's pairs differ


def natural_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Resemblance critic: mean square over bands from each moved picture to the natural ones it resembles most.

    Minus the logarithm of its likelihood under a Gaussian kernel density of them, in units of the kernel.

    Parameters
    ----------
    moved : Tensor, shape (batch, n_mels), means over time
    natural : Tensor, shape (tiles, n_mels)

    Returns
    -------
    Tensor, shape (batch,)
    """
    squares = (moved[:, None] - natural).square().mean(2)
    return LIKE_KERNEL * (math.log(len(natural)) - torch.logsumexp(-squares / LIKE_KERNEL, 1))


@dataclass(frozen=True)
class Moves:
    """What the referees say of the tiles moved in one direction: means over them, as tensors without shape.

    Tiles of which a critic can't tell count 0: there is nothing to learn from them.
    """

    distance: Tensor | None  # square of x: from natural tiles of the grain; None where no tile is far enough from it
    noise_distance: Tensor  # and from the same sound with more, or less, of its noise
    noise_told: Tensor  # share of the tiles of which the noise critic can tell
    violation: Tensor  # octaves

    def scores(self) -> dict[str, float]:
        """The same of the tiles that could be judged; NaN where none could."""
        return {
            "distance": math.nan if self.distance is None else self.distance.item(),
            "noise": (self.noise_distance / self.noise_told).item(),
            "violation": self.violation.item(),
        }


class AuditGame:
    """Moves tiles of a library to other grains and lets the referees judge what the model made of them.

    Parameters
    ----------
    settings : SpectrogramSettings
    natural : Tiles, which the noise critic learns from and the resemblance critic compares with
    seed : int, of the tiles that the noise critic sees; its weights begin as torch's generator has them
    team : Team, whose processes play it together
    """

    def __init__(self, settings: SpectrogramSettings, natural: Tiles, seed: int, team: Team = ALONE):
        self.settings = settings
        self.natural = natural
        self.team = team
        self.shares = band_fractions_column(settings).to(natural.device)
        self.critic = self._learn_noise(natural, np.random.default_rng([seed, 2**31 + 1]))
        team.copy_first(self.critic)
        self.doubt = float(self.critic.usual_spread / FREE_SPREAD) ** 2  # how much is left to the resemblance critic

    def _learn_noise(self, natural: Tiles, rng: np.random.Generator) -> NaturalNoise:
        """Train the critic to its optimum before the game: natural noise does not depend on the model.

        From some starts it loses the law in its first steps, and takes all noise for something else:
        the likeliest of several goes on.
        """
        # MPS knows no log_ndtr: there the critic, which is small, stays on the CPU.
        device = "cpu" if natural.device == "mps" else natural.device
        levels, fluctuations = natural.levels.to(device), natural.fluctuations.to(device)
        full = full_fluctuation(fluctuations)
        starts, some = [], spread_indices(len(levels))
        for _ in range(LAW_STARTS):
            critic = NaturalNoise(self.settings).to(device)
            critic.full_fluctuation.copy_(full)
            optimizer = torch.optim.Adam(critic.parameters(), LAW_RATE)
            self._teach(critic, optimizer, levels, fluctuations, range(LAW_TRIAL_STEPS), rng)
            critic.eval()
            with torch.no_grad():
                starts.append((critic.loss(levels[some], fluctuations[some]).item(), critic, optimizer))
        _, critic, optimizer = min(starts, key=lambda start: start[0])
        self._teach(critic, optimizer, levels, fluctuations, range(LAW_TRIAL_STEPS, LAW_STEPS), rng)
        critic.note_spread(levels, fluctuations)
        return critic.requires_grad_(False).eval()

    @staticmethod
    def _teach(
        critic: NaturalNoise,
        optimizer: torch.optim.Optimizer,
        levels: Tensor,
        fluctuations: Tensor,
        steps: range,
        rng: np.random.Generator,
    ) -> None:
        """Some of the LAW_STEPS of the critic's training."""
        critic.train()
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = LAW_RATE * (1.01 - step / LAW_STEPS)
            index = rng.integers(len(levels), size=LAW_BATCH)
            loss = critic.loss(levels[index], fluctuations[index])
            optimizer.zero_grad()
            loss.backward()
            if step < LAW_STEPS // 4:  # or all that the law does not say yet would pass for something else
                for weight in critic.net[4].parameters():
                    weight.grad[4] = 0
            optimizer.step()

    def log2_flatness(self, x: Tensor) -> Tensor:
        """log2 of the flatness of pictures (batch, n_mels, frames): (batch,)."""
        return log2_flatness(x, self.shares, self.settings.dynamic_range_db)

    def _audited(self, x: Tensor, change: Tensor) -> Tensor:
        settings = self.settings
        return audited_octaves(x, change, self.shares, settings.dynamic_range_db, settings.grain.active_range_db)

    @torch.no_grad()
    def solved(self, x: Tensor, pattern: Tensor, claim: Tensor) -> Tensor:
        """The amount of a pattern that moves grain by the claim, or as far as it goes. Shape (batch,)."""

        def reached(amount: Tensor) -> Tensor:
            return claim.sign() * self._audited(x, pattern * (claim * amount)[:, None, None])

        low, high = torch.zeros_like(claim), torch.zeros_like(claim)
        best, best_reached = torch.zeros_like(claim), torch.zeros_like(claim)
        found = torch.zeros_like(claim, dtype=torch.bool)
        before = torch.zeros_like(claim)
        for step in CONTROL_STEPS:
            amount = torch.full_like(claim, step)
            moved = reached(amount)
            hit = ~found & (moved >= claim.abs())
            low, high, found = torch.where(hit, before, low), torch.where(hit, amount, high), found | hit
            better = ~found & (moved > best_reached)
            best, best_reached = torch.where(better, amount, best), torch.where(better, moved, best_reached)
            before = amount
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            short = reached(middle) < claim.abs()
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return claim * torch.where(found, (low + high) / 2, best)

    def _moved(self, x: Tensor, pattern: Tensor, claim: Tensor) -> Tensor:
        """The picture at just the grain claimed, with the amount that the auditor finds.

        So the critics judge where a change goes; how large it is, the violation judges. The pattern
        is brought to unit size, or it could please the critics by being too weak to move anything.
        """
        shape = UNIT_PATTERN * pattern / pattern.square().mean((1, 2), keepdim=True).clamp(min=1e-12).sqrt()
        amount = self.solved(x, shape.detach(), claim)
        # The amount follows the shape, or the critics would pull at what it puts right (implicit differentiation).
        moved = self._audited(x, shape * amount[:, None, None])
        with torch.no_grad():
            further = self._audited(x, shape * (1.02 * amount)[:, None, None])
            slope = (further - moved) / torch.where(amount.abs() > 1e-3, 0.02 * amount, 1e9)
            gain = torch.where(slope > LEAST_SLOPE, 1 / slope.clamp(min=LEAST_SLOPE), 0.0)
        amount = amount - gain * (moved - moved.detach())
        return renormalise(x, shape * amount[:, None, None], self.shares.log(), self.settings.dynamic_range_db)

    def play(
        self,
        model: GrainModel,
        movers: Tiles,
        batch_size: int,
        rng: np.random.Generator,
        *,
        as_recorded: bool = False,
    ) -> dict[str, Moves]:
        """Move tiles in both directions and let the referees judge them; ``as_recorded`` leaves them all their tones.

        Returns
        -------
        dict with "texture" and "smooth"
        """
        x, fluctuation = movers.crops(batch_size, rng)
        sign = np.where(np.arange(batch_size) % 2, 1, -1)
        claim = torch.as_tensor(rng.uniform(CLAIM_OCTAVES, CONTROL_RANGE, batch_size) * sign, dtype=torch.float32)
        claim = torch.maximum(claim.to(x.device), self.log2_flatness(x) + FLATTEST_OCTAVES)
        more = torch.as_tensor(rng.uniform(*MORE_NOISE, batch_size) * -sign, dtype=torch.float32, device=x.device)
        bare = self._bare_bands(batch_size, rng)
        mine, whole = self.team.share(batch_size), partial(self.team.whole, n=batch_size)
        x, fluctuation, claim, more, bare = (values[mine] for values in (x, fluctuation, claim, more, bare))
        seen = (x, fluctuation)
        if not as_recorded and bare.any():
            seen = self.critic.without_tones(x, fluctuation, bare)
        pattern = model.pattern(seen[0], -more, seen[1])
        noise_distance, is_told = map(whole, self._noise_distance(seen[0], pattern, seen[1], more))
        violation = whole((self._audited(x, model(x, claim, fluctuation)) - claim).abs())
        distances = self._natural_distances(model, movers, rng)
        return {
            name: Moves(
                distances.get(name),
                noise_distance[part::2].mean(),
                is_told[part::2].mean(),
                violation[part::2].mean(),
            )
            for part, name in enumerate(("texture", "smooth"))
        }

    def _bare_bands(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """Bands that are to lose their tones, (batch, n_mels): a span of each tile in some steps, else none.

        If the library's sounds all have tones somewhere, D would not know what noise does there without them.
        """
        bands = np.arange(self.settings.n_mels)
        first, end = np.sort(rng.integers(0, len(bands) + 1, (2, batch_size, 1)), axis=0)
        is_asked = rng.random() < BARE_STEPS * (1 - self.doubt / LAWFUL_DOUBT)
        return torch.as_tensor(is_asked & (first <= bands) & (bands < end), device=self.natural.device)

    def _noise_distance(self, x: Tensor, pattern: Tensor, fluctuation: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square over bands between moved tiles and the same with so much more noise, at its grain: (batch,).

        And 1 where the critic can tell, else 0: (batch,).
        """
        change = self.critic.with_more(x, fluctuation, more)[:, :, None].expand_as(x)
        octaves = self._audited(x, change)
        wanted = renormalise(x, change, self.shares.log(), self.settings.dynamic_range_db)
        moved = self._moved(x, pattern, octaves)
        is_told = (octaves * more < 0) & (octaves.abs() > SLOPE_STEP) & (octaves.abs() < CONTROL_RANGE + 1)
        away = (moved.clamp(0, 1).mean(2) - wanted.clamp(0, 1).mean(2)).square().mean(1)
        return torch.where(is_told, away, 0.0), is_told.float()

    def _natural_distances(self, model: GrainModel, movers: Tiles, rng: np.random.Generator) -> dict[str, Tensor]:
        """Tiles of lower and of higher grain, if there are any, moved to one natural grain and compared with natural tiles of it."""
        grain = movers.log2_grain
        target = float(grain[rng.integers(len(grain))])
        away = np.abs(self.natural.log2_grain - target)
        n_like = np.clip(np.count_nonzero(away <= LIKE_OCTAVES), *LIKE_TILES)
        natural = self.natural.means[np.argsort(away, kind="stable")[:n_like]]
        distances = {}
        for name, sign in (("texture", -1), ("smooth", 1)):
            far = sign * (grain - target)
            candidates = np.flatnonzero((far >= CLAIM_OCTAVES) & (far <= CONTROL_RANGE))
            if len(candidates):
                mine = self.team.share(MOVED_TILES)
                drawn = movers.crops(MOVED_TILES, rng, candidates)
                x, fluctuation = (values[mine] for values in drawn)
                claim = self.log2_flatness(x) - target
                moved = self._moved(x, model.pattern(x, claim, fluctuation), claim)
                away_from_natural = natural_distance(moved.clamp(0, 1).mean(2), natural)
                distances[name] = self.team.whole(away_from_natural, MOVED_TILES).mean()
        return distances
