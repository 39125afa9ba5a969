"""The noise critic: how loud the noise in each band is in the library's sounds, and how it rises with their amount.

Every natural tile has an unknown amount a of the library's noise (in units of the picture, so 0.01 is 1 dB). The
law of band k is

    noise power_k(a) = exp(base_k + slope_k a) + exp(stationary_k)

A small network predicts base, slope and stationary noise, the spread around the law, and the odds that a
measurement is an outlier, from the band's frequency and the levels of the tones near it. It is trained by maximum
likelihood on the noise that `modulation` measures, with the likeliest amount for each tile. Noise that lies below
the bottom of the picture counts as "at most there", as in Tobin, "Estimation of relationships for limited
dependent variables", Econometrica 26 (1958).

In: levels and fluctuations of tiles, (tiles, n_mels). Out: a trained `NaturalNoise`, which predicts how a sound
with more or less of its noise would look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import band_fractions_column
from neural_grain.learn.modulation import MODULATION, full_fluctuation, mean_level, noise_share


@dataclass(frozen=True)
class NoiseLawSettings:
    """How the law is trained and evaluated. Levels, spreads and amounts are in units of the picture (0.01 is 1 dB)."""

    steps: int = 800  # of training, after which the likelihood no longer improves
    batch_size: int = 32
    learning_rate: float = 1e-2  # at the first step; it falls linearly to 1 % of it
    width: int = 32  # of the two hidden layers
    starts: int = 3  # one start in thirty took all noise for outliers
    trial_steps: int = 100  # of each start; by then a start that found no law has a lower likelihood
    no_outlier_share: float = 0.25  # of the steps; otherwise what the law does not explain yet becomes an outlier
    slope_weight: float = 0.02  # of the prior that noise rises equally in all bands
    mean_amount_rate: float = 0.2  # at which the mean amount follows the batches
    tone_reach_bands: tuple[int, ...] = (2, 6, 16, 40)  # distances within which the loudest tone is an input
    tone_noise_share: float = 0.7  # bands with a larger share of noise hold no tone
    spread_tiles: int = 256  # enough to measure how well the law holds

    share_spread: float = 0.01  # error of a measured share of noise
    min_spread: float = 0.01  # the law is never believed to be more exact than this
    fluctuation_spread_neper: float = 0.25  # 0.17 by chance; noise need not be exactly Gaussian either
    outlier_range: float = 0.6  # outliers are anywhere within 60 dB
    share_steps: int = 80  # of outlier_range: the grid of shares of noise
    amount_grids: tuple[tuple[float, int], ...] = ((1.0, 21), (0.08, 9))  # reach and points: coarse, then fine
    amount_spread: float = 1.5  # of the prior of the amount, so wide that the amount is nearly free


NOISE_LAW = NoiseLawSettings()


class NoiseLaw(NamedTuple):
    """The law of the noise in each band of some tiles; all fields have the shape (batch, n_mels)."""

    base: Tensor  # level of the noise at amount 0
    slope: Tensor  # rise of that level with the amount, 0 to 2
    stationary: Tensor  # level of the noise that does not depend on the amount
    spread: Tensor  # standard deviation of measured levels around the law
    outlier_logit: Tensor  # log odds that a measurement does not follow the law


class SoundEstimate(NamedTuple):
    """What the critic infers about sounds."""

    law: NoiseLaw
    amount: Tensor  # (batch, 1), of noise
    share: Tensor  # (batch, n_mels), of noise in the power of each band


class BareTiles(NamedTuple):
    """Tiles whose tones were removed in some bands."""

    x: Tensor  # (batch, n_mels, frames)
    fluctuation: Tensor  # (batch, n_mels)


def evenly_spaced_tiles(n: int) -> Tensor:
    """Indices of at most ``spread_tiles`` of ``n`` tiles, evenly spaced."""
    return torch.linspace(0, n - 1, min(n, NOISE_LAW.spread_tiles)).long()


class NaturalNoise(nn.Module):
    """The noise critic.

    Parameters
    ----------
    settings : SpectrogramSettings
    """

    def __init__(self, settings: SpectrogramSettings):
        super().__init__()
        self.dynamic_range_db = settings.dynamic_range_db
        self.neper = NEPER_PER_DB * settings.dynamic_range_db  # nepers of power in one unit of the picture
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels), persistent=False)
        self.register_buffer("log_fractions", band_fractions_column(settings)[:, 0].log(), persistent=False)
        self.register_buffer("typical_spread", torch.tensor(0.0))
        # The origin of the amounts is not identifiable, so their mean is tracked and serves as the origin.
        self.register_buffer("mean_amount", torch.tensor(0.0))
        self.register_buffer("full_fluctuation", torch.ones(settings.n_mels))
        # Prior of the share of noise: a band is as likely all noise (the first entry) as that it holds a tone,
        # whose level may be anything within outlier_range.
        n_steps = NOISE_LAW.share_steps
        steps = torch.linspace(0, NOISE_LAW.outlier_range, n_steps + 1)
        shares = (-self.neper * (steps[1:] + steps[:-1]) / 2).exp()
        self.register_buffer("possible_shares", torch.cat((torch.ones(1), shares)), persistent=False)
        weights = 1 / n_steps / (1 - shares)  # the level of the tone changes that much faster than the noise's
        self.register_buffer("possible_weights", torch.cat((torch.ones(1), weights)), persistent=False)
        self.net = nn.Sequential(
            nn.Linear(2 + len(NOISE_LAW.tone_reach_bands), NOISE_LAW.width),
            nn.SiLU(),
            nn.Linear(NOISE_LAW.width, NOISE_LAW.width),
            nn.SiLU(),
            nn.Linear(NOISE_LAW.width, len(NoiseLaw._fields)),
        )
        with torch.no_grad():  # start: noise 50 dB below the mean power of a bin, hardly any of it stationary
            self.net[4].weight.mul_(0.3)
            self.net[4].bias.copy_(torch.tensor([0.5, 0.0, 0.0, -2.5, -2.0]))

    def noise_level(self, level: Tensor, fluctuation: Tensor) -> Tensor:
        """Measured level of the noise in each band: (batch, n_mels), from levels and fluctuations of that shape."""
        return level + noise_share(fluctuation, self.full_fluctuation).log() / self.neper

    def forward(self, level: Tensor, fluctuation: Tensor) -> NoiseLaw:
        """Predict the law of tiles.

        The network predicts levels relative to the sound's energy. The distance of the energy from the loudest
        band, which is 1 in the picture, differs from chord to chord; relative to the loudest band, stationary
        noise would appear to vary.

        Parameters
        ----------
        level, fluctuation : Tensor, shape (batch, n_mels)
        """
        energy = torch.logsumexp(self.neper * (level - 1) + self.log_fractions, 1, keepdim=True) / self.neper
        share = noise_share(fluctuation, self.full_fluctuation)
        is_tone = share < NOISE_LAW.tone_noise_share
        tones = (level - energy + (1 - share).clamp(min=1e-3).log() / self.neper).clamp(min=0) * is_tone
        loudest = [F.max_pool1d(tones[:, None], 2 * n + 1, 1, n)[:, 0] for n in NOISE_LAW.tone_reach_bands]
        frequency = self.frequency.expand_as(level)
        inputs = torch.stack((frequency, frequency.square(), *loudest), 2)
        base, slope, stationary, log_spread, outlier_logit = self.net(inputs).unbind(2)
        return NoiseLaw(
            base=base + energy,
            slope=2 * slope.sigmoid(),
            stationary=stationary + energy,
            spread=log_spread.clamp(-4.2, 0).exp(),  # 1.5 to 100 dB: an exact law would have an infinite likelihood
            outlier_logit=outlier_logit.clamp(-6, 3),  # 0.2 to 95 % of the measurements
        )

    def level_at(self, law: NoiseLaw, amount: Tensor) -> Tensor:
        """Level of the noise that the law predicts for an amount (batch, 1): (batch, n_mels)."""
        rising = self.neper * (law.base + law.slope * amount)
        return torch.logaddexp(rising, self.neper * law.stationary) / self.neper

    def log_likelihood(self, law: NoiseLaw, amount: Tensor, noise: Tensor) -> Tensor:
        """Log likelihood of measured levels of noise, each band by itself."""
        is_below_picture = noise <= 0
        z = (noise.clamp(min=0) - self.level_at(law, amount)) / law.spread
        below = torch.special.log_ndtr(z)
        lawful = F.logsigmoid(-law.outlier_logit) - 0.5 * z.square() - law.spread.log() - 0.5 * math.log(2 * math.pi)
        # In an outlier something else is louder than the noise, whose own level may be anywhere below it.
        outlier = F.logsigmoid(law.outlier_logit) - math.log(NOISE_LAW.outlier_range) + below
        return torch.where(is_below_picture, below, torch.logaddexp(lawful, outlier))

    @torch.no_grad()
    def amount(self, law: NoiseLaw, noise: Tensor) -> Tensor:
        """The likeliest amount of noise of each tile: (batch, 1), found on a coarse and then on a fine grid."""
        wide = NoiseLaw(*(values[..., None] for values in law))
        best = self.mean_amount.expand(len(noise), 1)
        for reach, n_points in NOISE_LAW.amount_grids:
            amounts = best + torch.linspace(-reach, reach, n_points, device=noise.device)  # (batch, n_points)
            log_likelihood = self.log_likelihood(wide, amounts[:, None], noise[..., None]).mean(1)
            log_prior = 0.5 * ((amounts - self.mean_amount) / NOISE_LAW.amount_spread).square()
            likeliest = (log_likelihood - log_prior).argmax(1, keepdim=True)
            best = amounts.gather(1, likeliest)
        return best

    def loss(self, level: Tensor, fluctuation: Tensor) -> Tensor:
        """Minus the mean log likelihood of natural tiles, plus a prior for slopes of 1; in training it tracks `mean_amount`."""
        noise, law = self.noise_level(level, fluctuation), self(level, fluctuation)
        amount = self.amount(law, noise)
        if self.training:
            self.mean_amount.lerp_(amount.mean(), NOISE_LAW.mean_amount_rate)
        log_likelihood = self.log_likelihood(law, amount, noise)
        return NOISE_LAW.slope_weight * (law.slope - 1).square().mean() - log_likelihood.mean()

    @torch.no_grad()
    def measure_typical_spread(self, levels: Tensor, fluctuations: Tensor) -> None:
        """Store in ``typical_spread`` how exactly the law holds: the root of the harmonic mean of squared spreads."""
        chosen = evenly_spaced_tiles(len(levels))
        law = self(levels[chosen], fluctuations[chosen])
        self.typical_spread.copy_(law.spread.pow(-2).mean().rsqrt())

    def share(self, law: NoiseLaw, predicted: Tensor, level: Tensor, fluctuation: Tensor) -> Tensor:
        """Expected share of noise in each band, given both the law and the measurement.

        By Bayes' rule, for each possible share: the law says how likely a noise of that level is, and the
        measurement says how likely the observed fluctuation is. The result is the geometric mean of the
        posterior.

        Parameters
        ----------
        law : NoiseLaw
        predicted : Tensor, shape (batch, n_mels), the law's level of the noise, `level_at`
        level, fluctuation : Tensor, shape (batch, n_mels), measured

        Returns
        -------
        Tensor, shape (batch, n_mels), > 0, <= 1
        """
        shares, noise = self.possible_shares, level[..., None] + self.possible_shares.log() / self.neper
        spread = (law.spread.square() - NOISE_LAW.share_spread**2).clamp(min=NOISE_LAW.min_spread**2).sqrt()
        log_law = -0.5 * ((noise - predicted[..., None]) / spread[..., None]).square()
        log_measurement = self._log_likelihood_of_shares(law, fluctuation)
        posterior = (self.possible_weights.log() + log_law + log_measurement).softmax(2)
        return (posterior * shares.log()).sum(2).exp()

    def _log_likelihood_of_shares(self, law: NoiseLaw, fluctuation: Tensor) -> Tensor:
        """Log likelihood of a fluctuation for each possible share of noise: (batch, n_mels, shares)."""
        shares, spread = self.possible_shares, NOISE_LAW.fluctuation_spread_neper
        min_share = MODULATION.min_noise_share
        measured = torch.minimum(fluctuation, self.full_fluctuation).clamp(min=min_share).log()[..., None]
        expected = (shares * (2 + (self.full_fluctuation[:, None] - 2) * shares)).log()
        z = (measured - expected) / spread
        log_density = -0.5 * z.square() - math.log(spread * math.sqrt(2 * math.pi))
        outlier_log_density = -math.log(-math.log(min_share))  # uniform over the logarithm of the fluctuation
        return torch.logaddexp(
            F.logsigmoid(-law.outlier_logit)[..., None] + log_density,
            F.logsigmoid(law.outlier_logit)[..., None] + outlier_log_density,
        )

    def estimate(self, x: Tensor, fluctuation: Tensor) -> SoundEstimate:
        """Infer the law, the amount and the share of noise of pictures (batch, n_mels, frames)."""
        level = mean_level(x, self.dynamic_range_db)
        law = self(level, fluctuation)
        amount = self.amount(law, self.noise_level(level, fluctuation))
        return SoundEstimate(law, amount, self.share(law, self.level_at(law, amount), level, fluctuation))

    @torch.no_grad()
    def without_tones(self, x: Tensor, fluctuation: Tensor, bare: Tensor) -> BareTiles:
        """Remove the tones of some bands from pictures.

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        fluctuation : Tensor, shape (batch, n_mels)
        bare : Tensor of bool, shape (batch, n_mels), the bands that keep their noise alone
        """
        device = self.frequency.device
        share = self.estimate(x.to(device), fluctuation.to(device)).share.to(x.device)
        lower = torch.where(bare, share.log() / self.neper, 0.0)
        full = self.full_fluctuation.to(x.device)
        return BareTiles((x + lower[:, :, None]).clamp(min=0), torch.where(bare, full, fluctuation))

    @torch.no_grad()
    def level_change(self, x: Tensor, fluctuation: Tensor, more: Tensor) -> Tensor:
        """Change of each band's level if sounds had more or less of their own noise.

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        fluctuation : Tensor, shape (batch, n_mels), of these pictures or of longer parts of the same sounds
        more : Tensor, shape (batch,), added to the amount; negative for less noise

        Returns
        -------
        Tensor, shape (batch, n_mels)
        """
        device = self.frequency.device
        law, amount, share = self.estimate(x.to(device), fluctuation.to(device))
        rise = self.level_at(law, amount + more.to(device)[:, None]) - self.level_at(law, amount)
        power = 1 + share * torch.expm1(self.neper * rise)
        change = power.clamp(min=MODULATION.min_noise_share).log() / self.neper
        return change.to(x.device)


def train_noise_law(
    settings: SpectrogramSettings, levels: Tensor, fluctuations: Tensor, rng: np.random.Generator
) -> NaturalNoise:
    """Train the noise critic on natural tiles; its weights start from torch's generator.

    From some starts the critic takes all noise for outliers and never finds the law, so several starts are tried
    and the one with the highest likelihood is trained to the end.

    Parameters
    ----------
    settings : SpectrogramSettings
    levels, fluctuations : Tensor, shape (tiles, n_mels)
    rng : np.random.Generator, draws the batches

    Returns
    -------
    NaturalNoise, in evaluation mode, whose weights need no gradients
    """
    full = full_fluctuation(fluctuations)
    trials, chosen = [], evenly_spaced_tiles(len(levels))
    for _ in range(NOISE_LAW.starts):
        critic = NaturalNoise(settings).to(levels.device)
        critic.full_fluctuation.copy_(full)
        optimizer = torch.optim.Adam(critic.parameters(), NOISE_LAW.learning_rate)
        train_steps(critic, optimizer, levels, fluctuations, range(NOISE_LAW.trial_steps), rng)
        critic.eval()
        with torch.no_grad():
            trials.append((critic.loss(levels[chosen], fluctuations[chosen]).item(), critic, optimizer))
    _, critic, optimizer = min(trials, key=lambda trial: trial[0])
    train_steps(critic, optimizer, levels, fluctuations, range(NOISE_LAW.trial_steps, NOISE_LAW.steps), rng)
    critic.measure_typical_spread(levels, fluctuations)
    return critic.requires_grad_(False).eval()


def train_steps(
    critic: NaturalNoise,
    optimizer: torch.optim.Optimizer,
    levels: Tensor,
    fluctuations: Tensor,
    steps: range,
    rng: np.random.Generator,
) -> None:
    """Run a part of the critic's training; ``steps`` are numbers of steps in the whole of it."""
    critic.train()
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = NOISE_LAW.learning_rate * (1.01 - step / NOISE_LAW.steps)
        index = rng.integers(len(levels), size=NOISE_LAW.batch_size)
        loss = critic.loss(levels[index], fluctuations[index])
        optimizer.zero_grad()
        loss.backward()
        if step < NOISE_LAW.steps * NOISE_LAW.no_outlier_share:
            output = NoiseLaw._fields.index("outlier_logit")
            for weight in critic.net[4].parameters():
                weight.grad[output] = 0
        optimizer.step()
