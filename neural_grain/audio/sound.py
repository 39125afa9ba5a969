"""A sound: samples that are read in blocks, from memory or from a file.

Everything that works on audio takes a `Sound` and goes through its blocks, so that memory does not grow with the
length of a file. Files are decoded by libsndfile, and a damaged file is refused with the reason.

In: arrays and audio files. Out: blocks of samples, shape (samples, channels), float32, full scale 1.0.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.audio.layout import from_codec_order
from neural_grain.audio.structure import Stream, StreamFile, find_streams
from neural_grain.base.errors import PipelineError, SystemRefusal
from neural_grain.base.files import readable_size, scratch_array
from neural_grain.base.parallel import ONE_BLAS_THREAD

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from soundfile import SoundFile

# STFT frames per block: 128 windows of 2048 float32 samples are 1 MB. Half of that takes a third longer, because the
# number of calls doubles.
BLOCK_FRAMES = 128
#: Errors of libsndfile that are not about a file's content: of the system, no such file, not opened, no memory.
SYSTEM_ERRORS = frozenset((2, 7, 9, 17))
BLOCK_HOP_SAMPLES = 512  # samples that count as one frame where blocks are cut without an STFT
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


def interleave(channels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Samples (channels, n) as (n, channels), as files hold them; ten times as fast as to copy the transposed array."""
    return np.stack(channels, axis=-1, out=out)


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
            with ONE_BLAS_THREAD:
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


def audio_streams(path: Path) -> list[Stream]:
    """The streams of an audio file.

    The error messages hold only the reason, because the caller adds the name of the file.
    """
    try:
        if readable_size(path) == 0:
            raise PipelineError("empty: 0 bytes")
        return find_streams(path)
    except OSError as err:
        raise SystemRefusal(f"not readable ({err.strerror})") from err


def libsndfile_path(path: Path) -> str | bytes:
    """The name of a file as soundfile passes it on unchanged.

    That is bytes, because a name need not be valid UTF-8, but text on Windows, where libsndfile would take bytes for
    text in the code page of the system, which has no place for most letters.
    """
    return str(path) if sys.platform == "win32" else os.fsencode(path)


@contextmanager
def open_stream(path: Path, stream: Stream) -> Iterator[SoundFile]:
    """Open one stream of an audio file to read it from its start to its end."""
    import soundfile as sf

    try:
        with ExitStack() as stack:
            is_whole_file = not stream.prefix and (stream.start, stream.stop) == (0, os.path.getsize(path))
            source = libsndfile_path(path) if is_whole_file else stack.enter_context(StreamFile(path, stream))
            file = stack.enter_context(sf.SoundFile(source))
            # soundfile seeks after every read, which takes time and fails at the end of a FLAC of unknown length.
            file.seekable = lambda: False
            _check_length(file, stream)
            yield file
    except sf.LibsndfileError as err:
        kind = SystemRefusal if err.code in SYSTEM_ERRORS else PipelineError
        raise kind(f"not readable as audio ({err.error_string.strip().rstrip('.')})") from err
    except OSError as err:
        raise SystemRefusal(f"not readable ({err.strerror})") from err


def _check_length(file: SoundFile, stream: Stream) -> None:
    """Refuse a stream whose header promises more samples than there are."""
    n_bytes = stream.stop - stream.start
    if stream.is_length_known and file.frames > DAMAGE_LIMITS.max_frames_per_byte * n_bytes:
        raise PipelineError(f"its header promises {file.frames} samples, which {n_bytes} bytes can't hold")
    if stream.promised_bytes > stream.held_bytes and file.frames:
        held_s = file.frames / file.samplerate
        promised_s = held_s * stream.promised_bytes / stream.held_bytes
        raise PipelineError(f"cut off: its header promises {promised_s:.2f} s, the file holds {held_s:.2f} s")


def decode_blocks(file: SoundFile, n_samples: int, dtype: str = "float32") -> Iterator[np.ndarray]:
    """Decode an open stream in blocks of shape (samples, channels); a `PipelineError` if it ends before so many."""
    n_read = 0
    while n_read < n_samples:
        n_wanted = min(BLOCK_HOP_SAMPLES * block_frames(file.channels), n_samples - n_read)
        block = file.read(n_wanted, dtype=dtype, always_2d=True)
        if len(block) == 0:
            raise PipelineError(
                f"damaged: decoding stops after {n_read / file.samplerate:.2f} of {n_samples / file.samplerate:.2f} s"
            )
        n_read += len(block)
        yield from_codec_order(block, file.subtype)


def open_sound(path: Path, dtype: str = "float32") -> Sound:
    """An audio file as a `Sound` that is decoded block by block. Reading it may raise a `PipelineError`, too.

    Streams that were joined to one file are read one after the other.

    Parameters
    ----------
    dtype : "float32", or "float64" for samples of more than 24 bits exactly as they are stored
    """
    streams = audio_streams(path)
    kinds: dict[tuple[int, int], None] = {}
    lengths = []
    for stream in streams:
        with open_stream(path, stream) as file:
            kinds[file.samplerate, file.channels] = None
            lengths.append(_stream_length(file, stream))
    if len(kinds) > 1:
        described = " and ".join(f"{sr} Hz with {channels} channels" for sr, channels in kinds)
        raise PipelineError(f"holds several streams of different kinds: {described}")

    def blocks() -> Iterator[np.ndarray]:
        for stream, n_samples in zip(streams, lengths, strict=True):
            with open_stream(path, stream) as file:
                yield from decode_blocks(file, n_samples, dtype)

    ((sr, channels),) = kinds
    return Sound(sr, sum(lengths), channels, blocks)


def _stream_length(file: SoundFile, stream: Stream) -> int:
    """Samples of an open stream, found by decoding it if its header does not state them."""
    if not stream.is_length_known:
        n_block, n_samples = BLOCK_HOP_SAMPLES * block_frames(file.channels), 0
        while n_read := len(file.read(n_block, always_2d=True)):
            n_samples += n_read
        return n_samples
    if file.frames > DAMAGE_LIMITS.check_end_above_s * file.samplerate and not _has_end(file):
        raise PipelineError(
            f"cut off: its header promises {file.frames / file.samplerate:.0f} s, but the end is missing"
        )
    return file.frames


def _has_end(file: SoundFile) -> bool:
    """Whether the last sample of an open file can be decoded."""
    import soundfile as sf

    with suppress(sf.LibsndfileError):
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    return False
