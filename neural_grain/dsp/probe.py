"""The probe: a subset of the frames of a sound, on which grain is predicted without rendering.

A few frames often decide the mean flatness or the mean power of a sound, so frames are drawn by importance sampling, and
each has a weight that says how many frames of the sound it stands for.

In: the `Layers` of a sound, and the energy and flatness of its frames. Out: a `Probe`, powers of shape (frames, bins of
the analysis band) for the tones, the texture and what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.flatness import active_frames
from neural_grain.dsp.layers import Layers
from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.dsp.stft import hann_window, mean_power


@dataclass(frozen=True)
class ProbeSettings:
    """How large the probe is."""

    range_db: float = 60.0  # frames that lie so far below the loudest may become active when texture is raised
    max_frames: int = 1536  # predict grain within 0.02 octaves, so that most sounds are rendered only once


PROBE = ProbeSettings()
BLOCK_FRAMES = 32  # computed at a time; then pages are given back: up to 2 MB are mapped around each frame


@dataclass(frozen=True)
class Probe:
    """Some frames of a sound that are loud enough, used to predict grain without rendering.

    The power of a frame whose texture is multiplied by g is ``tones + g cross + g**2 texture``; all have the shape
    (frames, bins of the analysis band).
    """

    tones: np.ndarray
    cross: np.ndarray
    texture: np.ndarray
    index: np.ndarray  # (frames,), their numbers in the padded sound, rising
    weights: np.ndarray  # (frames,), how many frames of the sound each stands for

    @property
    def power(self) -> np.ndarray:
        """Power of the frames as they are."""
        return np.maximum(self.tones + self.cross + self.texture, 0)


class ChosenFrames(NamedTuple):
    """Frames that stand for all."""

    numbers: np.ndarray  # rising, counted from the first frame without padding
    weights: np.ndarray  # how many frames each stands for


def choose_frames(energies: np.ndarray, flatness: np.ndarray) -> ChosenFrames:
    """Choose the frames of the probe by importance sampling.

    A few frames often decide the mean flatness or the mean power of a sound. So a frame is chosen with a probability
    that rises with both, and its weight is the inverse of that.

    Parameters
    ----------
    energies, flatness : np.ndarray, shape (frames,)
    """
    numbers = np.flatnonzero(active_frames(energies, PROBE.range_db))
    return choose_by_importance(numbers, (energies[numbers], flatness[numbers]), PROBE.max_frames)


def choose_by_importance(numbers: np.ndarray, importances: Iterable[np.ndarray], n: int) -> ChosenFrames:
    """Choose at most ``n`` frames with probabilities that are the mean of a uniform one and of the importances.

    Parameters
    ----------
    numbers : np.ndarray, shape (frames,), rising
    importances : np.ndarray, shape (frames,) each, > 0, in any unit
    """
    if len(numbers) <= n:
        return ChosenFrames(numbers, np.ones(len(numbers), np.float32))
    shares = [x / x.sum(dtype=float) for x in (np.ones(len(numbers)), *importances)]
    probability = sum(shares) / len(shares)
    places = np.searchsorted(np.cumsum(probability), (np.arange(n) + 0.5) / n)
    chosen, counts = np.unique(places.clip(0, len(numbers) - 1), return_counts=True)
    return ChosenFrames(numbers[chosen], (counts / (n * probability[chosen])).astype(np.float32))


def probe_of(layers: Layers, chosen: ChosenFrames, settings: SpectrogramSettings, sr: int) -> Probe:
    """Compute the powers of the chosen frames from the layers."""
    from scipy.fft import rfft

    n_fft, hop_length, band = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr), settings.grain.band_for(sr)
    window, n_channels = hann_window(n_fft), layers.tones.shape[1]
    shape = len(chosen.numbers), band.stop - band.start
    tones, cross, texture = (np.empty(shape, np.float32) for _ in range(3))
    for first in range(0, len(chosen.numbers), BLOCK_FRAMES):
        frames = slice(first, first + BLOCK_FRAMES)
        starts = chosen.numbers[frames] * hop_length
        parts = [
            np.stack([part(start, start + n_fft).T for start in starts], axis=1)  # (channels, frames, n_fft)
            for part in (lambda start, stop: layers.tones[start:stop], layers.texture)
        ]
        D = rfft(np.concatenate(parts) * window, axis=-1)[..., band]
        of_tones, of_texture = D[:n_channels], D[n_channels:]
        tones[frames], texture[frames] = mean_power(of_tones), mean_power(of_texture)
        cross[frames] = mean_power(of_tones + of_texture) - tones[frames] - texture[frames]
        layers.release_pages()
    return Probe(tones, cross, texture, chosen.numbers + n_fft // hop_length - 1, chosen.weights)
