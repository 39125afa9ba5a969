"""TODO"""

from __future__ import annotations

import numpy as np

from neural_grain.dsp.settings import CELL_FRAMES, SpectrogramSettings

ALIKE_CELLS = 32  # 12 s: cells so far apart share a pattern if they look alike
ALIKE_DB = 2.0  # root mean square over bands: two cells of one noise differ by less


def smooth_pattern(pattern_db: np.ndarray, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """A pattern that stays the same as long as the sound does, and passes over what lasts shorter than a cell.

    The median of three cells, so that a click does not change the gain of what it sounds over; then
    the mean of the cells around, weighed by how much they look alike (non-local means: Buades, Coll and
    Morel, CVPR 2005), so that the chance levels of a noise do not become a flutter.

    Parameters
    ----------
    pattern_db : np.ndarray, shape (..., n_mels, cells), one pattern or some
    x : np.ndarray, shape (n_mels, frames), the picture

    Returns
    -------
    np.ndarray, of the same shape
    """
    from scipy.ndimage import median_filter

    pattern_db = median_filter(pattern_db, size=(*(1,) * (pattern_db.ndim - 1), 3), mode="nearest")
    n_cells = pattern_db.shape[-1]
    starts = np.arange(0, x.shape[1], CELL_FRAMES)
    counts = np.diff(np.append(starts, x.shape[1]))
    level_db = settings.dynamic_range_db * np.add.reduceat(x, starts, axis=1) / counts
    level_db = median_filter(level_db, size=(1, 3), mode="nearest")
    total, weights = pattern_db.copy(), np.ones(n_cells, np.float32)
    for lag in range(1, min(ALIKE_CELLS + 1, n_cells)):
        apart = np.square((level_db[:, lag:] - level_db[:, :-lag]) / ALIKE_DB).mean(axis=0)
        alike = np.exp(-np.maximum(0, apart - 1)).astype(np.float32)
        total[..., lag:] += alike * pattern_db[..., :-lag]
        total[..., :-lag] += alike * pattern_db[..., lag:]
        weights[lag:] += alike
        weights[:-lag] += alike
    return total / weights
