"""The analysis of a sound: everything that rendering needs and that does not depend on the requested octaves.

One pass over the sound gives its picture, its grain, where it has onsets, and the probe: a subset of its active frames,
on which the solver predicts grain without rendering. Frames are counted in the padded sound (`pad_edges`), and grain
is measured on those without padding, as in stage 1.

An onset is a frame in which the bands are louder, in the mean, than in the last frame that does not overlap it:

    onset[t] = clip((rise_db[t] - onset_min_rise_db) / (onset_full_rise_db - onset_min_rise_db), 0, 1)

In: a `Sound`. Out: an `Analysis`; for stage 2 `BandsAndGrain`, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import LevelMeter, Sound
from neural_grain.base.files import scratch_array
from neural_grain.dsp.flatness import GrainMeter, PowerBlock, check_sound, power_blocks
from neural_grain.dsp.mel import mel_filterbank, powers_to_log_mel
from neural_grain.dsp.settings import STEP_FRAMES, SpectrogramSettings
from neural_grain.dsp.stft import mean_power, n_full_frames, pad_edges, starts_abruptly, stft_blocks


@dataclass(frozen=True)
class AnalysisSettings:
    """How onsets are found and how large the probe is."""

    onset_min_rise_db: float = 3.0  # above the fluctuation of steady noise from frame to frame
    onset_full_rise_db: float = 6.0  # a rise that no steady sound shows
    probe_frames: int = 1536  # their mean stands for the grain of the whole sound within 0.01 octaves
    min_probe_frames: int = 384  # with fewer active frames among those kept, the sound is read once more
    max_kept_frames: int = 8 * 1536  # kept during the pass, because which frames are active is known only at its end


ANALYSIS = AnalysisSettings()


@dataclass(frozen=True)
class Probe:
    """Some active frames of a sound, used to predict grain without rendering."""

    power: np.ndarray  # (frames, bins of the analysis band)
    index: np.ndarray  # (frames,), their numbers in the padded sound


@dataclass(frozen=True)
class Analysis:
    """A sound, and what rendering needs to know about it."""

    sound: Sound
    settings: SpectrogramSettings
    x: np.ndarray  # (n_mels, frames), picture of the padded sound, in [0, 1]
    step_db: np.ndarray  # (n_mels, steps), mean level of every step, relative to the loudest, >= -dynamic_range_db
    onset: np.ndarray  # (frames,), in [0, 1]: 1 where a sound begins inside the frame
    grain: float
    peak: float  # largest absolute sample, full scale 1.0
    energy: float  # sum of squares of all samples
    probe: Probe
    threads: int = 1


class BandBlock(NamedTuple):
    """Powers of consecutive frames, in mel bands and in bins."""

    bands: np.ndarray  # (frames, n_mels), float32
    power: PowerBlock


class BandsAndGrain(NamedTuple):
    """What stage 2 needs to know about a sound."""

    bands: np.ndarray  # (frames, n_mels), float32, band powers
    flatness: np.ndarray  # (frames,), in (0, 1]
    active: np.ndarray  # (frames,), bool


class Levels(NamedTuple):
    """The picture and the step levels of a sound, as in `Analysis`."""

    x: np.ndarray
    step_db: np.ndarray


def band_reducer(settings: SpectrogramSettings, sr: int) -> Callable[[np.ndarray, float], BandBlock]:
    """A function for `stft_blocks` that reduces spectra to the powers of the mel bands and of the analysis band."""
    weights, band = mel_filterbank(settings, sr).T, settings.grain.band_for(sr)
    # The only bin of a narrow mel band may lie just outside the analysis band.
    used = np.flatnonzero(weights.any(axis=1))
    first, stop = min(band.start, used[0]), max(band.stop, used[-1] + 1)

    def reduce(D: np.ndarray, sample_peak: float) -> BandBlock:
        P = mean_power(D[..., first:stop])
        bins = np.ascontiguousarray(P[:, band.start - first : band.stop - first])
        return BandBlock(P @ weights[first:stop], PowerBlock(bins, sample_peak))

    return reduce


def bands_and_grain(sound: Sound, settings: SpectrogramSettings) -> BandsAndGrain:
    """Measure the bands and the flatness of every frame in one pass; a `PipelineError` if the sound has no grain."""
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    bands = scratch_array((n_full_frames(sound.n_samples, n_fft, hop_length), settings.n_mels))
    meter, first = GrainMeter(settings.grain, n_fft), 0
    for block in stft_blocks(sound, settings.grain, band_reducer(settings, sound.sr)):
        bands[first : first + len(block.bands)] = block.bands
        meter.add(block.power)
        first += len(block.bands)
    return BandsAndGrain(bands, *meter.result(lambda: power_blocks(sound, settings.grain)))


def analyse(sound: Sound, settings: SpectrogramSettings, threads: int = 1) -> Analysis:
    """Analyse a sound in one pass over it; a `PipelineError` if it has no grain: too short, silent or not finite."""
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    level = LevelMeter()
    padded = pad_edges(replace(sound, blocks=lambda: level.through(sound.blocks())), n_fft, hop_length)
    lead = n_fft // hop_length - 1  # frames before the first that holds no padding
    n_measured = n_full_frames(sound.n_samples, n_fft, hop_length)
    levels = LevelRecorder(settings.n_mels, n_full_frames(padded.n_samples, n_fft, hop_length))
    meter, sampler = GrainMeter(settings.grain, n_fft), FrameSampler()
    first = -lead  # number of a block's first frame, counted from the first that is measured
    for bands, power in stft_blocks(padded, settings.grain, band_reducer(settings, sound.sr), threads):
        levels.add(bands)
        measured = power._replace(bins=power.bins[max(0, -first) : max(0, n_measured - first)])
        if len(measured.bins):
            meter.add(measured)
            sampler.add(measured.bins, max(0, first))
        first += len(bands)

    def reread() -> Iterable[PowerBlock]:
        return power_blocks(sound, settings.grain, threads)

    frames = meter.result(reread)
    x, step_db = levels.result(settings.dynamic_range_db)
    is_abrupt = starts_abruptly(next(iter(sound.blocks()))[:n_fft])
    probe = sampler.probe(frames.active, reread)
    return Analysis(
        sound=sound,
        settings=settings,
        x=x,
        step_db=step_db,
        onset=onsets(x, settings.dynamic_range_db, n_fft // hop_length, is_abrupt=is_abrupt),
        grain=frames.grain,
        peak=level.peak,
        energy=level.energy,
        probe=replace(probe, index=probe.index + lead),
        threads=threads,
    )


def onsets(x: np.ndarray, dynamic_range_db: float, overlap: int, *, is_abrupt: bool = False) -> np.ndarray:
    """How surely a sound begins in each frame of a picture.

    Parameters
    ----------
    x : np.ndarray, shape (n_mels, frames), in [0, 1]
    dynamic_range_db : float > 0, from 0 to 1 in the picture
    overlap : int > 0, n_fft / hop_length
    is_abrupt : whether the sound starts abruptly, so that its start is no onset

    Returns
    -------
    np.ndarray, shape (frames,), float32, in [0, 1]
    """
    mean_db = dynamic_range_db * x.mean(axis=0)
    before_db = np.full(overlap, mean_db[0] if is_abrupt else 0.0, np.float32)
    mean_db = np.append(before_db, mean_db)
    rise_db = mean_db[overlap:] - mean_db[:-overlap]
    low, high = ANALYSIS.onset_min_rise_db, ANALYSIS.onset_full_rise_db
    return np.clip((rise_db - low) / (high - low), 0, 1)


def evenly_spaced(items: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of the items, spread evenly over them."""
    return items[np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)]


def gather_frames(blocks: Iterable[PowerBlock], numbers: np.ndarray) -> np.ndarray:
    """Collect the frames with the given numbers, which rise, from all frames of a sound. Shape (numbers, bins)."""
    gathered, first = [], 0
    for P, _ in blocks:
        gathered.append(P[numbers[(numbers >= first) & (numbers < first + len(P))] - first])
        first += len(P)
    return np.concatenate(gathered)


class LevelRecorder:
    """Records band powers block by block and converts them to levels at the end, when the loudest is known.

    Parameters
    ----------
    n_mels : int > 0
    n_frames : int > 0, of all blocks together
    """

    def __init__(self, n_mels: int, n_frames: int):
        self._x = scratch_array((n_mels, n_frames))
        self._step_db = scratch_array((n_mels, -(-n_frames // STEP_FRAMES)))
        self._n_added = 0

    def add(self, bands: np.ndarray) -> None:
        """Record a block of band powers, shape (frames, n_mels), that begins with a step."""
        self._x[:, self._n_added : self._n_added + len(bands)] = bands.T
        starts = np.arange(0, len(bands), STEP_FRAMES)
        sums = np.add.reduceat(bands, starts, axis=0)
        means = sums / np.diff(np.append(starts, len(bands)))[:, None]
        first_step = self._n_added // STEP_FRAMES
        self._step_db[:, first_step : first_step + len(starts)] = means.T
        self._n_added += len(bands)

    def result(self, dynamic_range_db: float) -> Levels:
        """Convert the recorded powers in place."""
        powers_to_log_mel(self._x, dynamic_range_db)
        powers_to_log_mel(self._step_db, dynamic_range_db)
        self._step_db -= 1
        self._step_db *= dynamic_range_db
        return Levels(self._x, self._step_db)


class FrameSampler:
    """Keeps every n-th frame of a sound; n doubles whenever more than ``max_kept_frames`` are kept."""

    def __init__(self) -> None:
        self._step = 1
        self._kept: dict[int, np.ndarray] = {}  # powers (bins,) by frame number, in rising order

    def add(self, bins: np.ndarray, first: int) -> None:
        """Take a block of powers, shape (frames, bins), whose first frame has the number ``first``."""
        for i in range(-first % self._step, len(bins), self._step):
            self._kept[first + i] = bins[i].copy()  # a view would keep the whole block in memory
        while len(self._kept) > ANALYSIS.max_kept_frames:
            self._step *= 2
            self._kept = {number: frame for number, frame in self._kept.items() if number % self._step == 0}

    def probe(self, active: np.ndarray, reread: Callable[[], Iterable[PowerBlock]]) -> Probe:
        """Choose active frames among those kept, or among all if too few of the kept ones are active.

        Parameters
        ----------
        active : np.ndarray, shape (frames,), bool
        reread : returns all frames once more
        """
        wanted = evenly_spaced(np.flatnonzero(active), ANALYSIS.probe_frames)
        kept = [number for number in self._kept if active[number]]
        if len(kept) < min(len(wanted), ANALYSIS.min_probe_frames):
            return Probe(gather_frames(reread(), wanted), wanted)
        chosen = evenly_spaced(np.array(kept), ANALYSIS.probe_frames)
        return Probe(np.stack([self._kept[number] for number in chosen]), chosen)
