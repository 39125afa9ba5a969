"""The auditor: how many octaves of grain a change of the texture is worth, computed from band powers alone.

Grain is spectral flatness, the geometric over the arithmetic mean of the bin powers of a frame. Within a mel band the
tones take a share s of the bins, and the texture lies in all of them. With T and N as the powers of tones and texture,

    mean of ln power in the band = (1 - s) ln N + s ln(N + T / s),   mean of power = N + T

What noise adds to the logarithm by its fluctuation is the same before and after a change, so the change of flatness
follows from T, N and s. Of s only the width of a partial is known: four bins, the main lobe of the Hann window.

Powers have the shape (batch, n_mels, cells) and are relative to the file's loudest band.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.settings import SpectrogramSettings

PARTIAL_BINS = 4  # width of the main lobe of a Hann window


class Bands(NamedTuple):
    """What the auditor knows about the mel bands; columns of shape (n_mels, 1)."""

    fractions: Tensor  # of the bins of the analysis band that each band stands for, summing to 1
    tonal: Tensor  # share of the band's bins that a partial takes
    floor: float  # power below which texture counts as this
    active_range: float  # of the power of a cell to that of the loudest cell, above which it counts


def bands_of(settings: SpectrogramSettings, device: str | torch.device = "cpu") -> Bands:
    """The mel bands of pictures with some settings."""
    edges, grain = np.array(settings.band_edges_hz), settings.grain
    bins = (edges[2:] - edges[:-2]) / 2 * grain.n_fft / grain.sample_rate_hz
    fractions, tonal = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None]
        for values in (band_fractions(settings), np.minimum(0.999, PARTIAL_BINS / bins))
    )
    return Bands(fractions, tonal, 10 ** (-settings.dynamic_range_db / 10), 10 ** (-grain.active_range_db / 10))


def log_flatness(tones: Tensor, texture: Tensor, bands: Bands) -> Tensor:
    """Natural logarithm of the flatness of each cell, up to what the fluctuation of noise adds: (batch, cells)."""
    texture = texture.clamp(min=bands.floor)
    in_partials = (texture + tones / bands.tonal).log()
    mean_log = (bands.fractions * (texture.log() * (1 - bands.tonal) + in_partials * bands.tonal)).sum(1)
    return mean_log - mean_power(tones, texture, bands).log()


def mean_power(tones: Tensor, texture: Tensor, bands: Bands) -> Tensor:
    """Mean power over the bins of each cell: (batch, cells)."""
    return (bands.fractions * (tones + texture)).sum(1)


def log2_grain(tones: Tensor, texture: Tensor, bands: Bands) -> Tensor:
    """log2 of the grain of tiles, the mean flatness of their active cells: (batch,)."""
    power = mean_power(tones, texture, bands).detach()
    silent = power < power.amax(1, keepdim=True) * bands.active_range
    flatness = log_flatness(tones, texture, bands).masked_fill(silent, -math.inf)
    return (torch.logsumexp(flatness, 1) - (~silent).sum(1).log()) / math.log(2)
