#!/usr/bin/env python3
"""Learn from a library where grain goes: stage 3 of the Neural Grain Processor.

The model is a conditioning-aware kernel (CAK): output = input + learned pattern x control,

    y = x + D(x) c gate(c) scale,      c gate(c) = 0 at c = 0

(Rockman, "CAK: Emergent Audio Effects from Minimal Deep Learning", arXiv 2508.02643) on the
normalised log-mel picture x, where c gate(c) scale is a first guess at the amount that brings the
grain asked. D is a small convolutional detector with one pattern for c > 0 and one for c < 0, where
theirs has one for all; the control c is in octaves of grain, + smooth, - texture; the gate is
open to both sides of 0. It is trained by an audit game: tiles of the library are moved from their own
grain to others, and three referees judge the result. The noise critic has learned from natural
tiles how loud the noise of each band is and how it rises when a sound has more of it (a Gaussian
whose mean and spread a small network says, trained by likelihood: Nix and Weigend, "Estimating the
mean and variance of the target probability distribution", ICNN 1994), so it can say what the same
tile would be with more or less of its own noise, and asks for that; where the law is sure, also of
tiles that lost their tones in some bands. The resemblance critic asks that a moved tile be like the
natural tiles of its new grain that resemble it most, by their likelihood under a kernel density of
those (Parzen, "On estimation of a probability density function and mode", Annals of Mathematical
Statistics 33, 1962). The less the library's noise follows a law, the more this one says. The
auditor computes from the band powers by how many octaves grain really moved, and charges
|measured - claimed| in both directions.

Reads:  training_pairs.json and the tiles that it names; for the audit, the audio itself
Writes: grain_processor_v2_output/{final_grain_processor_v2.pt, audit.json, audit.png,
        training_history.csv, training_history.png, checkpoints/, samples/}
Exit status: 0 trained and audited; 1 trained, but some held-out file could not be audited;
             2 wrong usage or nothing to learn from; 130 interrupted

    python cak_grain_processor.py
    python cak_grain_processor.py --epochs 200 --seed 1 --device cpu
    torchrun --nproc-per-node 2 cak_grain_processor.py
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import copy
import csv
import hashlib
import io
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert_to_spectrograms import (
    CEILING,
    CELL_FRAMES,
    DEFAULT_PAIRS,
    DYNAMIC_RANGE_DB,
    NEPER_PER_DB,
    AmountSolver,
    SpectrogramSettings,
    TrainingPairs,
    analyse,
    band_weights,
    bins_per_band,
    check_as_measured,
    is_inside,
    label_axes,
    load_tile,
    move_grain,
    parse_spectrogram_settings,
    read_pairs,
    settings_record,
)
from measure_audio_grain import (
    FEW_FILES,
    NARROW_OCTAVES,
    PipelineError,
    Sound,
    grain_spread_octaves,
    json_path,
    leave,
    one_line,
    only_run,
    open_sound,
    prepare_folder,
    progress_bar,
    replacing,
    run_main,
    shown,
    warn,
    write_json,
)

DEFAULT_OUTPUT_DIR = "grain_processor_v2_output"
FINAL_NAME = "final_grain_processor_v2.pt"
CHECKPOINT_VERSION = 6
CHECKPOINT_BYTES = 1 << 26  # at most; one takes 0.1 MB, and its history 0.3 kB an epoch
CHECKPOINT_NAMES = ("torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict")
CONTROL_RANGE = 3.0  # octaves to either side of 0

CHANNELS = 24
BAND_STEPS = (1, 4, 16)  # dilation of D's three layers of five bands: at the end it sees 85 of 128
CHUNK_FRAMES = 128 * CELL_FRAMES  # a long picture is gone through in pieces

LEARNING_RATE = 1e-2  # a fifth of it left D a smooth curve over frequency, blind to what is there; twice was unstable
GATE_TEMPERATURES = (2.0, 20.0)  # first and last epoch
CLAIM_OCTAVES = 0.3  # a tile is moved by at least so much, and at most by CONTROL_RANGE
FLATTEST_OCTAVES = 0.2  # no tile is asked for more texture than to within this of flat bands
CRITIC_WEIGHT = 5000.0  # half of it came out 3 % worse on a real library, twice no better
FREE_SPREAD = 0.1  # of x, 10 dB: of noise that spreads so far about its law, both critics have the same to say
MOVED_TILES = 8  # in each direction, that a step shows to the resemblance critic
LIKE_OCTAVES = 0.5  # natural tiles so near in grain, but so many at least and at most, are what it compares with
LIKE_TILES = (8, 256)
LIKE_KERNEL = 0.002  # square of x, (4.5 dB)^2: tiles further than that from the nearest say little
VIOLATION_WEIGHT = 15.0  # a fifth of it comes 3 % nearer to nature, but is 0.13 octaves off instead of 0.07
SMALL = 0.01  # of a pattern: so much of it moves grain in proportion
SECANT_STEPS = 2  # one leaves twice the violation where a few bands must do it all
SECANT_LIMITS = (0.4, 2.5)
LEAST_SLOPE = 0.25  # of an expander's: a pattern for an octave is at most so many times larger than it
UNIT_PATTERN = 0.03  # root mean square of x for one octave, about
CONTROL_STEPS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # where the auditor looks for the amount, in claims
BISECTIONS = 8
LAW_STEPS, LAW_BATCH, LAW_RATE, LAW_WIDTH = 800, 32, 1e-2, 32
LAW_STARTS, LAW_TRIAL_STEPS = 3, 100  # of one start in thirty no law was found; it is seen by then
TONE_REACH_BANDS = (2, 6, 16, 40)  # how far to either side the critic looks for tones
NOISE_CELLS = 4  # noise is told from tones that beat over 1.5 s: in one cell, a chord's beats leave no gap
NOISE_FRAMES = NOISE_CELLS * CELL_FRAMES
LIKE_NOISE = 0.7  # of the fluctuation of Gaussian noise: less is tones, or noise beside them
TEXTURE_BANDS, TEXTURE_MEASUREMENTS = 4, 50  # to either side; fewer say nothing
CHANCE_IN_QUARTILE = 1.25  # of what is measured of Gaussian noise, less than a quarter is larger by chance
MODULATION_BINS = slice(12, 52)  # 8 to 35 Hz of so many frames: below it is swell, above it noise is weak
MEDIAN_OF_NOISE = 0.85  # of the modulation spectrum of a tile of noise, whose mean is 1
LEAST_SHARE = 1e-4  # of noise in a band; less can't be told from nothing
SHARE_SPREAD = 0.01  # of x, 1 dB: how well a share of noise is measured
LEAST_SPREAD = 0.01  # of x, 1 dB: no law of noise is thought better than that
FLUCTUATION_SPREAD = 0.25  # nepers: chance in the fluctuation of a tile's bands is 0.17, and noise need not be Gaussian
SHARE_STEPS = 80  # of STRAY_RANGE, in which the critic looks for a share
AMOUNT_GRIDS = ((1.0, 21), (0.08, 9))  # of a sound's own noise, of x, to either side: all, then around the best
AMOUNT_SPREAD = 1.5  # of x, so wide that the amount is nearly free
STEADY_SLOPE = 0.02  # how much the critic believes that noise rises by as much in all bands
STRAY_RANGE = 0.6  # of x, 60 dB: where measurements lie that are not of this noise
SPREAD_TILES = 256  # are enough to tell how well the law holds
BARE_STEPS = 0.6  # share of steps in which tiles lose the tones of some bands; the fewer, the more the law is doubted,
LAWFUL_DOUBT = 0.1  # and none from so much on: there they cost 3 % of the distance to real sounds
MORE_NOISE = (0.03, 0.28)  # of x, 3 to 28 dB: by how much the critic's pairs differ
CROP_FRAMES = 2 * CELL_FRAMES  # what the referees see of a tile
GRADIENT_LIMIT = 10.0
MIN_STEPS = 16  # steps an epoch has at least: a small library is gone through more often
HELD_OUT_EVERY = 4
HELD_OUT_DRAWS = 4  # of a batch each, the same tiles after every epoch
MEMORY_BYTES = 1 << 30  # of tiles; more are mapped from disk
MIN_FILES = 4
CHECKPOINT_EVERY = 10
AUDIT_FILES = 24
AUDIT_POSITIONS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
MONOTONE_OCTAVES = 0.02
GOOD_OCTAVES = 0.05
LITTLE_NEARER = 0.01  # than an expander: less is nothing
LITTLE_REACH = 0.5  # of the positions asked: with less, most of the slider does nothing
SAMPLE_CONTROLS = (-3.0, -1.5, 0.0, 1.5, 3.0)
HISTORY_PANELS = {
    "distance to natural tiles of the same grain (dB)": ("distance_texture", "distance_smooth", "held_out_distance"),
    "distance to the same sound with more or less noise (dB)": ("noise_texture", "noise_smooth", "held_out_noise"),
    "auditor: |measured - claimed| (octaves)": ("violation_texture", "violation_smooth", "held_out_violation"),
    "learning rate": ("learning_rate",),
}


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights, beside the tiles."""

    epochs: int = 100
    batch_size: int = 32
    seed: int = 0


def band_levels(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Natural logarithm of the band powers of a picture, 0 for the file's loudest band."""
    return NEPER_PER_DB * dynamic_range_db * (x - 1)


def band_shares(settings: SpectrogramSettings) -> Tensor:
    """`bins_per_band` as a column, (n_mels, 1)."""
    return torch.tensor(bins_per_band(settings), dtype=torch.float32)[:, None]


def log2_flatness(x: Tensor, shares: Tensor, dynamic_range_db: float) -> Tensor:
    """log2 of the flatness of the bands of pictures (batch, n_mels, frames), mean over frames: (batch,)."""
    levels = band_levels(x, dynamic_range_db)
    flatness = (shares * levels).sum(1) - torch.logsumexp(levels + shares.log(), 1)
    return flatness.exp().mean(1).log2()


def audited_octaves(
    x: Tensor, change: Tensor, shares: Tensor, dynamic_range_db: float, active_range_db: float
) -> Tensor:
    """Auditor: octaves by which a change of the picture lowers grain, from the band powers alone.

    A gain that is constant inside a band leaves the structure inside it alone, so the change of
    ln flatness is mean_k(g_k) - ln mean_k(P_k exp g_k) + ln mean_k(P_k), k weighted by the
    bins of each band. Frames count as stage 1 counts them, active ones alone, weighted by their
    flatness, each picture as if it were a whole file.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    shares : Tensor, shape (n_mels, 1), `bins_per_band`

    Returns
    -------
    Tensor, shape (batch,)
    """
    before, gain = band_levels(x, dynamic_range_db), NEPER_PER_DB * dynamic_range_db * change
    log_shares = shares.log()
    energy_before = torch.logsumexp(before + log_shares, 1)  # (batch, frames)
    energy_after = torch.logsumexp(before + gain + log_shares, 1)
    flatness_before = (shares * before).sum(1) - energy_before
    flatness_change = (shares * gain).sum(1) - energy_after + energy_before
    silent = energy_before < energy_before.amax(1, keepdim=True) - NEPER_PER_DB * active_range_db
    weight = flatness_before.masked_fill(silent, -math.inf)
    return (torch.logsumexp(weight, 1) - torch.logsumexp(weight + flatness_change, 1)) / math.log(2)


@dataclass(frozen=True)
class Tiles:
    """Tiles of some files, in memory or mapped from disk: ``arrays`` of shape (n_mels, frames).

    ``log2_grain`` is the flatness of their bands, which is what the referees measure; ``means`` over
    time, (tiles, n_mels), is what the resemblance critic knows of each, ``levels`` and
    ``fluctuations``, of the same shape, what the noise critic does.
    """

    arrays: Sequence[np.ndarray]
    log2_grain: np.ndarray
    means: Tensor
    levels: Tensor
    fluctuations: Tensor
    device: str

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], settings: SpectrogramSettings, device: str = "cpu") -> Tiles:
        """Tiles with what is measured of them."""
        shares, modulation = band_shares(settings), noise_modulation(settings)
        dynamic_range_db = settings.dynamic_range_db
        grains, means, levels, fluctuations = [], [], [], []
        for array in arrays:
            x = torch.from_numpy(np.array(array))[None]
            grains.append(log2_flatness(x, shares, dynamic_range_db))
            means.append(x.clamp(0, 1).mean(2))
            levels.append(mean_level(x, dynamic_range_db))
            fluctuations.append(fluctuation_of(modulation_beside_noise(x, modulation, dynamic_range_db).mean(2)))
        measured = (torch.cat(values).to(device) for values in (means, levels, fluctuations))
        return cls(arrays, torch.cat(grains).numpy(), *measured, device)

    def crops(self, n: int, rng: np.random.Generator, among: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Two cells each of ``n`` random tiles.

        Returns
        -------
        Tensor, shape (n, n_mels, CROP_FRAMES)
        Tensor, shape (n, n_mels), fluctuations of the whole tiles
        """
        index = rng.choice(len(self.arrays) if among is None else among, n)
        starts = rng.integers(0, self.arrays[0].shape[1] - CROP_FRAMES + 1, n)
        x = np.stack([self.arrays[i][:, a : a + CROP_FRAMES] for i, a in zip(index, starts, strict=True)])
        return torch.from_numpy(x).to(self.device), self.fluctuations[index]


# The model


def mean_level(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Level of each band's mean power, (batch, n_mels), of pictures (batch, n_mels, frames)."""
    return 1 + band_levels(x, dynamic_range_db).exp().mean(2).log() / (NEPER_PER_DB * dynamic_range_db)


def noise_modulation(settings: SpectrogramSettings) -> Tensor:
    """Modulation spectrum of Gaussian noise, each band's power over its mean: (n_mels, modulation bins).

    Powers of noise in two bins or frames have as correlation the square of that of the windows
    they are seen through; a band of several bins is their mean.
    """
    grain = settings.grain
    sr = grain.sample_rate_hz
    n_fft, hop_length = grain.n_fft_for(sr), grain.hop_for(sr)
    window = np.hanning(n_fft + 1)[:-1]
    lags = np.arange(-(NOISE_FRAMES - 1), NOISE_FRAMES) * hop_length
    alike = np.array([(window[abs(lag) :] * window[: max(n_fft - abs(lag), 0)]).sum() for lag in lags])
    alike = np.square(alike / np.square(window).sum())  # (lags,)
    hann = np.hanning(NOISE_FRAMES)
    overlap = np.correlate(hann, hann, "full") / np.square(hann).sum()
    bins = np.arange(NOISE_FRAMES // 2 + 1)[MODULATION_BINS, None]
    spectrum = (alike * overlap * np.cos(2 * np.pi * bins * lags / hop_length / NOISE_FRAMES)).sum(1)
    weights = band_weights(settings, sr)  # (n_mels, bins)
    beside = np.zeros_like(weights)
    for step, likeness in ((-2, 1 / 36), (-1, 4 / 9), (0, 1.0), (1, 4 / 9), (2, 1 / 36)):  # of bins under a Hann window
        beside += likeness * np.roll(weights, step, axis=1)
    of_one = (weights * beside).sum(1) / np.square(weights.sum(1))
    return torch.tensor(of_one[:, None] * spectrum, dtype=torch.float32)


def modulation_beside_noise(x: Tensor, modulation: Tensor, dynamic_range_db: float) -> Tensor:
    """Modulation spectra of a picture over those of noise: of NOISE_CELLS cells each, from every cell on.

    Parameters
    ----------
    x : Tensor, shape (batch, n_mels, frames), at least NOISE_FRAMES of them
    modulation : Tensor, `noise_modulation`

    Returns
    -------
    Tensor, shape (batch, n_mels, cells - NOISE_CELLS + 1, modulation bins)
    """
    power = band_levels(x, dynamic_range_db).exp().unfold(2, NOISE_FRAMES, CELL_FRAMES)
    hann = torch.hann_window(NOISE_FRAMES, periodic=False, device=x.device)
    own = power / power.mean(3, keepdim=True) - 1
    spectrum = torch.fft.rfft(own * hann, dim=3).abs().square() / hann.square().sum()
    return spectrum[..., MODULATION_BINS] / modulation[:, None]


def fluctuation_of(spectra: Tensor) -> Tensor:
    """How much the power of bands fluctuates, noise alone 1: the median of modulation spectra (..., modulation bins).

    The power of a steady tone stands still, that of tones that beat has lines in its modulation
    spectrum, that of noise has all modulation frequencies. So the median tells the noise, however
    loud the tones are, while lines leave half of the spectrum free. The spectra are means over
    several (Welch, "The use of fast Fourier transform for the estimation of power spectra", 1967):
    over a tile, chance is a factor of 1.2.
    """
    middle = spectra.shape[-1] // 2
    return spectra.sort(-1).values[..., middle - 1 : middle + 1].mean(-1) / MEDIAN_OF_NOISE


def full_fluctuation(fluctuations: Tensor) -> Tensor:
    """How much bands of a library fluctuate that are all texture: Gaussian noise 1, crackle many times that.

    Of the bands around, in all tiles, those count that fluctuate about as noise does or more; of these, the upper quartile.

    Parameters
    ----------
    fluctuations : Tensor, shape (tiles, n_mels)

    Returns
    -------
    Tensor, shape (n_mels,), at least 1
    """
    n_mels = fluctuations.shape[1]
    full = torch.ones(n_mels, device=fluctuations.device)
    for band in range(n_mels):
        around = fluctuations[:, max(band - TEXTURE_BANDS, 0) : band + TEXTURE_BANDS + 1]
        around = around[around > LIKE_NOISE]
        if len(around) >= TEXTURE_MEASUREMENTS:
            full[band] = around.quantile(0.75) / CHANCE_IN_QUARTILE
    return full.clamp(min=1)


def noise_share(fluctuation: Tensor, full: Tensor) -> Tensor:
    """Share of a band's power that is noise, 0 to 1, from how much it fluctuates and how much all noise would (``full``).

    Beside a steady tone, a share w fluctuates as 2 w (1 - w) + full w^2: noise beats with the tone, and fluctuates itself.
    """
    fluctuation = torch.minimum(fluctuation, full)
    return (fluctuation / (1 + (1 + (full - 2) * fluctuation).clamp(min=0).sqrt())).clamp(min=LEAST_SHARE)


def there_and_back(x: Tensor, n_frames: int) -> Tensor:
    """A picture (batch, n_mels, frames), backwards and forwards again until there are so many frames."""
    index = torch.arange(n_frames, device=x.device) % (2 * x.shape[2])
    return x[..., torch.minimum(index, 2 * x.shape[2] - 1 - index)]


class PatternDetector(nn.Module):
    """D: picture (batch, n_mels, frames) -> pattern of the same shape, zero mean over bands, for each direction.

    Less noise is not more of it the other way round: where noise and tones are as loud as each other,
    a band rises with the noise, and hardly falls without it.

    It looks at cells of 0.37 s: in each band the mean level and which share of it is noise. The
    frequency coordinate lets it learn that texture lives in some bands even where a sound has none
    yet. Between cells the pattern is interpolated. It starts as the spectral expander x - mean(x).
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = CHANNELS):
        super().__init__()
        n_inputs = 6  # level, level minus mean, mean, share of noise and its logarithm, frequency
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels)[:, None], persistent=False)
        self.register_buffer("modulation", noise_modulation(settings), persistent=False)
        self.register_buffer("full_fluctuation", torch.ones(settings.n_mels))  # of the library
        self.dynamic_range_db = settings.dynamic_range_db
        self.layers = nn.ModuleList(
            nn.Conv1d(channels if i else n_inputs, channels, 5, dilation=step) for i, step in enumerate(BAND_STEPS)
        )
        self.mix = nn.Conv1d(channels, 2, 1)
        self.direct = nn.Conv1d(n_inputs, 2, 1, bias=False)
        for layer in (self.mix, self.direct):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.mix.bias)

    def cells(self, x: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Patterns of each cell for unit control before scaling, smooth and texture: (batch, 2, n_mels, cells).

        Of a crop, ``fluctuations`` (batch, n_mels) are those of the tile around it.
        """
        n_cells = -(-x.shape[2] // CELL_FRAMES)
        x = there_and_back(x, max(n_cells, NOISE_CELLS) * CELL_FRAMES)
        cells = x.unflatten(2, (x.shape[2] // CELL_FRAMES, CELL_FRAMES))  # (batch, n_mels, cells, CELL_FRAMES)
        level = cells[:, :, :n_cells].mean(3)
        mean = level.mean(1, keepdim=True)
        if fluctuations is None:
            spectra = modulation_beside_noise(x, self.modulation, self.dynamic_range_db)
            # Of each cell those that hold it, which see nearly as much as a tile has.
            spectra = F.pad(spectra, (0, 0, NOISE_CELLS - 1, NOISE_CELLS - 1), mode="replicate")
            fluctuation = fluctuation_of(F.avg_pool2d(spectra, (NOISE_CELLS, 1), 1))[:, :, :n_cells]
            share = noise_share(fluctuation, self.full_fluctuation[:, None])
        else:
            share = noise_share(fluctuations, self.full_fluctuation)[:, :, None].expand_as(level)
        inputs = torch.stack(
            (
                2 * level - 1,
                2 * (level - mean),
                (2 * mean - 1).expand_as(level),
                2 * share - 1,
                1 + share.log10() / 2,
                self.frequency.expand_as(level),
            ),
            1,
        )  # (batch, 6, n_mels, cells)
        h = inputs.permute(0, 3, 1, 2).flatten(0, 1)  # (batch * cells, 6, n_mels)
        learned = 4 * self.direct(h)
        for i, layer in enumerate(self.layers):
            reach = 2 * BAND_STEPS[i]
            new = F.silu(layer(F.pad(h, (reach, reach), mode="replicate")))
            h = h + new if i else new
        learned = (learned + 4 * self.mix(h)).unflatten(0, level.shape[::2])  # (batch, cells, 2, n_mels)
        pattern = (level - mean)[:, None] + learned.permute(0, 2, 3, 1)
        return pattern - pattern.mean(2, keepdim=True)

    def forward(self, x: Tensor, direction: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Pattern for unit control before scaling, between the centres of cells in a line: (batch, n_mels, frames).

        ``direction`` (batch,) is negative for texture.
        """
        n_frames = x.shape[2]
        pattern = self.cells(x, fluctuations)[torch.arange(len(x), device=x.device), (direction < 0).long()]
        if pattern.shape[2] > 1:
            pattern = F.interpolate(F.pad(pattern, (1, 1), mode="replicate"), scale_factor=CELL_FRAMES, mode="linear")
            return pattern[..., CELL_FRAMES : CELL_FRAMES + n_frames]
        return pattern.expand(-1, -1, n_frames)


class GrainModel(nn.Module):
    """The CAK layer and its detector: y = x + D(x) c gate(c) scale.

    Parameters
    ----------
    settings : SpectrogramSettings, of the pictures that it sees
    channels : int > 0, of the detector
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = CHANNELS):
        super().__init__()
        self.detector = PatternDetector(settings, channels)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.dynamic_range_db, self.active_range_db = settings.dynamic_range_db, settings.grain.active_range_db
        self.register_buffer("shares", band_shares(settings), persistent=False)
        self.register_buffer("temperature", torch.tensor(GATE_TEMPERATURES[0]))

    def gate(self, control: Tensor) -> Tensor:
        """Soft gate in [0, 1): 0 at control 0, above 3/4 beyond 2 / temperature."""
        return torch.tanh(0.5 * self.temperature * control.abs())

    def pattern(self, x: Tensor, direction: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """D(x) scale, (batch, n_mels, frames): the change of x for one unit of c gate(c) in a direction, as c has it.

        It is measured in octaves of grain: at its first order a unit of control is `scale` octaves.
        """
        pattern = self.detector(x, direction, fluctuations)
        slope = self.octaves(x, SMALL * pattern) / SMALL
        size = pattern.square().mean((1, 2)).clamp(min=1e-12).sqrt()
        # A pattern that hardly smooths, or does the opposite, is not turned round: the violation shows it.
        unit = torch.maximum(slope, LEAST_SLOPE / UNIT_PATTERN * size)
        return pattern * (self.scale / unit)[:, None, None]

    def forward(self, x: Tensor, control: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Change of the picture for a control (batch,) in octaves, x (batch, n_mels, frames).

        It is D(x) times an amount that is c gate(c) scale at first; grain is not quite linear in the amount,
        so two secants then correct it, and what comes nearest to moving grain by c is taken.
        """
        pattern = self.pattern(x, control, fluctuations)
        size = control * self.gate(control)
        best, least = size, torch.full_like(control, math.inf)
        for step in range(SECANT_STEPS + 1):
            moved = self.octaves(x, pattern * size[:, None, None])
            is_better = (moved - control).abs() < least
            best, least = torch.where(is_better, size, best), torch.where(is_better, (moved - control).abs(), least)
            if step < SECANT_STEPS:
                forward = moved * control > 1e-6  # or grain turned back on the way: half as far
                size = size * torch.where(forward, control / torch.where(forward, moved, 1.0), 0.5).clamp(
                    *SECANT_LIMITS
                )
        return pattern * best[:, None, None]

    def octaves(self, x: Tensor, change: Tensor) -> Tensor:
        """Octaves by which a change of pictures lowers grain, as the auditor has it, each its own file: (batch,)."""
        return audited_octaves(x, change, self.shares, self.dynamic_range_db, self.active_range_db)


# The referees


def held_energy(x: Tensor, change: Tensor, log_shares: Tensor, dynamic_range_db: float) -> Tensor:
    """The picture that is heard: x + change, every frame's energy held, its loudest band as loud as before.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    log_shares : Tensor, shape (n_mels, 1), logarithm of `bins_per_band`
    """
    before, after = band_levels(x, dynamic_range_db), band_levels(x + change, dynamic_range_db)
    energy = torch.logsumexp(before + log_shares, 1, keepdim=True) - torch.logsumexp(
        after + log_shares, 1, keepdim=True
    )
    y = x + change + energy / (NEPER_PER_DB * dynamic_range_db)
    return y - y.amax((1, 2), keepdim=True) + x.amax((1, 2), keepdim=True)


def spread_indices(n: int) -> Tensor:
    """Some of ``n`` tiles, SPREAD_TILES at most, evenly spread."""
    return torch.linspace(0, n - 1, min(n, SPREAD_TILES)).long()


class NaturalNoise(nn.Module):
    """Critic: how loud the noise of each band is in natural tiles, and how it rises when a sound has more of it.

    A small network says it from the frequency and from how loud the tones around are: noise of
    the library's kind, which rises by a slope times the sound's own amount, over noise that stands
    still; the spread of both, and how often what is measured is something else. It is trained by
    likelihood on the noise that can be measured; where there is less than can be, the likelihood is
    that of there being less (Tobin, "Estimation of relationships for limited dependent
    variables", Econometrica 26, 1958). Each tile's amount is the likeliest.

    Parameters
    ----------
    settings : SpectrogramSettings
    """

    def __init__(self, settings: SpectrogramSettings):
        super().__init__()
        self.dynamic_range_db = settings.dynamic_range_db
        self.neper = NEPER_PER_DB * settings.dynamic_range_db  # of one unit of x
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels), persistent=False)
        self.register_buffer("log_shares", band_shares(settings)[:, 0].log(), persistent=False)
        self.register_buffer("usual_spread", torch.tensor(0.0))
        self.register_buffer("middle", torch.tensor(0.0))  # of the library's amounts: they may count from anywhere
        self.register_buffer("full_fluctuation", torch.ones(settings.n_mels))  # of the library
        # A band is as likely all noise (the first) as that it holds a tone, whose level may be any in STRAY_RANGE.
        steps = torch.linspace(0, STRAY_RANGE, SHARE_STEPS + 1)
        shares = (-self.neper * (steps[1:] + steps[:-1]) / 2).exp()
        self.register_buffer("possible_shares", torch.cat((torch.ones(1), shares)), persistent=False)
        weights = 1 / SHARE_STEPS / (1 - shares)  # the level of the tone moves so much faster than that of the noise
        self.register_buffer("possible_weights", torch.cat((torch.ones(1), weights)), persistent=False)
        self.net = nn.Sequential(
            nn.Linear(2 + len(TONE_REACH_BANDS), LAW_WIDTH),
            nn.SiLU(),
            nn.Linear(LAW_WIDTH, LAW_WIDTH),
            nn.SiLU(),
            nn.Linear(LAW_WIDTH, 5),
        )
        with torch.no_grad():  # at first: noise 50 dB under the mean power of a bin, hardly any that stands still
            self.net[4].weight.mul_(0.3)
            self.net[4].bias.copy_(torch.tensor([0.5, 0.0, 0.0, -2.5, -2.0]))

    def forward(self, level: Tensor, fluctuation: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The noise measured in bands, and the law of it.

        The network says levels under the sound's energy: how far that is from the loudest band differs
        by chord, and noise that stands still would seem to vary.

        Parameters
        ----------
        level, fluctuation : Tensor, shape (batch, n_mels)

        Returns
        -------
        Tensor, shape (batch, n_mels), level of the noise
        tuple of five of that shape: noise at amount 0, slope, noise that stands still, spread, log odds of something else
        """
        energy = torch.logsumexp(self.neper * (level - 1) + self.log_shares, 1, keepdim=True) / self.neper
        share = noise_share(fluctuation, self.full_fluctuation)
        tones = (level - energy + (1 - share).clamp(min=1e-3).log() / self.neper).clamp(min=0) * (share < 0.7)
        loudest = [F.max_pool1d(tones[:, None], 2 * reach + 1, 1, reach)[:, 0] for reach in TONE_REACH_BANDS]
        frequency = self.frequency.expand_as(level)
        inputs = torch.stack((frequency, frequency.square(), *loudest), 2)
        base, slope, still, log_spread, stray = self.net(inputs).unbind(2)
        law = base + energy, 2 * slope.sigmoid(), still + energy, log_spread.clamp(-4.2, 0).exp(), stray.clamp(-6, 3)
        return level + share.log() / self.neper, law

    def level_at(self, law: tuple[Tensor, ...], amount: Tensor) -> Tensor:
        """The noise at an amount, (batch, n_mels)."""
        return torch.logaddexp(self.neper * (law[0] + law[1] * amount), self.neper * law[2]) / self.neper

    def likelihood(self, law: tuple[Tensor, ...], amount: Tensor, noise: Tensor) -> Tensor:
        """Logarithm of the likelihood of what was measured."""
        _, _, _, spread, stray = law
        is_less = noise <= 0
        z = (noise.clamp(min=0) - self.level_at(law, amount)) / spread
        below = torch.special.log_ndtr(z)
        gaussian = F.logsigmoid(-stray) - 0.5 * z.square() - spread.log() - 0.5 * math.log(2 * math.pi)
        either = torch.logaddexp(gaussian, F.logsigmoid(stray) - math.log(STRAY_RANGE) + below)
        return torch.where(is_less, below, either)

    @torch.no_grad()
    def amount(self, law: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """The likeliest amount of noise of each tile, (batch, 1)."""
        wide = tuple(values[..., None] for values in law)
        best = self.middle.expand(len(noise), 1)
        for reach, n_steps in AMOUNT_GRIDS:
            amounts = best + torch.linspace(-reach, reach, n_steps, device=noise.device)  # (batch, n_steps)
            likelihood = self.likelihood(wide, amounts[:, None], noise[..., None]).mean(1)
            likeliest = (likelihood - 0.5 * ((amounts - self.middle) / AMOUNT_SPREAD).square()).argmax(1, keepdim=True)
            best = amounts.gather(1, likeliest)
        return best

    @torch.no_grad()
    def note_spread(self, levels: Tensor, fluctuations: Tensor) -> None:
        """Keep in ``usual_spread`` how far noise is from its law: root of the harmonic mean of the squares."""
        some = spread_indices(len(levels))
        _, law = self(levels[some], fluctuations[some])
        self.usual_spread.copy_(law[3].pow(-2).mean().rsqrt())

    def loss(self, level: Tensor, fluctuation: Tensor) -> Tensor:
        """Minus the likelihood of natural tiles, and the price of slopes that are not 1.

        In training ``middle`` follows their amounts, which all may wander off together.
        """
        noise, law = self(level, fluctuation)
        amount = self.amount(law, noise)
        if self.training:
            self.middle.lerp_(amount.mean(), 0.2)
        likelihood = self.likelihood(law, amount, noise)
        return STEADY_SLOPE * (law[1] - 1).square().mean() - likelihood.mean()

    def share(self, law: tuple[Tensor, ...], likely: Tensor, level: Tensor, fluctuation: Tensor) -> Tensor:
        """The share of noise that is to be expected of a band: geometric mean of what law and measurement leave possible.

        By Bayes' rule: the law says how loud the noise is likely to be; a band is all noise, or
        holds a tone of any level besides; either would fluctuate as measured, but for the chance
        in that, and for what fluctuates besides.

        Parameters
        ----------
        law : tuple of Tensor, as `forward` returns it
        likely, level, fluctuation : Tensor, shape (batch, n_mels); the law's noise and what is measured
        """
        shares, noise = self.possible_shares, level[..., None] + self.possible_shares.log() / self.neper
        spread = (law[3].square() - SHARE_SPREAD**2).clamp(min=LEAST_SPREAD**2).sqrt()
        by_law = -0.5 * ((noise - likely[..., None]) / spread[..., None]).square()
        seen = torch.minimum(fluctuation, self.full_fluctuation).clamp(min=LEAST_SHARE).log()[..., None]
        z = (seen - (shares * (2 + (self.full_fluctuation[:, None] - 2) * shares)).log()) / FLUCTUATION_SPREAD
        as_noise = -0.5 * z.square() - math.log(FLUCTUATION_SPREAD * math.sqrt(2 * math.pi))
        as_other = -math.log(-math.log(LEAST_SHARE))  # any fluctuation is as likely as another
        by_sight = torch.logaddexp(
            F.logsigmoid(-law[4])[..., None] + as_noise, F.logsigmoid(law[4])[..., None] + as_other
        )
        posterior = (self.possible_weights.log() + by_law + by_sight).softmax(2)
        return (posterior * shares.log()).sum(2).exp()

    def heard(self, x: Tensor, fluctuation: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The law of pictures (batch, n_mels, frames), how much noise they have and its share of each band.

        Returns
        -------
        tuple of five Tensor, as `forward` returns it
        Tensor, shape (batch, 1), amount
        Tensor, shape (batch, n_mels)
        """
        level = mean_level(x, self.dynamic_range_db)
        noise, law = self(level, fluctuation)
        amount = self.amount(law, noise)
        return law, amount, self.share(law, self.level_at(law, amount), level, fluctuation)

    @torch.no_grad()
    def without_tones(self, x: Tensor, fluctuation: Tensor, bare: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, n_mels, frames) that have noise alone in some bands, and their fluctuation.

        Parameters
        ----------
        x, fluctuation : Tensor, as for `with_more`
        bare : Tensor of bool, shape (batch, n_mels), the bands
        """
        device = self.frequency.device
        share = self.heard(x.to(device), fluctuation.to(device))[2].to(x.device)
        lower = torch.where(bare, share.log() / self.neper, 0.0)
        full = self.full_fluctuation.to(x.device)
        return (x + lower[:, :, None]).clamp(min=0), torch.where(bare, full, fluctuation)

    @torch.no_grad()
    def with_more(self, x: Tensor, fluctuation: Tensor, more: Tensor) -> Tensor:
        """The change of each band's level in sounds that have more or less of their noise, (batch, n_mels).

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        fluctuation : Tensor, shape (batch, n_mels), of them or of more of the same sounds
        more : Tensor, shape (batch,), of x: by how much the amount is other
        """
        device = self.frequency.device
        law, amount, share = self.heard(x.to(device), fluctuation.to(device))
        rise = self.level_at(law, amount + more.to(device)[:, None]) - self.level_at(law, amount)
        change = (1 + share * torch.expm1(self.neper * rise)).clamp(min=LEAST_SHARE).log() / self.neper
        return change.to(x.device)


def natural_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Resemblance critic: mean square over bands from each moved picture to the natural ones it resembles most.

    Minus the logarithm of its likelihood under a Gaussian kernel density of them, in units of the kernel.

    Parameters
    ----------
    moved : Tensor, shape (batch, n_mels), means over time
    natural : Tensor, shape (tiles, n_mels)

    Returns
    -------
    Tensor, shape (batch,)
    """
    squares = (moved[:, None] - natural).square().mean(2)
    return LIKE_KERNEL * (math.log(len(natural)) - torch.logsumexp(-squares / LIKE_KERNEL, 1))


# Several processes

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that torchrun started, on one machine or more; without it, this one alone.

    All draw the same tiles from the same seed, and each works on its share of them. What the
    referees need of all tiles is then put together, so every process has the same loss; the
    gradients of the shares add up to those of the batch. Only the first process is heard and
    writes files.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine: which of its GPUs to take

    @classmethod
    def of_torchrun(cls) -> Team:
        """Which of the processes this is, from what torchrun left in the environment."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @contextmanager
    def heard_once(self) -> Iterator[None]:
        """Let only the first process print."""
        if self.is_first:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connect the processes while the block runs: gloo on the CPU, nccl between GPUs.

        Raises
        ------
        PipelineError
            If one can't be reached, or ends before the others.
        """
        if self.size == 1:
            yield
            return
        with self._faults_named():
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as err:  # all that gloo and nccl raise
            raise PipelineError("lost one of the processes that train together; start them again") from err

    def share(self, n: int) -> slice:
        """Which of ``n`` tiles are this process's."""
        return slice(self.rank, n, self.size)

    def whole(self, part: Tensor, n: int) -> Tensor:
        """All ``n`` rows of a tensor of which each process has its `share`.

        Gradients reach a process's own rows only. That is exact: every process computes the same
        loss from the same rows, and `add_gradients` adds up what each makes of its own.
        """
        if self.size == 1:
            return part
        rows = part.new_zeros(n, *part.shape[1:])
        rows[self.share(n)] = part.detach()
        self._add(rows)
        rows[self.share(n)] = part
        return rows

    def add_gradients(self, model: nn.Module) -> None:
        """Give every process the sum of all gradients."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        self._add(together)
        for gradient, values in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))

    def any(self, wish: bool) -> bool:
        """Whether some process wishes it."""
        count = torch.tensor(float(wish))
        self._add(count)
        return bool(count)

    def _add(self, values: Tensor) -> None:
        if self.size > 1:
            with self._faults_named():
                torch.distributed.all_reduce(values)

    def copy_first(self, module: nn.Module) -> None:
        """Give every process the first one's weights: other processors round otherwise."""
        if self.size > 1:
            for values in module.state_dict().values():
                with self._faults_named():
                    torch.distributed.broadcast(values, 0)

    def agreed(self, work: Callable[[], T]) -> T:
        """What ``work`` returns here; a fault in one process is a fault in all.

        Raises
        ------
        PipelineError
            If it was raised in any of the processes.
        """
        if self.size == 1:
            return work()
        result, faults = None, [""] * self.size
        try:
            result, fault = work(), ""
        except PipelineError as err:
            fault = str(err)
        with self._faults_named():
            torch.distributed.all_gather_object(faults, fault)
        for fault in faults:
            if fault:
                raise PipelineError(fault)
        return result

    def of_first(self, value: T) -> T:
        """The first process's value."""
        values = [value]
        if self.size > 1:
            with self._faults_named():
                torch.distributed.broadcast_object_list(values, 0)
        return values[0]


ALONE = Team()


# The game


@dataclass(frozen=True)
class Moves:
    """What the referees say of the tiles moved in one direction: means over them, as tensors without shape.

    Tiles of which a critic can't tell count 0: there is nothing to learn from them.
    """

    distance: Tensor | None  # square of x: from natural tiles of the grain; None where no tile is far enough from it
    noise_distance: Tensor  # and from the same sound with more, or less, of its noise
    noise_told: Tensor  # share of the tiles of which the noise critic can tell
    violation: Tensor  # octaves

    def scores(self) -> dict[str, float]:
        """The same of the tiles that could be judged; NaN where none could."""
        return {
            "distance": math.nan if self.distance is None else self.distance.item(),
            "noise": (self.noise_distance / self.noise_told).item(),
            "violation": self.violation.item(),
        }


class AuditGame:
    """Moves tiles of a library to other grains and lets the referees judge what the model made of them.

    Parameters
    ----------
    settings : SpectrogramSettings
    natural : Tiles, which the noise critic learns from and the resemblance critic compares with
    seed : int, of the tiles that the noise critic sees; its weights begin as torch's generator has them
    team : Team, whose processes play it together
    """

    def __init__(self, settings: SpectrogramSettings, natural: Tiles, seed: int, team: Team = ALONE):
        self.settings = settings
        self.natural = natural
        self.team = team
        self.shares = band_shares(settings).to(natural.device)
        self.critic = self._learn_noise(natural, np.random.default_rng([seed, 2**31 + 1]))
        team.copy_first(self.critic)
        self.doubt = float(self.critic.usual_spread / FREE_SPREAD) ** 2  # how much is left to the resemblance critic

    def _learn_noise(self, natural: Tiles, rng: np.random.Generator) -> NaturalNoise:
        """Train the critic to its optimum before the game: natural noise does not depend on the model.

        From some starts it loses the law in its first steps, and takes all noise for something else:
        the likeliest of several goes on.
        """
        # MPS knows no log_ndtr: there the critic, which is small, stays on the CPU.
        device = "cpu" if natural.device == "mps" else natural.device
        levels, fluctuations = natural.levels.to(device), natural.fluctuations.to(device)
        full = full_fluctuation(fluctuations)
        starts, some = [], spread_indices(len(levels))
        for _ in range(LAW_STARTS):
            critic = NaturalNoise(self.settings).to(device)
            critic.full_fluctuation.copy_(full)
            optimizer = torch.optim.Adam(critic.parameters(), LAW_RATE)
            self._teach(critic, optimizer, levels, fluctuations, range(LAW_TRIAL_STEPS), rng)
            critic.eval()
            with torch.no_grad():
                starts.append((critic.loss(levels[some], fluctuations[some]).item(), critic, optimizer))
        _, critic, optimizer = min(starts, key=lambda start: start[0])
        self._teach(critic, optimizer, levels, fluctuations, range(LAW_TRIAL_STEPS, LAW_STEPS), rng)
        critic.note_spread(levels, fluctuations)
        return critic.requires_grad_(False).eval()

    @staticmethod
    def _teach(
        critic: NaturalNoise,
        optimizer: torch.optim.Optimizer,
        levels: Tensor,
        fluctuations: Tensor,
        steps: range,
        rng: np.random.Generator,
    ) -> None:
        """Some of the LAW_STEPS of the critic's training."""
        critic.train()
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = LAW_RATE * (1.01 - step / LAW_STEPS)
            index = rng.integers(len(levels), size=LAW_BATCH)
            loss = critic.loss(levels[index], fluctuations[index])
            optimizer.zero_grad()
            loss.backward()
            if step < LAW_STEPS // 4:  # or all that the law does not say yet would pass for something else
                for weight in critic.net[4].parameters():
                    weight.grad[4] = 0
            optimizer.step()

    def log2_flatness(self, x: Tensor) -> Tensor:
        """log2 of the flatness of pictures (batch, n_mels, frames): (batch,)."""
        return log2_flatness(x, self.shares, self.settings.dynamic_range_db)

    def _audited(self, x: Tensor, change: Tensor) -> Tensor:
        settings = self.settings
        return audited_octaves(x, change, self.shares, settings.dynamic_range_db, settings.grain.active_range_db)

    @torch.no_grad()
    def solved(self, x: Tensor, pattern: Tensor, claim: Tensor) -> Tensor:
        """The amount of a pattern that moves grain by the claim, or as far as it goes. Shape (batch,)."""

        def reached(amount: Tensor) -> Tensor:
            return claim.sign() * self._audited(x, pattern * (claim * amount)[:, None, None])

        low, high = torch.zeros_like(claim), torch.zeros_like(claim)
        best, best_reached = torch.zeros_like(claim), torch.zeros_like(claim)
        found = torch.zeros_like(claim, dtype=torch.bool)
        before = torch.zeros_like(claim)
        for step in CONTROL_STEPS:
            amount = torch.full_like(claim, step)
            moved = reached(amount)
            hit = ~found & (moved >= claim.abs())
            low, high, found = torch.where(hit, before, low), torch.where(hit, amount, high), found | hit
            better = ~found & (moved > best_reached)
            best, best_reached = torch.where(better, amount, best), torch.where(better, moved, best_reached)
            before = amount
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            short = reached(middle) < claim.abs()
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return claim * torch.where(found, (low + high) / 2, best)

    def _moved(self, x: Tensor, pattern: Tensor, claim: Tensor) -> Tensor:
        """The picture at just the grain claimed, with the amount that the auditor finds.

        So the critics judge where a change goes; how large it is, the violation judges. The pattern
        is brought to unit size, or it could please the critics by being too weak to move anything.
        """
        shape = UNIT_PATTERN * pattern / pattern.square().mean((1, 2), keepdim=True).clamp(min=1e-12).sqrt()
        amount = self.solved(x, shape.detach(), claim)
        # The amount follows the shape, or the critics would pull at what it puts right (implicit differentiation).
        moved = self._audited(x, shape * amount[:, None, None])
        with torch.no_grad():
            further = self._audited(x, shape * (1.02 * amount)[:, None, None])
            slope = (further - moved) / torch.where(amount.abs() > 1e-3, 0.02 * amount, 1e9)
            gain = torch.where(slope > LEAST_SLOPE, 1 / slope.clamp(min=LEAST_SLOPE), 0.0)
        amount = amount - gain * (moved - moved.detach())
        return held_energy(x, shape * amount[:, None, None], self.shares.log(), self.settings.dynamic_range_db)

    def play(
        self,
        model: GrainModel,
        movers: Tiles,
        batch_size: int,
        rng: np.random.Generator,
        *,
        as_recorded: bool = False,
    ) -> dict[str, Moves]:
        """Move tiles in both directions and let the referees judge them; ``as_recorded`` leaves them all their tones.

        Returns
        -------
        dict with "texture" and "smooth"
        """
        x, fluctuation = movers.crops(batch_size, rng)
        sign = np.where(np.arange(batch_size) % 2, 1, -1)
        claim = torch.as_tensor(rng.uniform(CLAIM_OCTAVES, CONTROL_RANGE, batch_size) * sign, dtype=torch.float32)
        claim = torch.maximum(claim.to(x.device), self.log2_flatness(x) + FLATTEST_OCTAVES)
        more = torch.as_tensor(rng.uniform(*MORE_NOISE, batch_size) * -sign, dtype=torch.float32, device=x.device)
        bare = self._bare_bands(batch_size, rng)
        mine, whole = self.team.share(batch_size), partial(self.team.whole, n=batch_size)
        x, fluctuation, claim, more, bare = (values[mine] for values in (x, fluctuation, claim, more, bare))
        seen = (x, fluctuation)
        if not as_recorded and bare.any():
            seen = self.critic.without_tones(x, fluctuation, bare)
        pattern = model.pattern(seen[0], -more, seen[1])
        noise_distance, is_told = map(whole, self._noise_distance(seen[0], pattern, seen[1], more))
        violation = whole((self._audited(x, model(x, claim, fluctuation)) - claim).abs())
        distances = self._natural_distances(model, movers, rng)
        return {
            name: Moves(
                distances.get(name),
                noise_distance[part::2].mean(),
                is_told[part::2].mean(),
                violation[part::2].mean(),
            )
            for part, name in enumerate(("texture", "smooth"))
        }

    def _bare_bands(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """Bands that are to lose their tones, (batch, n_mels): a span of each tile in some steps, else none.

        If the library's sounds all have tones somewhere, D would not know what noise does there without them.
        """
        bands = np.arange(self.settings.n_mels)
        first, end = np.sort(rng.integers(0, len(bands) + 1, (2, batch_size, 1)), axis=0)
        is_asked = rng.random() < BARE_STEPS * (1 - self.doubt / LAWFUL_DOUBT)
        return torch.as_tensor(is_asked & (first <= bands) & (bands < end), device=self.natural.device)

    def _noise_distance(self, x: Tensor, pattern: Tensor, fluctuation: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square over bands between moved tiles and the same with so much more noise, at its grain: (batch,).

        And 1 where the critic can tell, else 0: (batch,).
        """
        change = self.critic.with_more(x, fluctuation, more)[:, :, None].expand_as(x)
        octaves = self._audited(x, change)
        wanted = held_energy(x, change, self.shares.log(), self.settings.dynamic_range_db)
        moved = self._moved(x, pattern, octaves)
        is_told = (octaves * more < 0) & (octaves.abs() > SMALL) & (octaves.abs() < CONTROL_RANGE + 1)
        away = (moved.clamp(0, 1).mean(2) - wanted.clamp(0, 1).mean(2)).square().mean(1)
        return torch.where(is_told, away, 0.0), is_told.float()

    def _natural_distances(self, model: GrainModel, movers: Tiles, rng: np.random.Generator) -> dict[str, Tensor]:
        """Tiles of lower and of higher grain, if there are any, moved to one natural grain and compared with natural tiles of it."""
        grain = movers.log2_grain
        target = float(grain[rng.integers(len(grain))])
        away = np.abs(self.natural.log2_grain - target)
        n_like = np.clip(np.count_nonzero(away <= LIKE_OCTAVES), *LIKE_TILES)
        natural = self.natural.means[np.argsort(away, kind="stable")[:n_like]]
        distances = {}
        for name, sign in (("texture", -1), ("smooth", 1)):
            far = sign * (grain - target)
            candidates = np.flatnonzero((far >= CLAIM_OCTAVES) & (far <= CONTROL_RANGE))
            if len(candidates):
                mine = self.team.share(MOVED_TILES)
                drawn = movers.crops(MOVED_TILES, rng, candidates)
                x, fluctuation = (values[mine] for values in drawn)
                claim = self.log2_flatness(x) - target
                moved = self._moved(x, model.pattern(x, claim, fluctuation), claim)
                away_from_natural = natural_distance(moved.clamp(0, 1).mean(2), natural)
                distances[name] = self.team.whole(away_from_natural, MOVED_TILES).mean()
        return distances


def pattern_in_db(model: GrainModel, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Gain in dB for unit amount of smoothing and of texture, (2, n_mels, cells), of a picture (n_mels, frames).

    A long one is gone through in pieces.
    """
    device = next(model.parameters()).device
    pieces = []
    with torch.inference_mode():
        for start in range(0, x.shape[1], CHUNK_FRAMES):
            around = NOISE_CELLS - 1
            before = min(around, start // CELL_FRAMES)
            first, end = start - before * CELL_FRAMES, start + CHUNK_FRAMES + around * CELL_FRAMES
            piece = torch.from_numpy(np.ascontiguousarray(x[:, first:end])).to(device)
            cells = model.detector.cells(piece[None])[0, ..., before:][..., : CHUNK_FRAMES // CELL_FRAMES]
            pieces.append(cells.cpu().numpy())
    return settings.dynamic_range_db * np.concatenate(pieces, axis=2)


# Training


@dataclass(frozen=True)
class EpochScores:
    """One row of training_history.csv."""

    epoch: int
    distance_texture: float  # dB
    distance_smooth: float
    noise_texture: float  # dB
    noise_smooth: float
    violation_texture: float  # octaves
    violation_smooth: float
    held_out_distance: float
    held_out_noise: float
    held_out_violation: float
    learning_rate: float
    gate_temperature: float
    seconds: float


def split_files(pairs: TrainingPairs, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the sources to train on and of those to judge on: every fourth in the order of grain."""
    order = sorted(range(len(pairs.sources)), key=lambda i: (pairs.sources[i].grain, pairs.sources[i].path))
    offset = int(np.random.default_rng(seed).integers(HELD_OUT_EVERY))
    held_out = order[offset::HELD_OUT_EVERY]
    return sorted(set(order) - set(held_out)), sorted(held_out)


def learning_rate_at(progress: float) -> float:
    """Learning rate at a share 0..1 of the training: a tenth of it to warm up, then a half cosine down."""
    warm_up = min(1.0, (progress + 1e-3) / 0.1)
    return LEARNING_RATE * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def mean_told(scores: Iterable[float]) -> float:
    """Mean of scores, without those that are NaN; NaN if there is no other."""
    told = [score for score in scores if not math.isnan(score)]
    return float(np.mean(told)) if told else math.nan


def distance_in_db(squares: Iterable[float], dynamic_range_db: float) -> float:
    """Mean squares of x as a root mean square in dB."""
    return dynamic_range_db * math.sqrt(mean_told(squares))


@dataclass
class EpochProgress:
    """How far an epoch is: what a run that was stopped inside it needs to go on just as it would have."""

    step: int
    random_state: dict
    scores: dict[str, list[float]]


class Stopped(Exception):
    """The user asked to stop; the step was finished."""

    def __init__(self, progress: EpochProgress):
        super().__init__()
        self.progress = progress


@contextmanager
def stop_after_step() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish that is asked for; the second interrupts at once."""
    wishes: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread receives signals
        return

    def wish(number: int, _frame: object) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    before = signal.signal(signal.SIGINT, wish)
    try:
        yield lambda: bool(wishes)
    finally:
        signal.signal(signal.SIGINT, before)


def train_epoch(
    game: AuditGame,
    model: GrainModel,
    optimizer: torch.optim.Optimizer,
    movers: Tiles,
    epoch: int,
    settings: TrainSettings,
    begun: EpochProgress | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """One epoch; its randomness hangs on seed and epoch alone, so that a resumed run repeats it.

    Raises
    ------
    PipelineError
        If a loss or gradient is not finite.
    Stopped
        After a step, with the progress that ``begun`` takes up.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    progress = begun or EpochProgress(0, {}, {})
    if begun:
        rng.bit_generator.state = begun.random_state
    n_steps = max(MIN_STEPS, math.ceil(len(movers.arrays) / settings.batch_size))
    model.train()
    model.temperature.fill_(np.geomspace(*GATE_TEMPERATURES, settings.epochs)[epoch - 1])
    for step in range(progress.step, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at((epoch - 1 + step / n_steps) / settings.epochs)
        moves = game.play(model, movers, settings.batch_size, rng)
        loss = sum(
            CRITIC_WEIGHT * (move.noise_distance + game.doubt * (0 if move.distance is None else move.distance))
            + VIOLATION_WEIGHT * move.violation
            for move in moves.values()
        )
        optimizer.zero_grad()
        loss.backward()
        game.team.add_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_LIMIT)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise PipelineError(f"epoch {epoch}: the {'gradient' if torch.isfinite(loss) else 'loss'} is not finite")
        optimizer.step()
        for name, move in moves.items():
            for kind, score in move.scores().items():
                progress.scores.setdefault(f"{kind}_{name}", []).append(score)
        if game.team.any(is_stopped()):
            raise Stopped(EpochProgress(step + 1, rng.bit_generator.state, progress.scores))
    return {
        name: float(np.mean(values))
        if name.startswith("violation")
        else distance_in_db(values, game.settings.dynamic_range_db)
        for name, values in progress.scores.items()
    }


def judge(game: AuditGame, model: GrainModel, held_out: Tiles, settings: TrainSettings) -> dict[str, float]:
    """What the referees say of held-out tiles, the same draw every time: two distances in dB, violation in octaves."""
    rng = np.random.default_rng([settings.seed, 2**31])
    model.eval()
    with torch.no_grad():
        scores = [
            move.scores()
            for _ in range(HELD_OUT_DRAWS)
            for move in game.play(model, held_out, settings.batch_size, rng, as_recorded=True).values()
        ]
    dynamic_range_db = game.settings.dynamic_range_db
    return {
        "held_out_distance": distance_in_db((score["distance"] for score in scores), dynamic_range_db),
        "held_out_noise": distance_in_db((score["noise"] for score in scores), dynamic_range_db),
        "held_out_violation": float(np.mean([score["violation"] for score in scores])),
    }


def run_epoch(
    game: AuditGame,
    model: GrainModel,
    optimizer: torch.optim.Optimizer,
    movers: Tiles,
    held_out: Tiles,
    epoch: int,
    settings: TrainSettings,
    begun: EpochProgress | None,
    is_stopped: Callable[[], bool],
) -> EpochScores:
    """`train_epoch`, and what it came to on held-out tiles."""
    started = time.monotonic()
    return EpochScores(
        epoch=epoch,
        **train_epoch(game, model, optimizer, movers, epoch, settings, begun, is_stopped),
        **judge(game, model, held_out, settings),
        learning_rate=learning_rate_at(epoch / settings.epochs),
        gate_temperature=float(model.temperature),
        seconds=time.monotonic() - started,
    )


def share_nearer(expander: dict[str, float], trained: dict[str, float], doubt: float) -> float:
    """By what share of its distance a model comes nearer to what the critics expect than the expander it began as.

    Both as `judge` returns them, of the same tiles; the critics are weighed by the game's ``doubt``, as in
    training. NaN if neither could tell, or a model has no score where the other has.
    """
    weights = {"held_out_noise": 1.0, "held_out_distance": doubt}
    told = [name for name in weights if not math.isnan(expander[name])]
    before, after = (sum(weights[name] * scores[name] ** 2 for name in told) for scores in (expander, trained))
    return 1 - math.sqrt(after / before) if before else math.nan


# The audit


@dataclass(frozen=True)
class AuditRow:
    """One held-out file rendered at one position of the slider and measured by stage 1."""

    file: str  # its path from the folder of training_pairs.json
    asked_octaves: float
    got_octaves: float
    within_reach: bool
    loudness_change_db: float


def rms_of(sound: Sound) -> float:
    """Root mean square of all samples of a sound."""
    return math.sqrt(
        sum(float(np.square(block, dtype=np.float64).sum()) for block in sound.blocks())
        / (sound.n_samples * sound.channels)
    )


def audit_file(path: Path, name: str, model: GrainModel, settings: SpectrogramSettings) -> list[AuditRow]:
    """Render one file, called ``name`` in the report, across the slider and measure what came out.

    Raises
    ------
    PipelineError
        If the file can't be read any more.
    """
    sound = open_sound(path)
    analysis = analyse(sound, settings)
    solver = AmountSolver(analysis, pattern_in_db(model, analysis.x, settings))
    rows = []
    for octaves in AUDIT_POSITIONS:
        result = move_grain(solver, octaves, ceiling=CEILING)
        loudness_db = 20 * math.log10(rms_of(result.sound) / rms_of(sound))
        rows.append(AuditRow(name, octaves, result.got_octaves, result.within_reach, loudness_db))
    return rows


def summarise_audit(rows: list[AuditRow], violation: float, nearer: float, n_files: int, spread_octaves: float) -> dict:
    """The audit in numbers and one verdict in words, as plain scalars, None for what could not be measured.

    Parameters
    ----------
    rows : list of AuditRow
    violation : float, octaves, of held-out tiles
    nearer : float, `share_nearer`
    n_files, spread_octaves : of the library
    """
    files = sorted({row.file for row in rows})
    moved = [row for row in rows if row.asked_octaves]
    errors = {
        name: [abs(row.got_octaves - row.asked_octaves) for row in moved if row.file == name and row.within_reach]
        for name in files
    }
    errors = {name: own for name, own in errors.items() if own}
    true_files = sum(max(own) <= GOOD_OCTAVES for own in errors.values())
    every = [error for own in errors.values() for error in own]
    reach = float(np.mean([row.within_reach for row in moved])) if moved else None
    got = {name: [row.got_octaves for row in rows if row.file == name] for name in files}
    monotone = sum(bool(np.all(np.diff(octaves) >= -MONOTONE_OCTAVES)) for octaves in got.values())
    verdict = f"the slider keeps its word within {GOOD_OCTAVES:g} octaves on {true_files} of {len(errors)} files"
    if not errors:
        verdict = (
            "no held-out file could be audited" if not files else "no held-out file can be moved to where it was asked"
        )
    elif true_files < len(errors):
        verdict += f"; the largest error is {max(every):.3f} octaves, see audit.png"
    if reach is not None and reach < LITTLE_REACH:
        verdict += f"; only {reach:.0%} of positions are within reach: most of these files are as smooth or as grainy as can be"
    if nearer >= LITTLE_NEARER:
        verdict += (
            f"; the learned pattern is {nearer:.0%} nearer than a plain expander's to what its referees expect here"
        )
    elif nearer < LITTLE_NEARER:
        verdict += "; the learned pattern is no better than a plain expander's: train longer, or add recordings"
    if n_files < FEW_FILES:
        verdict += f"; the library is small ({n_files} files): {FEW_FILES} or more teach a better pattern"
    if spread_octaves < NARROW_OCTAVES:
        verdict += f"; the library's files hardly differ in grain ({spread_octaves:.2f} octaves): add smoother and grainier sounds"
    return {
        "verdict": verdict,
        "files": len(files),
        "files_true": true_files,
        "files_monotone": monotone,
        "error_median_octaves": float(np.median(every)) if every else None,
        "error_95th_octaves": float(np.percentile(every, 95)) if every else None,
        "within_reach_share": reach,
        "loudness_change_max_db": max((abs(row.loudness_change_db) for row in rows), default=None),
        "held_out_violation_octaves": violation if math.isfinite(violation) else None,
        "nearer_than_expander_share": nearer if math.isfinite(nearer) else None,
    }


# Pictures


def save_figure(figure, path: Path) -> None:
    """Write a matplotlib figure as PNG under its final name only when it is whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_history(path: Path, history: list[EpochScores], expander: dict[str, float]) -> None:
    """training_history.png: what the referees said, epoch by epoch, and of the ``expander`` that training began from."""
    from matplotlib.figure import Figure

    epochs = [row.epoch for row in history]
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, (title, names) in zip(panels.ravel(), HISTORY_PANELS.items(), strict=True):
        for name in names:
            axes.plot(
                epochs,
                [getattr(row, name) for row in history],
                label=name.replace("_", " "),
                marker="." if len(epochs) < 3 else "",
            )
        if "distance" in title:
            axes.axhline(expander[names[-1]], color="0.4", linestyle="--", label="held out, plain expander")
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.suptitle(
        "Held-out distances should end below the plain expander's; if they rise, the library is too small. "
        "How well the law is kept: audit.png",
        fontsize=10,
    )
    save_figure(figure, path)


def draw_sample(path: Path, model: GrainModel, x: Tensor, settings: SpectrogramSettings) -> None:
    """A tile at five positions of the slider, and the pattern that was added in each direction."""
    from matplotlib.figure import Figure

    log_shares = band_shares(settings).to(x.device).log()
    controls = torch.tensor(SAMPLE_CONTROLS, device=x.device)
    with torch.no_grad():
        batch = x.expand(len(controls), -1, -1)
        moved = held_energy(batch, model(batch, controls), log_shares, settings.dynamic_range_db).clamp(0, 1).cpu()
        patterns_db = settings.dynamic_range_db * model.pattern(batch, controls).cpu().numpy()
    duration_s = x.shape[1] * settings.grain.hop_length / settings.grain.sample_rate_hz
    where = {"aspect": "auto", "origin": "lower", "extent": (0, duration_s, 0, settings.n_mels)}
    names = [f"{control:+g}" for control in SAMPLE_CONTROLS]
    middle = len(names) // 2
    rows = [[names[middle], *reversed(names[:middle]), "texture"], [names[middle], *names[middle + 1 :], "smooth"]]
    figure = Figure(figsize=(19, 6.5), layout="constrained")
    panels = figure.subplot_mosaic(rows)
    for name, control, picture in zip(names, SAMPLE_CONTROLS, moved, strict=True):
        level_db = settings.dynamic_range_db * (picture.numpy() - 1)
        image = panels[name].imshow(level_db, "magma", vmin=-settings.dynamic_range_db, vmax=0, **where)
        side = "the tile itself" if control == 0 else "smooth" if control > 0 else "texture"
        panels[name].set_title(f"{control:+.1f} ({side})" if control else f"0: {side}")
    figure.colorbar(image, ax=panels[names[middle]], label="level (dB under the loudest band)", location="left")
    limit = float(np.abs(patterns_db).max()) or 1.0
    for name, pattern_db, title in (
        ("texture", -patterns_db[0], "gain for one octave more texture"),
        ("smooth", patterns_db[-1], "gain for one octave smoother"),
    ):
        image = panels[name].imshow(pattern_db, "RdBu_r", vmin=-limit, vmax=limit, **where)
        panels[name].set_title(f"pattern: {title}")
        figure.colorbar(image, ax=panels[name], label="gain (dB)")
    for axes in panels.values():
        label_axes(axes, settings)
        axes.set_xlabel("time (s)")
    save_figure(figure, path)


def draw_audit(path: Path, rows: list[AuditRow], verdict: str) -> None:
    """audit.png: octaves measured against octaves asked, a line for each held-out file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    ends = (-CONTROL_RANGE, CONTROL_RANGE)
    axes.plot(ends, ends, color="0.4", linestyle="--", label="the law: got = asked", zorder=3)
    for name in sorted({row.file for row in rows}):
        mine = [row for row in rows if row.file == name]
        line = axes.plot(
            [row.asked_octaves for row in mine], [row.got_octaves for row in mine], alpha=0.6, linewidth=1
        )[0]
        beyond = [row for row in mine if not row.within_reach]
        axes.plot(
            [row.asked_octaves for row in beyond],
            [row.got_octaves for row in beyond],
            "o",
            mfc="none",
            color=line.get_color(),
        )
    axes.plot([], [], "o", mfc="none", color="0.3", label="beyond the file's reach")
    axes.set(xlabel="asked (octaves: - texture, + smooth)", ylabel="measured (octaves)", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title("\n".join(verdict.split("; ")), fontsize=10)
    save_figure(figure, path)


# Files


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint (tensors, plain scalars, lists and dicts) so that it is never half there."""
    buffer = io.BytesIO()  # into a file torch would write its name too, and would not say why it can't
    torch.save({"version": CHECKPOINT_VERSION, **content}, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint; no code in it ever runs.

    Raises
    ------
    PipelineError
        If it is missing, damaged, of another version or not one of ours.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no model there; make one with: python cak_grain_processor.py")
    try:
        with path.open("rb") as file:
            _check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # what a damaged or hostile file makes the unpickler raise has no type in common
        raise PipelineError(
            f"{path}: not readable as a model; make it again with: python cak_grain_processor.py"
        ) from err
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version != CHECKPOINT_VERSION:
        raise PipelineError(
            f"{path}: is no model of version {CHECKPOINT_VERSION}; make it again with: python cak_grain_processor.py"
        )
    return content


def _check_archive(file: BinaryIO) -> None:
    """Refuse an archive that asks for more memory than its own size: torch unpacks whatever it is given."""
    import pickletools
    import zipfile

    n_bytes = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:  # as torch.save writes it; the older format is not read at all
        records = archive.infolist()
        if n_bytes > CHECKPOINT_BYTES or sum(record.file_size for record in records) > n_bytes:
            raise ValueError("too large, or compressed")
        (pickled,) = (record for record in records if record.filename.endswith("data.pkl"))
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            is_name = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
            if is_name and argument not in CHECKPOINT_NAMES:  # torch lets more through: a bytearray of any size
                raise ValueError(f"it names {argument}")
    file.seek(0)


def load_weights(model: GrainModel, content: dict, path: Path) -> None:
    """Give a model the weights of a checkpoint, after checking names, shapes, types and values.

    Raises
    ------
    PipelineError
        If they don't fit the model or are not finite.
    """
    own, given = model.state_dict(), content.get("weights")
    fit = isinstance(given, dict) and own.keys() == given.keys()
    if not fit or not all(_is_like(given[name], tensor) for name, tensor in own.items()):
        raise PipelineError(
            f"{path}: its weights do not fit the model; make it again with: python cak_grain_processor.py"
        )
    if not all(torch.isfinite(tensor).all() for tensor in given.values()):
        raise PipelineError(f"{path}: its weights are not finite; make it again with: python cak_grain_processor.py")
    model.load_state_dict(given)


def _is_like(value: object, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == tensor.shape and value.dtype == tensor.dtype


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to render: the network, the settings it was trained with, and its history in plain values."""

    model: GrainModel
    settings: SpectrogramSettings
    training: dict
    audit: dict

    def pattern_db(self, x: np.ndarray) -> np.ndarray:
        """Gain in dB for unit amount of smoothing and of texture, (2, n_mels, cells), of the picture ``x``."""
        return pattern_in_db(self.model, x, self.settings)


def load_model(path: Path, device: str = "cpu") -> LoadedModel:
    """Read a final model for rendering.

    Raises
    ------
    PipelineError
        If the file is no usable model.
    """
    content = read_checkpoint(path)
    settings = parse_spectrogram_settings(content.get("settings"), f"{path}: settings")
    channels = content.get("channels")
    if not isinstance(channels, int) or not 1 <= channels <= 256:
        raise PipelineError(f"{path}: field channels is {shown(channels)}, not 1 to 256")
    model = GrainModel(settings, channels)
    load_weights(model, content, path)
    told = [_plain_values(content, name, path) for name in ("training", "audit")]
    return LoadedModel(model.to(device).eval(), settings, *told)


def _plain_values(content: dict, name: str, path: Path) -> dict:
    """What a model tells of itself: texts and numbers of a size that can be shown."""
    values = content.get(name, {})
    if not isinstance(values, dict):
        raise PipelineError(f"{path}: field {name} is {shown(values)}, not a dict")
    for key, value in values.items():
        is_text, is_whole = isinstance(value, str), isinstance(value, int)
        is_good = (
            len(value) < 10_000 if is_text else abs(value) < 2**63 if is_whole else isinstance(value, float | None)
        )
        if not is_good:
            raise PipelineError(f"{path}: {name}: field {shown(key)} is {shown(value)}")
    return values


def load_state(
    content: dict, path: Path, identity: str, model: GrainModel, optimizer: torch.optim.Optimizer
) -> tuple[list[EpochScores], EpochProgress | None]:
    """Put model and optimizer where an interrupted run left them; what it had scored, and how far its epoch was.

    Parameters
    ----------
    content : what `read_checkpoint` read from ``path``
    identity : `fingerprint` of this run

    Raises
    ------
    PipelineError
        If the file is no checkpoint of this run.
    """
    if content.get("fingerprint") != identity:
        raise PipelineError(f"{path}: was made from other tiles or options; leave out --resume to start again")
    load_weights(model, content, path)
    try:
        state = {i: dict(values) for i, values in content["optimizer"]["state"].items()}
        for i, weight in enumerate(model.parameters() if state else ()):
            like = {"step": torch.tensor(0.0), "exp_avg": weight, "exp_avg_sq": weight}
            if not all(
                _is_like(state[i][name], tensor) and state[i][name].isfinite().all() for name, tensor in like.items()
            ):
                raise ValueError(f"optimizer state {i}")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        history = [EpochScores(**row) for row in content["history"]]
        if not all(isinstance(value, int | float) for row in history for value in vars(row).values()):
            raise ValueError("history")
        begun = EpochProgress(**content["begun"]) if content["begun"] else None
        if begun:
            np.random.default_rng().bit_generator.state = begun.random_state
            values = [value for scores in begun.scores.values() for value in scores]
            if not isinstance(begun.step, int) or not all(isinstance(value, float) for value in values):
                raise ValueError("begun")
    except Exception as err:  # as above: what can be wrong with it has no type in common
        raise PipelineError(f"{path}: can't be gone on with; leave out --resume to start again") from err
    return history, begun


class TilesOnDisk(Sequence):
    """Tiles that are mapped while they are looked at: more than a process may hold open at a time.

    Parameters
    ----------
    paths : list of Path, of arrays that `load_tile` has checked

    Raises
    ------
    PipelineError
        If one has gone meanwhile.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        try:
            return np.load(self.paths[i], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as err:
            raise PipelineError(f"{one_line(self.paths[i])}: is no longer there, or no longer a tile") from err


def load_tiles(pairs: TrainingPairs, sources: Iterable[int], device: str) -> Tiles:
    """All tiles of some sources: in memory, or mapped from disk if they are many; all are checked first.

    Raises
    ------
    PipelineError
        If an array is missing or damaged.
    """
    wanted = {pairs.sources[i].path for i in sources}
    tiles = [tile for tile in pairs.tiles if tile.source in wanted]
    n_bytes = len(tiles) * pairs.settings.n_mels * pairs.settings.tile_frames * 4
    checked = (load_tile(tile.array, pairs.settings) for tile in tiles)
    if n_bytes <= MEMORY_BYTES:
        return Tiles.of(list(checked), pairs.settings, device)
    for _ in checked:
        pass
    return Tiles.of(TilesOnDisk([tile.array for tile in tiles]), pairs.settings, device)


def write_history(path: Path, history: list[EpochScores]) -> None:
    """Write training_history.csv, one row an epoch."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(history[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)


# The stage


def choose_device(wanted: str, team: Team = ALONE) -> str:
    """The device for "auto", "cpu", "cuda" or "mps"; of several processes each takes a GPU of its own.

    Raises
    ------
    PipelineError
        If the device asked for is not there.
    """
    available = {
        "cuda": torch.cuda.device_count() > team.local_rank,
        "mps": torch.backends.mps.is_available() and team.size == 1,
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(name for name in available if available[name])
    if not available[wanted]:
        among = "" if team.size == 1 else f" for each of {team.size} processes"
        raise PipelineError(f"--device {wanted}: not available here{among}; use --device auto")
    return f"cuda:{team.local_rank}" if wanted == "cuda" and team.size > 1 else wanted


def check_library(pairs: TrainingPairs) -> None:
    """Refuse a library that there is nothing to learn from, before any training.

    Raises
    ------
    PipelineError
        Too few files, all of one grain, or pictures of another depth than this version learns from.
    """
    if pairs.settings.dynamic_range_db != DYNAMIC_RANGE_DB:
        raise PipelineError(
            f"tiles are {pairs.settings.dynamic_range_db:g} dB deep, this version learns from {DYNAMIC_RANGE_DB:g}: "
            "make them again with: python convert_to_spectrograms.py"
        )
    if len(pairs.sources) < MIN_FILES:
        raise PipelineError(
            f"{len(pairs.sources)} files: a model needs at least {MIN_FILES}, better {FEW_FILES}; add recordings and run stages 1 and 2 again"
        )
    spread = max(np.log2([tile.grain for tile in pairs.tiles])) - min(np.log2([tile.grain for tile in pairs.tiles]))
    if spread < 2 * CLAIM_OCTAVES:
        raise PipelineError(
            f"all tiles are of one grain (within {spread:.2f} octaves): nothing to learn; add smoother and grainier sounds"
        )


def fingerprint(pairs: TrainingPairs, settings: TrainSettings) -> str:
    """What a run that is resumed must have in common with the one that stopped."""
    grains = [f"{tile.source.name}:{tile.start_s}:{tile.grain!r}" for tile in pairs.tiles]
    return hashlib.sha256(repr((asdict(settings), settings_record(pairs.settings), grains)).encode()).hexdigest()


def load_parts(pairs: TrainingPairs, settings: TrainSettings, device: str, expected: str) -> tuple[Tiles, Tiles]:
    """The tiles to train on and those to judge on.

    Raises
    ------
    PipelineError
        If they can't be used, or their `fingerprint` is not that of the first process.
    """
    if fingerprint(pairs, settings) != expected:
        raise PipelineError("the processes have different tiles or options: give all the same training_pairs.json")
    check_library(pairs)
    train_on, judge_on = split_files(pairs, settings.seed)
    return load_tiles(pairs, train_on, device), load_tiles(pairs, judge_on, device)


def train(
    pairs: TrainingPairs,
    settings: TrainSettings,
    output_dir: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    team: Team = ALONE,
) -> tuple[GrainModel, list[EpochScores], float]:
    """Train a model, with a checkpoint after every epoch and pictures every tenth.

    Returns
    -------
    The model, a row for each epoch, and `share_nearer` of held-out tiles

    Raises
    ------
    PipelineError
        If the tiles can't be used, the training diverges or ``resume`` finds nothing that fits.
    """
    latest, identity = output_dir / "checkpoints" / "latest.pt", fingerprint(pairs, settings)
    movers, held_out = team.agreed(partial(load_parts, pairs, settings, device, team.of_first(identity)))
    torch.manual_seed(settings.seed)
    model = GrainModel(pairs.settings).to(device)
    untrained = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    history: list[EpochScores] = []
    begun: EpochProgress | None = None
    if resume:
        content = team.of_first(team.agreed(lambda: read_checkpoint(latest) if team.is_first else {}))
        history, begun = load_state(content, latest, identity, model, optimizer)
    check_device(model, movers)
    game = AuditGame(pairs.settings, movers, settings.seed, team)
    for one in (model, untrained):
        one.detector.full_fluctuation.copy_(game.critic.full_fluctuation)
    expander = judge(game, untrained, held_out, settings)

    def save(begun: EpochProgress | None) -> None:
        state = {
            "weights": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [asdict(row) for row in history],
            "begun": asdict(begun) if begun else None,
            "fingerprint": identity,
        }
        save_checkpoint(latest, state)

    middle = int(np.argsort(held_out.log2_grain)[len(held_out.arrays) // 2])
    sample = torch.from_numpy(np.array(held_out.arrays[middle])).to(device)

    show = partial(write_reports, output_dir, model, sample, pairs, settings, history, expander)
    if history and begun is None and team.is_first:
        show()  # the run that stopped may have been killed before it did
    for epoch in progress(range(len(history) + 1, settings.epochs + 1), settings.epochs - len(history)):
        try:
            with stop_after_step() as is_stopped:
                row = run_epoch(game, model, optimizer, movers, held_out, epoch, settings, begun, is_stopped)
                begun = None
                history.append(row)
                if team.is_first:
                    save(None)
                ends = team.any(is_stopped())
        except Stopped as stop:
            if team.is_first:
                save(stop.progress)
            raise KeyboardInterrupt from stop
        except PipelineError as err:
            raise PipelineError(
                f"{err}; the last good checkpoint is {latest if history or resume else 'none'}"
            ) from err
        if team.is_first:
            show()
        if ends:
            raise KeyboardInterrupt
    return model, history, share_nearer(expander, vars(history[-1]), game.doubt)


def write_reports(
    output_dir: Path,
    model: GrainModel,
    sample: Tensor,
    pairs: TrainingPairs,
    settings: TrainSettings,
    history: list[EpochScores],
    expander: dict[str, float],
) -> None:
    """What every tenth epoch leaves, and the last: a model, its sample, and the history."""
    epoch = len(history)
    if epoch % CHECKPOINT_EVERY and epoch != settings.epochs:
        return
    save_checkpoint(
        output_dir / "checkpoints" / f"epoch_{epoch:04d}.pt", final_content(model, pairs, settings, history, {})
    )
    draw_sample(output_dir / "samples" / f"epoch_{epoch:04d}.png", model, sample, pairs.settings)
    write_history(output_dir / "training_history.csv", history)
    draw_history(output_dir / "training_history.png", history, expander)


def wrong_gradients(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> list[str]:
    """Names of the weights whose gradient is not the one wanted, but for rounding."""
    rounding = 1e-4 * max(float(gradient.norm()) for gradient in wanted.values())
    return [name for name, own in wanted.items() if not (got[name] - own).norm() <= 1e-2 * own.norm() + rounding]


def check_device(model: GrainModel, movers: Tiles) -> None:
    """Compare one gradient with the CPU's where MPS computes, which is known to train wrongly in silence.

    Raises
    ------
    PipelineError
        If they differ.
    """
    if movers.device != "mps":
        return

    x, fluctuation = (values.cpu() for values in movers.crops(16, np.random.default_rng(0)))

    if wrong := wrong_gradients(*(gradients_on(device, model, x, fluctuation) for device in ("cpu", movers.device))):
        raise PipelineError(
            f"--device mps computes wrong gradients ({wrong[0]}) with this version of torch; use --device cpu"
        )


def gradients_on(device: str, model: GrainModel, x: Tensor, fluctuation: Tensor) -> dict[str, Tensor]:
    """Gradients of all weights of a copy of the model on a device, for one loss of its patterns."""
    there = copy.deepcopy(model).to(device)
    nn.init.constant_(there.detector.mix.weight, 0.1)  # it begins at 0, and would hide the layers before it
    control = torch.linspace(-CONTROL_RANGE, CONTROL_RANGE, len(x))
    there.pattern(*(values.to(device) for values in (x, control, fluctuation))).square().mean().backward()
    return {name: weight.grad.cpu() for name, weight in there.named_parameters()}


def final_content(
    model: GrainModel, pairs: TrainingPairs, settings: TrainSettings, history: list[EpochScores], audit: dict
) -> dict:
    """Everything needed to render, and where it comes from; no optimiser state."""
    return {
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "channels": model.detector.mix.in_channels,
        "settings": settings_record(pairs.settings),
        "training": {
            **asdict(settings),
            "epochs_done": len(history),
            "files": len(pairs.sources),
            "tiles": len(pairs.tiles),
            "grain_spread_octaves": grain_spread_octaves(source.grain for source in pairs.sources),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
        },
        "audit": audit,
    }


def audit(
    pairs: TrainingPairs,
    model: GrainModel,
    violation: float,
    nearer: float,
    seed: int,
    folder: Path,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> tuple[list[AuditRow], dict, list[str]]:
    """Render held-out files across the slider and measure them with stage 1's function.

    Audio outside ``folder``, of training_pairs.json, is read only if it is what stage 1 measured:
    nobody else's file is opened because a JSON names it. ``violation`` and ``nearer`` are reported as they are.

    Returns
    -------
    rows, summary, and a line for each file that could not be audited
    """
    _, judge_on = split_files(pairs, seed)
    chosen = [
        judge_on[i] for i in np.linspace(0, len(judge_on) - 1, min(AUDIT_FILES, len(judge_on))).round().astype(int)
    ]
    rows, failures = [], []
    model.eval()
    for source in progress([pairs.sources[i] for i in chosen], len(chosen)):
        try:
            if not is_inside(source.path, folder):
                check_as_measured(source)
            rows += audit_file(source.path, json_path(source.path, folder), model, pairs.settings)
        except PipelineError as err:
            failures.append(f"{one_line(source.path)}: {err}")
    spread = grain_spread_octaves(source.grain for source in pairs.sources)
    return rows, summarise_audit(rows, violation, nearer, len(pairs.sources), spread), failures


# The command line


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 3."""
    parser = argparse.ArgumentParser(
        prog="cak_grain_processor.py", description="Learn the grain pattern of a library and audit the model."
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        default=Path(DEFAULT_PAIRS),
        metavar="FILE",
        help="what stage 2 wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(DEFAULT_OUTPUT_DIR),
        metavar="FOLDER",
        help="gets the model and its reports (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=positive, default=TrainSettings.epochs, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=TrainSettings.batch_size, help="(default: %(default)s)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=TrainSettings.seed, help="the same seed gives the same model (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    return parser


def _saved_ns(args: argparse.Namespace) -> int | None:
    try:
        return (args.output_dir / "checkpoints" / "latest.pt").stat().st_mtime_ns
    except OSError:
        return None


def _go_on_hint(args: argparse.Namespace, saved_before_ns: int | None) -> str:
    """What to do after Ctrl-C; a checkpoint of an earlier run, which stays, is nothing to go on with."""
    saved_ns = _saved_ns(args)
    is_ours = saved_ns is not None and (args.resume or saved_ns != saved_before_ns)
    return "interrupted; go on with --resume" if is_ours else "interrupted before the first step ended; start again"


def _prepare(args: argparse.Namespace, team: Team, until_the_end: ExitStack) -> tuple[TrainingPairs, str]:
    """What can be found wrong before any work: the pairs and the device to train on."""
    pairs = read_pairs(args.pairs)
    if args.seed < 0:
        raise PipelineError(f"--seed {args.seed}: must be 0 or more")
    if args.batch_size < 2:
        raise PipelineError(f"--batch-size {args.batch_size}: must be 2 or more: half of the tiles go each way")
    if team.is_first:
        for folder in (args.output_dir, args.output_dir / "checkpoints", args.output_dir / "samples"):
            prepare_folder(folder)
        until_the_end.enter_context(only_run(args.output_dir / FINAL_NAME))
    return pairs, choose_device(args.device, team)


def _run(args: argparse.Namespace, team: Team) -> int:
    settings = TrainSettings(args.epochs, args.batch_size, args.seed)
    with ExitStack() as until_the_end:
        with team.joined():
            pairs, device = team.agreed(lambda: _prepare(args, team, until_the_end))
            among = "" if team.size == 1 else f", {team.size} processes"
            print(
                f"training on {len(pairs.tiles)} tiles of {len(pairs.sources)} files, device {device}{among}",
                file=sys.stderr,
            )
            progress = progress_bar("training", "epoch")
            trained = train(
                pairs, settings, args.output_dir, device=device, resume=args.resume, progress=progress, team=team
            )
        return _finish(args, pairs, settings, *trained) if team.is_first else 0


def _finish(
    args: argparse.Namespace,
    pairs: TrainingPairs,
    settings: TrainSettings,
    model: GrainModel,
    history: list[EpochScores],
    nearer: float,
) -> int:
    """Audit the model, write it and say how it came out; returns the exit status."""
    rows, summary, failures = audit(
        pairs,
        model,
        history[-1].held_out_violation,
        nearer,
        args.seed,
        args.pairs.absolute().parent,
        progress_bar("auditing"),
    )
    save_checkpoint(args.output_dir / FINAL_NAME, final_content(model, pairs, settings, history, summary))
    write_json(
        args.output_dir / "audit.json", {"version": 1, "summary": summary, "rows": [asdict(row) for row in rows]}
    )
    draw_audit(args.output_dir / "audit.png", rows, summary["verdict"])
    for failure in failures:
        warn(f"not audited: {failure}")
    print(f"audit: {summary['verdict']}")
    if summary["error_median_octaves"] is not None:
        print(
            f"       error {summary['error_median_octaves']:.3f} octaves in the median, {summary['error_95th_octaves']:.3f} at the 95th percentile; "
            f"{summary['within_reach_share']:.0%} of positions within reach"
        )
    print(f"wrote {args.output_dir / FINAL_NAME}, audit.png, audit.json, training_history.png and .csv beside it")
    print(
        "next: python neural_audio_processor.py"
        + ("" if args.output_dir == Path(DEFAULT_OUTPUT_DIR) else f" --model {str(args.output_dir / FINAL_NAME)!r}")
    )
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 3 from the command line; returns the exit status."""
    team = Team.of_torchrun()
    with team.heard_once():
        args = build_parser().parse_args(argv)
        saved_before_ns = _saved_ns(args)
        return run_main(lambda: _run(args, team), lambda: _go_on_hint(args, saved_before_ns))


if __name__ == "__main__":
    leave(main())
