"""The grain contour: the grain of each second of a sound.

A frame belongs to the second that holds its middle. The grain of a second is the mean flatness of its frames that are
active in the whole sound; a second without any is silent and has no grain. After a change, the same frames are compared:

    octaves[i] = log2(mean of flatness before / mean of flatness after, over the active frames of second i)

Where the slider moves within a second, the law asks for it at every frame, so the request for the second is

    octaves[i] = -log2(mean of flatness[t] 2**-s(t) / mean of flatness[t])

In: the `FrameGrain` of a sound. Out: arrays of shape (seconds,), with NaN for silent seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neural_grain.audio.sound import Sound
from neural_grain.dsp.curve import SLIDER_RANGE, GrainCurve
from neural_grain.dsp.flatness import FrameGrain
from neural_grain.dsp.settings import GrainSettings

MIN_LAST_S = 0.5  # a shorter rest at the end of a sound belongs to the second before


@dataclass(frozen=True)
class Seconds:
    """The seconds of a sound.

    Parameters
    ----------
    frames : FrameGrain of the sound as it is
    times_s : np.ndarray, shape (frames,), middle of each frame
    of_frames : np.ndarray of int, shape (frames,), the second that each frame belongs to
    n : int > 0, how many there are
    """

    frames: FrameGrain
    times_s: np.ndarray
    of_frames: np.ndarray
    n: int

    @classmethod
    def of(cls, sound: Sound, frames: FrameGrain, settings: GrainSettings) -> Seconds:
        """Those of a sound."""
        n_fft, hop_length = settings.n_fft_for(sound.sr), settings.hop_for(sound.sr)
        times_s = (np.arange(len(frames.flatness)) * hop_length + n_fft / 2) / sound.sr
        n = max(1, int(sound.n_samples / sound.sr + 1 - MIN_LAST_S))
        return cls(frames, times_s, np.minimum(times_s.astype(int), n - 1), n)

    @property
    def grain(self) -> np.ndarray:
        """Grain of each second."""
        return self.mean(self.frames.flatness)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the active frames of each second, of values of shape (frames,)."""
        active = self.frames.active
        counts = np.bincount(self.of_frames[active], minlength=self.n)
        sums = np.bincount(self.of_frames[active], values[active].astype(float), self.n)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def octaves(self, flatness: np.ndarray) -> np.ndarray:
        """Octaves by which each second became smoother, from the flatness of the frames afterwards."""
        return np.log2(self.grain / self.mean(flatness))

    def requested_octaves(self, curve: GrainCurve) -> np.ndarray:
        """Octaves that a curve asks of each second."""
        return -np.log2(self.mean(self.frames.flatness * 2.0 ** -curve.octaves_at(self.times_s)) / self.grain)

    def curve_to(self, reference_grain: np.ndarray) -> GrainCurve:
        """The curve that gives the sound a grain contour, as far as the slider goes.

        Parameters
        ----------
        reference_grain : np.ndarray, shape (seconds of the reference,), NaN where it is silent; it is stretched to the
            length of the sound
        """
        middle = (np.arange(self.n) + 0.5) / self.n
        known = np.flatnonzero(np.isfinite(reference_grain))
        wanted = np.interp(middle, (known + 0.5) / len(reference_grain), np.log2(reference_grain[known]))
        octaves = np.log2(self.grain) - wanted
        known = np.flatnonzero(np.isfinite(octaves))
        octaves = np.clip(octaves[known], -SLIDER_RANGE, SLIDER_RANGE)
        return GrainCurve.of(zip(known + 0.5, octaves, strict=True))
