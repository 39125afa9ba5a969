#!/usr/bin/env python3
"""Turn audio into mel tiles, and a pattern of gains back into audio: stage 2 of the Neural Grain Processor.

Forth: every file becomes tiles of 128 mel bands x 256 frames, x = 0 at the floor and 1 in
the file's loudest band, 100 dB between. Back: a pattern q (one gain per band and frame for
unit amount), the amount u of it that gives the grain asked for, and the complex STFT
multiplied with the gains, so that the original phase stays:

    P'[t, k] = P[t, k] 10**(u q[t, k] / 10) e[t],   e[t] holds the energy around t

ln flatness of a frame is linear in u minus a log-sum-exp of u, hence concave: the amount
that gives a grain is unique between the start and the peak, and a root-finder finds it. Gains
are smooth in time; where a sound begins, what is new gets them with minimum phase. Two limits
keep texture musical: no band rises above the loudest of its time, and peaks beyond full scale
are turned down. What all that and overlapping frames do to grain is measured on the real output
and corrected.

Reads:  metadata.json and the audio files that it names
Writes: spectrograms/arrays/*.npy, spectrograms/images/*.png, training_pairs.json
Exit status: 0 all files converted; 1 some could not be (each is named);
             2 wrong usage or nothing to convert; 130 interrupted

    python convert_to_spectrograms.py
    python convert_to_spectrograms.py --metadata drones.json --no-images
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from measure_audio_grain import (
    DEFAULT_METADATA,
    FileGrain,
    GrainMeter,
    GrainSettings,
    PipelineError,
    SkippedFile,
    Sound,
    add_parallel_arguments,
    band_powers,
    block_frames,
    check_sound,
    check_unchanged,
    cluster,
    file_stamp,
    frame_blocks,
    hann_window,
    in_order,
    in_parallel,
    json_path,
    leave,
    mean_power,
    measure_grain,
    one_line,
    only_run,
    open_sound,
    parse_records,
    parse_settings,
    peak_of,
    peak_of_frames,
    prepare_folder,
    progress_bar,
    read_json,
    read_metadata,
    replacing,
    run_main,
    shown,
    warn,
    write_json,
)

DEFAULT_PAIRS = "training_pairs.json"
DEFAULT_OUTPUT_DIR = "spectrograms"
PAIRS_VERSION = 1
N_MELS = 128
TILE_FRAMES = 256
PICTURE_LEVELS = 224  # colours, 0.45 dB each; the other 32 are greys, for text. Three bytes take five times as long
DYNAMIC_RANGE_DB = 100.0  # as deep as grain looks (stage 1's floor): what is not in the picture would move unseen

CUT = 0.02  # share of the loudest sample of a window that the first one may have of a sound that begins in silence

CELL_FRAMES = 32  # 0.37 s: a learned pattern has one value a band for so long, and goes from one to the next in a line
STEP_FRAMES = 4  # 46 ms, a window: gains, which also hold energies, go in a line from one step to the next; 93 ms cost drum loops reach
PROBE_FRAMES = 1536  # active frames the solver looks at: their mean stands for the file's within 0.01 octaves
COARSE_FRAMES = 192  # of these, to find about where to look
STEPS = 1.3 ** np.arange(-24, 1)  # amounts that the solver tries, of the largest
FAR_OCTAVES = (3.5, math.inf)  # it looks no farther: the slider ends at 3, other ways to ask don't
ONSET_DB = (3.0, 6.0)  # mean rise of the bands within a window from which a sound begins, perhaps and surely
ALIKE_CELLS = 32  # 12 s: cells so far apart share a pattern if they look alike
ALIKE_DB = 2.0  # root mean square over bands: two cells of one noise differ by less
PIECE_FRAMES, PIECE_STEPS = 4096, 1024  # what is worked on at a time where a sound is long
MEMORY_BYTES = 1 << 29  # of a picture (3 hours); a larger one lies in a file
HOLD_STEPS, HOLD_ALIKE_DB = 12, 6.0  # 0.56 s to either side
END_OCTAVES = 0.02  # the last of the way, where much gain does little
MAX_GAIN_SPREAD_DB = 120.0  # between the bins of a frame: beyond it a frame is one band and rounding noise
LOUDNESS_DB, LEVEL_DB = (
    0.85,
    0.4,
)  # change of loudness (BS.1770) that is left alone, and of level (RMS) to keep it there
LEVEL_TOLERANCE_DB = 0.1  # of the level
K_SHELF = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)  # at 48 kHz
K_HIGH_PASS = (1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)
LIMITER_S = 0.0015  # look-ahead of the peak limiter to either side
GRAIN_TOLERANCE_OCTAVES = 0.02  # what the correcting passes are content with
LEAST_OCTAVES = 0.05  # a sound that goes no farther is left as it is, rather than changed much for nothing
UNSURE_OCTAVES = 0.3  # before the end of the reach: from there on it is measured how far the sound really goes
END_TRIES = 12  # positions at which that is measured, from the end on, while one may yet go farther
TURN_OCTAVES, TOP_TRIES = 0.05, 6  # if it goes so much less far than it should: renderings to find the top
MAX_CORRECTIONS = 6
MAX_LEVELS = 3  # renderings for the level alone
CEILING = 1.0 - 2.0**-15  # the largest sample that 16-bit audio holds
NEPER_PER_DB = math.log(10) / 10  # of power

T = TypeVar("T")

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
    """One tile of training_pairs.json."""

    array: Path
    image: Path | None
    source: Path
    start_s: float
    grain: float


@dataclass(frozen=True)
class TrainingPairs:
    """The contract of stage 2: everything that training_pairs.json holds."""

    settings: SpectrogramSettings
    sources: tuple[Source, ...] = ()
    tiles: tuple[Tile, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


# Audio to tiles


def triangles(at: np.ndarray, n: int) -> np.ndarray:
    """Linear interpolation: what each of the points 0 to n - 1 counts at the places ``at``, 1 on it and 0 one away.

    Returns
    -------
    np.ndarray, shape (n, len(at)), float64
    """
    weights, below = np.zeros((n, len(at))), np.floor(at).astype(int)
    for i in (below, below + 1):
        inside = np.flatnonzero((i >= 0) & (i < n))
        weights[i[inside], inside] = 1 - np.abs(at - i)[inside]
    return weights


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
    # In the scale of edge numbers each triangle is 2 wide and as high as its distance to the bin leaves it.
    weights = triangles(np.interp(hz, edges, np.arange(-1, settings.n_mels + 1)), settings.n_mels)
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
    return triangles(np.interp(hz, centres, np.arange(settings.n_mels)), settings.n_mels).astype(np.float32)


def bins_per_band(settings: SpectrogramSettings) -> np.ndarray:
    """Share of the analysis band's bins that each mel band stands for. Shape (n_mels,), sums to 1."""
    sr = settings.grain.sample_rate_hz
    counts = bin_weights(settings, sr)[:, settings.grain.band_for(sr)].sum(axis=1)
    return counts / counts.sum()


def is_cut(edge: np.ndarray) -> bool:
    """Whether a sound begins in mid-wave, as a loop does: samples (n, channels) from its edge inwards."""
    return peak_of(edge[:1]) > CUT * peak_of(edge)


def beyond_the_edge(edge: np.ndarray, n: int) -> np.ndarray:
    """What is put before a sound, or behind it: its mirror image where it is cut, silence where it begins in silence.

    (Silence beside a cut is a step, which texture makes a click.)

    Parameters
    ----------
    edge : np.ndarray, shape (a window or all, channels), from the edge inwards
    n : int > 0, less than a window

    Returns
    -------
    np.ndarray, shape (n, channels), float32, from the edge outwards
    """
    beyond = np.zeros((n, edge.shape[1]), np.float32)
    if is_cut(edge):
        image = edge[1 : n + 1]
        beyond[: len(image)] = image
    return beyond


def padded(sound: Sound, n_fft: int, hop_length: int) -> Sound:
    """The sound with `beyond_the_edge` around it, so that every sample lies in n_fft / hop_length full windows."""
    before = n_fft - hop_length
    after = -(sound.n_samples + before) % hop_length + before

    def blocks() -> Iterator[np.ndarray]:
        source = iter(sound.blocks())
        head = np.zeros((0, sound.channels), np.float32)
        while len(head) < min(n_fft, sound.n_samples):
            head = np.concatenate((head, next(source)))
        yield beyond_the_edge(head[:n_fft], before)[::-1]
        tail = head[:0]
        for block in chain([head], source):
            yield block
            tail = np.concatenate((tail, block[-n_fft:]))[-n_fft:]
        yield beyond_the_edge(tail[::-1], after)

    return replace(sound, n_samples=before + sound.n_samples + after, blocks=blocks)


def stft_blocks(
    sound: Sound, settings: GrainSettings, then: Callable[[np.ndarray, np.ndarray], T], threads: int = 1
) -> Iterator[T]:
    """Complex STFT of a sound, a block of frames at a time, with a periodic Hann window, not padded.

    Parameters
    ----------
    then : what is made of each block, on the thread that computed it, from the windows of samples
        (channels, frames, n_fft) and their spectra (channels, frames, n_fft // 2 + 1), complex64
    """
    from scipy.fft import rfft  # imported late: `--help` must not wait for scipy

    n_fft = settings.n_fft_for(sound.sr)
    window = hann_window(n_fft)
    blocks = frame_blocks(sound.blocks(), n_fft, settings.hop_for(sound.sr))
    return in_order(lambda y: then(y, rfft(y * window, axis=-1)), blocks, threads)


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
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    weights = band_weights(settings, sound.sr).T
    powers = large_array((settings.n_mels, (sound.n_samples - n_fft) // hop_length + 1)).T
    at = 0
    for block in stft_blocks(sound, settings.grain, lambda _, D: mean_power(D) @ weights):
        powers[at : at + len(block)] = block
        at += len(block)
    return powers


def log_mel_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Normalised log-mel picture of a sound, (n_mels, frames)."""
    x = band_powers_of(sound, settings).T
    powers_to_log_mel(x, settings.dynamic_range_db)
    return x


def powers_to_log_mel(x: np.ndarray, dynamic_range_db: float) -> None:
    """Turn the band powers of a whole sound, (n_mels, frames), into its normalised log-mel picture, piece by piece."""
    pieces = [slice(i, i + PIECE_FRAMES) for i in range(0, x.shape[1], PIECE_FRAMES)]
    peak = max(float(x[:, piece].max()) for piece in pieces)
    for piece in pieces:
        x[:, piece] = log_mel(x[:, piece].T, dynamic_range_db, peak)


def powers_and_peak(
    settings: SpectrogramSettings, sr: int
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, float]]:
    """For `stft_blocks`: powers of the mel bands and of the analysis band's bins, and the largest sample."""
    weights, band, hop_length = band_weights(settings, sr).T, settings.grain.band_for(sr), settings.grain.hop_for(sr)
    counts = np.flatnonzero(weights.any(axis=1))  # a narrow band's nearest bin may lie beside the analysis band
    first, end = min(band.start, counts[0]), max(band.stop, counts[-1] + 1)

    def look(windows: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        P = mean_power(D[..., first:end])
        in_band = np.ascontiguousarray(P[:, band.start - first : band.stop - first])
        return P @ weights[first:end], in_band, peak_of_frames(windows, hop_length)

    return look


def bands_and_grain(sound: Sound, settings: SpectrogramSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`band_powers_of` and `grain_per_frame` in one pass over the sound.

    Returns
    -------
    bands : np.ndarray, shape (frames, n_mels), float32
    flatness : np.ndarray, shape (frames,), in (0, 1]
    active : np.ndarray, shape (frames,), bool

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    bands = large_array(((sound.n_samples - n_fft) // hop_length + 1, settings.n_mels))
    meter, first = GrainMeter(settings.grain, n_fft), 0
    for some, P, sample_peak in stft_blocks(sound, settings.grain, powers_and_peak(settings, sound.sr)):
        bands[first : first + len(some)] = some
        meter.add(P, sample_peak)
        first += len(some)
    return bands, *meter.result(lambda: band_powers(sound, settings.grain))


def tile_starts(n_frames: int, tile_frames: int) -> list[int]:
    """First frames of the fewest tiles that cover ``n_frames``, spread evenly, the last one ending at the end."""
    last = max(0, n_frames - tile_frames)
    return [int(start) for start in np.linspace(0, last, -(-n_frames // tile_frames)).round()]


def fill_tile(x: np.ndarray, tile_frames: int) -> np.ndarray:
    """Lengthen a picture (n_mels, frames) to a tile by playing it back and forth: silence would be grain."""
    missing = tile_frames - x.shape[1]
    return np.pad(x, ((0, 0), (0, missing)), mode="symmetric") if missing > 0 else x


# A pattern back to audio


class LevelMeter:
    """Reads the largest sample, full scale 1.0, and the energy of the blocks that go through it."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.energy = 0.0

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, read on the way."""
        for block in blocks:
            self.peak = max(self.peak, peak_of(block))
            self.energy += float(np.vdot(block, block))
            yield block


@dataclass(frozen=True)
class Probe:
    """What the solver looks at: some active frames of a sound.

    ``power`` is (frames, bins of the band), ``index`` the frames' numbers in the padded sound.
    """

    power: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class Analysis:
    """A sound as the renderer sees it: its picture (of the padded sound), its grain, and a probe."""

    sound: Sound
    settings: SpectrogramSettings
    x: np.ndarray  # (n_mels, frames)
    step_db: np.ndarray  # (n_mels, steps), mean band powers, under the loudest
    onset: np.ndarray  # (frames,), 1 where a sound begins inside the frame's window, 0 where nothing new comes
    grain: float
    peak: float  # largest sample, full scale 1.0
    energy: float  # sum of squares of all samples
    probe: Probe
    threads: int = 1


def analyse(sound: Sound, settings: SpectrogramSettings, threads: int = 1) -> Analysis:
    """Everything that depends on the sound alone, and not on the grain asked for, in one pass over it.

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    level = LevelMeter()
    metered = padded(replace(sound, blocks=lambda: level.through(sound.blocks())), n_fft, hop_length)
    look = powers_and_peak(settings, sound.sr)
    # Frames that reach into the padding are not measured.
    lead, n_measured = n_fft // hop_length - 1, (sound.n_samples - n_fft) // hop_length + 1
    meter, some, first = GrainMeter(settings.grain, n_fft), _SomeFrames(), -lead
    n_frames = (metered.n_samples - n_fft) // hop_length + 1
    x = large_array((settings.n_mels, n_frames))  # powers first
    step_db = large_array((settings.n_mels, -(-n_frames // STEP_FRAMES)))  # powers first
    for bands, P, sample_peak in stft_blocks(metered, settings.grain, look, threads):
        at = first + lead
        x[:, at : at + len(bands)] = bands.T
        starts = np.arange(0, len(bands), STEP_FRAMES)
        sums = np.add.reduceat(bands, starts, axis=0)
        means = sums / np.diff(np.append(starts, len(bands)))[:, None]
        step_db[:, at // STEP_FRAMES : at // STEP_FRAMES + len(starts)] = means.T
        measured = slice(max(0, -first), max(0, min(len(P), n_measured - first)))
        if len(P[measured]):
            meter.add(P[measured], sample_peak)
            some.add(P[measured], max(0, first))
        first += len(P)
    flatness, active = meter.result(lambda: band_powers(sound, settings.grain, threads))
    powers_to_log_mel(x, settings.dynamic_range_db)
    powers_to_log_mel(step_db, settings.dynamic_range_db)
    step_db -= 1
    step_db *= settings.dynamic_range_db
    return Analysis(
        sound,
        settings,
        x,
        step_db,
        onsets(
            x, settings.dynamic_range_db, n_fft // hop_length, starts_cut=is_cut(next(iter(sound.blocks()))[:n_fft])
        ),
        float(flatness[active].mean(dtype=np.float64)),
        level.peak,
        level.energy,
        some.probe(active, lead, lambda: band_powers(sound, settings.grain, threads)),
        threads,
    )


def large_array(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array, in memory, or in a file without a name if it is very large.

    Raises
    ------
    PipelineError
        If the disk has no room for that file.
    """
    n_bytes = 4 * math.prod(shape)
    if n_bytes <= MEMORY_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a mapped file that grows into a full disk kills the process
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as err:
        raise PipelineError(
            f"{tempfile.gettempdir()}: no room for {n_bytes / 1e9:.1f} GB of working space ({err.strerror}); "
            "set TMPDIR to another folder"
        ) from err


def onsets(x: np.ndarray, dynamic_range_db: float, overlap: int, *, starts_cut: bool = False) -> np.ndarray:
    """Where a sound begins: by how much the bands are louder, in the mean, than in the last window without overlap.

    Parameters
    ----------
    x : np.ndarray, shape (n_mels, frames)
    overlap : int > 0, windows that a sample lies in
    starts_cut : whether the first frame does not come after silence

    Returns
    -------
    np.ndarray, shape (frames,), float32, 0 up to ONSET_DB[0], 1 from ONSET_DB[1]
    """
    mean_db = dynamic_range_db * x.mean(axis=0)
    mean_db = np.append(np.full(overlap, mean_db[0] if starts_cut else 0.0, np.float32), mean_db)
    rise_db = mean_db[overlap:] - mean_db[:-overlap]
    return np.clip((rise_db - ONSET_DB[0]) / (ONSET_DB[1] - ONSET_DB[0]), 0, 1)


class _SomeFrames:
    """Keeps every n-th frame of all that go by, n doubled whenever they are too many."""

    def __init__(self) -> None:
        self._step, self._kept, self._index = 1, [], []

    def add(self, P: np.ndarray, first: int) -> None:
        """Take a block of frames (frames, bins), the number of its first one given."""
        for i in range(-first % self._step, len(P), self._step):
            self._kept.append(P[i].copy())  # a view would keep the whole block
            self._index.append(first + i)
        while len(self._kept) > 8 * PROBE_FRAMES:
            self._step *= 2
            chosen = [i for i, number in enumerate(self._index) if number % self._step == 0]
            self._kept, self._index = [self._kept[i] for i in chosen], [self._index[i] for i in chosen]

    def probe(self, active: np.ndarray, lead: int, again: Callable[[], Iterable[tuple[np.ndarray, float]]]) -> Probe:
        """A probe of active frames; if nearly all that were kept are silent the sound is gone through again."""
        wanted = spread_out(np.flatnonzero(active), PROBE_FRAMES)
        at = [i for i, number in enumerate(self._index) if active[number]]
        if len(at) >= min(len(wanted), PROBE_FRAMES // 4):
            at = spread_out(np.array(at), PROBE_FRAMES)
            return Probe(np.stack([self._kept[i] for i in at]), np.array([self._index[i] for i in at]) + lead)
        chosen, first = [], 0
        for P, _ in again():
            chosen.append(P[wanted[(wanted >= first) & (wanted < first + len(P))] - first])
            first += len(P)
        return Probe(np.concatenate(chosen), wanted + lead)


def spread_out(items: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of the items, evenly spread."""
    return items[np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)]


def spectral_expander(level_db: np.ndarray) -> np.ndarray:
    """The pattern that knows nothing: every band away from the mean of its time. Gain in dB for unit amount."""
    return level_db - level_db.mean(axis=0, keepdims=True)


def limit_gain(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Keep every band at or below the loudest of its time: texture may fill a sound up, not drown it.

    Gains count from the mean gain, weighted by power; from there a band may rise by its distance
    to the loudest band and no further. Without it a large amount turns the spectrum over: the
    sound grows less grainy again, and its energy goes into a click.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, steps)
    shares : np.ndarray, shape (n_mels,), `bins_per_band`

    Returns
    -------
    np.ndarray, shape (n_mels, steps)
    """
    top_db = level_db.max(axis=0)
    weights = np.exp(np.float32(NEPER_PER_DB) * (level_db - top_db)) * shares[:, None].astype(np.float32)
    mean_gain_db = (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
    return np.minimum(gain_db, top_db - level_db + mean_gain_db)


def hold_energy(gain_db: np.ndarray, level_db: np.ndarray, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gains moved by so many dB that the energy of each time stays what it was.

    So dynamics and loudness stay, and stage 1 counts the same frames as active. The change of level is
    a mean over the times around where it is alike (a bilateral filter: Tomasi and Manduchi, ICCV 1998):
    without it, gains would flutter with a noise; with a plain mean, decays would not be held.

    Parameters
    ----------
    gain_db, level_db : np.ndarray, shape (n_mels, steps)
    shares : np.ndarray, shape (n_mels,), `bins_per_band`
    weights : np.ndarray, shape (steps,), what each step says about its time

    Returns
    -------
    np.ndarray, shape (n_mels, steps)
    """
    power = np.exp(np.float32(NEPER_PER_DB) * level_db) * shares[:, None].astype(np.float32)
    top_db = gain_db.max(axis=0)
    after = (power * np.exp(np.float32(NEPER_PER_DB) * (gain_db - top_db))).sum(axis=0)
    change_db = top_db + 10 * np.log10(after / power.sum(axis=0))
    total, norm = change_db * weights, weights.copy()
    kernel = np.hanning(2 * HOLD_STEPS + 3)[HOLD_STEPS + 1 : -1]
    for lag in range(1, min(len(kernel), len(total))):
        alike = kernel[lag] * np.exp(-np.square((change_db[lag:] - change_db[:-lag]) / HOLD_ALIKE_DB))
        total[lag:] += alike * (weights * change_db)[:-lag]
        total[:-lag] += alike * (weights * change_db)[lag:]
        norm[lag:] += alike * weights[:-lag]
        norm[:-lag] += alike * weights[lag:]
    return gain_db - (total / norm).astype(np.float32)


def between_centres(times: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where times lie between the centres of n intervals of length 1: the ones before and after, and the share of the latter."""
    position = np.clip(times - 0.5, 0, n - 1)
    before = np.minimum(position.astype(int), max(n - 2, 0))
    after = np.minimum(before + 1, n - 1)
    return before, after, (position - before).astype(np.float32)


def calm(pattern_db: np.ndarray, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """A pattern that stays the same as long as the sound does, and passes over what lasts shorter than a cell.

    The median of three cells, so that a click does not change the gain of what it sounds over; then
    the mean of the cells around, weighed by how much they look alike (non-local means: Buades, Coll and
    Morel, CVPR 2005), so that the chance levels of a noise do not become a flutter.

    Parameters
    ----------
    pattern_db : np.ndarray, shape (..., n_mels, cells), one pattern or some
    x : np.ndarray, shape (n_mels, frames), the picture

    Returns
    -------
    np.ndarray, of the same shape
    """
    from scipy.ndimage import median_filter

    pattern_db = median_filter(pattern_db, size=(*(1,) * (pattern_db.ndim - 1), 3), mode="nearest")
    n_cells = pattern_db.shape[-1]
    starts = np.arange(0, x.shape[1], CELL_FRAMES)
    counts = np.diff(np.append(starts, x.shape[1]))
    level_db = settings.dynamic_range_db * np.add.reduceat(x, starts, axis=1) / counts
    level_db = median_filter(level_db, size=(1, 3), mode="nearest")
    total, weights = pattern_db.copy(), np.ones(n_cells, np.float32)
    for lag in range(1, min(ALIKE_CELLS + 1, n_cells)):
        apart = np.square((level_db[:, lag:] - level_db[:, :-lag]) / ALIKE_DB).mean(axis=0)
        alike = np.exp(-np.maximum(0, apart - 1)).astype(np.float32)
        total[..., lag:] += alike * pattern_db[..., :-lag]
        total[..., :-lag] += alike * pattern_db[..., lag:]
        weights[lag:] += alike
        weights[:-lag] += alike
    return total / weights


@dataclass(frozen=True)
class Amounts:
    """How much of the pattern, and of the expander beyond the pattern's reach, is used."""

    pattern: float
    expander: float

    @property
    def to_texture(self) -> bool:
        """Whether they raise grain."""
        return self.pattern + self.expander < 0


@dataclass(frozen=True, eq=False)
class Reach:
    """The way from no change to the end of the reach: amounts at some points of it, and the octaves there."""

    pattern: np.ndarray
    expander: np.ndarray
    octaves: np.ndarray  # >= 0, rising

    @property
    def end(self) -> float:
        """Position of the end; 0 if there is no way to go."""
        return len(self.octaves) - 1.0

    def at(self, position: float) -> Amounts:
        """The amounts at a position between 0 and `end`."""
        points = np.arange(len(self.octaves))
        return Amounts(*(float(np.interp(position, points, v)) for v in (self.pattern, self.expander)))

    def where(self, octaves: float) -> float:
        """The position where that many octaves are about reached; an end if there is none."""
        return float(np.interp(octaves, self.octaves, np.arange(len(self.octaves))))


@dataclass(frozen=True)
class End:
    """The farthest that a sound was measured to go in one direction, and how it was rendered there."""

    position: float  # on the `Reach`
    level: float  # correction, a factor
    octaves: float  # measured


class AmountSolver:
    """Finds the amounts that move a sound's grain by so many octaves.

    As far as the pattern carries, it alone is used; where its reach ends it is faded into the
    spectral expander, which carries on for many sounds. So for each direction there is one way
    from no change to the end of the reach, along which grain moves one way only; what lies
    beyond the end is the end.

    Parameters
    ----------
    analysis : Analysis
    pattern_db : np.ndarray, shape (2, n_mels, cells) or (n_mels, cells), gain in dB for unit amount: of
        smoothing, which has positive amounts, and of texture, if it is another
    """

    def __init__(self, analysis: Analysis, pattern_db: np.ndarray):
        self.analysis = analysis
        settings, probe, sr = analysis.settings, analysis.probe, analysis.sound.sr
        self._shares = bins_per_band(settings)
        self._cells_db = calm(pattern_db.reshape(-1, *pattern_db.shape[-2:]), analysis.x, settings)
        n_steps = analysis.step_db.shape[1]
        starts = np.arange(0, len(analysis.onset), STEP_FRAMES)
        self._steady = 1 - 0.99 * np.maximum.reduceat(analysis.onset, starts)
        before, after, share = between_centres((probe.index + 0.5) / STEP_FRAMES, n_steps)
        steps = np.unique(np.concatenate((before, after)))
        self._probed = np.searchsorted(steps, before), np.searchsorted(steps, after), share
        self._probe_patterns = {to_texture: self._patterns_db(steps, to_texture) for to_texture in (False, True)}
        self._to_bins = np.float32(NEPER_PER_DB) * bin_weights(settings, sr)[:, settings.grain.band_for(sr)]
        self._log_power = np.log(np.maximum(probe.power, np.finfo(np.float32).tiny))
        self._probe_mean = np.maximum(probe.power.mean(axis=1), np.finfo(np.float32).tiny)
        self._log_mean = np.log(self._probe_mean)
        bins_hz = np.fft.rfftfreq(settings.grain.n_fft_for(sr), 1 / sr)[settings.grain.band_for(sr)]
        self._k_weights = k_weighting(bins_hz).astype(np.float32)
        self._coarse = spread_out(np.arange(len(probe.index)), COARSE_FRAMES)
        self._changer = FrameChanger(settings, sr, analysis.onset)
        self._reaches: dict[tuple[float, float], Reach] = {}
        self.ends: dict[Reach, End] = {}  # those that were measured
        self._start = [self._log2_grain(Amounts(0.0, 0.0), frames) for frames in (self._coarse, slice(None))]

    def _patterns_db(self, steps: np.ndarray, to_texture: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pattern, expander and level at some steps, (n_mels, steps) each."""
        times = (steps + 0.5) * STEP_FRAMES / CELL_FRAMES
        cells_db = self._cells_db[-1 if to_texture else 0]
        before, after, share = between_centres(times, cells_db.shape[1])
        pattern_db = cells_db[:, before] * (1 - share) + cells_db[:, after] * share
        level_db = self.analysis.step_db[:, steps]
        return pattern_db, spectral_expander(level_db), level_db

    def _shape_db(self, amounts: Amounts, patterns_db: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """The gains before energies are held."""
        pattern_db, expander_db, level_db = patterns_db
        gain_db = np.float32(amounts.pattern) * pattern_db
        if amounts.expander:
            gain_db += np.float32(amounts.expander) * expander_db
        if amounts.to_texture:
            gain_db = limit_gain(gain_db, level_db, self._shares)
        return gain_db

    def gain_db(self, amounts: Amounts, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The gains that these amounts give at the steps from ``start`` to before ``stop``, (n_mels, steps)."""
        n_steps = self.analysis.step_db.shape[1]
        stop = n_steps if stop is None else min(stop, n_steps)
        first = max(0, start - HOLD_STEPS)
        steps = np.arange(first, min(n_steps, stop + HOLD_STEPS))
        return self._shape_at(amounts, steps)[:, start - first : stop - first]

    def gain_of_frames(self, amounts: Amounts, frames: np.ndarray) -> np.ndarray:
        """The gains in dB that these amounts give some rising frames, (n_mels, frames): what a picture shows."""
        start, stop = int(frames[0]) // STEP_FRAMES - 1, int(frames[-1]) // STEP_FRAMES + 2
        if stop - start > 2 * len(frames):  # far fewer columns than steps: each column its own step
            return self._shape_at(amounts, np.minimum(frames // STEP_FRAMES, self.analysis.step_db.shape[1] - 1))
        start = max(0, start)
        gain_db = self.gain_db(amounts, start, stop)
        before, after, share = between_centres((frames + 0.5) / STEP_FRAMES - start, gain_db.shape[1])
        return gain_db[:, before] * (1 - share) + gain_db[:, after] * share

    def _shape_at(self, amounts: Amounts, steps: np.ndarray) -> np.ndarray:
        patterns_db = self._patterns_db(steps, amounts.to_texture)
        return hold_energy(self._shape_db(amounts, patterns_db), patterns_db[2], self._shares, self._steady[steps])

    def about(self, octaves: float) -> Amounts:
        """The amounts for some octaves by what is known already: at once, and not quite right."""
        reach = self.reach(octaves)
        return reach.at(reach.where(abs(octaves)))

    def render(self, amounts: Amounts, level: float = 1.0) -> Iterator[np.ndarray]:
        """The sound with these amounts of change, in blocks of samples; see `render_blocks`."""
        analysis = self.analysis
        gains = partial(self.gain_db, amounts)
        return render_blocks(analysis.sound, gains, self._changer, level, threads=analysis.threads)

    def render_part(self, y: np.ndarray, amounts: Amounts, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to before ``stop`` of what `render` gives, without the rest.

        Parameters
        ----------
        y : np.ndarray, shape (n_samples, channels), the sound itself

        Returns
        -------
        np.ndarray, shape (stop - start, channels), float32
        """
        changer = self._changer
        n_fft, hop_length, overlap = changer.n_fft, changer.hop_length, changer.overlap
        lead = n_fft - hop_length  # samples of padding before the first
        first = max(0, (start + lead - n_fft) // hop_length + 1)
        last = (stop - 1 + lead) // hop_length  # frames that hold a sample of the part
        from_sample = (first - 2 * overlap) * hop_length - lead
        to_sample = last * hop_length + n_fft - lead
        piece = np.zeros((y.shape[1], to_sample - from_sample), np.float32)
        inside = y[max(0, from_sample) : max(0, to_sample)]
        at = max(0, -from_sample)
        piece[:, at : at + len(inside)] = inside.T
        if first < overlap:
            piece[:, at - lead : at] = beyond_the_edge(y[:n_fft], lead)[::-1].T
        if to_sample > len(y):
            beyond = beyond_the_edge(y[: -n_fft - 1 : -1], to_sample - len(y))
            piece[:, at + len(inside) :] = beyond.T
        windows = np.lib.stride_tricks.sliding_window_view(piece, n_fft, axis=1)[:, ::hop_length]
        step = max(0, first // STEP_FRAMES - 1)
        gain_db = self.gain_db(amounts, step, last // STEP_FRAMES + 2)
        out = changer.changed(first, windows[:, 2 * overlap :], windows[:, : 2 * overlap], step, gain_db)
        at = start + lead - first * hop_length
        return np.ascontiguousarray(out[:, at : at + stop - start].T)

    def _log_power_after(self, amounts: Amounts, frames: np.ndarray | slice) -> np.ndarray:
        """Natural logarithm of the probe's powers with the gains, energies not yet held, (frames, bins)."""
        before, after, share = self._probed
        gain_db = self._shape_db(amounts, self._probe_patterns[amounts.to_texture])
        share = share[frames]
        level = (gain_db[:, before[frames]] * (1 - share) + gain_db[:, after[frames]] * share).T @ self._to_bins
        level += self._log_power[frames]
        return level

    def level_for_loudness_db(self, amounts: Amounts) -> float:
        """Change of level (RMS) that keeps loudness (BS.1770) near the input's, as little as will do.

        Loudness weighs treble more: at the same level, a sound with more texture is louder.
        """
        after = np.exp(self._log_power_after(amounts, slice(None)))
        after *= (self._probe_mean / after.mean(axis=1))[:, None]  # energies are held
        louder = float((after @ self._k_weights).sum() / (self.analysis.probe.power @ self._k_weights).sum())
        louder_db = 10 * math.log10(louder)
        too_loud_db = louder_db - float(np.clip(louder_db, -LOUDNESS_DB, LOUDNESS_DB))
        return float(np.clip(-too_loud_db, -LEVEL_DB, LEVEL_DB))

    def _log2_grain(self, amounts: Amounts, frames: np.ndarray | slice) -> float:
        level = self._log_power_after(amounts, frames)
        top = level.max(axis=1)
        log_mean = top + np.log(np.exp(level - top[:, None]).mean(axis=1, dtype=np.float32))
        held = self._log_mean[frames] - log_mean  # where the floor lies hangs on the levels
        floor = float((top + held).max()) + NEPER_PER_DB * self.analysis.settings.grain.floor_db
        np.maximum(level, (floor - held)[:, None], out=level)
        flatness = np.exp(level.mean(axis=1, dtype=np.float32) - log_mean)
        return math.log2(float(flatness.mean(dtype=np.float64)))

    def octaves(self, amounts: Amounts, *, coarse: bool = False) -> float:
        """Octaves by which these amounts lower grain (negative: raise it)."""
        frames = self._coarse if coarse else slice(None)
        return self._start[0 if coarse else 1] - self._log2_grain(amounts, frames)

    def solve(self, octaves: float, reach: Reach | None = None) -> float:
        """Position on the reach (`reach` of these octaves if None) where grain is lower by so many, or the end."""
        sign, wanted = math.copysign(1.0, octaves), abs(octaves)
        reach = reach or self.reach(octaves)
        if reach.end == 0 or octaves == 0:
            return 0.0

        def missing(position: float) -> float:
            return sign * self.octaves(reach.at(position)) - wanted

        guess = reach.where(wanted)
        low, high = max(0.0, guess - 0.5), min(reach.end, guess + 0.5)
        if missing(low) > 0:
            low, high = 0.0, low
        elif missing(high) < 0:
            if high == reach.end or missing(reach.end) <= 0:
                return reach.end
            low, high = high, reach.end
        return _root(missing, low, high)

    def reach(self, octaves: float) -> Reach:
        """The way to the end of the reach in the direction of these octaves, and as far as they lie (positive: smoother)."""
        sign, far = math.copysign(1.0, octaves), next(far for far in FAR_OCTAVES if abs(octaves) < far)
        if (sign, far) not in self._reaches:
            self._reaches[sign, far] = self._find_reach(sign, far)
        return self._reaches[sign, far]

    def _find_reach(self, sign: float, far: float) -> Reach:
        def moved(amounts: Amounts) -> float:
            return sign * self.octaves(amounts, coarse=True)

        def follow(which: int) -> list[tuple[Amounts, float]]:
            """One pattern from 0 until grain no longer moves."""
            spread = float(np.max(np.ptp(self._probe_patterns[sign < 0][which], axis=0)))
            if spread < 1e-6:
                return []
            found = []
            for size in sign * MAX_GAIN_SPREAD_DB / spread * STEPS:
                amounts = Amounts(size, 0.0) if which == 0 else Amounts(0.0, size)
                found.append((amounts, moved(amounts)))
                if found[-1][1] > far:
                    break
            return found

        found = follow(0)
        farthest = max(found, key=lambda item: item[1], default=(Amounts(0.0, 0.0), 0.0))
        if farthest[1] <= 0:
            farthest = (Amounts(0.0, 0.0), 0.0)
        if farthest[1] < far:
            other = max(follow(1), key=lambda item: item[1], default=farthest)[0].expander
            for share in np.linspace(0, 1, 9)[1:]:
                amounts = Amounts((1 - share) * farthest[0].pattern, share * other)
                found.append((amounts, moved(amounts)))
        points = [(Amounts(0.0, 0.0), 0.0)]
        for amounts, octaves in found:
            if octaves > points[-1][1]:
                points.append((amounts, octaves))
        reach = Reach(
            np.array([amounts.pattern for amounts, _ in points]),
            np.array([amounts.expander for amounts, _ in points]),
            np.array([octaves for _, octaves in points]),
        )
        return _before_the_end(reach)


def _before_the_end(reach: Reach) -> Reach:
    """The reach without its last END_OCTAVES, where much gain does little and may do the opposite."""
    last = reach.octaves[-1] - END_OCTAVES
    if last <= 0:
        return Reach(*(np.zeros(1) for _ in range(3)))
    keep = reach.octaves < last
    end = reach.at(reach.where(last))
    return Reach(
        np.append(reach.pattern[keep], end.pattern),
        np.append(reach.expander[keep], end.expander),
        np.append(reach.octaves[keep], last),
    )


def k_weighting(hz: np.ndarray) -> np.ndarray:
    """Gain on the power of some frequencies below 24 kHz by which loudness is measured: ITU-R BS.1770-4, tables 1 and 2."""
    z = np.exp(-2j * np.pi * hz / 48_000)
    response = np.ones(len(hz), complex)
    for numerator, denominator in (K_SHELF, K_HIGH_PASS):
        response *= np.polyval(numerator[::-1], z) / np.polyval(denominator[::-1], z)
    return np.square(np.abs(response))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=2e-3, rtol=1e-6))


class FrameChanger:
    """Applies gains to some windows of a sound: complex STFT times gain, inverse by overlap-add.

    The phase stays as it is, but for what is new in windows in which a sound begins: a gain without
    phase spreads a click to both sides, one of minimum phase only to what comes after (its phase is the
    Hilbert transform of its logarithm: Oppenheim and Schafer, "Discrete-Time Signal Processing", 12.2).

    One gain for all channels, so the stereo image stays. Below the analysis band nothing changes:
    sub-bass has no grain that is measured. With gains of 0 dB the output is the input to float
    precision (weighted overlap-add with the Hann window twice: its squares sum to
    3/8 n_fft / hop_length; Griffin and Lim, IEEE TASSP 32(2), 1984).

    Parameters
    ----------
    settings : SpectrogramSettings
    sr : int > 0, Hz
    onset : np.ndarray, shape (frames of the padded sound,), share of the minimum phase, 0 to 1
    """

    def __init__(self, settings: SpectrogramSettings, sr: int, onset: np.ndarray | None = None):
        self.n_fft, self.hop_length = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr)
        self.overlap = self.n_fft // self.hop_length
        self.onset = onset
        self._window = hann_window(self.n_fft)
        self._to_bins = np.float32(NEPER_PER_DB / 2) * bin_weights(settings, sr)  # ln of the factor on the amplitude
        self._to_bins[:, : settings.grain.band_for(sr).start] = 0
        self._to_phase = minimum_phase(self._to_bins)

    def changed(
        self, first: int, windows: np.ndarray, earlier: np.ndarray, start: int, gain_db: np.ndarray, level: float = 1.0
    ) -> np.ndarray:
        """The windows with their gains, overlapped and added.

        Parameters
        ----------
        first : number of the first frame
        windows : np.ndarray, shape (channels, frames, n_fft)
        earlier : np.ndarray, shape (channels, 2 overlap, n_fft), the windows before these
        start, gain_db : number of the first step, and gains in dB from it on, (n_mels, steps)
        level : float, factor on the output

        Returns
        -------
        np.ndarray, shape (channels, (frames + overlap - 1) hop_length), float32
        """
        from scipy.fft import irfft, rfft

        channels, n_frames, hop_length = windows.shape[0], windows.shape[1], self.hop_length
        D = rfft(windows * self._window, axis=-1)
        times = (np.arange(first, first + n_frames) + 0.5) / STEP_FRAMES - start
        begins = np.flatnonzero(self.onset[first : first + n_frames]) if self.onset is not None else np.empty(0, int)
        if len(begins):
            before = np.concatenate((rfft(earlier * self._window, axis=-1), D), axis=1)
            new = D[:, begins] - carried_on(before[:, begins], before[:, begins + self.overlap])
            phase = self.onset[first + begins, None] * gains_at(gain_db, times[begins], self._to_phase)
            D[:, begins] += (np.exp(1j * phase) - 1) * new
        D *= np.exp(gains_at(gain_db, times, self._to_bins))
        frames = irfft(D, self.n_fft, axis=-1)
        frames *= self._window * np.float32(level / (0.375 * self.overlap))  # (channels, frames, n_fft)
        out = np.zeros((channels, (n_frames + self.overlap - 1) * hop_length), np.float32)
        for part in range(self.overlap):
            piece = frames[:, :, part * hop_length : (part + 1) * hop_length]
            out[:, part * hop_length : (part + n_frames) * hop_length] += piece.reshape(channels, -1)
        return out


def render_blocks(
    sound: Sound,
    gains: Callable[[int, int], np.ndarray],
    changer: FrameChanger,
    level: float = 1.0,
    *,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Apply gains to a whole sound, block by block.

    Parameters
    ----------
    gains : gives the gains in dB, (n_mels, steps), of the steps from one number to before another
    changer : FrameChanger
    level : float, factor on the output

    Yields
    ------
    np.ndarray, shape (samples, channels), float32, ``sound.n_samples`` in all
    """
    n_fft, hop_length, overlap = changer.n_fft, changer.hop_length, changer.overlap
    whole = padded(sound, n_fft, hop_length)

    def blocks() -> Iterator[tuple[int, np.ndarray, np.ndarray, int, np.ndarray]]:
        first, earlier = 0, np.zeros((sound.channels, 2 * overlap, n_fft), np.float32)
        start, known = 0, np.empty((0, 0), np.float32)
        for windows in frame_blocks(whole.blocks(), n_fft, hop_length):
            if (first + windows.shape[1]) // STEP_FRAMES + 1 > start + known.shape[1]:
                start = max(0, first // STEP_FRAMES - 1)
                known = gains(start, start + PIECE_STEPS)
            yield first, windows, earlier, start, known
            first += windows.shape[1]
            earlier = np.concatenate((earlier, windows[:, -2 * overlap :]), axis=1)[:, -2 * overlap :]

    tail = np.zeros((sound.channels, n_fft - hop_length), np.float32)
    skip, left = n_fft - hop_length, sound.n_samples
    for out in in_order(lambda block: changer.changed(*block, level), blocks(), threads):
        out[:, : tail.shape[1]] += tail
        n_done = out.shape[1] - tail.shape[1]
        done, tail = out[:, :n_done], out[:, n_done:]
        ready = np.ascontiguousarray(done[:, skip : skip + left].T)
        skip, left = max(0, skip - n_done), left - len(ready)
        if len(ready):
            yield ready


def carried_on(before: np.ndarray, last: np.ndarray) -> np.ndarray:
    """What the next window would hold if nothing began: steady tones go on turning their phase as they did.

    Parameters
    ----------
    before, last : np.ndarray, complex spectra of two windows side by side

    Returns
    -------
    np.ndarray, complex64, of the same shape
    """
    turned = last * np.conj(before)
    return last * turned / np.maximum(np.abs(turned), np.finfo(np.float32).tiny)


def minimum_phase(log_gain: np.ndarray) -> np.ndarray:
    """Phase in radians of the minimum-phase filter of some gains, through the cepstrum; linear in the gains.

    Parameters
    ----------
    log_gain : np.ndarray, shape (rows, n_fft // 2 + 1), natural logarithm of the amplitude

    Returns
    -------
    np.ndarray, the same shape, float32
    """
    from scipy.fft import irfft, rfft

    cepstrum = irfft(log_gain.astype(float), axis=-1)
    half = cepstrum.shape[-1] // 2
    cepstrum[:, 1:half] *= 2
    cepstrum[:, half + 1 :] = 0
    return rfft(cepstrum, axis=-1).imag.astype(np.float32)


def gains_at(gain_db: np.ndarray, times: np.ndarray, to_bins: np.ndarray) -> np.ndarray:
    """Values for the bins at some rising times, (times, bins), between those of the steps in a line.

    Parameters
    ----------
    gain_db : np.ndarray, shape (n_mels, steps)
    times : np.ndarray, in steps
    to_bins : np.ndarray, shape (n_mels, bins)
    """
    before, after, share = between_centres(times, gain_db.shape[1])
    first = before[0]
    steps = gain_db[:, first : after[-1] + 1].T @ to_bins
    value = steps[before - first]
    value += share[:, None] * (steps[after - first] - value)
    return value


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
        out = buffer
        if peak_of(buffer) > ceiling:
            peaks = np.abs(buffer).max(axis=1)
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
    amounts: Amounts  # of the expander none as far as the learned pattern carries
    level_db: float  # change of loudness (RMS)
    limited_db: float  # by so much the highest peak was turned down so as not to clip

    @property
    def got_octaves(self) -> float:
        """Octaves of measured grain by which the sound became smoother."""
        return math.log2(self.grain_before / self.grain_after)


def keep_in_memory(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
    """A sound that is made while it is first read, and kept (a very large one in a file without a name)."""
    y, n_kept = large_array((like.n_samples, like.channels)), 0

    def read() -> Iterator[np.ndarray]:
        nonlocal n_kept
        step = 512 * block_frames(like.channels)
        yield from (y[i : min(i + step, n_kept)] for i in range(0, n_kept, step))
        for block in blocks:
            y[n_kept : n_kept + len(block)] = block
            n_kept += len(block)
            yield block

    return replace(like, blocks=read)


@dataclass(frozen=True)
class _Try:
    position: float  # on the solver's reach
    got: float  # octaves measured, of those asked for the sign taken away
    rendering: Rendering
    factor: float  # by which its level misses the one that it should have
    level: float  # correction that it was rendered with

    @property
    def is_loud_enough(self) -> bool:
        return abs(20 * math.log10(self.factor)) <= LEVEL_TOLERANCE_DB


def move_grain(
    solver: AmountSolver,
    octaves: float,
    *,
    ceiling: float = CEILING,
    store: Callable[[Sound, Iterator[np.ndarray]], Sound] = keep_in_memory,
) -> Rendering:
    """Move a sound's grain along a pattern: grain(out) = grain(in) * 2**-octaves, measured, not hoped.

    The amount solved on the bins of a probe is off by what overlapping frames do to each other, by
    the rounding to the file's sample format, and by what the probe leaves out; so the real output
    is measured and the position on the solver's reach corrected.

    Parameters
    ----------
    octaves : float, positive is smoother; 0 returns the sound itself
    ceiling : float, largest sample that the result may hold; peaks above it are limited
    store : keeps the rendered blocks, at the latest when they are first read, and gives back a `Sound`

    Raises
    ------
    PipelineError
        If the rendered sound has no grain.
    """
    analysis = solver.analysis
    sound = analysis.sound
    unchanged = Rendering(sound, octaves, analysis.grain, analysis.grain, octaves == 0, Amounts(0.0, 0.0), 0.0, 0.0)
    if octaves == 0:
        return unchanged
    sign, reach = math.copysign(1.0, octaves), solver.reach(octaves)

    def attempt(position: float, level: float) -> _Try:
        amounts = reach.at(position)
        level_db = solver.level_for_loudness_db(amounts)
        before, after = LevelMeter(), LevelMeter()
        blocks = before.through(solver.render(amounts, level * 10 ** (level_db / 20)))
        result = store(sound, after.through(limit_peaks(blocks, ceiling, sound)))
        grain = measure_grain(result, analysis.settings.grain, analysis.threads)
        got = math.log2(analysis.grain / grain)
        rendering = Rendering(
            sound=result,
            asked_octaves=octaves,
            grain_before=analysis.grain,
            grain_after=grain,
            within_reach=False,  # known when the end is
            amounts=amounts,
            level_db=10 * math.log10(after.energy / analysis.energy),
            limited_db=20 * math.log10(max(1.0, before.peak / ceiling)),
        )
        wanted_energy = analysis.energy * 10 ** (level_db / 10)
        return _Try(position, sign * got, rendering, math.sqrt(wanted_energy / after.energy), level)

    tried = _tries(solver, octaves, attempt)
    if not tried:
        return unchanged
    best = min(tried, key=lambda t: abs(abs(octaves) - t.got))
    if best is not tried[-1] and best.is_loud_enough:
        best = attempt(best.position, best.level)  # only the last one is stored; grain hangs on the level a little
    for _ in range(MAX_LEVELS):  # what the limiter takes away is missing again
        if not best.is_loud_enough:
            best = attempt(best.position, best.level * best.factor)
    is_end = reach in solver.ends and abs(octaves) > solver.ends[reach].octaves + GRAIN_TOLERANCE_OCTAVES
    return replace(best.rendering, within_reach=not is_end)


def _tries(solver: AmountSolver, octaves: float, attempt: Callable[[float, float], _Try]) -> list[_Try]:
    """Renderings on the way to what is asked; only the end's if that is as far as the sound goes, none if it can't move."""
    wanted, reach = abs(octaves), solver.reach(octaves)
    position, level = solver.solve(octaves), 1.0
    tried: list[_Try] = []
    while position and len(tried) <= MAX_CORRECTIONS:
        is_unsure = position >= reach.where(reach.octaves[-1] - UNSURE_OCTAVES)
        end = _measured_end(solver, reach, attempt) if is_unsure else solver.ends.get(reach)
        if end and end.octaves < LEAST_OCTAVES:
            return []
        if end and wanted >= end.octaves - GRAIN_TOLERANCE_OCTAVES:
            return [attempt(end.position, end.level)]
        tried.append(attempt(position, level))
        level = tried[-1].level * tried[-1].factor
        position = _next_position(solver, octaves, tried)
    if tried and min(abs(wanted - t.got) for t in tried) > TURN_OCTAVES:  # it turns back long before the end
        end = _measured_end(solver, reach, attempt)
        if wanted >= end.octaves - GRAIN_TOLERANCE_OCTAVES:
            return [attempt(end.position, end.level)]
    return tried


def _measured_end(solver: AmountSolver, reach: Reach, attempt: Callable[[float, float], _Try]) -> End:
    """How far the sound goes, measured once."""
    if reach not in solver.ends:
        farthest = _farthest(reach, attempt)
        solver.ends[reach] = End(farthest.position, farthest.level, farthest.got)
    return solver.ends[reach]


def _farthest(reach: Reach, attempt: Callable[[float, float], _Try]) -> _Try:
    """The rendering that goes farthest: at the end of the reach, or before it if the sound turns back there.

    It hangs on nothing that was asked for, so that all that lies beyond it comes out the same.
    """
    from scipy.optimize import minimize_scalar

    tried: list[_Try] = []

    def fall(position: float) -> float:
        tried.append(attempt(position, tried[-1].level * tried[-1].factor if tried else 1.0))
        return -tried[-1].got

    farthest, grid = 0.0, np.linspace(reach.octaves[-1], 0, END_TRIES + 1)
    for octaves in grid[:-1]:
        if octaves < farthest:  # no sound goes farther than the solver says, but for a little
            break
        fall(reach.where(octaves))
        farthest = max(farthest, tried[-1].got)
    if farthest < reach.octaves[-1] - TURN_OCTAVES:
        i = max(range(len(tried)), key=lambda i: tried[i].got)
        bounds = reach.where(grid[i + 1]), reach.where(grid[max(i - 1, 0)])
        minimize_scalar(fall, bounds=bounds, method="bounded", options={"maxiter": TOP_TRIES, "xatol": 1e-3})
    best = max(tried, key=lambda t: t.got)
    return attempt(best.position, best.level * best.factor)


def _next_position(solver: AmountSolver, octaves: float, tried: list[_Try]) -> float | None:
    """Where to render next, or None if the last try has what is wanted or can't get nearer to it.

    What is missing is asked of the solver in addition, or found by false position between two tries
    that enclose what is wanted, by halving where that stalls.
    """
    sign, wanted, reach = math.copysign(1.0, octaves), abs(octaves), solver.reach(octaves)
    last, end = tried[-1], solver.ends.get(reach)
    if abs(wanted - last.got) <= GRAIN_TOLERANCE_OCTAVES:
        return None
    short = max((t for t in tried if t.got <= wanted), key=lambda t: t.position, default=None)
    far = min((t for t in tried if t.got > wanted), key=lambda t: t.position, default=None)
    low, low_got = (short.position, short.got) if short else (0.0, 0.0)
    high = far.position if far else end.position if end else reach.end
    if short and far and len(tried) > 2:
        stalled = abs(wanted - last.got) > 0.5 * abs(wanted - tried[-2].got)
        share = 0.5 if stalled else (wanted - low_got) / (far.got - low_got)
        return low + share * (high - low) if high - low > 1e-4 else None
    predicted = sign * solver.octaves(reach.at(last.position))
    position = solver.solve(sign * max(predicted + wanted - last.got, 0.0), reach)
    if not low < position < high:
        position = high if far is None and not end and position >= high else (low + high) / 2
    return position


# Pictures


class TilePainter:
    """Draws tiles as pictures with axes, fast: matplotlib draws the empty axes once, tiles are pasted in."""

    def __init__(self, settings: SpectrogramSettings):
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

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
        magma = colormaps["magma"](np.linspace(0, 1, PICTURE_LEVELS))[:, :3]
        greys = np.linspace((0, 0, 0), (1, 1, 1), 256 - PICTURE_LEVELS)
        self._palette = np.round(255 * np.concatenate((magma, greys))).astype(np.uint8)
        drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        colours, number = np.unique(drawn @ (1 << 16, 1 << 8, 1), return_inverse=True)
        colours = np.stack((colours >> 16, colours >> 8 & 255, colours & 255), axis=1)
        nearest = np.abs(colours[:, None] - self._palette.astype(int)).sum(axis=2).argmin(axis=1)
        height = drawn.shape[0]
        self._empty = nearest.astype(np.uint8)[number].reshape(drawn.shape[:2])
        box = axes.get_window_extent()
        self._rows = slice(height - round(box.y1), height - round(box.y0))
        self._columns = slice(round(box.x0), round(box.x1))
        self._title_at = (self._columns.start, self._rows.start - 22)
        n_rows, n_columns = self._rows.stop - self._rows.start, self._columns.stop - self._columns.start
        self._from_band = np.arange(n_rows)[::-1] * shape[0] // n_rows
        self._from_frame = np.arange(n_columns) * shape[1] // n_columns

    def save(self, path: Path, x: np.ndarray, title: str) -> None:
        """Write one tile (n_mels, tile_frames) in [0, 1] as a PNG with its title."""
        from matplotlib.font_manager import findfont
        from PIL import Image, ImageDraw, ImageFont

        pixels = self._empty.copy()
        levels = np.round((PICTURE_LEVELS - 1) * np.clip(x, 0, 1)).astype(np.uint8)
        pixels[self._rows, self._columns] = levels[self._from_band][:, self._from_frame]
        font = ImageFont.truetype(findfont("DejaVu Sans"), 12)  # not kept: on another machine it lies elsewhere
        left, top = self._title_at
        strip = Image.new("L", (pixels.shape[1] - left, 20), 255)  # where colours are numbers it would be drawn jagged
        ImageDraw.Draw(strip).text((0, 0), title, fill=0, font=font)
        letters = np.asarray(strip, int)
        greys = PICTURE_LEVELS + letters * (256 - PICTURE_LEVELS) // 256
        np.copyto(pixels[top : top + strip.height, left:], greys, "unsafe", where=letters < 255)
        picture = Image.fromarray(pixels)
        picture.putpalette(self._palette.tobytes())
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
    if not isinstance(edges, list) or not all(isinstance(hz, int | float) for hz in edges):
        raise PipelineError(f"{where}: field band_edges_hz is not a list of numbers")
    within = all(grain.fmin_hz - 0.001 <= hz <= grain.fmax_hz + 0.001 for hz in edges)  # NaN is not
    if len(edges) != N_MELS + 2 or not within or np.any(np.diff(edges) <= 0):
        raise PipelineError(
            f"{where}: field band_edges_hz is not {N_MELS + 2} rising frequencies from fmin_hz to fmax_hz"
        )
    range_db, tile_frames = record.get("dynamic_range_db"), record.get("tile_frames")
    if not isinstance(range_db, int | float) or not 0 < range_db <= 200:
        raise PipelineError(f"{where}: field dynamic_range_db is {shown(range_db)}, not a number of dB up to 200")
    if tile_frames != TILE_FRAMES:
        raise PipelineError(
            f"{where}: field tile_frames is {shown(tile_frames)}, this program works with {TILE_FRAMES}"
        )
    return SpectrogramSettings(grain, tuple(map(float, edges)), float(range_db))


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
    sources = parse_records(Source, content, "sources", path)
    _check_tiles(tiles, sources, path)
    return TrainingPairs(settings, sources, tiles, parse_records(SkippedFile, content, "skipped", path))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` lies below ``folder``, wherever links lead."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _check_tiles(tiles: Iterable[Tile], sources: Iterable[Source], path: Path) -> None:
    """Refuse tiles of other files, and arrays and pictures outside the folder of the JSON file ``path``."""
    folder, named, inside = Path(os.path.abspath(path)).parent, {item.path for item in sources}, set()
    for i, tile in enumerate(tiles):
        for name, place in (("array", tile.array.parent), ("image", tile.image.parent if tile.image else folder)):
            if place not in inside and not is_inside(place, folder):
                raise PipelineError(f"{path}: tiles[{i}]: field {name} is outside the folder of {path.name}")
            inside.add(place)
        if tile.source not in named:
            raise PipelineError(f"{path}: tiles[{i}]: field source is none of the files in sources")
    if unused := named - {tile.source for tile in tiles}:
        raise PipelineError(f"{path}: sources: no tile is of {min(unused)}")


def load_tile(path: Path, settings: SpectrogramSettings) -> np.ndarray:
    """Read one tile, checked: (n_mels, tile_frames) float32 in [0, 1].

    Raises
    ------
    PipelineError
        If the array is missing, damaged or no tile.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise ValueError("no file of its own")
        x = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a size that is a lie allocates nothing
    except Exception as err:  # a damaged header ends in numpy's, Python's tokenizer's and mmap's own errors
        raise PipelineError(
            f"{path}: not readable as a tile ({str(err)[:200]}); run: python convert_to_spectrograms.py"
        ) from err
    if not isinstance(x, np.ndarray) or x.shape != (settings.n_mels, settings.tile_frames) or x.dtype != np.float32:
        raise PipelineError(
            f"{path}: is no tile of {settings.n_mels} x {settings.tile_frames} float32; delete it and convert again"
        )
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1 + 1e-6):
        raise PipelineError(f"{path}: holds values outside 0 to 1; delete it and convert again")
    return np.array(x)


# The stage


def check_as_measured(item: FileGrain | Source) -> None:
    """Refuse an audio file that is not, to size and time, the one that stage 1 measured.

    Raises
    ------
    PipelineError
        If it is not.
    """
    if file_stamp(item.path) != (item.size_bytes, item.mtime_ns):
        raise PipelineError("changed since it was measured; run measure_audio_grain.py again")


def convert_file(
    item: FileGrain, settings: SpectrogramSettings, output_dir: Path, base: Path, painter: TilePainter | None
) -> tuple[Source, list[Tile]] | SkippedFile:
    """Write the tiles (and pictures) of one file; a file that fails comes back as skipped, with the reason."""
    size_bytes, mtime_ns = item.size_bytes, item.mtime_ns
    try:
        size_bytes, mtime_ns = file_stamp(item.path)
        check_as_measured(item)
        sound = open_sound(item.path)
        bands, flatness, active = bands_and_grain(sound, settings)
        check_unchanged(item.path, (size_bytes, mtime_ns))
    except PipelineError as err:
        return SkippedFile(item.path, str(err), size_bytes, mtime_ns)
    x = bands.T
    powers_to_log_mel(x, settings.dynamic_range_db)
    hop_s = settings.grain.hop_for(sound.sr) / sound.sr
    source = json_path(item.path, base)
    stem = (
        re.sub(r"[^\w-]+", "_", item.path.stem, flags=re.ASCII)[:60]
        + "_"
        + hashlib.sha1(os.fsencode(source)).hexdigest()[:8]
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
        )
        picture = np.ascontiguousarray(fill_tile(x[:, span], settings.tile_frames))
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
    rescue: Callable[[TrainingPairs], None] = lambda pairs: None,
) -> tuple[TrainingPairs, ConvertCounts]:
    """Make the tiles of all files; those that an earlier run made of an unchanged file are kept.

    Parameters
    ----------
    files : what stage 1 measured
    grain : how it measured
    earlier : what an earlier run wrote: only what it names is ever removed
    output_dir : gets arrays/ and images/
    base : folder of training_pairs.json, which tile names are made from
    rescue : gets what is converted so far, and what an earlier run made of the rest, when the run is interrupted

    Raises
    ------
    PipelineError
        If nothing could be converted.
    """
    settings = default_settings(grain)
    output_dir = Path(os.path.abspath(output_dir))
    made = _tiles_still_good(earlier, settings, output_dir, images)
    files = list(files)
    kept = {item.path: made[key] for item in files if (key := (item.path, item.size_bytes, item.mtime_ns)) in made}
    wanted = [item for item in files if item.path not in kept]
    wanted.sort(key=lambda item: item.size_bytes, reverse=True)  # as in stage 1
    painter = TilePainter(settings) if images and wanted else None
    convert = partial(convert_file, settings=settings, output_dir=output_dir, base=base, painter=painter)
    results = {}

    def pairs_of(items: Iterable[tuple[Source, list[Tile]] | SkippedFile]) -> TrainingPairs:
        items = list(items)
        done = [item for item in items if not isinstance(item, SkippedFile)]
        return TrainingPairs(
            settings,
            tuple(source for source, _ in done),
            tuple(tile for _, tiles in done for tile in tiles),
            tuple(item for item in items if isinstance(item, SkippedFile)),
        )

    try:
        for item, result in progress(in_parallel(convert, wanted, jobs), len(wanted)):
            results[item.path] = result
    except KeyboardInterrupt:
        if results:
            same = earlier is not None and earlier.settings == settings
            pairs = pairs_of(((_by_source(earlier) if same else {}) | results).values())
            if earlier is not None:
                _remove_stale(earlier, pairs, output_dir)
            rescue(pairs)
        raise
    results |= kept
    pairs = pairs_of(results[item.path] for item in files)
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

    def is_good(tile: Tile) -> bool:
        has_image = tile.image is not None and os.path.exists(tile.image)
        return tile.array.parent == output_dir / "arrays" and os.path.exists(tile.array) and (has_image or not images)

    return {
        (source.path, source.size_bytes, source.mtime_ns): (source, tiles)
        for source, tiles in _by_source(earlier).values()
        if tiles and all(map(is_good, tiles))
    }


def _by_source(pairs: TrainingPairs) -> dict[Path, tuple[Source, list[Tile]]]:
    found: dict[Path, tuple[Source, list[Tile]]] = {source.path: (source, []) for source in pairs.sources}
    for tile in pairs.tiles:
        if tile.source in found:
            found[tile.source][1].append(tile)
    return found


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
    add_parallel_arguments(parser, os.cpu_count() or 1)
    parser.add_argument("--no-images", action="store_true", help="leave out the pictures")
    return parser


def _run(args: argparse.Namespace) -> int:
    metadata = read_metadata(args.metadata)
    if not metadata.files:
        raise PipelineError(f"{args.metadata}: names no measured file; run: python measure_audio_grain.py")
    if not all(is_inside(args.output_dir / part, args.pairs.absolute().parent) for part in ("arrays", "images")):
        raise PipelineError(
            f"{args.output_dir}: is outside the folder of {args.pairs}, which may name nothing there; "
            "put both into one folder: --output-dir FOLDER/spectrograms --pairs FOLDER/training_pairs.json"
        )
    for folder in (args.output_dir / "arrays", args.output_dir / "images", args.pairs.parent):
        prepare_folder(folder)
    with only_run(args.pairs), cluster(args.dask):
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
            rescue=lambda pairs: write_pairs(args.pairs, pairs),
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
    leave(main())
