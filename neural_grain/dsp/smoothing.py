"""Smoothing of a pattern of gains over time, so that the gains of a steady sound are steady.

Two steps. A median of three cells removes what lasts a single cell, so that a click does not change the gain of the
sound it lies over. Then every cell becomes a weighted mean of the cells around it, with weights that fall with the
difference of their spectra (non-local means: Buades, Coll and Morel, "A non-local algorithm for image denoising",
CVPR 2005), so that the random levels of a noise do not become a flutter:

    out[i] = sum over j of w[i, j] pattern[j] / sum over j of w[i, j]
    w[i, j] = exp(-max(0, mean over bands of ((level_db[i] - level_db[j]) / same_sound_db)**2 - 1))

In: a pattern, shape (..., n_mels, cells), and the picture it was made for. Out: a pattern of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neural_grain.dsp.settings import CELL_FRAMES, SpectrogramSettings


@dataclass(frozen=True)
class SmoothingSettings:
    """Which cells are averaged."""

    search_cells: int = 32  # to either side, 12 s: long enough to average out the random levels of a noise
    same_sound_db: float = 2.0  # RMS over bands: two cells of a steady noise differ by less


SMOOTHING = SmoothingSettings()


def smooth_pattern(pattern_db: np.ndarray, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Smooth a pattern over the cells in which the sound stays the same.

    Parameters
    ----------
    pattern_db : np.ndarray, shape (..., n_mels, cells), dB
    x : np.ndarray, shape (n_mels, frames), picture of the sound, in [0, 1]
    settings : SpectrogramSettings

    Returns
    -------
    np.ndarray, of the same shape as ``pattern_db``, dB
    """
    from scipy.ndimage import median_filter

    pattern_db = median_filter(pattern_db, size=(*(1,) * (pattern_db.ndim - 1), 3), mode="nearest")
    level_db = median_filter(_cell_levels_db(x, settings), size=(1, 3), mode="nearest")
    n_cells = pattern_db.shape[-1]
    weighted_sum, weight_sum = pattern_db.copy(), np.ones(n_cells, np.float32)
    for lag in range(1, min(SMOOTHING.search_cells + 1, n_cells)):
        distance = np.square((level_db[:, lag:] - level_db[:, :-lag]) / SMOOTHING.same_sound_db).mean(axis=0)
        weight = np.exp(-np.maximum(0, distance - 1)).astype(np.float32)
        weighted_sum[..., lag:] += weight * pattern_db[..., :-lag]
        weighted_sum[..., :-lag] += weight * pattern_db[..., lag:]
        weight_sum[lag:] += weight
        weight_sum[:-lag] += weight
    return weighted_sum / weight_sum


def _cell_levels_db(x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Mean level of each band and cell of a picture. Shape (n_mels, cells)."""
    starts = np.arange(0, x.shape[1], CELL_FRAMES)
    counts = np.diff(np.append(starts, x.shape[1]))
    return settings.dynamic_range_db * np.add.reduceat(x, starts, axis=1) / counts
