"""The mask that tells noise from tones in the STFT of a sound.

Noise fills its surroundings evenly and a tone stands out of them, so the level of the noise at a bin is taken from the
quieter bins around it (a quantile, divided by that quantile of noise of level 1), and a bin of power P above noise of
level L belongs to the texture with the share

    1                           if P / L < threshold
    1 / (P / L - threshold + 1)   otherwise

where P / L may be a mean over the frames around, in which tones show that are no louder than the noise.

In: a piece of a sound, shape (channels, samples). Out: its texture, of the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.stft import hann_window, mean_power

OVERLAP = 4  # windows that cover a sample
QUANTILE = 0.3  # of the power in the surroundings: partials may fill more than half of them
BLOCK_SAMPLES = 1 << 18  # of all windows that are transformed at a time, which fit the cache


class Threshold(NamedTuple):
    """From which ratio of power to the level of the noise a bin is a tone."""

    ratio: float  # may be lower if the ratio is averaged, because that of noise then fluctuates less
    mean_frames: int = 1  # over which the ratio is averaged


@dataclass(frozen=True)
class MaskSettings:
    """How the level of the noise is found with windows of one length."""

    windows: int  # length of a window, in windows of the measure of grain
    mean_frames: int  # over which power is averaged before it is compared with the level of the noise
    surroundings_hz: float  # wide enough to hold quiet bins between partials


#: 186 ms, which tell the partials of a chord apart.
LONG = MaskSettings(windows=4, mean_frames=5, surroundings_hz=400.0)
#: 46 ms, for partials that a vibrato moves on too fast for the long window, and for a mean over frames.
SHORT = MaskSettings(windows=1, mean_frames=1, surroundings_hz=800.0)


class TextureFilter:
    """Takes the tones out of a piece of a sound: the STFT times the share of the texture.

    The spectra are kept. When some samples change, only the windows over them are transformed again.

    Parameters
    ----------
    shape : (channels, samples) of the piece
    n_fft : int > 0, window in samples
    sr : int > 0, Hz
    """

    def __init__(self, shape: tuple[int, int], n_fft: int, sr: int, mask: MaskSettings):
        channels, self._n_samples = shape
        self._n_fft, self._hop_length, self._bin_hz, self._mask = n_fft, n_fft // OVERLAP, sr / n_fft, mask
        self._window, self._lead = hann_window(n_fft), n_fft - self._hop_length
        self._n_hops = -(-self._n_samples // self._hop_length)
        n_frames = self._n_hops + OVERLAP - 1  # frame t covers the hops from t - OVERLAP + 1 to t
        self._padded = np.zeros((channels, (n_frames + OVERLAP - 1) * self._hop_length), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._padded, n_fft, axis=1)
        self._windows = windows[:, :: self._hop_length]  # (channels, frames, n_fft), a view
        self._D = np.empty((channels, n_frames, n_fft // 2 + 1), np.complex64)
        self._P, self._ratio = (np.empty(self._D.shape[1:], np.float32) for _ in range(2))
        self._texture = np.empty_like(self._padded)
        self._threshold: Threshold | None = None  # of the last call

    def apply(self, y: np.ndarray, threshold: Threshold, changed: np.ndarray | None = None) -> np.ndarray:
        """The texture of samples (channels, samples).

        Parameters
        ----------
        changed : np.ndarray, shape (samples,), bool
            Where the samples differ from those of the call before; None for the first call.

        Returns
        -------
        np.ndarray, shape (channels, samples), a view of what the next call overwrites
        """
        self._padded[:, self._lead : self._lead + self._n_samples] = y
        is_touched = np.ones(self._n_hops + OVERLAP - 1, bool)
        if changed is not None:
            hops = np.add.reduceat(changed, np.arange(0, self._n_samples, self._hop_length))
            is_touched = np.convolve(hops, np.ones(OVERLAP)) > 0
        for run in _runs(is_touched):
            for frames in self._blocks(run):
                self._transform(frames)
        # The ratio of a frame depends on the powers around it and the level of the noise in the frames beside it.
        is_outdated = _widened(is_touched, self._mask.mean_frames // 2 + 1)
        for run in _runs(is_outdated):
            for frames in self._blocks(run):
                self._compare(frames)
        is_outdated |= threshold != self._threshold
        self._threshold = threshold
        for run in _runs(_widened(is_outdated, threshold.mean_frames // 2)):
            self._transform_back(run)
        return self._texture[:, self._lead : self._lead + self._n_samples]

    def _transform(self, frames: slice) -> None:
        """Compute the spectra of some frames."""
        from scipy.fft import rfft

        D = rfft(self._windows[:, frames] * self._window, axis=-1)
        self._D[:, frames], self._P[frames] = D, mean_power(D)

    def _transform_back(self, run: slice) -> None:
        """Compute the texture of the samples that some frames cover."""
        from scipy.fft import irfft

        window = self._window / np.float32(0.375 * OVERLAP)
        texture = self._texture.reshape(len(self._texture), -1, self._hop_length)  # a view, by hops
        first, stop = run.start, run.stop + OVERLAP - 1  # hops
        texture[:, first:stop] = 0
        for frames in self._blocks(slice(max(0, run.start - OVERLAP + 1), min(stop, len(self._P)))):
            y = irfft(self._D[:, frames] * self._share(frames), self._n_fft, axis=-1)
            y *= window
            parts = y.reshape(*y.shape[:2], OVERLAP, self._hop_length)
            for part in range(OVERLAP):  # this part of frame t lies in hop t + part
                start, end = max(first, frames.start + part), min(stop, frames.stop + part)
                texture[:, start:end] += parts[:, start - part - frames.start : end - part - frames.start, part]

    def _compare(self, frames: slice) -> None:
        """Compute the ratio of power to the level of the noise in some frames."""
        first, stop = frames.start // 2 * 2, frames.stop // 2 * 2 + 1
        P = mean_over_frames(self._P, first, stop, self._mask.mean_frames)
        ratio = power_to_noise(P, self._bin_hz, self._mask)
        self._ratio[frames] = ratio[frames.start - first : frames.stop - first]

    def _share(self, frames: slice) -> np.ndarray:
        """The share of the texture in some frames."""
        ratio = mean_over_frames(self._ratio, frames.start, frames.stop, self._threshold.mean_frames)
        ratio -= np.float32(self._threshold.ratio - 1)
        return np.reciprocal(np.maximum(ratio, 1, out=ratio), out=ratio)

    def _blocks(self, run: slice) -> Iterator[slice]:
        """Cut a run of frames into blocks that fit the cache."""
        n = max(1, BLOCK_SAMPLES // (self._n_fft * len(self._padded)))
        return (slice(i, min(i + n, run.stop)) for i in range(run.start, run.stop, n))


def _runs(is_wanted: np.ndarray) -> Iterator[slice]:
    """The runs of consecutive true values."""
    edges = np.flatnonzero(np.diff(is_wanted, prepend=False, append=False))
    return map(slice, edges[::2], edges[1::2])


def _widened(is_wanted: np.ndarray, n: int) -> np.ndarray:
    """What lies within ``n`` of a true value."""
    return np.convolve(is_wanted, np.ones(2 * n + 1))[n : len(is_wanted) + n] > 0


def mean_over_frames(values: np.ndarray, start: int, stop: int, n: int) -> np.ndarray:
    """Mean over ``n`` frames around each of those from ``start`` up to ``stop``; the ends are continued.

    Parameters
    ----------
    values : np.ndarray, shape (frames, bins)

    Returns
    -------
    np.ndarray, shape (stop - start, bins)
    """
    # Sums of 1, 2, 4, ... frames, of which those that make up n are added. That is half the additions of adding frame by
    # frame, which takes a fifth of the time of scipy.ndimage.
    sums = values[np.arange(start - n // 2, stop + n // 2).clip(0, len(values) - 1)]
    mean, n_added, width = np.zeros((stop - start, values.shape[1]), values.dtype), 0, 1
    while True:
        if n & width:
            mean += sums[n_added : n_added + stop - start]
            n_added += width
        if n_added == n:
            break
        sums = sums[:-width] + sums[width:]
        width *= 2
    mean /= np.float32(n)
    return mean


def power_to_noise(P: np.ndarray, bin_hz: float, mask: MaskSettings) -> np.ndarray:
    """Ratio of power to the level of the noise.

    The level of the noise is taken in every second frame and interpolated, because windows overlap by more.

    Parameters
    ----------
    P : np.ndarray, shape (frames, bins), power averaged over channels and ``mean_frames``, of an odd number of frames
    bin_hz : float > 0, distance between bins

    Returns
    -------
    np.ndarray, shape (frames, bins), 0 where there is neither
    """
    width = max(3, round(mask.surroundings_hz / bin_hz))
    level = np.empty_like(P)
    level[::2] = noise_level(P[::2], min(width, P.shape[1]), mask.mean_frames)
    level[1::2] = (level[:-1:2] + level[2::2]) / 2
    np.maximum(level, np.finfo(np.float32).tiny, out=level)
    with np.errstate(over="ignore"):  # infinitely far above the noise, where there is none, as around a constant offset
        return np.divide(P, level, out=level)


def noise_level(P: np.ndarray, width: int, mean_frames: int) -> np.ndarray:
    """Level of the noise at each bin: a quantile of the power around it over that quantile of noise of level 1.

    The quantile is taken of every third of ``width`` and interpolated, which differs from a quantile at every bin by
    0.4 dB and takes an eightieth of the time.

    Parameters
    ----------
    P : np.ndarray, shape (frames, bins), averaged over ``mean_frames``
    width : int > 0, of the surroundings in bins
    mean_frames : int > 0

    Returns
    -------
    np.ndarray, shape (frames, bins)
    """
    every, rank = max(1, width // 3), int(QUANTILE * width)
    groups = np.lib.stride_tricks.sliding_window_view(P, width, axis=1)[:, ::every]
    level = np.partition(groups, rank, axis=-1)[..., rank] / np.float32(_quantile_of_noise(mean_frames))
    at_bins = np.empty_like(P)
    first, stop = width // 2, width // 2 + (level.shape[1] - 1) * every
    at_bins[:, :first], at_bins[:, stop:] = level[:, :1], level[:, -1:]
    at_bins[:, first:stop] = join_points(level, every)
    return at_bins


def join_points(values: np.ndarray, n: int) -> np.ndarray:
    """Interpolate linearly between values that lie ``n`` samples apart.

    Parameters
    ----------
    values : np.ndarray, shape (rows, points), float32
    n : int > 0

    Returns
    -------
    np.ndarray, shape (rows, (points - 1) n), from the first point up to but not including the last
    """
    ramps = np.diff(values)[..., None] * (np.arange(n, dtype=np.float32) / np.float32(n))
    ramps += values[:, :-1, None]
    return ramps.reshape(len(values), -1)


# Without a cache, because a cached function travels to the workers of a cluster by its name, and they have no package.
def _quantile_of_noise(mean_frames: int) -> float:
    """The quantile of the power of noise of level 1, averaged over frames that overlap.

    The mean of correlated chi-square values is close to a gamma distribution (Welch, "The use of fast Fourier transform
    for the estimation of power spectra", IEEE Trans. Audio Electroacoust. 15(2), 1967).
    """
    from scipy.special import gammaincinv

    n, window = mean_frames, hann_window(64).astype(float)
    hop_length = 64 // OVERLAP
    lags = range(1, min(n, OVERLAP))
    correlations = {
        lag: (window[lag * hop_length :] @ window[: -lag * hop_length] / (window @ window)) ** 2 for lag in lags
    }
    shape = n / (1 + 2 * sum((1 - lag / n) * correlation for lag, correlation in correlations.items()))
    return float(gammaincinv(shape, QUANTILE) / shape)
