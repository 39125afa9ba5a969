"""TODO"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings


def band_levels(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Natural logarithm of the band powers of a picture, 0 for the file's loudest band."""
    return NEPER_PER_DB * dynamic_range_db * (x - 1)


def band_fractions_column(settings: SpectrogramSettings) -> Tensor:
    """`band_fractions` as a column, (n_mels, 1)."""
    return torch.tensor(band_fractions(settings), dtype=torch.float32)[:, None]


def log2_flatness(x: Tensor, shares: Tensor, dynamic_range_db: float) -> Tensor:
    """log2 of the flatness of the bands of pictures (batch, n_mels, frames), mean over frames: (batch,)."""
    levels = band_levels(x, dynamic_range_db)
    flatness = (shares * levels).sum(1) - torch.logsumexp(levels + shares.log(), 1)
    return flatness.exp().mean(1).log2()


def audited_octaves(
    x: Tensor, change: Tensor, shares: Tensor, dynamic_range_db: float, active_range_db: float
) -> Tensor:
    """Auditor: octaves by which a change of the picture lowers grain, from the band powers alone.

    A gain that is constant inside a band leaves the structure inside it alone, so the change of
    ln flatness is mean_k(g_k) - ln mean_k(P_k exp g_k) + ln mean_k(P_k), k weighted by the
    bins of each band. Frames count as stage 1 counts them, active ones alone, weighted by their
    flatness, each picture as if it were a whole file.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    shares : Tensor, shape (n_mels, 1), `band_fractions`

    Returns
    -------
    Tensor, shape (batch,)
    """
    before, gain = band_levels(x, dynamic_range_db), NEPER_PER_DB * dynamic_range_db * change
    log_shares = shares.log()
    energy_before = torch.logsumexp(before + log_shares, 1)  # (batch, frames)
    energy_after = torch.logsumexp(before + gain + log_shares, 1)
    flatness_before = (shares * before).sum(1) - energy_before
    flatness_change = (shares * gain).sum(1) - energy_after + energy_before
    silent = energy_before < energy_before.amax(1, keepdim=True) - NEPER_PER_DB * active_range_db
    weight = flatness_before.masked_fill(silent, -math.inf)
    return (torch.logsumexp(weight, 1) - torch.logsumexp(weight + flatness_change, 1)) / math.log(2)


def renormalise(x: Tensor, change: Tensor, log_shares: Tensor, dynamic_range_db: float) -> Tensor:
    """The picture that is heard: x + change, every frame's energy held, its loudest band as loud as before.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    log_shares : Tensor, shape (n_mels, 1), logarithm of `band_fractions`
    """
    before, after = band_levels(x, dynamic_range_db), band_levels(x + change, dynamic_range_db)
    energy = torch.logsumexp(before + log_shares, 1, keepdim=True) - torch.logsumexp(
        after + log_shares, 1, keepdim=True
    )
    y = x + change + energy / (NEPER_PER_DB * dynamic_range_db)
    return y - y.amax((1, 2), keepdim=True) + x.amax((1, 2), keepdim=True)
