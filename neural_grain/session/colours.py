"""Colour maps of the pictures: levels on a dark ground, and gains around 0 dB.

They are those of matplotlib, which takes 0.3 s to import. So the worker loads them (`load_colour_maps`) while the window
is still empty.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from neural_grain.base.caches import provide_cache_folder

LEVEL_MAP, LEVEL_EXPONENT = "inferno", 1.3
GAIN_MAP_LIGHT, GAIN_MAP_DARK = "RdBu_r", "berlin"  # their middle, 0 dB, is near the background of each palette


@cache
def colour_map(name: str) -> np.ndarray:
    """Colours of a matplotlib colour map, shape (256, 3), uint8."""
    provide_cache_folder()
    from matplotlib import colormaps

    return np.round(255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


@cache
def level_colours() -> np.ndarray:
    """Colours of levels from the floor to the loudest, shape (256, 3), uint8.

    The lower half stays dark, so that what rises from the floor stands out: most of a spectrogram is its floor.
    """
    return colour_map(LEVEL_MAP)[np.round(255 * np.linspace(0, 1, 256) ** LEVEL_EXPONENT).astype(int)]


def load_colour_maps() -> None:
    """Load all colour maps, so that the first picture does not have to wait for them."""
    level_colours()
    for name in (GAIN_MAP_LIGHT, GAIN_MAP_DARK):
        colour_map(name)
