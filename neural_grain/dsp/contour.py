"""The grain contour: the grain of each second of a sound.

A frame belongs to the second that holds its middle. Its flatness is measured as if the second were a sound of its own,
with a floor below the loudest bin of the second, so that the grain of a second does not depend on the others. The grain
of a second is the mean over its frames that are active in the whole sound; a second without any is silent and has no
grain. After a change the same frames are compared:

    octaves[i] = log2(mean of flatness before / mean of flatness after, over the active frames of second i)

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

MIN_LAST_S = 0.5  # a shorter rest at the end of a sound belongs to the second before


def second_of_frames(n_frames: int, sound: Sound, settings: GrainSettings) -> np.ndarray:
    """The number of the second that each frame belongs to, shape (frames,)."""
    n_seconds = max(1, int(sound.n_samples / sound.sr + 1 - MIN_LAST_S))
    return np.minimum(frame_times_s(n_frames, sound.sr, settings).astype(int), n_seconds - 1)


def frame_times_s(n_frames: int, sr: int, settings: GrainSettings) -> np.ndarray:
    """Time of the middle of each frame, shape (frames,)."""
    return (np.arange(n_frames) * settings.hop_for(sr) + settings.n_fft_for(sr) / 2) / sr


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
        """That of a sound; a `PipelineError` if it has no grain."""
        active = grain_per_frame(sound, settings, threads).active
        grain = Seconds.of(sound, active, settings, threads).grain
        return cls(tuple(np.nan_to_num(grain).tolist()))


class LocalGrain(NamedTuple):
    """The flatness of every frame by the loudest bin of its second, and the grain of the whole sound."""

    flatness: np.ndarray  # (frames,), in (0, 1]
    grain: float


def measure_local_grain(sound: Sound, settings: GrainSettings, threads: int = 1) -> LocalGrain:
    """Measure both in one pass; a `PipelineError` if the sound has no grain."""
    check_sound(sound, settings)
    n_fft = settings.n_fft_for(sound.sr)
    of_frames = second_of_frames(n_full_frames(sound.n_samples, n_fft, settings.hop_for(sound.sr)), sound, settings)
    ends = np.append(np.flatnonzero(np.diff(of_frames)) + 1, len(of_frames))
    meter, flatness = GrainMeter(settings, n_fft), np.empty(len(of_frames), np.float32)
    waiting, first, n_waiting = [], 0, 0
    for block in power_blocks(sound, settings, threads):
        meter.add(block)
        waiting.append(block.bins)
        n_waiting += len(block.bins)
        while first < len(of_frames) and first + n_waiting >= (end := ends[np.searchsorted(ends, first, "right")]):
            bins = np.concatenate(waiting)
            P, waiting = bins[: end - first], [bins[end - first :]]
            peak = max(float(P.max()), np.finfo(np.float32).tiny)
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
    active : np.ndarray of bool, shape (frames,), which frames are active in the whole sound
    times_s : np.ndarray, shape (frames,), middle of each frame
    of_frames : np.ndarray of int, shape (frames,), the second that each frame belongs to
    """

    flatness: np.ndarray
    active: np.ndarray
    times_s: np.ndarray
    of_frames: np.ndarray

    @classmethod
    def of(cls, sound: Sound, active: np.ndarray, settings: GrainSettings, threads: int = 1) -> Seconds:
        """Those of a sound."""
        flatness = measure_local_grain(sound, settings, threads).flatness
        times_s = frame_times_s(len(active), sound.sr, settings)
        return cls(flatness, active, times_s, second_of_frames(len(active), sound, settings))

    @property
    def n(self) -> int:
        """How many there are."""
        return int(self.of_frames[-1]) + 1

    @property
    def grain(self) -> np.ndarray:
        """Grain of each second."""
        return self.mean(self.flatness)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the active frames of each second, of values of shape (frames,)."""
        of_active = self.of_frames[self.active]
        counts = np.bincount(of_active, minlength=self.n)
        sums = np.bincount(of_active, values[self.active].astype(float), self.n)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def octaves(self, flatness: np.ndarray) -> np.ndarray:
        """Octaves by which each second became smoother, from the flatness of the frames afterwards."""
        return np.log2(self.grain / self.mean(flatness))

    def requested_octaves(self, curve: GrainCurve) -> np.ndarray:
        """Octaves that a curve asks of each second."""
        return -np.log2(self.mean(self.flatness * 2.0 ** -curve.octaves_at(self.times_s)) / self.grain)

    def curve_to(self, reference: ReferenceContour) -> GrainCurve:
        """The curve that gives the sound a grain contour, stretched to its length, as far as the slider goes."""
        theirs, middle = np.array(reference.grain), (np.arange(self.n) + 0.5) / self.n
        known = np.flatnonzero(theirs)
        wanted = np.interp(middle, (known + 0.5) / len(theirs), np.log2(theirs[known]))
        octaves = np.log2(self.grain) - wanted
        known = np.flatnonzero(np.isfinite(octaves))
        octaves = np.clip(octaves[known], -SLIDER_RANGE, SLIDER_RANGE)
        return GrainCurve.of(zip(known + 0.5, octaves, strict=True))
