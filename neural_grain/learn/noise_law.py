"""TODO"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import band_fractions_column
from neural_grain.learn.modulation import LEAST_SHARE, mean_level, noise_share

LAW_STEPS, LAW_BATCH, LAW_RATE, LAW_WIDTH = 800, 32, 1e-2, 32
LAW_STARTS, LAW_TRIAL_STEPS = 3, 100  # of one start in thirty no law was found; it is seen by then
TONE_REACH_BANDS = (2, 6, 16, 40)  # how far to either side the critic looks for tones
SHARE_SPREAD = 0.01  # of x, 1 dB: how well a share of noise is measured
LEAST_SPREAD = 0.01  # of x, 1 dB: no law of noise is thought better than that
FLUCTUATION_SPREAD = 0.25  # nepers: chance in the fluctuation of a tile's bands is 0.17, and noise need not be Gaussian
SHARE_STEPS = 80  # of STRAY_RANGE, in which the critic looks for a share
AMOUNT_GRIDS = ((1.0, 21), (0.08, 9))  # of a sound's own noise, of x, to either side: all, then around the best
AMOUNT_SPREAD = 1.5  # of x, so wide that the amount is nearly free
STEADY_SLOPE = 0.02  # how much the critic believes that noise rises by as much in all bands
STRAY_RANGE = 0.6  # of x, 60 dB: where measurements lie that are not of this noise
SPREAD_TILES = 256  # are enough to tell how well the law holds


def spread_indices(n: int) -> Tensor:
    """Some of ``n`` tiles, SPREAD_TILES at most, evenly spread."""
    return torch.linspace(0, n - 1, min(n, SPREAD_TILES)).long()


class NaturalNoise(nn.Module):
    """Critic: how loud the noise of each band is in natural tiles, and how it rises when a sound has more of it.

    A small network says it from the frequency and from how loud the tones around are: noise of
    the library's kind, which rises by a slope times the sound's own amount, over noise that stands
    still; the spread of both, and how often what is measured is something else. It is trained by
    likelihood on the noise that can be measured; where there is less than can be, the likelihood is
    that of there being less (Tobin, "Estimation of relationships for limited dependent
    variables", Econometrica 26, 1958). Each tile's amount is the likeliest.

    Parameters
    ----------
    settings : SpectrogramSettings
    """

    def __init__(self, settings: SpectrogramSettings):
        super().__init__()
        self.dynamic_range_db = settings.dynamic_range_db
        self.neper = NEPER_PER_DB * settings.dynamic_range_db  # of one unit of x
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels), persistent=False)
        self.register_buffer("log_shares", band_fractions_column(settings)[:, 0].log(), persistent=False)
        self.register_buffer("usual_spread", torch.tensor(0.0))
        self.register_buffer("middle", torch.tensor(0.0))  # of the library's amounts: they may count from anywhere
        self.register_buffer("full_fluctuation", torch.ones(settings.n_mels))  # of the library
        # A band is as likely all noise (the first) as that it holds a tone, whose level may be any in STRAY_RANGE.
        steps = torch.linspace(0, STRAY_RANGE, SHARE_STEPS + 1)
        shares = (-self.neper * (steps[1:] + steps[:-1]) / 2).exp()
        self.register_buffer("possible_shares", torch.cat((torch.ones(1), shares)), persistent=False)
        weights = 1 / SHARE_STEPS / (1 - shares)  # the level of the tone moves so much faster than that of the noise
        self.register_buffer("possible_weights", torch.cat((torch.ones(1), weights)), persistent=False)
        self.net = nn.Sequential(
            nn.Linear(2 + len(TONE_REACH_BANDS), LAW_WIDTH),
            nn.SiLU(),
            nn.Linear(LAW_WIDTH, LAW_WIDTH),
            nn.SiLU(),
            nn.Linear(LAW_WIDTH, 5),
        )
        with torch.no_grad():  # at first: noise 50 dB under the mean power of a bin, hardly any that stands still
            self.net[4].weight.mul_(0.3)
            self.net[4].bias.copy_(torch.tensor([0.5, 0.0, 0.0, -2.5, -2.0]))

    def forward(self, level: Tensor, fluctuation: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The noise measured in bands, and the law of it.

        The network says levels under the sound's energy: how far that is from the loudest band differs
        by chord, and noise that stands still would seem to vary.

        Parameters
        ----------
        level, fluctuation : Tensor, shape (batch, n_mels)

        Returns
        -------
        Tensor, shape (batch, n_mels), level of the noise
        tuple of five of that shape: noise at amount 0, slope, noise that stands still, spread, log odds of something else
        """
        energy = torch.logsumexp(self.neper * (level - 1) + self.log_shares, 1, keepdim=True) / self.neper
        share = noise_share(fluctuation, self.full_fluctuation)
        tones = (level - energy + (1 - share).clamp(min=1e-3).log() / self.neper).clamp(min=0) * (share < 0.7)
        loudest = [F.max_pool1d(tones[:, None], 2 * reach + 1, 1, reach)[:, 0] for reach in TONE_REACH_BANDS]
        frequency = self.frequency.expand_as(level)
        inputs = torch.stack((frequency, frequency.square(), *loudest), 2)
        base, slope, still, log_spread, stray = self.net(inputs).unbind(2)
        law = base + energy, 2 * slope.sigmoid(), still + energy, log_spread.clamp(-4.2, 0).exp(), stray.clamp(-6, 3)
        return level + share.log() / self.neper, law

    def level_at(self, law: tuple[Tensor, ...], amount: Tensor) -> Tensor:
        """The noise at an amount, (batch, n_mels)."""
        return torch.logaddexp(self.neper * (law[0] + law[1] * amount), self.neper * law[2]) / self.neper

    def likelihood(self, law: tuple[Tensor, ...], amount: Tensor, noise: Tensor) -> Tensor:
        """Logarithm of the likelihood of what was measured."""
        _, _, _, spread, stray = law
        is_less = noise <= 0
        z = (noise.clamp(min=0) - self.level_at(law, amount)) / spread
        below = torch.special.log_ndtr(z)
        gaussian = F.logsigmoid(-stray) - 0.5 * z.square() - spread.log() - 0.5 * math.log(2 * math.pi)
        either = torch.logaddexp(gaussian, F.logsigmoid(stray) - math.log(STRAY_RANGE) + below)
        return torch.where(is_less, below, either)

    @torch.no_grad()
    def amount(self, law: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """The likeliest amount of noise of each tile, (batch, 1)."""
        wide = tuple(values[..., None] for values in law)
        best = self.middle.expand(len(noise), 1)
        for reach, n_steps in AMOUNT_GRIDS:
            amounts = best + torch.linspace(-reach, reach, n_steps, device=noise.device)  # (batch, n_steps)
            likelihood = self.likelihood(wide, amounts[:, None], noise[..., None]).mean(1)
            likeliest = (likelihood - 0.5 * ((amounts - self.middle) / AMOUNT_SPREAD).square()).argmax(1, keepdim=True)
            best = amounts.gather(1, likeliest)
        return best

    @torch.no_grad()
    def note_spread(self, levels: Tensor, fluctuations: Tensor) -> None:
        """Keep in ``usual_spread`` how far noise is from its law: root of the harmonic mean of the squares."""
        some = spread_indices(len(levels))
        _, law = self(levels[some], fluctuations[some])
        self.usual_spread.copy_(law[3].pow(-2).mean().rsqrt())

    def loss(self, level: Tensor, fluctuation: Tensor) -> Tensor:
        """Minus the likelihood of natural tiles, and the price of slopes that are not 1.

        In training ``middle`` follows their amounts, which all may wander off together.
        """
        noise, law = self(level, fluctuation)
        amount = self.amount(law, noise)
        if self.training:
            self.middle.lerp_(amount.mean(), 0.2)
        likelihood = self.likelihood(law, amount, noise)
        return STEADY_SLOPE * (law[1] - 1).square().mean() - likelihood.mean()

    def share(self, law: tuple[Tensor, ...], likely: Tensor, level: Tensor, fluctuation: Tensor) -> Tensor:
        """The share of noise that is to be expected of a band: geometric mean of what law and measurement leave possible.

        By Bayes' rule: the law says how loud the noise is likely to be; a band is all noise, or
        holds a tone of any level besides; either would fluctuate as measured, but for the chance
        in that, and for what fluctuates besides.

        Parameters
        ----------
        law : tuple of Tensor, as `forward` returns it
        likely, level, fluctuation : Tensor, shape (batch, n_mels); the law's noise and what is measured
        """
        shares, noise = self.possible_shares, level[..., None] + self.possible_shares.log() / self.neper
        spread = (law[3].square() - SHARE_SPREAD**2).clamp(min=LEAST_SPREAD**2).sqrt()
        by_law = -0.5 * ((noise - likely[..., None]) / spread[..., None]).square()
        seen = torch.minimum(fluctuation, self.full_fluctuation).clamp(min=LEAST_SHARE).log()[..., None]
        z = (seen - (shares * (2 + (self.full_fluctuation[:, None] - 2) * shares)).log()) / FLUCTUATION_SPREAD
        as_noise = -0.5 * z.square() - math.log(FLUCTUATION_SPREAD * math.sqrt(2 * math.pi))
        as_other = -math.log(-math.log(LEAST_SHARE))  # any fluctuation is as likely as another
        by_sight = torch.logaddexp(
            F.logsigmoid(-law[4])[..., None] + as_noise, F.logsigmoid(law[4])[..., None] + as_other
        )
        posterior = (self.possible_weights.log() + by_law + by_sight).softmax(2)
        return (posterior * shares.log()).sum(2).exp()

    def heard(self, x: Tensor, fluctuation: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The law of pictures (batch, n_mels, frames), how much noise they have and its share of each band.

        Returns
        -------
        tuple of five Tensor, as `forward` returns it
        Tensor, shape (batch, 1), amount
        Tensor, shape (batch, n_mels)
        """
        level = mean_level(x, self.dynamic_range_db)
        noise, law = self(level, fluctuation)
        amount = self.amount(law, noise)
        return law, amount, self.share(law, self.level_at(law, amount), level, fluctuation)

    @torch.no_grad()
    def without_tones(self, x: Tensor, fluctuation: Tensor, bare: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, n_mels, frames) that have noise alone in some bands, and their fluctuation.

        Parameters
        ----------
        x, fluctuation : Tensor, as for `with_more`
        bare : Tensor of bool, shape (batch, n_mels), the bands
        """
        device = self.frequency.device
        share = self.heard(x.to(device), fluctuation.to(device))[2].to(x.device)
        lower = torch.where(bare, share.log() / self.neper, 0.0)
        full = self.full_fluctuation.to(x.device)
        return (x + lower[:, :, None]).clamp(min=0), torch.where(bare, full, fluctuation)

    @torch.no_grad()
    def with_more(self, x: Tensor, fluctuation: Tensor, more: Tensor) -> Tensor:
        """The change of each band's level in sounds that have more or less of their noise, (batch, n_mels).

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        fluctuation : Tensor, shape (batch, n_mels), of them or of more of the same sounds
        more : Tensor, shape (batch,), of x: by how much the amount is other
        """
        device = self.frequency.device
        law, amount, share = self.heard(x.to(device), fluctuation.to(device))
        rise = self.level_at(law, amount + more.to(device)[:, None]) - self.level_at(law, amount)
        change = (1 + share * torch.expm1(self.neper * rise)).clamp(min=LEAST_SHARE).log() / self.neper
        return change.to(x.device)
