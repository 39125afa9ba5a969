"""TODO"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import scratch_array

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
LENGTH_UNKNOWN = 0xFFFF_F000  # a streaming writer leaves a RIFF length near 2**32: no promise was made
LOUDEST = 1e10  # times full scale; float32 can't square much more, and integers kept as floats reach 2**31
FRAMES_PER_BYTE = 10_000  # more than any codec makes of silence: a header that promises more lies
LONG_S = 3600  # of a file that says it is longer the end is looked for, before room is made for it


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


def block_frames(channels: int) -> int:
    """Frames that are worked on at a time: fewer beyond 8 channels, so that memory does not grow with them."""
    return max(4, BLOCK_FRAMES >> max(0, (channels - 1).bit_length() - 3))


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


def sample_peak(y: np.ndarray) -> float:
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


class LevelMeter:
    """Reads the largest sample, full scale 1.0, and the energy of the blocks that go through it."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.energy = 0.0

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, read on the way."""
        for block in blocks:
            self.peak = max(self.peak, sample_peak(block))
            self.energy += float(np.vdot(block, block))
            yield block


def cached_sound(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
    """A sound that is made while it is first read, and kept (a very large one in a file without a name)."""
    y, n_kept = scratch_array((like.n_samples, like.channels)), 0

    def read() -> Iterator[np.ndarray]:
        nonlocal n_kept
        step = 512 * block_frames(like.channels)
        yield from (y[i : min(i + step, n_kept)] for i in range(0, n_kept, step))
        for block in blocks:
            y[n_kept : n_kept + len(block)] = block
            n_kept += len(block)
            yield block

    return replace(like, blocks=read)


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


def decode_blocks(file, dtype: str = "float32") -> Iterator[np.ndarray]:
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
        As `open_audio`; while reading, also as `decode_blocks`.
    """

    def blocks() -> Iterator[np.ndarray]:
        with open_audio(path) as file:
            yield from decode_blocks(file)

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


def rms_of(sound: Sound) -> float:
    """Root mean square of all samples of a sound."""
    return math.sqrt(
        sum(float(np.square(block, dtype=np.float64).sum()) for block in sound.blocks())
        / (sound.n_samples * sound.channels)
    )
