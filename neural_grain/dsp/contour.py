"""The grain contour: the grain of each second of a sound.

Every second is measured as a sound of its own: on the frames that lie within it, with a floor below their loudest bin.
Its grain is the mean flatness of those that are active in the whole sound; a second without any is silent and has no
grain. After a change the same frames are compared:

    octaves[i] = log2(mean of flatness before / mean of flatness after, over these frames)

Where the slider moves within a second, the law asks for it at every frame, so the request for the second is

    octaves[i] = -log2(mean of flatness[t] 2**-s(t) / mean of flatness[t])

In: a `Sound`. Out: arrays of shape (seconds,), with NaN for silent seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import Sound
from neural_grain.dsp.curve import SLIDER_RANGE, GrainCurve
from neural_grain.dsp.flatness import GrainMeter, check_sound, grain_per_frame, power_blocks, spectral_flatness
from neural_grain.dsp.settings import GrainSettings
from neural_grain.dsp.stft import n_full_frames

BORDER_S = 0.02  # to either side of a border, within which a contour changes: less than half a frame, so none sees it
MIN_LAST_S = 0.5  # a shorter rest at the end of a sound belongs to the second before


class FramePlaces(NamedTuple):
    """Where the frames of a sound lie, shape (frames,) each."""

    of_second: np.ndarray  # number of the second that holds the middle of the frame
    is_within: np.ndarray  # bool, whether all of the frame lies in that second
    times_s: np.ndarray  # of the middle

    @classmethod
    def of(cls, sound: Sound, settings: GrainSettings) -> FramePlaces:
        """Places of the frames of a sound, which is not shorter than a frame."""
        n_fft, hop_length = settings.n_fft_for(sound.sr), settings.hop_for(sound.sr)
        starts = hop_length * np.arange(n_full_frames(sound.n_samples, n_fft, hop_length))
        n_seconds = max(1, int(sound.n_samples / sound.sr + 1 - MIN_LAST_S))
        second = np.minimum((starts + n_fft // 2) // sound.sr, n_seconds - 1)
        ends = np.where(second == n_seconds - 1, sound.n_samples, (second + 1) * sound.sr)
        is_within = (starts >= second * sound.sr) & (starts + n_fft <= ends)
        return cls(second, is_within, (starts + n_fft / 2) / sound.sr)


@dataclass(frozen=True)
class ReferenceContour:
    """The grain contour of another sound, to which a sound is moved.

    Parameters
    ----------
    grain : of each second, > 0; 0 where the reference is silent
    """

    grain: tuple[float, ...]

    @classmethod
    def of(cls, sound: Sound, settings: GrainSettings, threads: int = 1) -> ReferenceContour:
        """Measure the contour of a sound; a `PipelineError` if it has no grain."""
        active = grain_per_frame(sound, settings, threads).active
        grain = Seconds.of(sound, active, settings, threads).grain
        return cls(tuple(np.nan_to_num(grain).tolist()))


class LocalGrain(NamedTuple):
    """The flatness of every frame, measured in its second, and the grain of the whole sound."""

    flatness: np.ndarray  # (frames,), in (0, 1]
    grain: float


def measure_local_grain(sound: Sound, settings: GrainSettings, threads: int = 1) -> LocalGrain:
    """Measure both in one pass; a `PipelineError` if the sound has no grain."""
    check_sound(sound, settings)
    n_fft = settings.n_fft_for(sound.sr)
    places = FramePlaces.of(sound, settings)
    n_frames = len(places.of_second)
    ends = np.append(np.flatnonzero(np.diff(places.of_second)) + 1, n_frames)
    meter, flatness = GrainMeter(settings, n_fft), np.empty(n_frames, np.float32)
    waiting, first, n_waiting = [], 0, 0
    for block in power_blocks(sound, settings, threads):
        meter.add(block)
        waiting.append(block.bins)
        n_waiting += len(block.bins)
        while first < n_frames and first + n_waiting >= (end := ends[np.searchsorted(ends, first, "right")]):
            bins = np.concatenate(waiting)
            P, waiting = bins[: end - first], [bins[end - first :]]
            peak = max(float(P[places.is_within[first:end]].max(initial=0)), np.finfo(np.float32).tiny)
            flatness[first:end] = spectral_flatness(P, peak, settings.floor_db)
            n_waiting -= len(P)
            first = end
    return LocalGrain(flatness, meter.result(lambda: power_blocks(sound, settings, threads)).grain)


@dataclass(frozen=True)
class Seconds:
    """The seconds of a sound.

    Parameters
    ----------
    flatness : np.ndarray, shape (frames,), as in `LocalGrain`, of the sound as it is
    counts : np.ndarray of bool, shape (frames,), which frames are active in the whole sound and lie within a second
    places : FramePlaces
    """

    flatness: np.ndarray
    counts: np.ndarray
    places: FramePlaces

    @classmethod
    def of(cls, sound: Sound, active: np.ndarray, settings: GrainSettings, threads: int = 1) -> Seconds:
        """Measure the seconds of a sound, given which of its frames are active."""
        flatness = measure_local_grain(sound, settings, threads).flatness
        places = FramePlaces.of(sound, settings)
        counts = active & places.is_within
        return cls(flatness, counts if counts.any() else active, places)  # a click on a border lies in no second

    @property
    def n(self) -> int:
        """Number of seconds."""
        return int(self.places.of_second[-1]) + 1

    @property
    def grain(self) -> np.ndarray:
        """Grain of each second."""
        return self.mean(self.flatness)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the frames of each second that count, of values of shape (frames,)."""
        second = self.places.of_second[self.counts]
        counts = np.bincount(second, minlength=self.n)
        sums = np.bincount(second, values[self.counts].astype(float), self.n)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def requested_octaves(self, curve: GrainCurve) -> np.ndarray:
        """Octaves that a curve asks of each second."""
        return -np.log2(self.mean(self.flatness * 2.0 ** -curve.octaves_at(self.places.times_s)) / self.grain)

    def curve_to(self, reference: ReferenceContour) -> GrainCurve:
        """The curve that gives the sound a grain contour, stretched to its length, as far as the slider goes.

        It is constant in each second but near the borders.
        """
        theirs, middle = np.array(reference.grain), (np.arange(self.n) + 0.5) / self.n
        known = np.flatnonzero(theirs)
        wanted = np.interp(middle, (known + 0.5) / len(theirs), np.log2(theirs[known]))
        octaves = np.log2(self.grain) - wanted
        known = np.flatnonzero(np.isfinite(octaves))
        octaves = np.clip(octaves[known], -SLIDER_RANGE, SLIDER_RANGE)
        times_s = np.stack((known + BORDER_S, known + 1 - BORDER_S))  # (2, seconds)
        return GrainCurve.of(zip(times_s.T.ravel(), octaves.repeat(2), strict=True))
