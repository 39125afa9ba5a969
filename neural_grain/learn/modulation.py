"""TODO"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.mel import mel_filterbank
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import band_levels

NOISE_CELLS = 4  # noise is told from tones that beat over 1.5 s: in one cell, a chord's beats leave no gap
NOISE_FRAMES = NOISE_CELLS * CELL_FRAMES
LIKE_NOISE = 0.7  # of the fluctuation of Gaussian noise: less is tones, or noise beside them
TEXTURE_BANDS, TEXTURE_MEASUREMENTS = 4, 50  # to either side; fewer say nothing
CHANCE_IN_QUARTILE = 1.25  # of what is measured of Gaussian noise, less than a quarter is larger by chance
MODULATION_BINS = slice(12, 52)  # 8 to 35 Hz of so many frames: below it is swell, above it noise is weak
MEDIAN_OF_NOISE = 0.85  # of the modulation spectrum of a tile of noise, whose mean is 1
LEAST_SHARE = 1e-4  # of noise in a band; less can't be told from nothing


def mean_level(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Level of each band's mean power, (batch, n_mels), of pictures (batch, n_mels, frames)."""
    return 1 + band_levels(x, dynamic_range_db).exp().mean(2).log() / (NEPER_PER_DB * dynamic_range_db)


def noise_modulation(settings: SpectrogramSettings) -> Tensor:
    """Modulation spectrum of Gaussian noise, each band's power over its mean: (n_mels, modulation bins).

    Powers of noise in two bins or frames have as correlation the square of that of the windows
    they are seen through; a band of several bins is their mean.
    """
    grain = settings.grain
    sr = grain.sample_rate_hz
    n_fft, hop_length = grain.n_fft_for(sr), grain.hop_for(sr)
    window = np.hanning(n_fft + 1)[:-1]
    lags = np.arange(-(NOISE_FRAMES - 1), NOISE_FRAMES) * hop_length
    alike = np.array([(window[abs(lag) :] * window[: max(n_fft - abs(lag), 0)]).sum() for lag in lags])
    alike = np.square(alike / np.square(window).sum())  # (lags,)
    hann = np.hanning(NOISE_FRAMES)
    overlap = np.correlate(hann, hann, "full") / np.square(hann).sum()
    bins = np.arange(NOISE_FRAMES // 2 + 1)[MODULATION_BINS, None]
    spectrum = (alike * overlap * np.cos(2 * np.pi * bins * lags / hop_length / NOISE_FRAMES)).sum(1)
    weights = mel_filterbank(settings, sr)  # (n_mels, bins)
    beside = np.zeros_like(weights)
    for step, likeness in ((-2, 1 / 36), (-1, 4 / 9), (0, 1.0), (1, 4 / 9), (2, 1 / 36)):  # of bins under a Hann window
        beside += likeness * np.roll(weights, step, axis=1)
    of_one = (weights * beside).sum(1) / np.square(weights.sum(1))
    return torch.tensor(of_one[:, None] * spectrum, dtype=torch.float32)


def modulation_beside_noise(x: Tensor, modulation: Tensor, dynamic_range_db: float) -> Tensor:
    """Modulation spectra of a picture over those of noise: of NOISE_CELLS cells each, from every cell on.

    Parameters
    ----------
    x : Tensor, shape (batch, n_mels, frames), at least NOISE_FRAMES of them
    modulation : Tensor, `noise_modulation`

    Returns
    -------
    Tensor, shape (batch, n_mels, cells - NOISE_CELLS + 1, modulation bins)
    """
    power = band_levels(x, dynamic_range_db).exp().unfold(2, NOISE_FRAMES, CELL_FRAMES)
    hann = torch.hann_window(NOISE_FRAMES, periodic=False, device=x.device)
    own = power / power.mean(3, keepdim=True) - 1
    spectrum = torch.fft.rfft(own * hann, dim=3).abs().square() / hann.square().sum()
    return spectrum[..., MODULATION_BINS] / modulation[:, None]


def band_fluctuation(spectra: Tensor) -> Tensor:
    """How much the power of bands fluctuates, noise alone 1: the median of modulation spectra (..., modulation bins).

    The power of a steady tone stands still, that of tones that beat has lines in its modulation
    spectrum, that of noise has all modulation frequencies. So the median tells the noise, however
    loud the tones are, while lines leave half of the spectrum free. The spectra are means over
    several (Welch, "The use of fast Fourier transform for the estimation of power spectra", 1967):
    over a tile, chance is a factor of 1.2.
    """
    middle = spectra.shape[-1] // 2
    return spectra.sort(-1).values[..., middle - 1 : middle + 1].mean(-1) / MEDIAN_OF_NOISE


def full_fluctuation(fluctuations: Tensor) -> Tensor:
    """How much bands of a library fluctuate that are all texture: Gaussian noise 1, crackle many times that.

    Of the bands around, in all tiles, those count that fluctuate about as noise does or more; of these, the upper quartile.

    Parameters
    ----------
    fluctuations : Tensor, shape (tiles, n_mels)

    Returns
    -------
    Tensor, shape (n_mels,), at least 1
    """
    n_mels = fluctuations.shape[1]
    full = torch.ones(n_mels, device=fluctuations.device)
    for band in range(n_mels):
        around = fluctuations[:, max(band - TEXTURE_BANDS, 0) : band + TEXTURE_BANDS + 1]
        around = around[around > LIKE_NOISE]
        if len(around) >= TEXTURE_MEASUREMENTS:
            full[band] = around.quantile(0.75) / CHANCE_IN_QUARTILE
    return full.clamp(min=1)


def noise_share(fluctuation: Tensor, full: Tensor) -> Tensor:
    """Share of a band's power that is noise, 0 to 1, from how much it fluctuates and how much all noise would (``full``).

    Beside a steady tone, a share w fluctuates as 2 w (1 - w) + full w^2: noise beats with the tone, and fluctuates itself.
    """
    fluctuation = torch.minimum(fluctuation, full)
    return (fluctuation / (1 + (1 + (full - 2) * fluctuation).clamp(min=0).sqrt())).clamp(min=LEAST_SHARE)
