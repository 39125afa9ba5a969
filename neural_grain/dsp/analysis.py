"""The analysis of a sound: everything that rendering needs and that does not depend on the requested octaves.

The sound is split into its layers. One pass over the sound and its texture then gives the levels of tones and texture,
the grain, and the probe: a subset of the frames, on which the solver predicts grain without rendering. Frames
are counted in the padded sound (`pad_edges`), and grain is measured on those without padding, as in stage 1.

In: a `Sound`. Out: an `Analysis`; for stage 2 `BandsAndGrain`, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import LevelMeter, Sound
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import release_pages, scratch_array
from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.flatness import (
    MIN_PEAK,
    SILENT,
    TOO_QUIET,
    FrameGrain,
    GrainMeter,
    PowerBlock,
    check_sound,
    power_blocks,
)
from neural_grain.dsp.layers import Layers, split_layers
from neural_grain.dsp.loudness import integrated_loudness, loudness_weights
from neural_grain.dsp.mel import mel_filterbank, powers_to_log_mel
from neural_grain.dsp.probe import Probe, choose_frames, probe_of
from neural_grain.dsp.settings import STEP_FRAMES, SpectrogramSettings
from neural_grain.dsp.stft import mean_power, n_full_frames, pad_edges, stft_blocks


class ChannelPowers(NamedTuple):
    """Energy of the channels relative to that of the whole sound, and what they have in common."""

    layers: np.ndarray  # (2, channels): of tones and texture
    apart: np.ndarray  # (channels,), 1 minus the largest squared correlation with another channel

    @classmethod
    def of(cls, layers: Layers) -> ChannelPowers:
        """Measure them on the layers of a sound."""
        n_samples, channels = layers.tones.shape
        energies, products = np.zeros((2, channels)), np.zeros((channels, channels))
        for start in range(0, n_samples, 1 << 16):
            stop = start + (1 << 16)
            # Channels first, because sums over pairs of neighbours take ten times as long.
            parts = [np.ascontiguousarray(part.T) for part in (layers.tones[start:stop], layers.texture(start, stop))]
            energies += [np.einsum("cn,cn->c", part, part) for part in parts]
            y = sum(parts)
            with ONE_BLAS_THREAD:
                products += y @ y.T
            layers.release_pages()
        energy = np.diag(products)
        correlation = np.square(products) / np.maximum(np.outer(energy, energy), np.finfo(float).tiny)
        np.fill_diagonal(correlation, 0)
        return cls(energies / energy.sum(), 1 - correlation.max(axis=0))


@dataclass(frozen=True)
class Picture:
    """A sound and its picture, which takes a tenth of the time of an analysis."""

    sound: Sound
    settings: SpectrogramSettings
    x: np.ndarray  # (n_mels, frames), picture of the padded sound, in [0, 1]


@dataclass(frozen=True)
class Analysis(Picture):
    """A sound, its layers, and what rendering needs to know about it."""

    layers: Layers
    tones_db: np.ndarray  # (n_mels, steps), mean level of every step, relative to the loudest, >= -dynamic_range_db
    texture_db: np.ndarray  # the same of the texture
    channels: ChannelPowers
    band_peak: float  # power of the loudest band
    frames: FrameGrain  # flatness of every frame without padding
    peak: float  # largest absolute sample, full scale 1.0
    energy: float  # sum of squares of all samples
    probe: Probe
    threads: int = 1

    @property
    def grain(self) -> float:
        """Grain of the sound."""
        return self.frames.grain


class BandBlock(NamedTuple):
    """Powers of consecutive frames in mel bands, (frames, n_mels), and in bins."""

    bands: np.ndarray
    texture: np.ndarray  # bands of the texture
    power: PowerBlock


class BandsAndGrain(NamedTuple):
    """What stage 2 needs to know about a sound."""

    bands: np.ndarray  # (frames, n_mels), float32, band powers
    texture: np.ndarray  # the same of its texture
    flatness: np.ndarray  # (frames,), in (0, 1]
    active: np.ndarray  # (frames,), bool
    layers: Layers


def with_texture(sound: Sound, layers: Layers) -> Sound:
    """A sound with twice the channels: its own, then those of its texture."""

    def blocks() -> Iterator[np.ndarray]:
        start = 0
        for y in sound.blocks():
            stop = start + len(y)
            yield np.concatenate((y, layers.texture(start, stop)), axis=1)
            layers.release_pages()
            start = stop

    return replace(sound, channels=2 * sound.channels, blocks=blocks)


def band_reducer(settings: SpectrogramSettings, sr: int) -> Callable[[np.ndarray, float], BandBlock]:
    """A function for `stft_blocks` that reduces the spectra of `with_texture` to powers of bands and bins."""
    weights, band = mel_filterbank(settings, sr).T, settings.grain.band_for(sr)
    # The only bin of a narrow mel band may lie just outside the analysis band.
    used = np.flatnonzero(weights.any(axis=1))
    first, stop = min(band.start, used[0]), max(band.stop, used[-1] + 1)
    inside = slice(band.start - first, band.stop - first)

    def reduce(D: np.ndarray, sample_peak: float) -> BandBlock:
        D = D[..., first:stop]
        n_channels = len(D) // 2
        P, texture = mean_power(D[:n_channels]), mean_power(D[n_channels:])
        bins = np.ascontiguousarray(P[:, inside])
        return BandBlock(P @ weights[first:stop], texture @ weights[first:stop], PowerBlock(bins, sample_peak))

    return reduce


def bands_and_grain(sound: Sound, settings: SpectrogramSettings) -> BandsAndGrain:
    """Measure the bands and the flatness of every frame; a `PipelineError` if the sound has no grain."""
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    shape = n_full_frames(sound.n_samples, n_fft, hop_length), settings.n_mels
    bands, texture = scratch_array(shape), scratch_array(shape)
    meter, first = GrainMeter(settings.grain, n_fft), 0
    layers = split_layers(sound, settings.grain)
    layered = with_texture(sound, layers)
    for block in stft_blocks(layered, settings.grain, band_reducer(settings, sound.sr)):
        stop = first + len(block.bands)
        bands[first:stop], texture[first:stop] = block.bands, block.texture
        meter.add(block.power)
        first = stop
    return BandsAndGrain(bands, texture, *meter.result(lambda: power_blocks(sound, settings.grain)), layers)


class PictureAndLoudness(NamedTuple):
    """What one STFT of a sound gives."""

    picture: Picture
    loudness_lufs: float  # integrated; -inf if all is below -70 LUFS


def picture_of(sound: Sound, settings: SpectrogramSettings, threads: int = 1) -> Picture:
    """The picture of a sound without the rest of its analysis; a `PipelineError` as from `picture_and_loudness`."""
    return picture_and_loudness(sound, settings, threads).picture


def picture_and_loudness(sound: Sound, settings: SpectrogramSettings, threads: int = 1) -> PictureAndLoudness:
    """Picture and loudness of a sound; a `PipelineError` if it is too short, silent or not finite."""
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    padded, n_mels = pad_edges(sound, n_fft, hop_length), settings.n_mels
    n_frames = n_full_frames(padded.n_samples, n_fft, hop_length)
    weights = np.column_stack((mel_filterbank(settings, sound.sr).T, loudness_weights(n_fft, sound.sr)))
    x, powers, first = scratch_array((n_mels, n_frames)), np.empty(n_frames, np.float32), 0
    for sums in stft_blocks(padded, settings.grain, lambda D, _: mean_power(D) @ weights, threads):
        stop = first + len(sums)
        x[:, first:stop], powers[first:stop] = sums[:, :n_mels].T, sums[:, n_mels]
        first = stop
    if not x.any():
        raise PipelineError(SILENT)
    if x.max() < MIN_PEAK**2:
        raise PipelineError(TOO_QUIET)
    powers_to_log_mel(x, settings.dynamic_range_db)
    times_s = (np.arange(n_frames) * hop_length + hop_length - n_fft // 2) / sound.sr
    inside = (times_s >= 0) & (times_s * sound.sr < sound.n_samples)
    powers = sound.channels * powers[inside]
    loudness_lufs = integrated_loudness(powers, times_s[inside], sound.n_samples / sound.sr)
    return PictureAndLoudness(Picture(sound, settings, x), loudness_lufs)


def analyse(sound: Sound, settings: SpectrogramSettings, threads: int = 1) -> Analysis:
    """Split and analyse a sound; a `PipelineError` if it has no grain: too short, silent or not finite."""
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    level = LevelMeter()
    layers = split_layers(replace(sound, blocks=lambda: level.through(sound.blocks())), settings.grain, threads)
    padded = pad_edges(with_texture(sound, layers), n_fft, hop_length)
    lead = n_fft // hop_length - 1  # frames before the first that holds no padding
    n_measured = n_full_frames(sound.n_samples, n_fft, hop_length)
    levels = LevelRecorder(settings.n_mels, n_full_frames(padded.n_samples, n_fft, hop_length))
    meter = GrainMeter(settings.grain, n_fft)
    first = -lead  # number of a block's first frame, counted from the first that is measured
    for bands, texture, power in stft_blocks(padded, settings.grain, band_reducer(settings, sound.sr), threads):
        levels.add(bands, texture)
        measured = slice(max(0, -first), max(0, n_measured - first))
        if len(bins := power.bins[measured]):
            meter.add(power._replace(bins=bins))
        first += len(bands)
    frames = meter.result(lambda: power_blocks(sound, settings.grain, threads))
    chosen = choose_frames(meter.energies(), frames.flatness)
    return Analysis(
        sound=sound,
        settings=settings,
        layers=layers,
        **levels.result(settings.dynamic_range_db)._asdict(),
        channels=ChannelPowers.of(layers),
        frames=frames,
        peak=level.peak,
        energy=level.energy,
        probe=probe_of(layers, chosen, settings, sound.sr),
        threads=threads,
    )


class Levels(NamedTuple):
    """Levels of a sound, as in `Analysis`."""

    x: np.ndarray
    tones_db: np.ndarray
    texture_db: np.ndarray
    band_peak: float


class LevelRecorder:
    """Records band powers block by block and converts them to levels at the end, when the loudest is known.

    Parameters
    ----------
    n_mels : int > 0
    n_frames : int > 0, of all blocks together
    """

    def __init__(self, n_mels: int, n_frames: int):
        n_steps = -(-n_frames // STEP_FRAMES)
        self._x = scratch_array((n_mels, n_frames))
        self._steps, self._texture_steps = scratch_array((n_mels, n_steps)), scratch_array((n_mels, n_steps))
        self._n_added = 0

    def add(self, bands: np.ndarray, texture: np.ndarray) -> None:
        """Record a block of band powers, shape (frames, n_mels), that begins with a step."""
        self._x[:, self._n_added : self._n_added + len(bands)] = bands.T
        starts = np.arange(0, len(bands), STEP_FRAMES)
        counts = np.diff(np.append(starts, len(bands)))[:, None]
        steps = slice(self._n_added // STEP_FRAMES, self._n_added // STEP_FRAMES + len(starts))
        self._steps[:, steps] = (np.add.reduceat(bands, starts, axis=0) / counts).T
        self._texture_steps[:, steps] = (np.add.reduceat(texture, starts, axis=0) / counts).T
        self._n_added += len(bands)

    def result(self, dynamic_range_db: float) -> Levels:
        """Convert the recorded powers in place."""
        peak = powers_to_log_mel(self._x, dynamic_range_db)
        # Where noise and tones overlap, their powers do not add up exactly.
        np.maximum(self._steps - self._texture_steps, 0, out=self._steps)
        for levels in (self._steps, self._texture_steps):
            powers_to_log_mel(levels, dynamic_range_db, peak)
            levels -= 1
            levels *= dynamic_range_db
        release_pages(self._x)
        return Levels(self._x, self._steps, self._texture_steps, peak)
