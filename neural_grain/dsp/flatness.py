"""TODO"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from neural_grain.audio.sound import BLOCK_FRAMES, Sound
from neural_grain.base.errors import PipelineError
from neural_grain.base.parallel import map_in_order
from neural_grain.dsp.settings import SAMPLE_RATES_HZ, GrainSettings
from neural_grain.dsp.stft import frame_blocks, hann_window, mean_power, peak_of_frames

KEEP_FRAMES = 12_000  # powers of so many frames (35 MB, 2.3 minutes) are kept rather than computed twice
INAUDIBLE = 1e-7  # in-band peak below this share of the sample peak is rounding (float32 has 24 bits)


def band_powers(sound: Sound, settings: GrainSettings, threads: int = 1) -> Iterator[tuple[np.ndarray, float]]:
    """Bin powers inside the analysis band, averaged over channels, and the largest sample of each block.

    Power is averaged, not samples: two channels in opposite phase must not cancel.

    Yields
    ------
    np.ndarray, shape (frames, bins), float32
    float
    """
    from scipy.fft import rfft  # imported late: `--help` must not wait for scipy

    n_fft, hop_length, band = settings.n_fft_for(sound.sr), settings.hop_for(sound.sr), settings.band_for(sound.sr)
    window = hann_window(n_fft)

    def powers(windows: np.ndarray) -> tuple[np.ndarray, float]:
        peak = peak_of_frames(windows, hop_length)  # first: it refuses what the transform can't take
        return mean_power(rfft(windows * window, axis=-1)[..., band]), peak

    return map_in_order(powers, frame_blocks(sound.blocks(), n_fft, hop_length), threads)


def spectral_flatness(P: np.ndarray, peak: float, floor_db: float) -> np.ndarray:
    """Flatness of each frame, with the floor relative to ``peak`` instead of absolute.

    Equals ``librosa.feature.spectral_flatness(S=sqrt(P / peak).T, amin=10**(floor_db/10))``.

    Parameters
    ----------
    P : np.ndarray, shape (frames, bins), bin powers >= 0
    peak : float > 0, the file's loudest bin power
    floor_db : float < 0

    Returns
    -------
    np.ndarray, shape (frames,), in (0, 1]
    """
    if not peak > 0:
        raise ValueError(f"peak={peak} must be positive")
    least = np.finfo(np.float32).smallest_subnormal  # 0 has no logarithm
    P = np.maximum(P, np.float32(max(peak * 10 ** (floor_db / 10), least)))
    mean = P.mean(axis=-1, dtype=np.float32)
    return np.exp(np.log(P).mean(axis=-1, dtype=np.float32) - np.log(mean))


def active_frames(energies: np.ndarray, active_range_db: float) -> np.ndarray:
    """Which frames lie within ``active_range_db`` of the loudest. Shape (frames,), bool."""
    return energies >= energies.max() * 10 ** (-active_range_db / 10)


class GrainMeter:
    """Flatness of the frames that go through it, block by block.

    The floor hangs on the loudest bin of the whole sound, which is known only at the end. So the
    powers of a short sound are kept; of a long one only those blocks are gone through again that
    reach down to the floor.

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
        self._done: list[tuple[np.ndarray, float, float]] = []  # flatness, the block's lowest power, the peak so far

    def add(self, P: np.ndarray, sample_peak: float) -> None:
        """Take the next block: bin powers of the band (frames, bins), and its largest sample."""
        self._sample_peak = max(self._sample_peak, sample_peak)
        self._power_peak = max(self._power_peak, float(P.max()))
        self._energies.append(P.mean(axis=1))
        self._kept.append(P)
        if self._done or BLOCK_FRAMES * len(self._kept) > KEEP_FRAMES:
            self._done += [self._flatness(P) for P in self._kept]
            self._kept.clear()

    def _flatness(self, P: np.ndarray) -> tuple[np.ndarray, float, float]:
        peak = max(self._power_peak, np.finfo(np.float32).tiny)
        return spectral_flatness(P, peak, self._settings.floor_db), float(P.min()), self._power_peak

    def result(self, again: Callable[[], Iterable[tuple[np.ndarray, float]]]) -> tuple[np.ndarray, np.ndarray]:
        """Flatness of every frame, in (0, 1], and which frames are active; both of shape (frames,).

        Parameters
        ----------
        again : gives the frames once more, if need be, in blocks of any size

        Raises
        ------
        PipelineError
            If nothing in the analysis band is above rounding noise.
        """
        if self._sample_peak == 0.0:
            raise PipelineError("silent: every sample is zero")
        full_scale = self._sample_peak * self._n_fft / 4  # a full-scale sine peaks at n_fft / 4
        if math.sqrt(self._power_peak) <= INAUDIBLE * full_scale:
            low, high = self._settings.fmin_hz, self._settings.fmax_hz
            raise PipelineError(f"nothing to measure between {low:g} and {high:g} Hz")
        floor = self._power_peak * 10 ** (self._settings.floor_db / 10)
        done = [block for block, _, _ in self._done]
        flatness = np.concatenate([*done, *(self._flatness(P)[0] for P in self._kept)])
        is_wrong = [lowest < floor and peak < self._power_peak for _, lowest, peak in self._done]
        wrong = np.repeat(is_wrong, [len(block) for block in done])
        if wrong.any():
            first = 0
            for P, _ in again():
                last = min(first + len(P), len(wrong))
                if wrong[first:last].any():
                    flatness[first : first + len(P)] = self._flatness(P)[0]
                first += len(P)
        active = active_frames(np.concatenate(self._energies), self._settings.active_range_db)
        return flatness, active


def check_sound(sound: Sound, settings: GrainSettings) -> None:
    """Refuse a sound that is shorter than a window, or whose rate is none of sound.

    Raises
    ------
    PipelineError
        If it is.
    """
    if not SAMPLE_RATES_HZ[0] <= sound.sr <= SAMPLE_RATES_HZ[1]:
        raise PipelineError(f"its sample rate is {sound.sr} Hz, not {SAMPLE_RATES_HZ[0]} to {SAMPLE_RATES_HZ[1]}")
    n_fft = settings.n_fft_for(sound.sr)
    if sound.n_samples == 0:
        raise PipelineError("empty: it holds no samples")
    if sound.n_samples < n_fft:
        length_ms, window_ms = 1000 * sound.n_samples / sound.sr, 1000 * n_fft / sound.sr
        raise PipelineError(f"too short: {length_ms:.1f} ms, one analysis window is {window_ms:.0f} ms")


def grain_per_frame(sound: Sound, settings: GrainSettings, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Flatness of every frame of a sound, and which frames are active.

    Returns
    -------
    flatness : np.ndarray, shape (frames,), in (0, 1]
    active : np.ndarray, shape (frames,), bool

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    check_sound(sound, settings)
    meter = GrainMeter(settings, settings.n_fft_for(sound.sr))
    for P, sample_peak in band_powers(sound, settings, threads):
        meter.add(P, sample_peak)
    return meter.result(lambda: band_powers(sound, settings, threads))


def measure_grain(sound: Sound, settings: GrainSettings | None = None, threads: int = 1) -> float:
    """Grain of a sound: mean spectral flatness over its active frames, in (0, 1].

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    flatness, active = grain_per_frame(sound, settings or GrainSettings(), threads)
    return float(flatness[active].mean(dtype=np.float64))


def grain_spread_octaves(grains: Iterable[float]) -> float:
    """Octaves between the 10th and the 90th percentile of some grains."""
    low, high = np.percentile(np.log2(list(grains)), (10, 90))
    return float(high - low)
