"""Grain: the spectral flatness (Wiener entropy) of a sound, which is low for tones and high for noise.

    flatness[t] = exp(mean over k of ln P[t, k]) / (mean over k of P[t, k])

P is the power of the bins of the analysis band, averaged over channels. The grain of a sound is the mean over its
active frames. Two rules make it independent of level and silence: powers below ``floor_db`` under the loudest bin of
the sound count as that floor, and a frame is active if it lies within ``active_range_db`` of the loudest frame. On
the same powers it equals ``librosa.feature.spectral_flatness``, whose floor ``amin`` is absolute.

In: a `Sound`, or powers of shape (frames, bins). Out: flatness, shape (frames,), and grain, both in (0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import BLOCK_FRAMES, Sound
from neural_grain.base.errors import PipelineError
from neural_grain.dsp.settings import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, GrainSettings
from neural_grain.dsp.stft import mean_power, stft_blocks

MAX_KEPT_FRAMES = 12_000  # powers of this many frames (35 MB, 2.3 minutes) are kept instead of computed a second time
MIN_AUDIBLE_RATIO = 1e-7  # of the amplitude in the band to the sample peak; less is rounding, as float32 has 24 bits
MIN_PEAK = 1e-9  # -180 dBFS; the powers of a quieter sound would leave the range of float32
SILENT = "silent: every sample is zero"  # the reasons why a sound has no grain
TOO_QUIET = "silent: no sample exceeds -180 dBFS"


class PowerBlock(NamedTuple):
    """The measured part of consecutive frames of a sound."""

    bins: np.ndarray  # (frames, bins of the analysis band), float32, powers averaged over channels
    sample_peak: float  # largest absolute sample of the block


class FrameGrain(NamedTuple):
    """The flatness of every frame of a sound."""

    flatness: np.ndarray  # (frames,), in (0, 1]
    active: np.ndarray  # (frames,), bool

    @property
    def grain(self) -> float:
        """The grain of the sound: mean flatness of its active frames."""
        return float(self.flatness[self.active].mean(dtype=np.float64))


def check_sound(sound: Sound, settings: GrainSettings) -> None:
    """Refuse a sound that is shorter than a window, or whose sample rate is not one of audio."""
    if not MIN_SAMPLE_RATE_HZ <= sound.sr <= MAX_SAMPLE_RATE_HZ:
        raise PipelineError(f"its sample rate is {sound.sr} Hz, not {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}")
    n_fft = settings.n_fft_for(sound.sr)
    if sound.n_samples == 0:
        raise PipelineError("empty: it holds no samples")
    if sound.n_samples < n_fft:
        length_ms, window_ms = 1000 * sound.n_samples / sound.sr, 1000 * n_fft / sound.sr
        raise PipelineError(f"too short: {length_ms:.1f} ms, one analysis window is {window_ms:.0f} ms")


def power_blocks(sound: Sound, settings: GrainSettings, threads: int = 1) -> Iterator[PowerBlock]:
    """Bin powers of the analysis band, block by block."""
    band = settings.band_for(sound.sr)
    return stft_blocks(sound, settings, lambda D, peak: PowerBlock(mean_power(D[..., band]), peak), threads)


def spectral_flatness(P: np.ndarray, peak: float, floor_db: float) -> np.ndarray:
    """Flatness of each frame, with a floor relative to ``peak``.

    It equals ``librosa.feature.spectral_flatness(S=sqrt(P / peak).T, amin=10**(floor_db / 10))``.

    Parameters
    ----------
    P : np.ndarray, shape (frames, bins), powers >= 0
    peak : float > 0, power of the loudest bin of the sound
    floor_db : float < 0

    Returns
    -------
    np.ndarray, shape (frames,), in (0, 1]
    """
    if not peak > 0:
        raise ValueError(f"peak={peak} must be positive")
    smallest = np.finfo(np.float32).smallest_subnormal  # because 0 has no logarithm
    P = np.maximum(P, np.float32(max(peak * 10 ** (floor_db / 10), smallest)))
    mean = P.mean(axis=-1, dtype=np.float32)
    return np.exp(np.log(P).mean(axis=-1, dtype=np.float32) - np.log(mean))


def active_frames(energies: np.ndarray, active_range_db: float) -> np.ndarray:
    """Which frames lie within ``active_range_db`` of the loudest. Shape (frames,), bool."""
    return energies >= energies.max() * 10 ** (-active_range_db / 10)


class _BlockFlatness(NamedTuple):
    """Flatness of a block, and what decides whether it is still right when a louder block follows."""

    flatness: np.ndarray  # (frames,)
    lowest_power: float
    power_peak: float  # loudest bin known when the flatness was computed


class GrainMeter:
    """Measures the flatness of frames that arrive in blocks.

    The floor depends on the loudest bin of the whole sound, which is known only at the end. So the powers of a short
    sound are kept until then. Those of a long sound are measured at once, and only the blocks in which the final
    floor would have made a difference are measured again.

    Parameters
    ----------
    settings : GrainSettings
    n_fft : int > 0
    """

    def __init__(self, settings: GrainSettings, n_fft: int):
        self._settings, self._n_fft = settings, n_fft
        self._sample_peak = self._power_peak = 0.0
        self._energies: list[np.ndarray] = []
        self._kept: list[np.ndarray] = []
        self._measured: list[_BlockFlatness] = []

    def add(self, block: PowerBlock) -> None:
        """Measure the next block."""
        self._sample_peak = max(self._sample_peak, block.sample_peak)
        self._power_peak = max(self._power_peak, float(block.bins.max()))
        self._energies.append(block.bins.mean(axis=1))
        self._kept.append(block.bins)
        if self._measured or BLOCK_FRAMES * len(self._kept) > MAX_KEPT_FRAMES:
            self._measure_kept()

    def result(self, reread: Callable[[], Iterable[PowerBlock]]) -> FrameGrain:
        """The flatness of all frames; a `PipelineError` if the sound is silent in the analysis band.

        Parameters
        ----------
        reread : returns all frames once more, in blocks of any size; called only if blocks must be measured again
        """
        self._check_audible()
        self._measure_kept()
        flatness = np.concatenate([block.flatness for block in self._measured])
        floor = self._power_peak * 10 ** (self._settings.floor_db / 10)
        is_outdated = [block.lowest_power < floor and block.power_peak < self._power_peak for block in self._measured]
        outdated = np.repeat(is_outdated, [len(block.flatness) for block in self._measured])
        first = 0
        for P, _ in reread() if outdated.any() else ():
            frames = slice(first, first + len(P))
            if outdated[frames].any():
                flatness[frames] = self._flatness(P)
            first += len(P)
        return FrameGrain(flatness, active_frames(self.energies(), self._settings.active_range_db))

    def energies(self) -> np.ndarray:
        """Mean power of the bins of each frame so far. Shape (frames,)."""
        return np.concatenate(self._energies)

    def _measure_kept(self) -> None:
        """Measure the blocks that were kept, by the loudest bin so far."""
        self._measured += [_BlockFlatness(self._flatness(P), float(P.min()), self._power_peak) for P in self._kept]
        self._kept.clear()

    def _flatness(self, P: np.ndarray) -> np.ndarray:
        return spectral_flatness(P, max(self._power_peak, np.finfo(np.float32).tiny), self._settings.floor_db)

    def _check_audible(self) -> None:
        if self._sample_peak == 0.0:
            raise PipelineError(SILENT)
        if self._sample_peak < MIN_PEAK:
            raise PipelineError(TOO_QUIET)
        full_scale = self._sample_peak * self._n_fft / 4  # of a bin: a sine of amplitude 1 has half the window's sum
        if math.sqrt(self._power_peak) <= MIN_AUDIBLE_RATIO * full_scale:
            low, high = self._settings.fmin_hz, self._settings.fmax_hz
            raise PipelineError(f"nothing to measure between {low:g} and {high:g} Hz")


def grain_per_frame(sound: Sound, settings: GrainSettings, threads: int = 1) -> FrameGrain:
    """Flatness of every frame; a `PipelineError` if the sound has no grain: too short, silent or not finite."""
    check_sound(sound, settings)
    meter = GrainMeter(settings, settings.n_fft_for(sound.sr))
    for block in power_blocks(sound, settings, threads):
        meter.add(block)
    return meter.result(lambda: power_blocks(sound, settings, threads))


def measure_grain(sound: Sound, settings: GrainSettings | None = None, threads: int = 1) -> float:
    """Grain of a sound, in (0, 1]; a `PipelineError` if it has none: too short, silent or not finite."""
    return grain_per_frame(sound, settings or GrainSettings(), threads).grain


def grain_spread_octaves(grains: Iterable[float]) -> float:
    """Octaves between the 10th and the 90th percentile of the grains of a library."""
    low, high = np.percentile(np.log2(list(grains)), (10, 90))
    return float(high - low)
