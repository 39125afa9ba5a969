"""The detector D of the model (`learn/model`), computed with NumPy: all that rendering with a model needs.

Stage 3 trains D with torch. Importing that takes seconds, and D is small, so stage 4 computes it here, from the same
weights and with the same result up to rounding.

In: levels (natural logarithms of power) of tones and texture, shape (n_mels, cells). Out: a `GeneratedTexture`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.generation import GeneratedTexture
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, STEP_FRAMES, SpectrogramSettings


@dataclass(frozen=True)
class DetectorSettings:
    """The shape of the detector D."""

    channels: int = 16
    inputs: int = 6
    kernel_bands: int = 5
    dilations: tuple[int, ...] = (1, 4, 16)  # together the three layers see 85 of 128 bands
    context_cells: int = 8  # on both sides, whose mean the detector sees as well: 3 s
    chunk_cells: int = 512  # of a long sound that are processed at once, to bound the memory
    range_db: float = 30.0  # the pattern lies within this much of the texture, on both sides


DETECTOR = DetectorSettings()
BLOCK_CELLS = 64  # that NumPy convolves at a time, so that they stay in the cache


def weight_shapes(settings: SpectrogramSettings, channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights of a `GrainModel`, by name."""
    n_inputs = [DETECTOR.inputs, *[channels] * (len(DETECTOR.dilations) - 1)]
    layers = {
        f"detector.layers.{i}.{name}": shape
        for i, n in enumerate(n_inputs)
        for name, shape in (("weight", (channels, n, DETECTOR.kernel_bands)), ("bias", (channels,)))
    }
    return {
        "scale": (2,),
        "spectrum_db": (settings.n_mels,),
        "crest_db": (),
        "temperature": (),
        **layers,
        "detector.mix.weight": (1, channels, 1),
        "detector.mix.bias": (1,),
    }


class NumpyDetector:
    """D with given weights.

    Parameters
    ----------
    weights : mapping of str to np.ndarray, with the names and shapes of `weight_shapes`
    settings : SpectrogramSettings, of the pictures
    """

    def __init__(self, weights: Mapping[str, np.ndarray], settings: SpectrogramSettings):
        self.weights = weights
        self._unit = np.float32(2 / (NEPER_PER_DB * settings.dynamic_range_db))

    def __call__(self, tones: np.ndarray, texture: np.ndarray) -> np.ndarray:
        """Level relative to the library's typical texture, in dB.

        Parameters
        ----------
        tones, texture : np.ndarray, shape (n_mels, cells), float32

        Returns
        -------
        np.ndarray of that shape, float32; not finite where extreme weights overflow
        """
        from scipy.ndimage import uniform_filter1d

        with np.errstate(all="ignore"), ONE_BLAS_THREAD:
            around = uniform_filter1d(texture, 2 * DETECTOR.context_cells + 1, axis=1, mode="nearest")
            loudest = np.logaddexp(tones, texture).max(axis=0)
            x = np.empty((DETECTOR.inputs, *tones.shape), np.float32)
            for i, level in enumerate((tones, texture, loudest)):
                x[i] = 1 + self._unit * level
            x[3] = self._unit * (tones - texture)
            x[4] = self._unit * (texture - around)
            x[5] = np.linspace(-1, 1, len(tones), dtype=np.float32)[:, None]
            starts = range(0, tones.shape[1], BLOCK_CELLS)
            mixed = np.concatenate([self._convolved(x[..., i : i + BLOCK_CELLS]) for i in starts], axis=1)
            pattern = DETECTOR.range_db * np.tanh(mixed)
            # Only differences between bands count, because the amount is solved.
            return pattern - pattern.mean(axis=0)

    def _convolved(self, x: np.ndarray) -> np.ndarray:
        """Output of the layers, (n_mels, cells), for their inputs, (inputs, n_mels, cells)."""
        h = x
        for i, dilation in enumerate(DETECTOR.dilations):
            weight, bias = (self.weights[f"detector.layers.{i}.{name}"] for name in ("weight", "bias"))
            new = _silu(_convolve(h, weight, dilation) + bias[:, None, None])
            h = h + new if i else new
        weight, bias = self.weights["detector.mix.weight"], self.weights["detector.mix.bias"]
        return np.tensordot(weight[0, :, 0], h, 1) + bias


def _convolve(x: np.ndarray, weight: np.ndarray, dilation: int) -> np.ndarray:
    """Convolve along the bands; the first and last band are repeated beyond the edges.

    Parameters
    ----------
    x : np.ndarray, shape (inputs, n_mels, cells)
    weight : np.ndarray, shape (channels, inputs, bands)

    Returns
    -------
    np.ndarray, shape (channels, n_mels, cells)
    """
    n_channels, n_inputs, n_taps = weight.shape
    n_mels, reach = x.shape[1], dilation * (n_taps // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    shifted = np.stack([padded[:, tap * dilation : tap * dilation + n_mels] for tap in range(n_taps)], axis=1)
    product = weight.reshape(n_channels, -1) @ shifted.reshape(n_inputs * n_taps, -1)
    return product.reshape(n_channels, n_mels, -1)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def cell_levels(level_db: np.ndarray) -> np.ndarray:
    """Levels of cells, (n_mels, cells), as natural logarithms, from those of steps, (n_mels, steps), in dB."""
    size = CELL_FRAMES // STEP_FRAMES
    power = np.exp(NEPER_PER_DB * level_db)
    starts = np.arange(0, power.shape[1], size)
    counts = np.diff(np.append(starts, power.shape[1]))
    return np.log(np.add.reduceat(power, starts, axis=1) / counts).astype(np.float32)


def texture_in_chunks(
    detect: Callable[[np.ndarray, np.ndarray], np.ndarray],
    spectrum_db: np.ndarray,
    crest_db: float,
    tones_db: np.ndarray,
    texture_db: np.ndarray,
) -> GeneratedTexture:
    """The texture that a model would give a whole sound, computed in chunks so that memory does not grow with its length.

    Parameters
    ----------
    detect : the detector D: levels of tones and texture, (n_mels, cells) -> dB relative to ``spectrum_db``
    spectrum_db, crest_db : of the library's typical texture
    tones_db, texture_db : np.ndarray, shape (n_mels, steps), dB
    """
    context = DETECTOR.context_cells
    levels = np.stack([cell_levels(tones_db), cell_levels(texture_db)])
    chunks = []
    for start in range(0, levels.shape[2], DETECTOR.chunk_cells):
        first = max(0, start - context)
        pattern = detect(*levels[..., first : start + DETECTOR.chunk_cells + context])
        chunks.append(pattern[:, start - first :][:, : DETECTOR.chunk_cells])
    return GeneratedTexture(spectrum_db[:, None] + np.concatenate(chunks, axis=1), crest_db)
