"""A sound: samples that are read in blocks, from memory or from a file.

Everything that works on audio takes a `Sound` and goes through its blocks, so that memory does not grow with the
length of a file. Files are decoded by libsndfile, and a damaged file is refused with the reason.

In: arrays, audio files and folders. Out: blocks of samples, shape (samples, channels), float32, full scale 1.0.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import readable_size, scratch_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from soundfile import SoundFile

AUDIO_EXTENSIONS = frozenset((
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".caf",
    ".au", ".snd",
))  # fmt: skip
#: Of common audio formats that libsndfile can't decode. A file is not looked for by these, but reported.
UNREADABLE_EXTENSIONS = frozenset((
    ".m4a", ".m4b", ".m4p", ".aac", ".wma", ".ape", ".wv", ".tta", ".mpc", ".mka", ".ac3", ".dts", ".dsf", ".dff", ".amr",
    ".ra", ".spx", ".shn", ".weba", ".adts", ".eac3", ".tak", ".ofr",
))  # fmt: skip
# STFT frames per block: 128 windows of 2048 float32 samples are 1 MB. Half of that takes a third longer, because the
# number of calls doubles.
BLOCK_FRAMES = 128
NAMED_FILES = 10  # of one format that can't be read; a long list would hide what else is reported
BLOCK_HOP_SAMPLES = 512  # samples that count as one frame where blocks are cut without an STFT
# A program that writes to a pipe leaves a RIFF length near 2**32, because it does not know the length beforehand.
MIN_UNKNOWN_LENGTH = 0xFFFF_F000
INTEGER_FULL_SCALES = {"uint8": 2.0**7, "int8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}


@dataclass(frozen=True)
class DamageLimits:
    """Values beyond which a file is damaged or not audio."""

    max_sample: float = 1e10  # integers stored as floats reach 2**31, and squares of much more overflow float32
    max_frames_per_byte: int = 10_000  # more than any codec reaches on silence, so a header that claims more is wrong
    check_end_above_s: float = 3600.0  # the end of a longer file is sought before memory for it is reserved


DAMAGE_LIMITS = DamageLimits()


@dataclass(frozen=True)
class Sound:
    """Audio that can be read from the start any number of times.

    ``blocks()`` yields float32 arrays of shape (samples, channels), full scale 1.0, ``n_samples`` samples in total.
    """

    sr: int
    n_samples: int
    channels: int
    blocks: Callable[[], Iterator[np.ndarray]]


def block_frames(channels: int) -> int:
    """Number of STFT frames per block: BLOCK_FRAMES up to 8 channels, then fewer, so that memory stays the same."""
    halvings = max(0, (channels - 1).bit_length() - 3)
    return max(4, BLOCK_FRAMES >> halvings)


def float_samples(y: ArrayLike) -> np.ndarray:
    """Samples as an array of floats with full scale 1.0; one that is so already is returned as it is.

    Integers are divided by their full scale. Unsigned ones have silence at 128, as in a WAV file of 8 bits.

    Raises
    ------
    ValueError
        If the numbers are no samples, such as complex numbers, or integers of 64 bits, whose full scale nobody uses.
    """
    y = np.asarray(y)
    if y.dtype.kind == "f":
        return y
    if y.dtype.name not in INTEGER_FULL_SCALES:
        raise ValueError(f"y.dtype={y.dtype} must be a float type or one of {', '.join(INTEGER_FULL_SCALES)}")
    full_scale = INTEGER_FULL_SCALES[y.dtype.name]
    return (y - full_scale if y.dtype.kind == "u" else y) / full_scale


def sound_from_array(y: ArrayLike, sr: int) -> Sound:
    """Wrap samples in memory, shape (n,) or (n, channels), as a `Sound`.

    Raises
    ------
    ValueError
        If ``y`` has another number of dimensions, no channel, or numbers that are no samples (see `float_samples`), or
        ``sr`` is no whole number above 0.
    """
    y = float_samples(y)
    if y.ndim not in (1, 2):
        raise ValueError(f"y.ndim={y.ndim} must be 1 or 2")
    if y.ndim == 2 and y.shape[1] == 0:
        raise ValueError(f"y.shape={y.shape} must have at least one channel")
    if isinstance(sr, (bool, np.bool_)) or not isinstance(sr, Real) or not (sr > 0 and float(sr).is_integer()):
        raise ValueError(f"sr={sr!r} must be a whole number above 0")
    with np.errstate(over="ignore"):  # an infinite sample is refused where the sound is read
        samples = np.asarray(y[:, None] if y.ndim == 1 else y, dtype=np.float32)
    step = BLOCK_FRAMES * BLOCK_HOP_SAMPLES
    starts = range(0, len(samples), step)
    return Sound(int(sr), len(samples), samples.shape[1], lambda: (samples[i : i + step] for i in starts))


def sample_peak(y: np.ndarray) -> float:
    """Largest absolute sample; a `PipelineError` if a sample is NaN, infinite or absurdly large."""
    peak = max(float(y.max()), -float(y.min()))
    if not math.isfinite(peak):
        raise PipelineError("contains NaN or infinite samples")
    if peak > DAMAGE_LIMITS.max_sample:
        raise PipelineError(f"contains a sample of {peak:.1e} times full scale: damaged, or not audio")
    return peak


class LevelMeter:
    """Measures the blocks that pass through it.

    Attributes
    ----------
    peak : float, largest absolute sample so far, full scale 1.0
    energy : float, sum of squares of all samples so far
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self.energy = 0.0

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the blocks unchanged and measure them."""
        for block in blocks:
            self.peak = max(self.peak, sample_peak(block))
            self.energy += float(np.vdot(block, block))
            yield block


def cached_sound(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
    """A sound whose blocks are computed on the first reading and kept for later ones.

    Parameters
    ----------
    like : Sound, gives the sample rate, length and channels
    blocks : np.ndarray, shape (samples, channels); consumed once
    """
    y, n_kept = scratch_array((like.n_samples, like.channels)), 0

    def read() -> Iterator[np.ndarray]:
        nonlocal n_kept
        step = BLOCK_HOP_SAMPLES * block_frames(like.channels)
        yield from (y[i : min(i + step, n_kept)] for i in range(0, n_kept, step))
        for block in blocks:
            y[n_kept : n_kept + len(block)] = block
            n_kept += len(block)
            yield block

    return replace(like, blocks=read)


def find_audio(paths: Iterable[Path], extensions: frozenset[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """Find the audio files in folders and their subfolders, sorted within each folder and without duplicates.

    A file that is named itself is always included, whatever its extension. Hidden files and folders are left out.
    Symbolic links are followed, but no folder is searched twice, so a loop of links ends. What can't be read, such as a
    broken link or a folder without permission, is included as well, so that opening it reports the reason.
    """
    found: dict[Path, None] = {}  # a dict is an ordered set
    searched: set[tuple[int, int]] = set()
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            if is_folder:
                os.scandir(path).close()
        except FileNotFoundError as err:
            raise PipelineError(f"{path}: no such file or folder") from err
        except OSError as err:
            raise PipelineError(f"{path}: not readable ({err.strerror})") from err
        if is_folder:
            found.update(dict.fromkeys(_search_folder(path, extensions, searched)))
        else:
            found[Path(os.path.abspath(path))] = None
    return list(found)


def _search_folder(root: Path, extensions: frozenset[str], searched: set[tuple[int, int]]) -> Iterator[Path]:
    """Audio files below a folder, then the folders that can't be read.

    ``searched`` holds the device and inode of every folder searched so far.
    """
    unreadable: list[str] = []
    walk = os.walk(os.path.abspath(root), onerror=lambda err: unreadable.append(err.filename), followlinks=True)
    for folder, subfolders, names in walk:
        try:
            status = os.stat(folder)
        except OSError:  # it was removed after its name was read
            subfolders.clear()
            continue
        identity = status.st_dev, status.st_ino
        if identity in searched:
            subfolders.clear()
            continue
        searched.add(identity)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix.lower() in extensions:
                yield file
    yield from map(Path, unreadable)


def unreadable_formats(paths: Iterable[Path]) -> list[str]:
    """Find audio below folders in formats that can't be read; returns a line for each format."""
    names_of: dict[str, list[str]] = {}
    for path in find_audio(filter(Path.is_dir, paths), UNREADABLE_EXTENSIONS):
        if (extension := path.suffix.lower()) in UNREADABLE_EXTENSIONS:  # else it is a folder that can't be read
            names_of.setdefault(extension, []).append(printable(path.name))
    return [
        f"{extension} can't be read, left out: {', '.join(names[:NAMED_FILES])}"
        f"{f' and {len(names) - NAMED_FILES} more' if len(names) > NAMED_FILES else ''}; convert to WAV or FLAC first"
        for extension, names in sorted(names_of.items())
    ]


@contextmanager
def open_audio(path: Path) -> Iterator[SoundFile]:
    """Open an audio file for reading.

    The error messages hold only the reason, because the caller adds the name of the file.
    """
    import soundfile as sf

    try:
        n_bytes = readable_size(path)
        if n_bytes == 0:
            raise PipelineError("empty: 0 bytes")
        with sf.SoundFile(os.fsencode(path)) as file:  # as bytes, because a name need not be valid UTF-8
            _check_header(file, n_bytes)
            yield file
    except sf.LibsndfileError as err:
        raise PipelineError(f"not readable as audio ({err.error_string.strip().rstrip('.')})") from err
    except OSError as err:
        raise PipelineError(f"not readable ({err.strerror})") from err


def _check_header(file: SoundFile, n_bytes: int) -> None:
    """Refuse a file whose header promises more samples than there are."""
    promised = max(file.frames, _promised_frames(file))
    if promised > DAMAGE_LIMITS.max_frames_per_byte * n_bytes:
        raise PipelineError(f"its header promises {promised} samples, which {n_bytes} bytes can't hold")
    if promised > file.frames:
        raise PipelineError(
            f"cut off: its header promises {promised / file.samplerate:.2f} s, "
            f"the file holds {file.frames / file.samplerate:.2f} s"
        )


def _promised_frames(file: SoundFile) -> int:
    """Frames that a RIFF or AIFF header promises, from libsndfile's log; 0 if the log reports no mismatch."""
    match = re.search(r"^(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if match is None or int(match[1]) >= MIN_UNKNOWN_LENGTH or int(match[2]) == 0:
        return 0
    return file.frames * int(match[1]) // int(match[2])


def decode_blocks(file: SoundFile, dtype: str = "float32") -> Iterator[np.ndarray]:
    """Decode an open file in blocks of shape (samples, channels); a `PipelineError` if decoding stops too early."""
    n_read = 0
    while n_read < file.frames:
        block = file.read(BLOCK_HOP_SAMPLES * block_frames(file.channels), dtype=dtype, always_2d=True)
        if len(block) == 0:
            raise PipelineError(
                f"damaged: decoding stops after {n_read / file.samplerate:.2f} of {file.frames / file.samplerate:.2f} s"
            )
        n_read += len(block)
        yield block


def open_sound(path: Path) -> Sound:
    """An audio file as a `Sound` that is decoded block by block. Reading it may raise a `PipelineError`, too."""

    def blocks() -> Iterator[np.ndarray]:
        with open_audio(path) as file:
            yield from decode_blocks(file)

    with open_audio(path) as file:
        if file.frames > DAMAGE_LIMITS.check_end_above_s * file.samplerate and not _has_end(file):
            raise PipelineError(
                f"cut off: its header promises {file.frames / file.samplerate:.0f} s, but the end is missing"
            )
        return Sound(file.samplerate, file.frames, file.channels, blocks)


def _has_end(file: SoundFile) -> bool:
    """Whether the last sample of an open file can be decoded."""
    import soundfile as sf

    with suppress(sf.LibsndfileError):
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    return False
