#!/usr/bin/env python3
"""Turn audio into mel tiles, and a pattern of gains back into audio: stage 2 of the Neural Grain Processor.

Forth: every file becomes tiles of 128 mel bands x 256 frames, x = 0 at the floor and 1 in
the file's loudest band, 80 dB between. Back: a pattern q (one gain per band and frame for
unit amount), the amount u of it that gives the grain asked for, and the complex STFT
multiplied with the gains, so that the original phase stays:

    P'[t, k] = P[t, k] 10**(u q[t, k] / 10) e[t],   e[t] holds the frame's energy

ln flatness of a frame is linear in u minus a log-sum-exp of u, hence concave: the amount
that gives a grain is unique between the start and the peak, and a root-finder finds it. Two
limits keep the result musical: no band rises above its frame's loudest, and peaks beyond full
scale are turned down. What they and overlapping frames do to grain is measured on the real
output and corrected.

Reads:  metadata.json and the audio files that it names
Writes: spectrograms/arrays/*.npy, spectrograms/images/*.png, training_pairs.json
Exit status: 0 all files converted; 1 some could not be (each is named);
             2 wrong usage or nothing to convert; 130 interrupted

    python convert_to_spectrograms.py
    python convert_to_spectrograms.py --metadata drones.json --no-images
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from measure_audio_grain import (
    DEFAULT_METADATA,
    FileGrain,
    GrainSettings,
    PipelineError,
    SkippedFile,
    Sound,
    check_writable,
    file_stamp,
    frame_blocks,
    grain_per_frame,
    hann_window,
    jobs_argument,
    json_path,
    measure_grain,
    one_line,
    open_sound,
    parse_records,
    parse_settings,
    progress_bar,
    read_json,
    read_metadata,
    replacing,
    run_main,
    sound_from_array,
    spectral_flatness,
    warn,
    write_json,
)

DEFAULT_PAIRS = "training_pairs.json"
DEFAULT_OUTPUT_DIR = "spectrograms"
PAIRS_VERSION = 1
N_MELS = 128
TILE_FRAMES = 256
DYNAMIC_RANGE_DB = 80.0  # below it a band is inaudible beside the loudest one

PROBE_FRAMES = 1024  # active frames the solver looks at: their mean stands for the file's within 0.01 octaves
MAX_GAIN_SPREAD_DB = 120.0  # between the bins of a frame: beyond it a frame is one band and rounding noise
LEVEL_TOLERANCE_DB = 0.2  # of loudness (RMS) against the input's
LIMITER_S = 0.0015  # look-ahead of the peak limiter to either side
LIMIT_FRAMES = 5  # the levels that limit a gain are averaged over 58 ms, as the detector's are
DIP_OCTAVES = 0.05  # the mean of many frames, each concave above the floor, may go so far back and still go on
GRAIN_TOLERANCE_OCTAVES = 0.01  # what the correcting passes are content with
MAX_CORRECTIONS = 6
CEILING = 1.0 - 2.0**-15  # the largest sample that 16-bit audio holds
NEPER_PER_DB = math.log(10) / 10  # of power

TICKS_HZ = (100, 500, 1_000, 2_000, 5_000, 10_000, 15_000)


@dataclass(frozen=True)
class SpectrogramSettings:
    """How tiles are made: everything that the way forth and the way back must agree on."""

    grain: GrainSettings
    band_edges_hz: tuple[float, ...]  # n_mels + 2 of them: band b is a triangle from edge b to edge b + 2
    dynamic_range_db: float = DYNAMIC_RANGE_DB
    tile_frames: int = TILE_FRAMES

    @property
    def n_mels(self) -> int:
        """Number of mel bands."""
        return len(self.band_edges_hz) - 2


def default_settings(grain: GrainSettings) -> SpectrogramSettings:
    """128 bands spaced evenly on Slaney's mel scale over the analysis band of the grain."""
    from librosa import mel_frequencies

    edges = mel_frequencies(N_MELS + 2, fmin=grain.fmin_hz, fmax=grain.fmax_hz)
    return SpectrogramSettings(grain, tuple(round(float(hz), 3) for hz in edges))


@dataclass(frozen=True)
class Source:
    """An audio file that tiles were made of. ``path`` is absolute in memory, relative in the JSON."""

    path: Path
    grain: float
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Tile:
    """One tile of training_pairs.json.

    ``loudest_frame_db`` is the file's loudest frame (mean bin power) under its loudest band:
    what tells active frames of the tile from silent ones.
    """

    array: Path
    image: Path | None
    source: Path
    start_s: float
    grain: float
    loudest_frame_db: float


@dataclass(frozen=True)
class TrainingPairs:
    """The contract of stage 2: everything that training_pairs.json holds."""

    settings: SpectrogramSettings
    sources: tuple[Source, ...] = ()
    tiles: tuple[Tile, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


# Audio to tiles


def band_weights(settings: SpectrogramSettings, sr: int) -> np.ndarray:
    """Mel filterbank: each band's power is a weighted mean of bin powers.

    The triangles of ``librosa.filters.mel(norm=None)``, each divided by its sum. A band narrower
    than a bin takes its nearest bin; a band above Nyquist is empty.

    Returns
    -------
    np.ndarray, shape (n_mels, n_fft // 2 + 1), float32, rows sum to 1 (or to 0 above Nyquist)
    """
    n_fft = settings.grain.n_fft_for(sr)
    hz = np.arange(n_fft // 2 + 1) * sr / n_fft
    edges = settings.band_edges_hz
    weights = np.stack([np.interp(hz, edges[b : b + 3], (0, 1, 0), left=0, right=0) for b in range(settings.n_mels)])
    for b in np.flatnonzero(weights.sum(axis=1) == 0):
        if edges[b + 1] <= sr / 2:
            weights[b, round(edges[b + 1] * n_fft / sr)] = 1.0
    sums = weights.sum(axis=1, keepdims=True)
    return (weights / np.where(sums > 0, sums, 1)).astype(np.float32)


def bin_weights(settings: SpectrogramSettings, sr: int) -> np.ndarray:
    """The way back: linear interpolation from band centres to bins, held beyond the first and last.

    Returns
    -------
    np.ndarray, shape (n_mels, n_fft // 2 + 1), float32, columns sum to 1
    """
    n_fft = settings.grain.n_fft_for(sr)
    hz = np.arange(n_fft // 2 + 1) * sr / n_fft
    centres = settings.band_edges_hz[1:-1]
    return np.stack([np.interp(hz, centres, row) for row in np.eye(settings.n_mels)]).astype(np.float32)


def bins_per_band(settings: SpectrogramSettings) -> np.ndarray:
    """Share of the analysis band's bins that each mel band stands for. Shape (n_mels,), sums to 1."""
    sr = settings.grain.sample_rate_hz
    counts = bin_weights(settings, sr)[:, settings.grain.band_for(sr)].sum(axis=1)
    return counts / counts.sum()


def padded(sound: Sound, n_fft: int, hop_length: int) -> Sound:
    """The sound with zeros around it, so that every sample lies in n_fft / hop_length full windows."""
    before = n_fft - hop_length
    after = -(sound.n_samples + before) % hop_length + before

    def blocks() -> Iterator[np.ndarray]:
        silence = np.zeros((max(before, after), sound.channels), np.float32)
        return chain([silence[:before]], sound.blocks(), [silence[:after]])

    return replace(sound, n_samples=before + sound.n_samples + after, blocks=blocks)


def stft_blocks(sound: Sound, settings: GrainSettings) -> Iterator[np.ndarray]:
    """Complex STFT of a sound, a block of frames at a time, with a periodic Hann window, not padded.

    Yields
    ------
    np.ndarray, shape (channels, frames, n_fft // 2 + 1), complex64
    """
    from scipy.fft import rfft  # imported late: `--help` must not wait for scipy

    n_fft = settings.n_fft_for(sound.sr)
    window = hann_window(n_fft)
    for windows in frame_blocks(sound.blocks(), n_fft, settings.hop_for(sound.sr)):
        yield rfft(windows * window, axis=-1)


def mean_power(D: np.ndarray) -> np.ndarray:
    """Bin powers averaged over channels: (channels, frames, bins) complex -> (frames, bins) float32."""
    return np.mean(D.real**2 + D.imag**2, axis=0)


def log_mel(band_powers: np.ndarray, dynamic_range_db: float, peak: float | None = None) -> np.ndarray:
    """Normalised log-mel picture: 1 in the loudest band, 0 at and below the floor.

    Parameters
    ----------
    band_powers : np.ndarray, shape (frames, n_mels), >= 0, not all 0
    dynamic_range_db : float > 0, between 1 and 0
    peak : float > 0, band power that reads 1 (to compare two sounds); the loudest of these if None

    Returns
    -------
    np.ndarray, shape (n_mels, frames), float32, in [0, 1]
    """
    peak = float(band_powers.max()) if peak is None else peak
    if not peak > 0:
        raise ValueError(f"peak={peak} must be positive")
    floor = np.float32(peak * 10 ** (-dynamic_range_db / 10))
    db = 10 * np.log10(np.maximum(band_powers, floor) / np.float32(peak))
    return np.ascontiguousarray(np.clip(1 + db / dynamic_range_db, 0, 1).T, dtype=np.float32)


def band_powers_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Mel band powers of a sound, (frames, n_mels) float32: the frames that stage 1 measures."""
    weights = band_weights(settings, sound.sr).T
    return np.concatenate([mean_power(D) @ weights for D in stft_blocks(sound, settings.grain)])


def log_mel_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Normalised log-mel picture of a sound, (n_mels, frames)."""
    return log_mel(band_powers_of(sound, settings), settings.dynamic_range_db)


def tile_starts(n_frames: int, tile_frames: int) -> list[int]:
    """First frames of the fewest tiles that cover ``n_frames``, spread evenly, the last one ending at the end."""
    last = max(0, n_frames - tile_frames)
    return [int(start) for start in np.linspace(0, last, -(-n_frames // tile_frames)).round()]


def fill_tile(x: np.ndarray, tile_frames: int) -> np.ndarray:
    """Lengthen a picture (n_mels, frames) to a tile by playing it back and forth: silence would be grain."""
    missing = tile_frames - x.shape[1]
    return np.pad(x, ((0, 0), (0, missing)), mode="symmetric") if missing > 0 else x


def frame_levels_db(x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Mean bin power of each frame of a picture, dB under the file's loudest band. Shape (frames,)."""
    db = settings.dynamic_range_db * (x - 1)
    return 10 * np.log10(bins_per_band(settings) @ 10 ** (db / 10))


# A pattern back to audio


class LevelMeter:
    """Reads the largest sample, full scale 1.0, and the energy of the blocks that go through it."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.energy = 0.0

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, read on the way."""
        for block in blocks:
            self.peak = max(self.peak, float(block.max()), -float(block.min()))
            self.energy += float(np.vdot(block, block))
            yield block


@dataclass(frozen=True)
class Probe:
    """What the solver looks at: some active frames of a sound.

    ``power`` is (frames, bins) with each frame's whole spectrum, ``index`` the frames' numbers
    in the padded sound, ``weights`` the `bin_weights`.
    """

    power: np.ndarray
    index: np.ndarray
    weights: np.ndarray
    band: slice
    floor_db: float


@dataclass(frozen=True)
class Analysis:
    """A sound as the renderer sees it: its picture (of the padded sound), its grain, and a probe."""

    sound: Sound
    settings: SpectrogramSettings
    x: np.ndarray
    grain: float
    peak: float  # largest sample, full scale 1.0
    energy: float  # sum of squares of all samples
    probe: Probe


def analyse(sound: Sound, settings: SpectrogramSettings) -> Analysis:
    """Everything that depends on the sound alone, and not on the grain asked for.

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    flatness, active = grain_per_frame(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    lead = n_fft // hop_length - 1  # frames that reach into the padding before the first sample
    chosen = np.flatnonzero(active)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(PROBE_FRAMES, len(chosen))).round().astype(int)] + lead
    weights = band_weights(settings, sound.sr).T
    meter = LevelMeter()
    metered = replace(sound, blocks=lambda: meter.through(sound.blocks()))
    bands, probe_power, first = [], [], 0
    for D in stft_blocks(padded(metered, n_fft, hop_length), settings.grain):
        P = mean_power(D)
        bands.append(P @ weights)
        probe_power.append(P[chosen[(chosen >= first) & (chosen < first + len(P))] - first])
        first += len(P)
    probe = Probe(
        np.concatenate(probe_power),
        chosen,
        bin_weights(settings, sound.sr),
        settings.grain.band_for(sound.sr),
        settings.grain.floor_db,
    )
    x = log_mel(np.concatenate(bands), settings.dynamic_range_db)
    return Analysis(sound, settings, x, float(flatness[active].mean(dtype=np.float64)), meter.peak, meter.energy, probe)


def hold_energy(gain_db: np.ndarray, power: np.ndarray, band: slice) -> np.ndarray:
    """Power gains from gains in dB, each frame scaled so that its energy in the analysis band stays what it was.

    So dynamics and loudness stay, and stage 1 counts the same frames as active. Bins below the
    band are left alone: sub-bass has no grain that is measured.

    Parameters
    ----------
    gain_db, power : np.ndarray, shape (frames, bins)
    band : slice of bins

    Returns
    -------
    np.ndarray, shape (frames, bins)
    """
    gain = np.exp(np.float32(NEPER_PER_DB) * (gain_db - gain_db.max(axis=-1, keepdims=True)))
    before = power[:, band].sum(axis=-1, keepdims=True)
    after = (power[:, band] * gain[:, band]).sum(axis=-1, keepdims=True)
    gain *= np.divide(before, after, out=np.ones_like(before), where=after > 0)
    gain[:, : band.start] = 1.0
    return gain


def spectral_expander(x: np.ndarray, dynamic_range_db: float) -> np.ndarray:
    """The pattern that knows nothing: every band away from its frame's mean. Gain in dB for unit amount."""
    return dynamic_range_db * (x - x.mean(axis=0, keepdims=True))


def smooth_in_time(x: np.ndarray, n_frames: int) -> np.ndarray:
    """Running mean over an odd number of frames, (n_mels, frames), edges repeated."""
    from scipy.ndimage import uniform_filter1d

    return uniform_filter1d(x, n_frames, axis=1, mode="nearest")


def limit_gain(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Keep every band at or below the frame's loudest: texture may fill a sound up, not drown it.

    Gains count from the frame's mean gain, weighted by power; from there a band may rise by its
    distance to the loudest band and no further. Without it a large amount turns the spectrum over:
    the frame grows less grainy again, and its energy goes into a click.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, frames); levels smoothed in time, or the
        limit follows every frame of a noise
    shares : np.ndarray, shape (n_mels,), `bins_per_band`

    Returns
    -------
    np.ndarray, shape (n_mels, frames)
    """
    top_db = level_db.max(axis=0)
    weights = np.exp(np.float32(NEPER_PER_DB) * (level_db - top_db)) * shares[:, None].astype(np.float32)
    mean_gain_db = (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
    return np.minimum(gain_db, top_db - level_db + mean_gain_db)


@dataclass(frozen=True)
class Amounts:
    """How much of the pattern, and of the expander beyond the pattern's reach, gives a grain."""

    pattern: float
    expander: float
    within_reach: bool


class AmountSolver:
    """Finds the amounts that move a sound's grain by so many octaves.

    As far as the pattern carries, it alone is used; where its reach ends it is faded into the
    spectral expander's, which carries on for many sounds.

    Parameters
    ----------
    analysis : Analysis
    pattern_db : np.ndarray, shape of ``analysis.x``, gain in dB for unit amount; positive amounts smooth
    """

    def __init__(self, analysis: Analysis, pattern_db: np.ndarray):
        self._probe, settings = analysis.probe, analysis.settings
        self._patterns_db = (pattern_db, spectral_expander(analysis.x, settings.dynamic_range_db))
        self._level_db = settings.dynamic_range_db * smooth_in_time(analysis.x, LIMIT_FRAMES)
        self._shares = bins_per_band(settings)
        spreads = [float(np.max(np.ptp(gain_db[:, self._probe.index], axis=0))) for gain_db in self._patterns_db]
        self._largest = [MAX_GAIN_SPREAD_DB / spread if spread > 1e-6 else 0.0 for spread in spreads]
        self._ends: dict[tuple[int, float], float] = {}
        self._start = self._log2_grain(0.0, 0.0)

    def gain_db(self, pattern: float, expander: float, frames: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The gains that these amounts give, (n_mels, frames)."""
        gain_db = np.float32(pattern) * self._patterns_db[0][:, frames]
        if expander:
            gain_db = gain_db + np.float32(expander) * self._patterns_db[1][:, frames]
        return limit_gain(gain_db, self._level_db[:, frames], self._shares)

    def _log2_grain(self, pattern: float, expander: float) -> float:
        probe = self._probe
        gain_db = self.gain_db(pattern, expander, probe.index).T @ probe.weights
        P = (probe.power * hold_energy(gain_db, probe.power, probe.band))[:, probe.band]
        flatness = spectral_flatness(P, float(P.max()), probe.floor_db)
        return math.log2(float(flatness.mean(dtype=np.float64)))

    def octaves(self, pattern: float, expander: float = 0.0) -> float:
        """Octaves by which these amounts lower grain (negative: raise it)."""
        return self._start - self._log2_grain(pattern, expander)

    def solve(self, octaves: float) -> Amounts:
        """The amounts that lower grain by ``octaves`` (negative: raise it), or come nearest to it."""
        if octaves == 0:
            return Amounts(0.0, 0.0, True)
        sign, wanted = math.copysign(1.0, octaves), abs(octaves)
        amount, reached = self._along(0, sign, wanted)
        if reached:
            return Amounts(sign * amount, 0.0, True)
        ends = [self._end_of_reach(which, sign) for which in (0, 1)]

        def faded(share: float) -> tuple[float, float]:
            return sign * (1 - share) * ends[0], sign * share * ends[1]

        def progress(share: float) -> float:
            return sign * self.octaves(*faded(share)) - wanted

        shares = np.linspace(0, 1, 9)
        moved = [progress(share) for share in shares]
        first = next((i for i, value in enumerate(moved) if value >= 0), 0)
        if first:
            return Amounts(*faded(_root(progress, shares[first - 1], shares[first])), True)
        return Amounts(*faded(shares[int(np.argmax(moved))]), False)

    def end_of_pattern(self, octaves: float) -> Amounts:
        """As far as the pattern alone goes in the direction of ``octaves``."""
        sign = math.copysign(1.0, octaves)
        return Amounts(sign * self._end_of_reach(0, sign), 0.0, True)

    def _end_of_reach(self, which: int, sign: float) -> float:
        if (which, sign) not in self._ends:
            self._ends[which, sign], _ = self._along(which, sign, math.inf)
        return self._ends[which, sign]

    def _along(self, which: int, sign: float, wanted: float) -> tuple[float, bool]:
        """Follow one pattern from 0 until grain has moved as wanted, or no longer moves that way.

        Returns
        -------
        amount : float >= 0
        reached : bool
        """
        from scipy.optimize import minimize_scalar

        def progress(amount: float) -> float:
            return sign * self.octaves(*((sign * amount, 0.0) if which == 0 else (0.0, sign * amount)))

        largest = self._largest[which]
        visited, best = [0.0], (0.0, 0.0)
        amount = min(wanted / 4, largest / 32)
        while amount > 0:
            moved = progress(amount)
            visited.append(amount)
            if moved >= wanted:
                return _root(lambda a: progress(a) - wanted, best[0], amount), True
            best = max(best, (amount, moved), key=lambda item: item[1])
            if moved < best[1] - DIP_OCTAVES or amount >= largest:
                break
            amount = min(1.5 * amount, largest)
        at = visited.index(best[0])
        if 0 < at < len(visited) - 1:
            peak = minimize_scalar(
                lambda a: -progress(a),
                bounds=(visited[at - 1], visited[at + 1]),
                method="bounded",
                options={"xatol": 1e-3 * best[0]},
            )
            if -peak.fun >= wanted:
                return _root(lambda a: progress(a) - wanted, visited[at - 1], peak.x), True
            best = max(best, (float(peak.x), -peak.fun), key=lambda item: item[1])
        return best[0], False


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-6, rtol=1e-6))


def render_blocks(
    sound: Sound, gain_db: np.ndarray, settings: SpectrogramSettings, level: float = 1.0
) -> Iterator[np.ndarray]:
    """Apply gains to a sound: complex STFT times gain, energy of each frame held, inverse by overlap-add.

    One gain for all channels, so the stereo image stays. With gains of 0 dB the output is the
    input to float precision (weighted overlap-add with the Hann window twice: its squares sum to
    3/8 n_fft / hop_length; Griffin and Lim, IEEE TASSP 32(2), 1984).

    Parameters
    ----------
    gain_db : np.ndarray, shape (n_mels, frames of the padded sound)
    level : float, factor on the output

    Yields
    ------
    np.ndarray, shape (samples, channels), float32, ``sound.n_samples`` in all
    """
    from scipy.fft import irfft

    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    overlap = n_fft // hop_length
    window = hann_window(n_fft) * np.float32(level / (0.375 * overlap))
    weights, band = bin_weights(settings, sound.sr), settings.grain.band_for(sound.sr)
    tail = np.zeros((sound.channels, n_fft - hop_length), np.float32)
    skip, left, first = n_fft - hop_length, sound.n_samples, 0
    for D in stft_blocks(padded(sound, n_fft, hop_length), settings.grain):
        n_frames = D.shape[1]
        gain = np.sqrt(hold_energy(gain_db[:, first : first + n_frames].T @ weights, mean_power(D), band))
        frames = irfft(D * gain, n_fft, axis=-1) * window  # (channels, frames, n_fft)
        out = np.zeros((sound.channels, (n_frames + overlap - 1) * hop_length), np.float32)
        out[:, : tail.shape[1]] = tail
        for part in range(overlap):
            piece = frames[:, :, part * hop_length : (part + 1) * hop_length]
            out[:, part * hop_length : (part + n_frames) * hop_length] += piece.reshape(sound.channels, -1)
        done, tail = out[:, : n_frames * hop_length], out[:, n_frames * hop_length :]
        first += n_frames
        ready = done[:, skip : skip + left].T
        skip, left = max(0, skip - done.shape[1]), left - len(ready)
        if len(ready):
            yield ready


def limit_peaks(blocks: Iterable[np.ndarray], ceiling: float, sound: Sound) -> Iterator[np.ndarray]:
    """Look-ahead peak limiter: turns down only where samples pass the ceiling, all channels alike.

    The gain that each sample needs, its minimum over the look-ahead to both sides, smoothed by a
    Hann window of the same length: so the ceiling holds at every sample and the gain has no steps.
    (Texture in a drum hit is a click, far above full scale for a millisecond; making the whole file
    quieter for it cost up to 25 dB.)

    Parameters
    ----------
    blocks : of shape (samples, channels), full scale 1.0
    ceiling : float > 0, largest sample in the output
    sound : Sound, for its rate and channels

    Yields
    ------
    np.ndarray, shape (samples, channels), as many samples in all as came in
    """
    from scipy.ndimage import convolve1d, minimum_filter1d

    ahead = max(1, round(LIMITER_S * sound.sr))
    kernel = np.hanning(2 * ahead + 3)[1:-1].astype(np.float32)
    kernel /= kernel.sum()
    silence = np.zeros((2 * ahead, sound.channels), np.float32)
    buffer = silence
    for block in chain(blocks, [silence]):
        buffer = np.concatenate([buffer, block])
        n_ready = len(buffer) - 2 * len(silence)
        if n_ready <= 0:
            continue
        peaks = np.abs(buffer).max(axis=1)
        out = buffer
        if peaks.max() > ceiling:
            gain = np.minimum(1, ceiling / np.maximum(peaks, ceiling)).astype(np.float32)
            gain = convolve1d(minimum_filter1d(gain, 2 * ahead + 1, mode="nearest"), kernel, mode="nearest")
            out = np.clip(buffer * gain[:, None], -ceiling, ceiling)  # the clip is for the last bit of a float
        yield out[len(silence) : len(silence) + n_ready]
        buffer = buffer[n_ready:]


@dataclass(frozen=True)
class Rendering:
    """A rendered sound and what became of its grain (octaves: positive is smoother)."""

    sound: Sound
    asked_octaves: float
    grain_before: float
    grain_after: float
    within_reach: bool
    expander_amount: float  # 0 as far as the learned pattern carries
    level_db: float  # change of loudness (RMS)
    limited_db: float  # by so much the highest peak was turned down so as not to clip

    @property
    def got_octaves(self) -> float:
        """Octaves of measured grain by which the sound became smoother."""
        return math.log2(self.grain_before / self.grain_after)


def keep_in_memory(sound: Sound, blocks: Iterator[np.ndarray]) -> Sound:
    """Store a rendering of ``sound`` as an array."""
    return sound_from_array(np.concatenate(list(blocks)), sound.sr)


@dataclass(frozen=True)
class _Try:
    aim: float  # octaves asked of the solver
    amounts: Amounts
    got: float  # octaves measured
    factor: float = 1.0  # on the level, to be as loud as the input
    level: float = 1.0  # it was rendered at


def _next_try(solver: AmountSolver, tried: list[_Try], wanted: float) -> tuple[float, Amounts]:
    """What to render next: what the solver says, then by secant steps of its aim, or between two tries that enclose what is wanted.

    Between them by false position on the amounts, of which grain is all but continuous (the solver's
    answer may jump where a mean of frames is not monotone), by halving where that stalls. Beyond
    the reach by amounts a quarter larger, and smaller: the solver's end of the reach is not quite the sound's.
    """
    if len(tried) == 1:
        return wanted, solver.solve(wanted)
    before, last = tried[-2:]
    sign = math.copysign(1.0, wanted)
    short = max((t for t in tried if sign * (wanted - t.got) >= 0), key=lambda t: sign * t.got)
    far = min((t for t in tried if sign * (wanted - t.got) < 0), key=lambda t: sign * t.got, default=None)
    if far is not None:
        stalled = abs(wanted - last.got) > 0.5 * abs(wanted - before.got)
        share = 0.5 if stalled else (wanted - short.got) / (far.got - short.got)

        def between(name: str) -> float:
            return (1 - share) * getattr(short.amounts, name) + share * getattr(far.amounts, name)

        return (1 - share) * short.aim + share * far.aim, Amounts(between("pattern"), between("expander"), True)
    if not last.amounts.within_reach:
        best, larger, smaller = _around_the_end(tried, sign)
        factor = 0.8 if larger and not smaller else 1.25
        return last.aim, Amounts(factor * best.amounts.pattern, factor * best.amounts.expander, False)
    slope = (last.got - before.got) / (last.aim - before.aim) if last.aim != before.aim else 1.0
    aim = last.aim + (wanted - last.got) / min(max(slope, 0.25), 2.0)
    return aim, solver.solve(aim)


def _around_the_end(tried: list[_Try], sign: float) -> tuple[_Try, bool, bool]:
    """Of the tries beyond the reach the one that went farthest; whether a larger and a smaller one did not gain on it."""
    ends = [t for t in tried[1:] if not t.amounts.within_reach]
    best = max(ends, key=lambda t: sign * t.got)

    def size(t: _Try) -> float:
        return abs(t.amounts.pattern) + abs(t.amounts.expander)

    rising = ends[-1] is best and len(ends) > 1 and sign * (best.got - ends[-2].got) < GRAIN_TOLERANCE_OCTAVES
    larger = any(size(t) > size(best) for t in ends) or (rising and size(best) > size(ends[-2]))
    smaller = any(size(t) < size(best) for t in ends)
    return best, larger, smaller


def _is_found(tried: list[_Try], wanted: float) -> bool:
    """Whether the last try has what is wanted, or is beyond the reach and no better than the one before."""
    last, sign = tried[-1], math.copysign(1.0, wanted)
    is_end = not last.amounts.within_reach and all(_around_the_end(tried, sign)[1:])
    return abs(wanted - last.got) <= GRAIN_TOLERANCE_OCTAVES or (is_end and abs(last.got) < abs(wanted))


def move_grain(
    analysis: Analysis,
    pattern_db: np.ndarray,
    octaves: float,
    *,
    ceiling: float = CEILING,
    store: Callable[[Sound, Iterator[np.ndarray]], Sound] = keep_in_memory,
) -> Rendering:
    """Move a sound's grain along a pattern: grain(out) = grain(in) * 2**-octaves, measured, not hoped.

    The amount solved on the bins is off by what overlapping frames do to each other and by the
    rounding to the file's sample format; so the real output is measured and the aim corrected.

    Parameters
    ----------
    pattern_db : np.ndarray, shape of ``analysis.x``, gain in dB for unit amount
    octaves : float, positive is smoother; 0 returns the sound itself
    ceiling : float, largest sample that the result may hold; peaks above it are limited
    store : keeps the rendered blocks and gives back a `Sound` to be measured

    Raises
    ------
    PipelineError
        If the rendered sound has no grain.
    """
    sound = analysis.sound
    unchanged = Rendering(sound, octaves, analysis.grain, analysis.grain, octaves == 0, 0.0, 0.0, 0.0)
    if octaves == 0:
        return unchanged
    solver = AmountSolver(analysis, pattern_db)

    def attempt(aim: float, amounts: Amounts, level: float) -> tuple[_Try, Rendering]:
        gain_db = solver.gain_db(amounts.pattern, amounts.expander)
        before, after = LevelMeter(), LevelMeter()
        blocks = before.through(render_blocks(sound, gain_db, analysis.settings, level))
        result = store(sound, after.through(limit_peaks(blocks, ceiling, sound)))
        grain = measure_grain(result, analysis.settings.grain)
        is_on_target = abs(octaves - math.log2(analysis.grain / grain)) <= GRAIN_TOLERANCE_OCTAVES
        rendering = Rendering(
            sound=result,
            asked_octaves=octaves,
            grain_before=analysis.grain,
            grain_after=grain,
            within_reach=amounts.within_reach or is_on_target,
            expander_amount=amounts.expander,
            level_db=10 * math.log10(after.energy / analysis.energy),
            limited_db=20 * math.log10(max(1.0, before.peak / ceiling)),
        )
        factor = math.sqrt(analysis.energy / after.energy)
        return _Try(aim, amounts, rendering.got_octaves, factor, level), rendering

    tried = [_Try(0.0, Amounts(0.0, 0.0, True), 0.0)]
    while len(tried) == 1 or (not _is_found(tried, octaves) and len(tried) <= 1 + MAX_CORRECTIONS):
        last = tried[-1]
        trial, rendering = attempt(*_next_try(solver, tried, octaves), last.level * last.factor)
        tried.append(trial)
    farthest = max(tried, key=lambda t: t.got / octaves)
    if 0 < farthest.got / octaves < 1 and not trial.amounts.within_reach:
        # Where the solver's end of the reach is not the sound's: the end of the pattern alone, and half of what is missing.
        others = [(octaves, solver.end_of_pattern(octaves)), (aim := (farthest.got + octaves) / 2, solver.solve(aim))]
        for aim, amounts in others:
            if amounts.pattern and amounts.within_reach:
                trial, rendering = attempt(aim, replace(amounts, within_reach=False), trial.level * trial.factor)
                tried.append(trial)
    # Where grain jumps past what is wanted, stay before the jump: so positions of the slider keep their order.
    slack = 1 + GRAIN_TOLERANCE_OCTAVES / abs(octaves)
    best = min(tried[1:], key=lambda t: (t.got / octaves > slack, abs(octaves - t.got)))
    is_loud_enough = abs(20 * math.log10(best.factor)) <= LEVEL_TOLERANCE_DB
    # Rendered again at the level it was tried at, if that will do: grain hangs on the level a little.
    if best is not trial or not is_loud_enough:
        _, rendering = attempt(best.aim, best.amounts, best.level * (1 if is_loud_enough else best.factor))
    # At the end of the reach it may go the wrong way, by what the solver can't see.
    return rendering if rendering.got_octaves * octaves > 0 else unchanged


# Pictures


class TilePainter:
    """Draws tiles as pictures with axes, fast: matplotlib draws the empty axes once, tiles are pasted in."""

    def __init__(self, settings: SpectrogramSettings):
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import findfont
        from PIL import ImageFont

        shape = (settings.n_mels, settings.tile_frames)
        figure = Figure(figsize=(7.6, 4.4), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.11, 0.13, 0.75, 0.75))
        hop_s = settings.grain.hop_length / settings.grain.sample_rate_hz
        duration_s = settings.tile_frames * hop_s
        mesh = axes.imshow(
            np.zeros(shape), "magma", aspect="auto", origin="lower", vmin=-settings.dynamic_range_db, vmax=0,
            extent=(0, duration_s, 0, settings.n_mels),
        )  # fmt: skip
        label_axes(axes, settings)
        axes.set_xlabel("time in the tile (s)")
        figure.colorbar(mesh, cax=figure.add_axes((0.88, 0.13, 0.02, 0.75)), label="level (dB under the loudest band)")
        canvas.draw()
        self._empty = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        box = axes.get_window_extent()
        height = self._empty.shape[0]
        self._rows = slice(height - round(box.y1), height - round(box.y0))
        self._columns = slice(round(box.x0), round(box.x1))
        self._colours = np.round(255 * colormaps["magma"](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)
        self._title_at = (self._columns.start, self._rows.start - 22)
        self._font = ImageFont.truetype(findfont("DejaVu Sans"), 12)
        n_rows, n_columns = self._rows.stop - self._rows.start, self._columns.stop - self._columns.start
        self._from_band = np.arange(n_rows)[::-1] * shape[0] // n_rows
        self._from_frame = np.arange(n_columns) * shape[1] // n_columns

    def save(self, path: Path, x: np.ndarray, title: str) -> None:
        """Write one tile (n_mels, tile_frames) in [0, 1] as a PNG with its title."""
        from PIL import Image, ImageDraw

        pixels = self._empty.copy()
        levels = np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)
        pixels[self._rows, self._columns] = self._colours[levels[np.ix_(self._from_band, self._from_frame)]]
        picture = Image.fromarray(pixels)
        ImageDraw.Draw(picture).text(self._title_at, title, fill=(0, 0, 0), font=self._font)
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG", compress_level=1)


def label_axes(axes, settings: SpectrogramSettings) -> None:
    """Frequency in Hz along the mel axis of a picture whose rows are band numbers."""
    edges = settings.band_edges_hz
    ticks = [hz for hz in TICKS_HZ if edges[0] <= hz <= edges[-1]]
    axes.set_yticks(
        np.clip(np.interp(ticks, edges[1:-1], np.arange(settings.n_mels)) + 0.5, 0, settings.n_mels),
        [f"{hz:,}" for hz in ticks],
    )
    axes.set_ylabel("frequency (Hz)")


# Files


def write_pairs(path: Path, pairs: TrainingPairs) -> None:
    """Write training_pairs.json; see `TrainingPairs`."""
    folder = Path(os.path.abspath(path)).parent

    def record(item: Source | Tile | SkippedFile) -> dict:
        return {
            name: json_path(value, folder) if isinstance(value, Path) else value for name, value in vars(item).items()
        }

    content = {
        "version": PAIRS_VERSION,
        "settings": settings_record(pairs.settings),
        "sources": [record(item) for item in pairs.sources],
        "tiles": [record(item) for item in pairs.tiles],
        "skipped": [record(item) for item in pairs.skipped],
    }
    write_json(path, content)


def settings_record(settings: SpectrogramSettings) -> dict:
    """Spectrogram settings as plain scalars, lists and dicts, for JSON and the checkpoint."""
    return {**asdict(settings), "band_edges_hz": list(settings.band_edges_hz)}


def parse_spectrogram_settings(record: object, where: str) -> SpectrogramSettings:
    """Spectrogram settings from JSON or a checkpoint, checked to be usable.

    Raises
    ------
    PipelineError
        Naming ``where`` and the field that is wrong.
    """
    if not isinstance(record, dict):
        raise PipelineError(f"{where}: is a {type(record).__name__}, not an object")
    grain = parse_settings(record.get("grain"), f"{where}: grain")
    edges = record.get("band_edges_hz")
    if not isinstance(edges, list) or not all(isinstance(hz, int | float) and math.isfinite(hz) for hz in edges):
        raise PipelineError(f"{where}: field band_edges_hz is not a list of numbers")
    if len(edges) != N_MELS + 2 or np.any(np.diff(edges) <= 0) or edges[0] < 0:
        raise PipelineError(f"{where}: field band_edges_hz is not {N_MELS + 2} rising frequencies")
    for name, good in (("dynamic_range_db", DYNAMIC_RANGE_DB), ("tile_frames", TILE_FRAMES)):
        if record.get(name) != good:
            raise PipelineError(f"{where}: field {name} is {record.get(name)!r}, this program works with {good}")
    return SpectrogramSettings(grain, tuple(map(float, edges)))


def read_pairs(path: Path) -> TrainingPairs:
    """Read training_pairs.json.

    Raises
    ------
    PipelineError
        Naming the file and the field that is wrong.
    """
    content = read_json(path, PAIRS_VERSION, "python convert_to_spectrograms.py")
    settings = parse_spectrogram_settings(content.get("settings"), f"{path}: settings")
    tiles = parse_records(Tile, content, "tiles", path)
    for i, tile in enumerate(tiles):
        if not 0 < tile.grain <= 1:
            raise PipelineError(f"{path}: tiles[{i}]: field grain is {tile.grain!r}, not within 0 to 1")
    return TrainingPairs(
        settings,
        parse_records(Source, content, "sources", path),
        tiles,
        parse_records(SkippedFile, content, "skipped", path),
    )


def load_tile(path: Path, settings: SpectrogramSettings) -> np.ndarray:
    """Read one tile, checked: (n_mels, tile_frames) float32 in [0, 1].

    Raises
    ------
    PipelineError
        If the array is missing, damaged or no tile.
    """
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise PipelineError(f"{path}: not readable as a tile ({err}); run: python convert_to_spectrograms.py") from err
    if not isinstance(x, np.ndarray) or x.shape != (settings.n_mels, settings.tile_frames) or x.dtype != np.float32:
        raise PipelineError(
            f"{path}: is no tile of {settings.n_mels} x {settings.tile_frames} float32; delete it and convert again"
        )
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1 + 1e-6):
        raise PipelineError(f"{path}: holds values outside 0 to 1; delete it and convert again")
    return x


# The stage


def convert_file(
    item: FileGrain, settings: SpectrogramSettings, output_dir: Path, base: Path, painter: TilePainter | None
) -> tuple[Source, list[Tile]] | SkippedFile:
    """Write the tiles (and pictures) of one file; a file that fails comes back as skipped, with the reason."""
    size_bytes, mtime_ns = item.size_bytes, item.mtime_ns
    try:
        size_bytes, mtime_ns = file_stamp(item.path)
        if (size_bytes, mtime_ns) != (item.size_bytes, item.mtime_ns):
            raise PipelineError("changed since it was measured; run measure_audio_grain.py again")
        sound = open_sound(item.path)
        flatness, active = grain_per_frame(sound, settings.grain)
        x = log_mel_of(sound, settings)
    except PipelineError as err:
        return SkippedFile(item.path, str(err), size_bytes, mtime_ns)
    loudest_frame_db = float(frame_levels_db(x, settings).max())
    hop_s = settings.grain.hop_for(sound.sr) / sound.sr
    source = json_path(item.path, base)
    stem = (
        re.sub(r"[^\w-]+", "_", item.path.stem, flags=re.ASCII)[:60]
        + "_"
        + hashlib.sha1(source.encode()).hexdigest()[:8]
    )
    tiles = []
    for start in tile_starts(x.shape[1], settings.tile_frames):
        span = slice(start, start + settings.tile_frames)
        if not active[span].any():
            continue  # silence inside the file
        name = f"{stem}_{start:06d}"
        tile = Tile(
            output_dir / "arrays" / f"{name}.npy",
            output_dir / "images" / f"{name}.png" if painter else None,
            item.path,
            round(start * hop_s, 6),
            float(flatness[span][active[span]].mean(dtype=np.float64)),
            round(loudest_frame_db, 3),
        )
        picture = fill_tile(x[:, span], settings.tile_frames)
        with replacing(tile.array) as temporary, temporary.open("wb") as file:
            np.save(file, picture, allow_pickle=False)
        if painter:
            painter.save(
                tile.image, picture, f"{one_line(item.path.name)[:60]}, {tile.start_s:.1f} s: grain {tile.grain:.2e}"
            )
        tiles.append(tile)
    return Source(item.path, item.grain, size_bytes, mtime_ns), tiles


@dataclass(frozen=True)
class ConvertCounts:
    """What a run did, in files."""

    converted: int
    unchanged: int
    gone: int


def convert_dataset(
    files: Iterable[FileGrain],
    grain: GrainSettings,
    earlier: TrainingPairs | None = None,
    *,
    output_dir: Path,
    base: Path,
    images: bool = True,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> tuple[TrainingPairs, ConvertCounts]:
    """Make the tiles of all files; those that an earlier run made of an unchanged file are kept.

    Parameters
    ----------
    files : what stage 1 measured
    grain : how it measured
    earlier : what an earlier run wrote: only what it names is ever removed
    output_dir : gets arrays/ and images/
    base : folder of training_pairs.json, which tile names are made from

    Raises
    ------
    PipelineError
        If nothing could be converted.
    """
    from joblib import Parallel, delayed

    settings = default_settings(grain)
    output_dir = Path(os.path.abspath(output_dir))
    made = _tiles_still_good(earlier, settings, output_dir, images)
    files = list(files)
    kept = {item.path: made[key] for item in files if (key := (item.path, item.size_bytes, item.mtime_ns)) in made}
    wanted = [item for item in files if item.path not in kept]
    painter = TilePainter(settings) if images and wanted else None
    pool = Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    tasks = (delayed(convert_file)(item, settings, output_dir, base, painter) for item in wanted)
    results = dict(zip((item.path for item in wanted), progress(pool(tasks), len(wanted)), strict=True)) | kept
    done = [results[item.path] for item in files if not isinstance(results[item.path], SkippedFile)]
    pairs = TrainingPairs(
        settings,
        tuple(source for source, _ in done),
        tuple(tile for _, tiles in done for tile in tiles),
        tuple(item for item in results.values() if isinstance(item, SkippedFile)),
    )
    gone = 0
    if earlier is not None:
        _remove_stale(earlier, pairs, output_dir)
        gone = len({item.path for item in earlier.sources} - {item.path for item in pairs.sources})
    return pairs, ConvertCounts(len(wanted), len(kept), gone)


def _tiles_still_good(
    earlier: TrainingPairs | None, settings: SpectrogramSettings, output_dir: Path, images: bool
) -> dict[tuple[Path, int, int], tuple[Source, list[Tile]]]:
    """What can be kept of an earlier run, by path, size and mtime of the source."""
    if earlier is None or earlier.settings != settings:
        return {}
    tiles: dict[Path, list[Tile]] = {source.path: [] for source in earlier.sources}
    for tile in earlier.tiles:
        tiles.setdefault(tile.source, []).append(tile)

    def is_good(tile: Tile) -> bool:
        has_image = tile.image is not None and tile.image.exists()
        return tile.array.parent == output_dir / "arrays" and tile.array.exists() and (has_image or not images)

    return {
        (source.path, source.size_bytes, source.mtime_ns): (source, tiles[source.path])
        for source in earlier.sources
        if tiles[source.path] and all(map(is_good, tiles[source.path]))
    }


def _remove_stale(earlier: TrainingPairs, now: TrainingPairs, output_dir: Path) -> None:
    """Remove arrays and pictures that an earlier run wrote into ``output_dir`` and this one does not name."""
    current = {path for tile in now.tiles for path in (tile.array, tile.image)}
    for tile in earlier.tiles:
        for path, folder, suffix in ((tile.array, "arrays", ".npy"), (tile.image, "images", ".png")):
            if path and path not in current and path.parent == output_dir / folder and path.suffix == suffix:
                path.unlink(missing_ok=True)


# The command line


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 2."""
    parser = argparse.ArgumentParser(
        prog="convert_to_spectrograms.py",
        description="Turn the measured files into mel tiles with pictures, and write training_pairs.json.",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        default=Path(DEFAULT_METADATA),
        metavar="FILE",
        help="what stage 1 wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(DEFAULT_OUTPUT_DIR),
        metavar="FOLDER",
        help="gets arrays/ and images/ (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs", type=Path, default=Path(DEFAULT_PAIRS), metavar="FILE", help="what to write (default: %(default)s)"
    )
    parser.add_argument(
        "-j", "--jobs", type=jobs_argument, default=os.cpu_count() or 1, help="threads (default: one for each core)"
    )
    parser.add_argument("--no-images", action="store_true", help="leave out the pictures")
    return parser


def _run(args: argparse.Namespace) -> int:
    metadata = read_metadata(args.metadata)
    if not metadata.files:
        raise PipelineError(f"{args.metadata}: names no measured file; run: python measure_audio_grain.py")
    for folder in (args.output_dir / "arrays", args.output_dir / "images", args.pairs.parent):
        check_writable(folder)
    earlier = read_pairs(args.pairs) if args.pairs.exists() else None
    pairs, counts = convert_dataset(
        metadata.files,
        metadata.settings,
        earlier,
        output_dir=args.output_dir,
        base=Path(os.path.abspath(args.pairs)).parent,
        images=not args.no_images,
        jobs=args.jobs,
        progress=progress_bar("converting"),
    )
    write_pairs(args.pairs, pairs)
    for item in pairs.skipped:
        warn(f"{one_line(item.path)}: {item.reason}")
    print(f"{counts.converted} converted, {counts.unchanged} unchanged, {counts.gone} gone since the last run")
    if not pairs.tiles:
        raise PipelineError(f"none of the {len(pairs.skipped)} files could be converted; each is named above")
    print(f"wrote {args.pairs}: {len(pairs.tiles)} tiles of {len(pairs.sources)} files, {len(pairs.skipped)} skipped")
    print(f"      {args.output_dir / 'arrays'}" + ("" if args.no_images else f" and {args.output_dir / 'images'}"))
    option = "" if args.pairs == Path(DEFAULT_PAIRS) else f" --pairs {str(args.pairs)!r}"
    print(f"next: python cak_grain_processor.py{option}")
    return 1 if pairs.skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 2 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_main(lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())
