"""The auditor: how many octaves of grain a change of a picture is worth, computed from band powers alone.

Grain is spectral flatness, the geometric over the arithmetic mean of the bin powers of a frame. A gain that is
constant inside each mel band does not change the structure inside the band. The change of ln flatness therefore
follows from the band powers P_k and the gains g_k (in nepers of power) alone:

    mean_k(g_k) - ln mean_k(P_k exp(g_k)) + ln mean_k(P_k)

where the means over bands are weighted by the fraction of the analysis band's bins that each band stands for.

Pictures are normalised log-mel spectrograms x of shape (batch, n_mels, frames): 1 is the file's loudest band,
0 is ``dynamic_range_db`` below it. Changes of pictures are in the same unit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings


def band_levels(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Natural logarithm of the band powers of a picture; 0 for the file's loudest band."""
    return NEPER_PER_DB * dynamic_range_db * (x - 1)


def band_fractions_column(settings: SpectrogramSettings) -> Tensor:
    """`band_fractions` as a column of shape (n_mels, 1)."""
    return torch.tensor(band_fractions(settings), dtype=torch.float32)[:, None]


def log2_flatness(x: Tensor, fractions: Tensor, dynamic_range_db: float) -> Tensor:
    """log2 of the flatness of pictures: the flatness over bands, averaged over all frames.

    Parameters
    ----------
    x : Tensor, shape (batch, n_mels, frames)
    fractions : Tensor, shape (n_mels, 1), `band_fractions_column`
    dynamic_range_db : float > 0

    Returns
    -------
    Tensor, shape (batch,), <= 0
    """
    levels = band_levels(x, dynamic_range_db)
    flatness = (fractions * levels).sum(1) - torch.logsumexp(levels + fractions.log(), 1)
    return flatness.exp().mean(1).log2()


def audited_octaves(
    x: Tensor, change: Tensor, fractions: Tensor, dynamic_range_db: float, active_range_db: float
) -> Tensor:
    """Octaves by which a change of pictures lowers their grain; negative if it raises it.

    As in stage 1, only active frames count, and the grain of a picture is the mean flatness over them. Each
    picture is treated as a whole file.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    fractions : Tensor, shape (n_mels, 1), `band_fractions_column`
    dynamic_range_db : float > 0
    active_range_db : float > 0, frames further below the loudest one do not count

    Returns
    -------
    Tensor, shape (batch,)
    """
    before, gain = band_levels(x, dynamic_range_db), NEPER_PER_DB * dynamic_range_db * change
    log_fractions = fractions.log()
    energy_before = torch.logsumexp(before + log_fractions, 1)  # (batch, frames)
    energy_after = torch.logsumexp(before + gain + log_fractions, 1)
    flatness_before = (fractions * before).sum(1) - energy_before
    flatness_change = (fractions * gain).sum(1) - energy_after + energy_before
    silent = energy_before < energy_before.amax(1, keepdim=True) - NEPER_PER_DB * active_range_db
    weight = flatness_before.masked_fill(silent, -math.inf)
    return (torch.logsumexp(weight, 1) - torch.logsumexp(weight + flatness_change, 1)) / math.log(2)


def renormalise(x: Tensor, change: Tensor, log_fractions: Tensor, dynamic_range_db: float) -> Tensor:
    """Apply a change to pictures as rendering does: x + change with the energy over time of x.

    Every frame gets back the energy it had, and the whole picture is then shifted so that its loudest band is as
    loud as before.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    log_fractions : Tensor, shape (n_mels, 1), logarithm of `band_fractions_column`
    dynamic_range_db : float > 0

    Returns
    -------
    Tensor, shape (batch, n_mels, frames), not clipped to [0, 1]
    """
    before, after = band_levels(x, dynamic_range_db), band_levels(x + change, dynamic_range_db)
    energy_before = torch.logsumexp(before + log_fractions, 1, keepdim=True)
    energy_after = torch.logsumexp(after + log_fractions, 1, keepdim=True)
    y = x + change + (energy_before - energy_after) / (NEPER_PER_DB * dynamic_range_db)
    return y - y.amax((1, 2), keepdim=True) + x.amax((1, 2), keepdim=True)
