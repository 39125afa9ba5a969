"""The level meter: the decaying peak of what the sound card gets, and whether it had to clip it.

    peak = max(|y| of the block, peak of the block before * 10**(-FALL_DB_PER_S t / 20)),   t the length of the block

In: blocks of samples, shape (n, channels), full scale 1.0. Out: a peak, and a flag that stays until it is reset.
"""

from __future__ import annotations

import numpy as np

FALL_DB_PER_S = 80.0  # from full scale to the bottom of the meter in less than a second
MAX_OUTPUTS = 2  # channels of the sound card that are used


def to_outputs(y: np.ndarray) -> np.ndarray:
    """The channels of the sound card: of more than two, the mean of 1, 3, 5 ... goes left and of 2, 4, 6 ... right.

    Parameters
    ----------
    y : np.ndarray, shape (n, channels)

    Returns
    -------
    np.ndarray, shape (n, at most 2)
    """
    if y.shape[1] <= MAX_OUTPUTS:
        return y
    return np.stack([y[:, side::MAX_OUTPUTS].mean(axis=1) for side in range(MAX_OUTPUTS)], axis=1)


class OutputMeter:
    """Measures what is played.

    Parameters
    ----------
    sr : int > 0, Hz

    Attributes
    ----------
    peak : float, decaying, full scale 1.0
    is_clipped : bool, whether a sample lay beyond full scale since the last `reset_clip`
    """

    def __init__(self, sr: int):
        self._sr = sr
        self.peak = 0.0
        self.is_clipped = False

    def add(self, y: np.ndarray) -> None:
        """Measure a block, as the sound card gets it."""
        peak = float(np.abs(y).max(initial=0.0))
        self.is_clipped = self.is_clipped or peak > 1.0
        self.peak = max(peak, self.peak * 10 ** (-FALL_DB_PER_S * len(y) / self._sr / 20))

    def reset_clip(self) -> None:
        """Switch the clip light off."""
        self.is_clipped = False
