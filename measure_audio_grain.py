#!/usr/bin/env python3
"""Measure the grain of audio files: stage 1 of the Neural Grain Processor.

Grain is spectral flatness (Wiener entropy): in each frame the geometric mean
of the bin powers over their arithmetic mean, and for a file the mean over its
active frames,

    grain = mean_t  exp(mean_k ln P[t, k]) / mean_k P[t, k]

(Johnston, "Transform coding of audio signals using perceptual noise criteria",
IEEE JSAC 6(2), 1988; the same formula as ``librosa.feature.spectral_flatness``).
A held organ chord reads near 0, white noise reads 0.56.

Reads:  audio files in folders (every format that libsndfile knows)
Writes: metadata.json; with --demo first a small library of synthesised sounds
Exit status: 0 all files measured; 1 some could not be (each is named);
             2 wrong usage or nothing to measure; 130 interrupted

    python measure_audio_grain.py
    python measure_audio_grain.py ~/samples/drones take7.wav -o metadata.json
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import hashlib
import json
import logging
import math
import re
import reprlib
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np

DEFAULT_FOLDERS = ("Drone", "Harmonic Progression")  # the layout the four stages share
DEFAULT_METADATA = "metadata.json"
METADATA_VERSION = 1
AUDIO_EXTENSIONS = frozenset(
    [
        ".wav",
        ".wave",
        ".bwf",
        ".rf64",
        ".w64",
        ".aif",
        ".aiff",
        ".aifc",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".caf",
        ".au",
        ".snd",
    ]
)
BLOCK_FRAMES = 128  # 128 windows of 2048 float32 are 1 MB: half of it costs a third more time, in calls
KEEP_FRAMES = 12_000  # powers of so many frames (35 MB, 2.3 minutes) are kept rather than computed twice
LENGTH_UNKNOWN = 0xFFFF_F000  # a streaming writer leaves a RIFF length near 2**32: no promise was made
SAMPLE_RATES_HZ = (1_000, 1_000_000)  # below, the band is empty; above, a window alone fills the memory
WINDOW_S = (0.01, 0.2)  # what a window may last
LOUDEST = 1e10  # times full scale; float32 can't square much more, and integers kept as floats reach 2**31
FRAMES_PER_BYTE = 10_000  # more than any codec makes of silence: a header that promises more lies
UNPRINTABLE = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160), 0x2028, 0x2029)}  # control, line breaks
LONG_S = 3600  # of a file that says it is longer the end is looked for, before room is made for it
INAUDIBLE = 1e-7  # in-band peak below this share of the sample peak is rounding (float32 has 24 bits)
FEW_FILES = 50  # below it the library teaches more about its files than about grain
CLUSTER_TIMEOUT_S = 10  # for the scheduler to answer, and for a first worker to be there
NARROW_OCTAVES = 1.0  # less between the 10th and 90th percentile: no grain to learn from
PART_NAME = re.compile(r"\.grain-[0-9a-f]{16}\.(part|lock)(\..*)?", re.DOTALL)  # what `_hidden_name` makes

DEMO_FOLDERS = ("Drone/Static", "Drone/Evolving", "Harmonic Progression")
DEMO_RATE_HZ = 44_100
DEMO_LENGTH_S = 5.9  # just under two tiles of stage 2
DEMO_FILES_PER_FOLDER = 20
DEMO_GRAINS = (1e-5, 0.06)  # first and last of a geometric series, so even in octaves


class PipelineError(Exception):
    """A fault that the user can mend: one line that names the thing, the value and what to do."""


@dataclass(frozen=True)
class GrainSettings:
    """How grain is measured; stored beside every number that depends on it.

    ``n_fft`` and ``hop_length`` are for ``sample_rate_hz``; other rates use a power of two
    that keeps the window as long in seconds (`n_fft_for`).
    """

    sample_rate_hz: int = 44_100
    n_fft: int = 2048
    hop_length: int = 512
    fmin_hz: float = 50.0
    fmax_hz: float = 15_000.0  # below every codec's low-pass, so that its empty top does not count
    floor_db: float = -100.0  # under the file's loudest bin: librosa's amin of 1e-10
    active_range_db: float = 40.0  # 60 dB lets decays and room noise decide the mean

    def n_fft_for(self, sr: int) -> int:
        """Window length in samples at ``sr``: the power of two nearest to 46 ms (sr : int > 0)."""
        if sr <= 0:
            raise ValueError(f"sr={sr} must be positive")
        return max(32, 2 ** round(math.log2(self.n_fft * sr / self.sample_rate_hz)))

    def hop_for(self, sr: int) -> int:
        """Hop in samples at ``sr``: the same overlap as at the reference rate."""
        return self.n_fft_for(sr) * self.hop_length // self.n_fft

    def band_for(self, sr: int) -> slice:
        """Bins of the analysis band at ``sr``: ``fmin_hz`` to ``fmax_hz``, or to Nyquist if lower."""
        n_fft = self.n_fft_for(sr)
        low = math.ceil(self.fmin_hz * n_fft / sr)
        high = min(math.floor(self.fmax_hz * n_fft / sr), n_fft // 2)
        return slice(low, high + 1)


@dataclass(frozen=True)
class FileGrain:
    """One measured file of metadata.json. ``path`` is absolute in memory, relative in the JSON."""

    path: Path
    grain: float
    duration_s: float
    sample_rate_hz: int
    channels: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class SkippedFile:
    """One file that could not be measured, and why."""

    path: Path
    reason: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Metadata:
    """The contract of stage 1: everything that metadata.json holds, in the order of the search."""

    settings: GrainSettings = field(default_factory=GrainSettings)
    files: tuple[FileGrain, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


@dataclass(frozen=True)
class Sound:
    """Audio that can be read from its start again and again, in blocks.

    ``blocks()`` yields float32 arrays of shape (samples, channels), full scale 1.0,
    ``n_samples`` in all.
    """

    sr: int
    n_samples: int
    channels: int
    blocks: Callable[[], Iterator[np.ndarray]]


# Grain


def sound_from_array(y: np.ndarray, sr: int) -> Sound:
    """Wrap samples in memory, shape (n,) or (n, channels), as a `Sound`.

    Raises
    ------
    ValueError
        If ``y`` has another number of dimensions.
    """
    if y.ndim not in (1, 2):
        raise ValueError(f"y.ndim={y.ndim} must be 1 or 2")
    samples = np.asarray(y.reshape(len(y), -1), dtype=np.float32)
    step = BLOCK_FRAMES * 512
    return Sound(
        sr, len(samples), samples.shape[1], lambda: (samples[i : i + step] for i in range(0, len(samples), step))
    )


def frame_blocks(blocks: Iterable[np.ndarray], n_fft: int, hop_length: int) -> Iterator[np.ndarray]:
    """Cut a stream of samples into overlapping windows, a block of windows at a time.

    Frame t covers samples t*hop_length to t*hop_length + n_fft; only frames that are full
    are given (pad the stream to have more).

    Yields
    ------
    np.ndarray, shape (channels, frames, n_fft), a read-only view, at most BLOCK_FRAMES frames
    """
    y, n = np.empty((0, 0), np.float32), 0
    for block in blocks:
        n_frames, start = block_frames(block.shape[1]), 0
        while start < len(block):
            if not n:
                y = np.empty((block.shape[1], (n_frames - 1) * hop_length + n_fft), np.float32)
            part = block[start : start + y.shape[1] - n]
            y[:, n : n + len(part)] = part.T
            start, n = start + len(part), n + len(part)
            if n == y.shape[1]:
                yield np.lib.stride_tricks.sliding_window_view(y, n_fft, axis=1)[:, ::hop_length]
                rest = y[:, n_frames * hop_length :]
                y, n = np.empty_like(y), rest.shape[1]  # a new one: the windows are a view of the old
                y[:, :n] = rest
    if n >= n_fft:
        yield np.lib.stride_tricks.sliding_window_view(y[:, :n], n_fft, axis=1)[:, ::hop_length]


def block_frames(channels: int) -> int:
    """Frames that are worked on at a time: fewer beyond 8 channels, so that memory does not grow with them."""
    return max(4, BLOCK_FRAMES >> max(0, (channels - 1).bit_length() - 3))


def hann_window(n_fft: int) -> np.ndarray:
    """Periodic Hann window, float32, shape (n_fft,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def in_order(function: Callable, items: Iterable, threads: int) -> Iterator:
    """``map`` on some threads: results in the order of the items, only a few of them at work at a time."""
    if threads == 1:
        yield from map(function, items)
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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

    return in_order(powers, frame_blocks(sound.blocks(), n_fft, hop_length), threads)


def mean_power(D: np.ndarray) -> np.ndarray:
    """Bin powers averaged over channels: (channels, frames, bins) complex -> (frames, bins) float32."""
    parts = D.view(np.float32)  # real, imaginary, real ...
    P = np.square(parts[0])
    for channel in parts[1:]:
        P += np.square(channel)
    return (P[:, ::2] + P[:, 1::2]) / np.float32(len(D))


def peak_of(y: np.ndarray) -> float:
    """The largest sample, without its sign.

    Raises
    ------
    PipelineError
        If one is NaN, infinite or beyond all sound.
    """
    peak = max(float(y.max()), -float(y.min()))
    if not math.isfinite(peak):
        raise PipelineError("contains NaN or infinite samples")
    if peak > LOUDEST:
        raise PipelineError(f"contains a sample of {peak:.1e} times full scale: damaged, or no sound")
    return peak


def peak_of_frames(windows: np.ndarray, hop_length: int) -> float:
    """`peak_of` frames that overlap, (channels, frames, n_fft): the first samples of each and all of the last."""
    return max(peak_of(windows[..., :hop_length]), peak_of(windows[:, -1]))


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


# Files


def find_audio(paths: Iterable[Path], extensions: frozenset[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """Audio files below some folders, sorted, each once; a file that is named is always taken.

    Hidden files and folders are left out, symbolic links are followed, and a folder
    that was seen already (a loop of links) is not entered again.

    Raises
    ------
    PipelineError
        If a path does not exist.
    """
    found: dict[Path, None] = {}
    entered: set[tuple[int, int]] = set()
    for path in paths:
        if not os.path.exists(path):
            raise PipelineError(f"{path}: no such file or folder")
        if path.is_file():
            found[Path(os.path.abspath(path))] = None
            continue
        for folder, subfolders, names in os.walk(os.path.abspath(path), followlinks=True):
            try:
                status = os.stat(folder)
            except OSError:  # removed since its name was read
                subfolders.clear()
                continue
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                file = Path(folder, name)
                if not name.startswith(".") and file.suffix.lower() in extensions and file.is_file():
                    found[file] = None
    return list(found)


@contextmanager
def open_audio(path: Path):
    """A ``soundfile.SoundFile`` for reading.

    Raises
    ------
    PipelineError
        With the reason alone (the caller knows the name): not there, empty, not audio, cut off.
    """
    import soundfile as sf

    try:
        n_bytes = os.path.getsize(path)
        if n_bytes == 0:
            raise PipelineError("empty: 0 bytes")
        with sf.SoundFile(os.fsencode(path)) as file:  # names need not be UTF-8
            promised = max(file.frames, _promised_frames(file))
            if promised > FRAMES_PER_BYTE * n_bytes:
                raise PipelineError(f"its header promises {promised} samples, which {n_bytes} bytes can't hold")
            if promised > file.frames:
                raise PipelineError(
                    f"cut off: its header promises {promised / file.samplerate:.2f} s, "
                    f"the file holds {file.frames / file.samplerate:.2f} s"
                )
            yield file
    except sf.LibsndfileError as err:
        raise PipelineError(f"not readable as audio ({err.error_string.strip().rstrip('.')})") from err
    except OSError as err:
        raise PipelineError(f"not readable ({err.strerror})") from err


def _promised_frames(file) -> int:
    """Frames that a RIFF/AIFF header promises, from libsndfile's log; 0 where it makes no complaint."""
    match = re.search(r"^(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if match is None or int(match[1]) >= LENGTH_UNKNOWN or int(match[2]) == 0:
        return 0
    return file.frames * int(match[1]) // int(match[2])


def decoded(file, dtype: str = "float32") -> Iterator[np.ndarray]:
    """The samples of an open file, in blocks of shape (samples, channels).

    Raises
    ------
    PipelineError
        If fewer come than the header promises.
    """
    n_read = 0
    while n_read < file.frames:
        block = file.read(512 * block_frames(file.channels), dtype=dtype, always_2d=True)
        if len(block) == 0:
            raise PipelineError(
                f"damaged: decoding stops after {n_read / file.samplerate:.2f} of {file.frames / file.samplerate:.2f} s"
            )
        n_read += len(block)
        yield block


def open_sound(path: Path) -> Sound:
    """An audio file as a `Sound` that is decoded block by block.

    Raises
    ------
    PipelineError
        As `open_audio`; while reading, also as `decoded`.
    """

    def blocks() -> Iterator[np.ndarray]:
        with open_audio(path) as file:
            yield from decoded(file)

    with open_audio(path) as file:
        if file.frames > LONG_S * file.samplerate and not _has_end(file):
            raise PipelineError(
                f"cut off: of the {file.frames / file.samplerate:.0f} s in its header, the end is not there"
            )
        return Sound(file.samplerate, file.frames, file.channels, blocks)


def _has_end(file) -> bool:
    import soundfile as sf

    with suppress(sf.LibsndfileError):
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    return False


def measure_file(path: Path, settings: GrainSettings) -> FileGrain | SkippedFile:
    """Measure one file; a file that has no grain comes back as skipped, with the reason."""
    size_bytes, mtime_ns = -1, -1
    try:
        size_bytes, mtime_ns = file_stamp(path)
        sound = open_sound(path)
        grain = measure_grain(sound, settings)
        check_unchanged(path, (size_bytes, mtime_ns))
    except PipelineError as err:
        return SkippedFile(path, str(err), size_bytes, mtime_ns)
    return FileGrain(path, grain, sound.n_samples / sound.sr, sound.sr, sound.channels, size_bytes, mtime_ns)


def file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns: what tells a changed file from an unchanged one.

    Raises
    ------
    PipelineError
        If the file is not there.
    """
    try:
        status = os.stat(path)
    except OSError as err:
        raise PipelineError(f"not readable ({err.strerror})") from err
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, stamp: tuple[int, int]) -> None:
    """Refuse what was read from a file that was written meanwhile.

    Raises
    ------
    PipelineError
        If its size or time is no longer ``stamp``.
    """
    if file_stamp(path) != stamp:
        raise PipelineError("changed while it was read; run the same command again when it is whole")


def check_writable(folder: Path) -> None:
    """Make ``folder`` if need be and try a file in it, before hours of work are spent.

    Raises
    ------
    PipelineError
        If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise PipelineError(f"{folder}: can't write there ({err.strerror}); choose another folder") from err


_held: set[Path] = set()  # hidden files of this process; see `held` and `let_go`
_is_ending = False  # no threading.Event: what a cluster gets of this module must be picklable


def _hidden_name(path: Path, kind: str) -> Path:
    """The temporary file or lock beside ``path``: always the same one, short whatever ``path`` is called."""
    return path.with_name(f".grain-{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}.{kind}{path.suffix}")


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed, by kill -9 too; False where there are no such locks.

    Raises
    ------
    BlockingIOError
        If another run holds it.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def held(hidden: Path, path: Path) -> Iterator[None]:
    """Hold the file ``hidden``, made if need be, against all other runs while ``path`` is written; remove it if that fails.

    Raises
    ------
    PipelineError
        If another run holds it, or it can't be made.
    """
    while True:
        try:
            handle = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as err:
            raise PipelineError(f"{path}: can't write ({err.strerror})") from err
        try:
            is_locked = _lock(handle)
            if not is_locked or os.path.samestat(os.fstat(handle), os.stat(hidden)):
                break
        except BlockingIOError as err:
            os.close(handle)
            raise PipelineError(f"{path}: another run is writing it; wait until it has ended") from err
        except FileNotFoundError:
            pass
        os.close(handle)  # its last holder renamed or removed it meanwhile: this is no longer the file of that name
    _held.add(hidden)
    try:
        if _is_ending:  # on a thread that outlives the run for a moment
            raise PipelineError("interrupted")
        yield
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    finally:
        _held.discard(hidden)
        os.close(handle)


def let_go() -> None:
    """Remove the hidden files of this process, and let its threads make no more: the process is about to end."""
    global _is_ending
    _is_ending = True
    for hidden in list(_held):
        hidden.unlink(missing_ok=True)


@contextmanager
def only_run(path: Path) -> Iterator[None]:
    """Let no other run write ``path``, and what belongs to it, until the block ends.

    Raises
    ------
    PipelineError
        If another one does.
    """
    lock = _hidden_name(path, "lock")
    with held(lock, path):
        yield
        lock.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well, and goes if not.

    What a killed run leaves is taken over when ``path`` is written the next time, or removed by `remove_leftovers`.

    Raises
    ------
    PipelineError
        If it can't be written, or another run is writing it.
    """
    part = _hidden_name(path, "part")
    with held(part, path):
        try:
            yield part
            os.replace(part, path)
        except OSError as err:
            raise PipelineError(f"{path}: can't write ({err.strerror or f'{err}; is the disk full?'})") from err


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files that killed runs left in a folder; those of living runs are locked, and stay."""
    for entry in os.scandir(folder):
        if not (PART_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDWR)
            try:
                if _lock(handle):
                    os.unlink(entry.path)
            finally:
                os.close(handle)


def prepare_folder(folder: Path) -> None:
    """What a run does first with a folder that it writes into: `check_writable` and `remove_leftovers`.

    Raises
    ------
    PipelineError
        If nothing can be written there.
    """
    check_writable(folder)
    remove_leftovers(folder)


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
            encoding="utf-8",
            errors="backslashreplace",  # bytes of a name that are no UTF-8: they become \udcff, as JSON writes it
        )


def read_json(path: Path, version: int, made_by: str) -> dict:
    """Read a JSON object of a known version.

    Raises
    ------
    PipelineError
        If the file is missing, damaged or of another version; ``made_by`` is the command that makes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise PipelineError(f"{path}: no such file; make it with: {made_by}") from err
    except (OSError, ValueError, RecursionError) as err:
        raise PipelineError(f"{path}: not readable as JSON ({err}); make it again with: {made_by}") from err
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: holds a {type(content).__name__}, not an object; make it again with: {made_by}")
    if content.get("version") != version:
        raise PipelineError(
            f"{path}: field version is {shown(content.get('version'))}, this program reads {version}; "
            f"make it again with: {made_by}"
        )
    return content


def shown(value: object) -> str:
    """A value out of a file as an error shows it: cut short, and only its type if it is no plain one."""
    if isinstance(value, str | float | bool) or value is None or (isinstance(value, int) and abs(value) < 10**30):
        return reprlib.repr(value)
    return f"of type {type(value).__name__}, or too long"


def parse_record(kind: type, record: object, where: str, folder: Path = Path()):
    """Build a dataclass of numbers, texts and paths (relative to ``folder``) from a JSON object, every field checked.

    Raises
    ------
    PipelineError
        Naming ``where`` and the field that is missing, of the wrong type or out of range.
    """
    if not isinstance(record, dict):
        raise PipelineError(f"{where}: is a {type(record).__name__}, not an object")
    values = {}
    for item in fields(kind):
        if item.name not in record:
            raise PipelineError(f"{where}: field {item.name} is missing")
        value = record[item.name]
        if value is None and item.type.endswith("| None"):
            values[item.name] = None
            continue
        wanted = {"int": int, "float": (int, float)}.get(item.type, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise PipelineError(f"{where}: field {item.name} is {shown(value)}, not a {item.type}")
        if item.type == "float":
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            if not math.isfinite(value):
                raise PipelineError(f"{where}: field {item.name} is not a finite number")
        if item.name == "grain" and not 0 < value <= 1:
            raise PipelineError(f"{where}: field grain is {value!r}, not within 0 to 1")
        if item.type.startswith("Path"):
            if not _can_be_a_path(value):
                raise PipelineError(f"{where}: field {item.name} is {shown(value)}, which no file can be named")
            value = Path(os.path.abspath(os.path.join(folder, value)))
        values[item.name] = value
    return kind(**values)


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def parse_records(kind: type, content: dict, name: str, path: Path) -> tuple:
    """The list ``content[name]`` of the JSON file ``path`` as dataclasses, their paths made absolute.

    Raises
    ------
    PipelineError
        Naming the file and the field that is wrong.
    """
    entries = content.get(name)
    if not isinstance(entries, list):
        raise PipelineError(f"{path}: field {name} is not a list")
    folder = Path(os.path.abspath(path)).parent
    return tuple(parse_record(kind, entry, f"{path}: {name}[{i}]", folder) for i, entry in enumerate(entries))


def json_path(path: Path, folder: Path) -> str:
    """POSIX path of ``path`` relative to ``folder``, as our JSON files hold it."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Write metadata.json; see `Metadata`."""
    folder = Path(os.path.abspath(path)).parent

    def record(item: FileGrain | SkippedFile) -> dict:
        return {**vars(item), "path": json_path(item.path, folder)}

    content = {
        "version": METADATA_VERSION,
        "settings": asdict(metadata.settings),
        "files": [record(item) for item in metadata.files],
        "skipped": [record(item) for item in metadata.skipped],
    }
    write_json(path, content)


def read_metadata(path: Path) -> Metadata:
    """Read metadata.json.

    Raises
    ------
    PipelineError
        Naming the file and the field that is wrong.
    """
    content = read_json(path, METADATA_VERSION, "python measure_audio_grain.py")
    settings = parse_settings(content.get("settings"), f"{path}: settings")
    files = parse_records(FileGrain, content, "files", path)
    return Metadata(settings, files, parse_records(SkippedFile, content, "skipped", path))


def parse_settings(record: object, where: str) -> GrainSettings:
    """Grain settings from JSON, checked to be usable.

    Raises
    ------
    PipelineError
        Naming ``where`` and the field that is wrong.
    """
    settings = parse_record(GrainSettings, record, where)
    checks = {
        "sample_rate_hz": SAMPLE_RATES_HZ[0] <= settings.sample_rate_hz <= SAMPLE_RATES_HZ[1],
        "n_fft": settings.n_fft in {2**power for power in range(5, 17)}
        and WINDOW_S[0] <= settings.n_fft / settings.sample_rate_hz <= WINDOW_S[1],
        "hop_length": settings.hop_length in (settings.n_fft // 4, settings.n_fft // 8),
        "fmin_hz": 0 <= settings.fmin_hz <= SAMPLE_RATES_HZ[0] / 4,  # so that no rate leaves the band empty
        "fmax_hz": SAMPLE_RATES_HZ[0] / 2 <= settings.fmax_hz <= settings.sample_rate_hz / 2,
        "floor_db": -150 <= settings.floor_db < 0,
        "active_range_db": 0 < settings.active_range_db <= 200,
    }
    for name, is_good in checks.items():
        if not is_good:
            raise PipelineError(f"{where}: field {name} is {shown(getattr(settings, name))}, out of range")
    return settings


# Many files at a time


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Inside, `in_parallel` works on a Dask cluster, or if ``address`` is None on threads of this machine.

    Raises
    ------
    PipelineError
        If Dask is not installed, no scheduler answers or the cluster breaks down.
    """
    if address is None:
        yield
        return
    from joblib import parallel_config

    try:
        from distributed import CancelledError, Client, KilledWorker
        from distributed.comm import get_address_host_port
        from joblib._dask import DaskDistributedBackend
    except ImportError as err:
        raise PipelineError("--dask needs Dask; install it with: pip install distributed") from err
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it tells of lost connections in tracebacks
    try:
        get_address_host_port(address)  # before a Client, which hangs where this fails
        client = Client(address, timeout=CLUSTER_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as err:
        raise PipelineError(f"--dask {address}: no scheduler answers there ({err})") from err

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))  # with 1 joblib works here, though more workers may come

    with client:
        try:
            with parallel_config(Backend(client=client, wait_for_workers_timeout=CLUSTER_TIMEOUT_S)):
                yield
        except TimeoutError as err:
            raise PipelineError(f"--dask {address}: its scheduler has no workers; start some: dask worker") from err
        except KilledWorker as err:
            raise PipelineError(f"--dask {address}: one worker after the other died over the same file") from err
        except CancelledError as err:
            raise PipelineError(f"--dask {address}: the scheduler has gone; run the same command again") from err


def on_cluster() -> bool:
    """Whether `in_parallel` works on processes that share no memory with this one."""
    from joblib.parallel import get_active_backend

    return not getattr(get_active_backend(prefer="threads")[0], "supports_sharedmem", False)


def in_parallel(function: Callable, items: Iterable, jobs: int) -> Iterator[tuple]:
    """Call ``function`` for each item, on ``jobs`` threads or on the cluster (`cluster`).

    Items are taken when there is somebody to work on them. What all calls have in common
    belongs into ``function`` (`functools.partial`), which a cluster gets together with its code.

    Yields
    ------
    item and result, in the order in which they are done
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    def call(i: int, item: object) -> tuple[int, object]:
        return i, function(item)

    far = on_cluster()
    sent = _ByValue if far else lambda same: same
    sent_call, at_work = sent(call), {}
    dispatched = f"{'256 + ' if far else ''}2*n_jobs"  # workers that join later find something to do

    def tasks() -> Iterator:
        for i, item in enumerate(items):
            at_work[i] = item
            yield delayed(sent_call)(i, sent(item))

    pool = Parallel(n_jobs=jobs, prefer="threads", pre_dispatch=dispatched, return_as="generator_unordered")
    np.empty(1 << 24, np.uint8)  # glibc keeps freed blocks up to the largest it saw freed; else each one faults in anew
    with threadpool_limits(1, "blas"):  # products are small: threads of BLAS would only wait for each other
        for i, result in pool(tasks()):
            yield at_work.pop(i), result


class _ByValue:
    """Something that becomes itself again where it is unpickled, which needs none of these scripts.

    Its classes and functions travel with it, so that another machine never runs an older version of them.
    """

    def __init__(self, content: object):
        import cloudpickle

        folder = Path(__file__).parent
        for module in list(sys.modules.values()):
            if Path(getattr(module, "__file__", None) or "").parent == folder:
                cloudpickle.register_pickle_by_value(module)
        self._pickled = zlib.compress(cloudpickle.dumps(content), 1)

    def __reduce__(self) -> tuple:
        import cloudpickle

        return cloudpickle.loads, (_Compressed(self._pickled),)


@dataclass(frozen=True)
class _Compressed:
    content: bytes

    def __reduce__(self) -> tuple:
        return zlib.decompress, (self.content,)


# The stage


@dataclass(frozen=True)
class MeasureCounts:
    """What a run did: files measured now, taken over unchanged, and gone since the last run."""

    measured: int
    unchanged: int
    gone: int


def measure_folder(
    paths: Iterable[Path],
    earlier: Metadata | None = None,
    *,
    settings: GrainSettings | None = None,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    rescue: Callable[[Metadata], None] = lambda metadata: None,
) -> tuple[Metadata, MeasureCounts]:
    """Measure every audio file below ``paths``; what an earlier run measured is taken over if unchanged.

    Parameters
    ----------
    paths : folders and files
    earlier : what an earlier run wrote; not used if its settings are others
    jobs : int >= 1, threads (decoding and the transform run outside Python's lock); see `cluster` for machines
    progress : wraps an iterable of results and its length
    rescue : gets what is measured so far, and what is known of the rest, when the run is interrupted

    Raises
    ------
    PipelineError
        If a path does not exist or no audio file is found.
    """
    settings = settings or GrainSettings()
    paths = list(paths)
    found = find_audio(paths)
    if not found:
        where = ", ".join(f"{path}/" if path.is_dir() else str(path) for path in paths)
        raise PipelineError(f"0 files found in {where} (looked for {' '.join(sorted(AUDIO_EXTENSIONS))})")
    known: dict[Path, FileGrain | SkippedFile] = {}
    if earlier is not None and earlier.settings == settings:
        known = {item.path: item for item in (*earlier.files, *earlier.skipped)}
    results = {path: known[path] for path in found if path in known and _is_unchanged(known[path])}
    wanted = [path for path in found if path not in results]
    wanted.sort(key=_n_bytes, reverse=True)  # no long file is left to one core when all others are done

    def metadata_of(items: dict[Path, FileGrain | SkippedFile]) -> Metadata:
        ordered = [items[path] for path in found if path in items]
        return Metadata(
            settings,
            tuple(item for item in ordered if isinstance(item, FileGrain)),
            tuple(item for item in ordered if isinstance(item, SkippedFile)),
        )

    try:
        for path, item in progress(in_parallel(partial(measure_file, settings=settings), wanted, jobs), len(wanted)):
            results[path] = item
    except KeyboardInterrupt:
        if results:
            rescue(metadata_of(known | results))
        raise
    metadata = metadata_of(results)
    gone = sum(item.path not in results for item in (*earlier.files, *earlier.skipped)) if earlier else 0
    return metadata, MeasureCounts(len(wanted), len(found) - len(wanted), gone)


def _n_bytes(path: Path) -> int:
    with suppress(PipelineError):
        return file_stamp(path)[0]
    return 0  # gone since it was found: measuring it will say so


def _is_unchanged(item: FileGrain | SkippedFile) -> bool:
    try:
        return file_stamp(item.path) == (item.size_bytes, item.mtime_ns)
    except PipelineError:  # gone since it was found: measuring it will say so
        return False


def summarise(metadata: Metadata, base: Path) -> list[str]:
    """The lines a musician reads at the end: grain by folder, a histogram, what to mind."""
    folders: dict[str, list[float]] = {}
    for item in metadata.files:
        folders.setdefault(one_line(json_path(item.path.parent, base)), []).append(item.grain)
    everything = [item.grain for item in metadata.files]
    if len(folders) > 1:
        folders["all"] = everything
    width = max(map(len, (*folders, "folder")))
    lines = [f"{'folder':<{width}}  files    minimum     median    maximum"]
    lines += [
        f"{name:<{width}}  {len(grains):5d}  {min(grains):9.2e}  {np.median(grains):9.2e}  {max(grains):9.2e}"
        for name, grains in folders.items()
    ]
    octaves = np.floor(np.log2(everything)).astype(int)
    counts = [int(np.sum((octaves == o) | (octaves == o + 1))) for o in range(octaves.min(), octaves.max() + 1, 2)]
    lines += ["", "from grain   files, a row every two octaves (smooth above, grainy below)"]
    lines += [
        f"{2.0 ** (octaves.min() + 2 * row):10.2e}   {count:5d} {'#' * math.ceil(40 * count / max(counts))}"
        for row, count in enumerate(counts)
    ]
    return lines


def library_warnings(grains: list[float]) -> list[str]:
    """What stands in the way of learning from these files, in words; empty if nothing does."""
    warnings = []
    if len(grains) < FEW_FILES:
        warnings.append(f"only {len(grains)} files: a model learns better from {FEW_FILES} or more")
    if grain_spread_octaves(grains) < NARROW_OCTAVES:
        warnings.append(
            f"the files hardly differ in grain ({grain_spread_octaves(grains):.2f} octaves between the 10th and "
            "90th percentile): add smoother and grainier sounds"
        )
    return warnings


# The demo library


def demo_tone(kind: str, rng: np.random.Generator) -> np.ndarray:
    """The smooth part of a demo sound: sines that stand, move or change chord.

    Returns
    -------
    np.ndarray, shape (samples,), float64, peak 1
    """
    t = np.arange(round(DEMO_LENGTH_S * DEMO_RATE_HZ)) / DEMO_RATE_HZ
    root_hz = 55.0 * 2 ** (rng.integers(0, 25) / 12)
    y = np.zeros_like(t)
    if kind == "Harmonic Progression":
        length_s = DEMO_LENGTH_S / 4
        for chord, steps in enumerate(
            rng.permutation([(0, 4, 7, 11), (5, 9, 12, 16), (7, 11, 14, 17), (9, 12, 16, 19)])
        ):
            # Raised-cosine edges of 0.3 s: shorter ones put grain into every change of chord.
            inside = np.clip((t - chord * length_s) / 0.3 + 0.5, 0, 1) * np.clip(
                ((chord + 1) * length_s - t) / 0.3 + 0.5, 0, 1
            )
            envelope = np.sin(0.5 * np.pi * inside) ** 2
            for step in steps:
                for partial in range(1, 5):
                    hz = root_hz * partial * 2 ** (step / 12)
                    y += envelope * np.sin(2 * np.pi * (hz * t + rng.random())) / partial**1.8
    else:
        for partial in range(1, 10):
            # A low-pass that opens and closes: what subtractive synthesis does, partial by partial.
            cutoff = (
                3 + 2.5 * np.sin(2 * np.pi * (t / DEMO_LENGTH_S + rng.random())) if kind == "Drone/Evolving" else 4.0
            )
            amplitude = partial**-0.7 / (1 + (partial / cutoff) ** 4)
            for detune_hz in (0.0, rng.uniform(0.1, 0.6)):
                y += amplitude * np.sin(2 * np.pi * ((root_hz * partial + detune_hz) * t + rng.random()))
    return y / np.abs(y).max()


def demo_texture(kind: str, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The grainy part of a demo sound: breath, bowing or crackle and tape hiss, by kind of sound.

    Returns
    -------
    np.ndarray, shape (samples, 2), float64, RMS 1 (the channels are independent noise)
    """

    def shaped(noise: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
        hz = np.fft.rfftfreq(len(noise), 1 / DEMO_RATE_HZ)[:, None]
        response = 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 4) / np.sqrt(1 + (hz / high_hz) ** 4)
        return np.fft.irfft(np.fft.rfft(noise, axis=0) * response, len(noise), axis=0)

    noise = rng.standard_normal((len(tone), 2))
    hiss = shaped(rng.standard_normal((len(tone), 2)), 20, 9_000)
    if kind == "Drone/Static":
        texture = shaped(noise, rng.uniform(2_000, 4_000), 12_000)  # breath
    elif kind == "Drone/Evolving":
        texture = tone[:, None] * shaped(noise, 10, rng.uniform(150, 600))  # a bow: noise around each partial
    else:
        texture = shaped(noise * (rng.random(noise.shape) < rng.uniform(30, 150) / DEMO_RATE_HZ), 800, 8_000)  # crackle
    texture = texture / texture.std() + 0.4 * hiss / hiss.std()
    return texture / texture.std()


def demo_sound(kind: str, index: int, grain: float) -> np.ndarray:
    """A demo sound of a given grain: texture is added to the tone until it measures so.

    Returns
    -------
    np.ndarray, shape (samples, channels), float64, peak 0.5; every third is stereo
    """
    from scipy.optimize import brentq

    rng = np.random.default_rng([DEMO_FOLDERS.index(kind), index])
    tone = demo_tone(kind, rng)
    texture = demo_texture(kind, tone, rng)[:, : 2 if index % 3 == 0 else 1]

    def mixed(level_db: float) -> np.ndarray:
        y = tone[:, None] + 10 ** (level_db / 20) * texture
        return 0.5 * y / np.abs(y).max()

    def excess_octaves(level_db: float) -> float:
        return math.log2(measure_grain(sound_from_array(mixed(level_db), DEMO_RATE_HZ)) / grain)

    return mixed(brentq(excess_octaves, -130, 30, xtol=0.05))


def write_demo(folder: Path, progress: Callable[[Iterable, int], Iterable] = lambda items, total: items) -> list[Path]:
    """Write the demo library below ``folder``; files of an earlier run stay as they are.

    Raises
    ------
    PipelineError
        If one of its folders holds anything that is not the demo's.
    """
    import soundfile as sf

    wanted = {}
    for kind in DEMO_FOLDERS:
        for index, grain in enumerate(np.geomspace(*DEMO_GRAINS, DEMO_FILES_PER_FOLDER)):
            name = f"demo_{kind.split('/')[-1].split()[0].lower()}_{index + 1:02d}.flac"
            wanted[folder / kind / name] = (kind, index, float(grain))
    allowed = {*wanted, folder / "Drone/Static", folder / "Drone/Evolving"}
    for top in DEFAULT_FOLDERS:
        strangers = sorted(set((folder / top).rglob("*")) - allowed)
        if strangers:
            raise PipelineError(
                f"{folder / top}: holds {strangers[0].name}, not only the demo; run --demo in an empty folder"
            )
    for kind in DEMO_FOLDERS:
        prepare_folder(folder / kind)
    missing = [path for path in wanted if not path.exists()]
    for path in progress(missing, len(missing)):
        with replacing(path) as temporary:
            sf.write(temporary, demo_sound(*wanted[path]), DEMO_RATE_HZ, "PCM_16", format="FLAC")
    return list(wanted)


# The command line


def progress_bar(description: str, unit: str = "file") -> Callable[[Iterable, int], Iterable]:
    """A progress bar on stderr, with the time left, for anything that is gone through in order."""
    from tqdm import tqdm

    return lambda items, total: tqdm(items, description, total, unit=unit, file=sys.stderr, disable=total == 0 or None)


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {one_line(message)}", file=sys.stderr)


def one_line(path: Path | str) -> str:
    """A name as it can be printed: on one line, whatever characters it holds."""
    return str(path).encode("utf-8", "replace").decode().translate(UNPRINTABLE)


def run_main(
    body: Callable[[], int], interrupted: Callable[[], str] = lambda: "interrupted; run the same command again"
) -> int:
    """Run a stage: what a user can mend becomes one line on stderr and exit status 2, Ctrl-C 130 with ``interrupted()``."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name may hold what can't be printed here
    before = signal.getsignal(signal.SIGINT)
    on_interrupt(_interrupt)
    global _is_ending
    _is_ending = False
    try:
        return body()
    except PipelineError as err:
        print(f"error: {one_line(str(err))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        on_interrupt(before)
        let_go()
        print(f"\n{interrupted()}", file=sys.stderr)
        return 130
    finally:
        on_interrupt(before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but after an import: inside it, C code may swallow it or make another error of it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            again = threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), number])
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def leave(status: int) -> NoReturn:
    """End the process with its threads: one that still computes while Python is taken apart would abort it."""
    let_go()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(status)


def on_interrupt(handler: object) -> None:
    """Set what Ctrl-C does; only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def jobs_argument(text: str) -> int:
    """``-j``: a number of threads of at least 1."""
    jobs = int(text)
    if jobs < 1:
        raise ValueError(text)
    return jobs


def add_parallel_arguments(parser: argparse.ArgumentParser, jobs: int) -> None:
    """``-j`` and ``--dask``, which mean the same in every stage that works on many files."""
    parser.add_argument("-j", "--jobs", type=jobs_argument, default=jobs, help="files at a time (default: %(default)s)")
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="work on the Dask cluster of this scheduler, such as tcp://host:8786, instead of -j threads; its machines "
        "must see the same folders under the same paths",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 1."""
    parser = argparse.ArgumentParser(
        prog="measure_audio_grain.py",
        description="Measure the grain (spectral flatness) of every audio file in some folders and write metadata.json.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folders or files (default: Drone/ and Harmonic Progression/)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_METADATA),
        metavar="FILE",
        help="what to write (default: %(default)s)",
    )
    add_parallel_arguments(parser, os.cpu_count() or 1)
    parser.add_argument(
        "--demo",
        action="store_true",
        help="first write a small library of synthesised sounds into FOLDER (default: here)",
    )
    return parser


def _paths_to_measure(args: argparse.Namespace) -> list[Path]:
    if args.demo:
        if len(args.paths) > 1:
            raise PipelineError(f"--demo writes into one folder, {len(args.paths)} were given")
        folder = args.paths[0] if args.paths else Path()
        files = write_demo(folder, progress_bar("demo library"))
        print(f"{len(files)} demo sounds in {', '.join(str(folder / name) for name in DEFAULT_FOLDERS)}")
        return [folder / name for name in DEFAULT_FOLDERS]
    if args.paths:
        return args.paths
    paths = [Path(name) for name in DEFAULT_FOLDERS if Path(name).is_dir()]
    if not paths:
        raise PipelineError(
            f"neither {DEFAULT_FOLDERS[0]}/ nor {DEFAULT_FOLDERS[1]}/ is in {Path.cwd()}; name a folder, or try --demo"
        )
    return paths


def _run(args: argparse.Namespace) -> int:
    prepare_folder(args.output.parent)
    paths = _paths_to_measure(args)
    with only_run(args.output), cluster(args.dask):
        earlier = read_metadata(args.output) if args.output.exists() else None
        metadata, counts = measure_folder(
            paths,
            earlier,
            jobs=args.jobs,
            progress=progress_bar("measuring"),
            rescue=lambda metadata: write_metadata(args.output, metadata),
        )
        write_metadata(args.output, metadata)
    for item in metadata.skipped:
        warn(f"{one_line(item.path)}: {item.reason}")
    print(f"{counts.measured} measured, {counts.unchanged} unchanged, {counts.gone} gone since the last run")
    if not metadata.files:
        raise PipelineError(f"none of the {len(metadata.skipped)} files could be measured; each is named above")
    print()
    print("\n".join(summarise(metadata, Path.cwd())))
    print()
    for message in library_warnings([item.grain for item in metadata.files]):
        warn(message)
    print(f"wrote {args.output}: {len(metadata.files)} files, {len(metadata.skipped)} skipped")
    option = "" if args.output == Path(DEFAULT_METADATA) else f" --metadata {str(args.output)!r}"
    print(f"next: python convert_to_spectrograms.py{option}")
    return 1 if metadata.skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 1 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_main(lambda: _run(args))


if __name__ == "__main__":
    leave(main())
