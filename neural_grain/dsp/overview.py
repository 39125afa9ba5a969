"""The overview of a sound: the lowest and the highest sample of each of a few thousand parts of equal length.

In: blocks of samples, shape (n, channels). Out: extremes over all channels, shape (2, parts), float32.
"""

from __future__ import annotations

import numpy as np

MAX_PARTS = 4096  # more than a screen has columns


class Overview:
    """Collects the extremes of a sound while it is read.

    Parameters
    ----------
    n_samples : int > 0, of the sound

    Attributes
    ----------
    extremes : np.ndarray, shape (2, parts), lowest and highest sample of each part; 0 where nothing was read yet
    """

    def __init__(self, n_samples: int):
        self._length = max(1, -(-n_samples // MAX_PARTS))
        self.extremes = np.zeros((2, -(-n_samples // self._length)), np.float32)
        self._n_read = 0

    def add(self, block: np.ndarray) -> None:
        """Take the next block, shape (n, channels)."""
        if not len(block):
            return
        start, stop = self._n_read, self._n_read + len(block)
        first, last = start // self._length, (stop - 1) // self._length
        edges = np.maximum(np.arange(first, last + 1) * self._length - start, 0)
        lowest, highest = np.minimum.reduceat(block.min(axis=1), edges), np.maximum.reduceat(block.max(axis=1), edges)
        if start % self._length:  # the first part was begun by the block before
            lowest[0], highest[0] = min(lowest[0], self.extremes[0, first]), max(highest[0], self.extremes[1, first])
        self.extremes[:, first : last + 1] = lowest, highest
        self._n_read = stop
