"""Output files: container and sample format, exact conversion of samples, tags, writing and copying.

libsndfile multiplies floats by 2**15 - 1 when it writes 16-bit samples and divides by 2**15 when it reads them. So
samples are converted here, with 2**15 in both directions, and are read back exactly as they were written.

In: blocks of float32 samples, shape (samples, channels), full scale 1.0, or an input file. Out: an audio file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.audio.sound import Sound, decode_blocks, open_audio, open_sound
from neural_grain.base.errors import PipelineError

if TYPE_CHECKING:
    from soundfile import SoundFile

MAX_WAV_BYTES = 2**32 - 2**16  # the length field of WAV has 32 bits; a larger file is written as RF64
FORMATS = {
    **dict.fromkeys((".wav", ".wave"), "WAV"), **dict.fromkeys((".aif", ".aiff", ".aifc"), "AIFF"), ".rf64": "RF64",
    ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3", ".caf": "CAF", ".w64": "W64", ".au": "AU",
}  # fmt: skip
INTEGER_BITS = {
    "PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32,
    "ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32,
}  # fmt: skip
FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
TAGS = ("title", "copyright", "software", "artist", "comment", "date", "album", "license", "tracknumber", "genre")


@dataclass(frozen=True)
class OutputFormat:
    """Container and sample format of a file, by libsndfile's names, and its tags."""

    format: str
    subtype: str
    tags: dict[str, str] = field(default_factory=dict)


def is_lossless(subtype: str) -> bool:
    """Whether a sample format stores samples rather than an approximation of them."""
    return subtype in INTEGER_BITS or subtype in FLOAT_SUBTYPES


def native_dtype(subtype: str) -> str:
    """NumPy type in which libsndfile returns samples exactly as they are stored."""
    if subtype in INTEGER_BITS:
        return "int16" if INTEGER_BITS[subtype] <= 16 else "int32"
    return "float64" if subtype == "DOUBLE" else "float32"


def encode_samples(y: np.ndarray, subtype: str) -> np.ndarray:
    """Convert samples to the values that libsndfile stores unchanged.

    Parameters
    ----------
    y : np.ndarray, full scale 1.0; louder integer samples are clipped
    subtype : str, sample format by libsndfile's name

    Returns
    -------
    np.ndarray, same shape, int16 or int32 left-aligned, or ``y`` itself for float and lossy formats
    """
    if subtype not in INTEGER_BITS:
        return y
    bits, dtype = INTEGER_BITS[subtype], native_dtype(subtype)
    full_scale = 2.0 ** (bits - 1)
    values = np.clip(np.rint(np.float64(y) * full_scale), -full_scale, full_scale - 1).astype(np.int64)
    return (values << (np.iinfo(dtype).bits - bits)).astype(dtype)


def decode_samples(y: np.ndarray, subtype: str) -> np.ndarray:
    """Convert the result of `encode_samples` to what a file of this format reads as: float32, full scale 1.0."""
    return (y / np.float64(-np.iinfo(y.dtype).min)).astype(np.float32) if subtype in INTEGER_BITS else np.float32(y)


def check_subtype(name: str) -> str:
    """The name of a sample format in libsndfile's spelling; a `PipelineError` if there is no such format."""
    import soundfile as sf

    if name.upper() not in sf.available_subtypes():
        raise PipelineError(f"--subtype {name}: no such sample format; use one of {' '.join(sf.available_subtypes())}")
    return name.upper()


def read_format(path: Path) -> OutputFormat:
    """Container, sample format and tags of an existing file."""
    with open_audio(path) as file:
        tags = {name: text for name in TAGS if (text := getattr(file, name, ""))}
        return OutputFormat(file.format, file.subtype, tags)


def output_format(output: Path, stored: OutputFormat, n_bytes: int, subtype: str | None = None) -> OutputFormat:
    """Choose the container by the extension of the output, and the input's sample format if the container can hold it.

    Parameters
    ----------
    output : Path
    stored : OutputFormat of the input
    n_bytes : int, upper limit of the size of the samples
    subtype : str, sample format to use instead; a `PipelineError` if the container can't hold it
    """
    import soundfile as sf

    container = FORMATS.get(output.suffix.lower())
    if container is None:
        extension = output.suffix or "a name without an extension"
        raise PipelineError(f"{output}: can't write {extension}; use one of {' '.join(FORMATS)}")
    if container == "WAV" and n_bytes > MAX_WAV_BYTES:
        container = "RF64"
    if subtype is None:
        subtype = _nearest_subtype(container, stored.subtype, is_opus=output.suffix.lower() == ".opus")
    elif not sf.check_format(container, subtype):
        available = " ".join(sf.available_subtypes(container))
        raise PipelineError(f"{output}: {container} can't hold {subtype}; it holds {available}")
    return OutputFormat(container, subtype, stored.tags)


def _nearest_subtype(container: str, input_subtype: str, *, is_opus: bool) -> str:
    """The input's sample format, or the nearest one that the container can hold."""
    import soundfile as sf

    if is_opus:  # its container is OGG, like that of Vorbis
        return "OPUS"
    # RIFF containers can hold MPEG audio as well, but few programs read that.
    is_misplaced_mpeg = input_subtype.startswith("MPEG") and container != "MP3"
    if sf.check_format(container, input_subtype) and not is_misplaced_mpeg:
        return input_subtype
    if not is_lossless(input_subtype) and sf.check_format(container, "FLOAT"):
        return "FLOAT"  # a lossy file has no bit depth, and float keeps all that was decoded
    return "PCM_24" if sf.check_format(container, "PCM_24") else sf.default_subtype(container)


@contextmanager
def open_output(path: Path, like: Sound, target: OutputFormat) -> Iterator[SoundFile]:
    """Open a file for writing, set its tags, and check on closing that everything was written.

    Parameters
    ----------
    path : Path
    like : Sound, gives the sample rate and the number of channels
    target : OutputFormat
    """
    import soundfile as sf

    try:
        with sf.SoundFile(os.fsencode(path), "w", like.sr, like.channels, target.subtype, format=target.format) as file:
            for name, text in target.tags.items():
                with suppress(sf.LibsndfileError):  # not every format has every tag
                    setattr(file, name, text)
            yield file
        _check_end(path, file.frames)
    except sf.LibsndfileError as err:
        hint = "; is the disk full?" if "System error" in err.error_string else ""
        raise PipelineError(
            f"can't write {target.format} {target.subtype} with {like.channels} channels at {like.sr} Hz "
            f"({err.error_string.strip(' .')}{hint})"
        ) from err
    except OSError as err:
        raise PipelineError(f"can't write ({err.strerror})") from err


def _check_end(path: Path, n_samples: int) -> None:
    """Read the last sample of a finished file, because libsndfile's encoders don't report a full disk."""
    import soundfile as sf

    with suppress(sf.LibsndfileError), sf.SoundFile(os.fsencode(path)) as file:
        if n_samples == 0 or (file.frames >= n_samples and file.seek(n_samples - 1) >= 0 and len(file.read(1))):
            return
    raise PipelineError("can't write: the end of the file can't be read back; is the disk full?")


def written_sound(path: Path, blocks: Iterator[np.ndarray], like: Sound, target: OutputFormat) -> Sound:
    """A sound that is written to a file on its first reading, so that a file need not be read back to measure it.

    A lossy file is written at once and read back, because only the decoder knows what the encoder kept.

    Parameters
    ----------
    path : Path
    blocks : np.ndarray, shape (samples, channels), full scale 1.0; consumed once
    like : Sound, gives the sample rate, length and channels
    target : OutputFormat
    """

    def write() -> Iterator[np.ndarray]:
        with open_output(path, like, target) as file:
            for block in blocks:
                stored = encode_samples(block, target.subtype)
                file.write(stored)
                yield decode_samples(stored, target.subtype)

    if not is_lossless(target.subtype):
        for _ in write():
            pass
        return open_sound(path)
    first_reading = [write()]
    return replace(like, blocks=lambda: first_reading.pop() if first_reading else open_sound(path).blocks())


def copy_samples(source: Path, stored: OutputFormat, output: Path, target: OutputFormat) -> None:
    """Write the samples of a file unchanged in another format, or copy the whole file if the format is the same.

    Parameters
    ----------
    source : Path
    stored : OutputFormat of ``source``
    output : Path
    target : OutputFormat of ``output``
    """
    if (stored.format, stored.subtype) == (target.format, target.subtype):
        try:
            shutil.copyfile(source, output)
        except OSError as err:
            raise PipelineError(f"can't write ({err.strerror})") from err
        return
    with open_audio(source) as file, open_output(output, open_sound(source), target) as copy:
        for block in decode_blocks(file, native_dtype(stored.subtype)):
            copy.write(block)
