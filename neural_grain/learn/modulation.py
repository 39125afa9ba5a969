"""How much of a band's power is noise, inferred from how its power fluctuates over time.

The power of a steady tone is constant, the power of beating tones has lines in its modulation spectrum (the
spectrum of the band power over time), and the power of noise has all modulation frequencies. The median of the
modulation spectrum, relative to the one that Gaussian noise has, therefore measures the noise, however loud the
tones are. It is called the fluctuation of a band: 0 for tones, 1 for Gaussian noise, more for crackle.

In: pictures (batch, n_mels, frames) in [0, 1]. Out: fluctuations and shares of noise, (batch, n_mels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neural_grain.dsp.mel import mel_filterbank
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.auditor import band_levels


@dataclass(frozen=True)
class ModulationSettings:
    """How fluctuations are measured and interpreted."""

    window_cells: int = 4  # 1.5 s; within one cell, the beats of a chord fill the whole modulation spectrum
    first_bin: int = 12  # 8 Hz at 128 frames; slower modulation is the swell of a sound
    end_bin: int = 52  # 35 Hz; the modulation spectrum of noise is weak above it
    median_of_noise: float = 0.85  # median over these bins for a tile of Gaussian noise, whose mean is 1
    min_noise_share: float = 1e-4  # smaller shares can't be distinguished from none
    texture_fluctuation: float = 0.7  # bands that fluctuate less contain tones
    texture_reach_bands: int = 4  # neighbours on either side that are measured together with a band
    min_texture_measurements: int = 50  # the quartile of fewer is not reliable
    quartile_of_noise: float = 1.25  # upper quartile of measured fluctuations of Gaussian noise, by chance alone

    @property
    def window_frames(self) -> int:
        """Frames that a modulation spectrum is computed from."""
        return self.window_cells * CELL_FRAMES

    @property
    def bins(self) -> slice:
        """The modulation frequencies that are used, as bins of a window."""
        return slice(self.first_bin, self.end_bin)


MODULATION = ModulationSettings()

# Correlation of the powers of white noise in two bins that are 0, 1 and 2 bins apart, under a Hann window.
BIN_CORRELATION = {-2: 1 / 36, -1: 4 / 9, 0: 1.0, 1: 4 / 9, 2: 1 / 36}


def mean_level(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Level of the mean power of each band over time: (batch, n_mels), in units of the picture."""
    return 1 + band_levels(x, dynamic_range_db).exp().mean(2).log() / (NEPER_PER_DB * dynamic_range_db)


def noise_modulation(settings: SpectrogramSettings) -> Tensor:
    """Expected modulation spectrum of Gaussian noise, for band powers divided by their mean.

    The powers of noise in two bins or frames are correlated by the square of the correlation of the analysis
    windows. The power of a band is a mean over bins, which fluctuates less the more bins there are.

    Returns
    -------
    Tensor, shape (n_mels, modulation bins), float32
    """
    grain = settings.grain
    sr, n_frames = grain.sample_rate_hz, MODULATION.window_frames
    n_fft, hop_length = grain.n_fft_for(sr), grain.hop_for(sr)
    window = np.hanning(n_fft + 1)[:-1]
    lags = np.arange(-(n_frames - 1), n_frames) * hop_length
    correlation = np.array([(window[abs(lag) :] * window[: max(n_fft - abs(lag), 0)]).sum() for lag in lags])
    correlation = np.square(correlation / np.square(window).sum())  # (lags,), of powers in two frames
    hann = np.hanning(n_frames)
    overlap = np.correlate(hann, hann, "full") / np.square(hann).sum()
    bins = np.arange(n_frames // 2 + 1)[MODULATION.bins, None]
    spectrum = (correlation * overlap * np.cos(2 * np.pi * bins * lags / hop_length / n_frames)).sum(1)
    weights = mel_filterbank(settings, sr)  # (n_mels, bins)
    correlated = np.zeros_like(weights)
    for step, likeness in BIN_CORRELATION.items():
        correlated += likeness * np.roll(weights, step, axis=1)
    band_variance = (weights * correlated).sum(1) / np.square(weights.sum(1))
    return torch.tensor(band_variance[:, None] * spectrum, dtype=torch.float32)


def relative_modulation(x: Tensor, modulation: Tensor, dynamic_range_db: float) -> Tensor:
    """Modulation spectra of a picture, divided by those of Gaussian noise.

    Parameters
    ----------
    x : Tensor, shape (batch, n_mels, frames), at least one window of frames
    modulation : Tensor, shape (n_mels, modulation bins), `noise_modulation`
    dynamic_range_db : float > 0

    Returns
    -------
    Tensor, shape (batch, n_mels, windows, modulation bins); a window starts at every cell
    """
    n_frames = MODULATION.window_frames
    power = band_levels(x, dynamic_range_db).exp().unfold(2, n_frames, CELL_FRAMES)
    hann = torch.hann_window(n_frames, periodic=False, device=x.device)
    deviation = power / power.mean(3, keepdim=True) - 1
    spectrum = torch.fft.rfft(deviation * hann, dim=3).abs().square() / hann.square().sum()
    return spectrum[..., MODULATION.bins] / modulation[:, None]


def band_fluctuation(spectra: Tensor) -> Tensor:
    """Fluctuation of bands: the median of relative modulation spectra, 1 for Gaussian noise.

    The lines that beating tones have leave at least half of the spectrum free, so the median ignores them. The
    spectra should be means over several windows (Welch, "The use of fast Fourier transform for the estimation of
    power spectra", 1967); over a whole tile, the standard error is a factor of 1.2.

    Parameters
    ----------
    spectra : Tensor, shape (..., modulation bins)

    Returns
    -------
    Tensor, shape (...)
    """
    middle = spectra.shape[-1] // 2
    return spectra.sort(-1).values[..., middle - 1 : middle + 1].mean(-1) / MODULATION.median_of_noise


def full_fluctuation(fluctuations: Tensor) -> Tensor:
    """Fluctuation that the library's bands have where they hold nothing but texture.

    It is 1 for Gaussian noise and many times that for crackle. It is the upper quartile of the fluctuations that
    tiles have in a band and its neighbours, without those that are too small for pure texture.

    Parameters
    ----------
    fluctuations : Tensor, shape (tiles, n_mels)

    Returns
    -------
    Tensor, shape (n_mels,), >= 1
    """
    n_mels, reach = fluctuations.shape[1], MODULATION.texture_reach_bands
    full = torch.ones(n_mels, device=fluctuations.device)
    for band in range(n_mels):
        nearby = fluctuations[:, max(band - reach, 0) : band + reach + 1]
        nearby = nearby[nearby > MODULATION.texture_fluctuation]
        if len(nearby) >= MODULATION.min_texture_measurements:
            full[band] = nearby.quantile(0.75) / MODULATION.quartile_of_noise
    return full.clamp(min=1)


def noise_share(fluctuation: Tensor, full: Tensor) -> Tensor:
    """Share of a band's power that is noise.

    Beside a steady tone, a share w of noise fluctuates by 2 w (1 - w) + full w^2: the noise beats with the tone
    and fluctuates by itself. This function solves that equation for w.

    Parameters
    ----------
    fluctuation : Tensor, >= 0
    full : Tensor, >= 1, broadcastable to it, `full_fluctuation`

    Returns
    -------
    Tensor, min_noise_share to 1
    """
    fluctuation = torch.minimum(fluctuation, full)
    share = fluctuation / (1 + (1 + (full - 2) * fluctuation).clamp(min=0).sqrt())
    return share.clamp(min=MODULATION.min_noise_share)
