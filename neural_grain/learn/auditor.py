"""The auditor: how many octaves of grain a change of the texture is worth, computed from band powers alone.

Grain is spectral flatness, the geometric over the arithmetic mean of the bin powers of a frame. Within a mel band the
tones take a share s of the bins, and the texture lies in all of them. With T and N as the powers of tones and texture,

    mean of ln power in the band = (1 - s) ln N + s ln(N + T / s),   mean of power = N + T

What noise adds to the logarithm by its fluctuation is the same before and after, so the change of flatness follows from
T, N and s. Of s only the width of a partial is known: four bins, the main lobe of the Hann window.

Levels are natural logarithms of power, shape (batch, n_mels, cells), 0 for the file's loudest band.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings

PARTIAL_BINS = 4  # width of the main lobe of a Hann window


class Bands(NamedTuple):
    """What the auditor knows about the mel bands; columns of shape (n_mels, 1)."""

    fractions: Tensor  # of the bins of the analysis band that each band stands for, summing to 1
    log_fractions: Tensor
    tonal: Tensor  # share of the band's bins that a partial takes
    floor: float  # level below which power counts as this
    active_range: float  # of the level of a cell below the loudest cell, within which it counts


def bands_of(settings: SpectrogramSettings, device: str | torch.device = "cpu") -> Bands:
    """The mel bands of pictures with some settings."""
    edges, grain = np.array(settings.band_edges_hz), settings.grain
    bins = (edges[2:] - edges[:-2]) / 2 * grain.n_fft / grain.sample_rate_hz
    fractions, tonal = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None]
        for values in (band_fractions(settings), np.minimum(0.999, PARTIAL_BINS / bins))
    )
    floor, active_range = -NEPER_PER_DB * settings.dynamic_range_db, NEPER_PER_DB * grain.active_range_db
    return Bands(fractions, fractions.log(), tonal, floor, active_range)


def picture_levels(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Levels of a picture whose values 0 to 1 span ``dynamic_range_db``."""
    return NEPER_PER_DB * dynamic_range_db * (x - 1)


def log_flatness(tones: Tensor, texture: Tensor, bands: Bands) -> Tensor:
    """Natural logarithm of the flatness of each cell, up to what the fluctuation of noise adds: (batch, cells)."""
    texture = texture.clamp(min=bands.floor)
    in_partials = torch.logaddexp(texture, tones - bands.tonal.log())
    mean_log = (bands.fractions * ((1 - bands.tonal) * texture + bands.tonal * in_partials)).sum(1)
    return mean_log - energy(tones, texture, bands)


def energy(tones: Tensor, texture: Tensor, bands: Bands) -> Tensor:
    """Natural logarithm of the mean power over bands of each cell: (batch, cells)."""
    return torch.logsumexp(torch.logaddexp(tones, texture) + bands.log_fractions, 1)


def log2_grain(tones: Tensor, texture: Tensor, bands: Bands, reference: Tensor | None = None) -> Tensor:
    """log2 of the grain of tiles, the mean flatness of their active cells: (batch,).

    Parameters
    ----------
    tones, texture : Tensor, shape (batch, n_mels, cells)
    reference : Tensor, texture before a change, whose active cells count; ``texture`` itself if None
    """
    levels = energy(tones, texture if reference is None else reference, bands)
    silent = levels < levels.amax(1, keepdim=True) - bands.active_range
    flatness = log_flatness(tones, texture, bands).masked_fill(silent, -math.inf)
    return (torch.logsumexp(flatness, 1) - (~silent).sum(1).log()) / math.log(2)


def audited_octaves(tones: Tensor, before: Tensor, after: Tensor, bands: Bands) -> Tensor:
    """Octaves by which a change of the texture lowers the grain of tiles; negative if it raises it: (batch,).

    Parameters
    ----------
    tones, before, after : Tensor, shape (batch, n_mels, cells), tones and the texture before and after
    """
    return log2_grain(tones, before, bands) - log2_grain(tones, after, bands, before)
