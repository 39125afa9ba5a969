"""TODO"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from neural_grain.audio.sound import Sound, decode_blocks, open_audio, open_sound
from neural_grain.base.errors import PipelineError

WAV_LIMIT_BYTES = 2**32 - 2**16  # a WAV can't be longer: then it becomes RF64
FORMATS = {
    **dict.fromkeys((".wav", ".wave"), "WAV"), **dict.fromkeys((".aif", ".aiff", ".aifc"), "AIFF"), ".rf64": "RF64",
    ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3", ".caf": "CAF", ".w64": "W64", ".au": "AU",
}  # fmt: skip
INTEGER_BITS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}
TAGS = ("title", "copyright", "software", "artist", "comment", "date", "album", "license", "tracknumber", "genre")


def native_dtype(subtype: str) -> str:
    """NumPy type in which libsndfile gives samples of a format back exactly as they are stored."""
    if subtype in INTEGER_BITS:
        return "int16" if INTEGER_BITS[subtype] <= 16 else "int32"
    return "float64" if subtype == "DOUBLE" else "float32"


def encode_samples(y: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as libsndfile stores them without touching them again.

    libsndfile scales floats by 2**15 - 1 when it writes and by 2**15 when it reads; rounding here
    makes writing the exact inverse of reading.

    Parameters
    ----------
    y : np.ndarray, full scale 1.0
    subtype : libsndfile's name of the sample format

    Returns
    -------
    np.ndarray, int16 or int32 with the bits at the top, or y itself for float and lossy formats
    """
    if subtype not in INTEGER_BITS:
        return y
    bits, dtype = INTEGER_BITS[subtype], native_dtype(subtype)
    full = 2.0 ** (bits - 1)
    values = np.clip(np.rint(np.float64(y) * full), -full, full - 1).astype(np.int64)
    return (values << (np.iinfo(dtype).bits - bits)).astype(dtype)


def decode_samples(y: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as they read back from a file of a format, float32 with full scale 1.0."""
    return (y / np.float64(-np.iinfo(y.dtype).min)).astype(np.float32) if subtype in INTEGER_BITS else np.float32(y)


@dataclass(frozen=True)
class OutputFormat:
    """Container and sample format of a file, by libsndfile's names, and its tags."""

    format: str
    subtype: str
    tags: dict[str, str] = field(default_factory=dict)


def check_subtype(name: str) -> str:
    """libsndfile's name of a sample format, however it is spelt.

    Raises
    ------
    PipelineError
        If there is none of that name.
    """
    import soundfile as sf

    if name.upper() not in sf.available_subtypes():
        raise PipelineError(f"--subtype {name}: no such sample format; use one of {' '.join(sf.available_subtypes())}")
    return name.upper()


def output_format(output: Path, stored: OutputFormat, n_bytes: int, subtype: str | None = None) -> OutputFormat:
    """The format that an output's name asks for, with the input's sample format where it can hold it.

    Parameters
    ----------
    stored : the input's
    n_bytes : size of the samples, at most
    subtype : sample format asked for instead

    Raises
    ------
    PipelineError
        If the extension is no audio format that can be written, or can't hold the sample format.
    """
    import soundfile as sf

    name = FORMATS.get(output.suffix.lower())
    if name is None:
        raise PipelineError(
            f"{output}: can't write {output.suffix or 'a name without an extension'}; use one of {' '.join(FORMATS)}"
        )
    if name == "WAV" and n_bytes > WAV_LIMIT_BYTES:
        name = "RF64"
    if subtype is not None:
        if not sf.check_format(name, subtype):
            raise PipelineError(
                f"{output}: {name} can't hold {subtype}; it holds {' '.join(sf.available_subtypes(name))}"
            )
        return OutputFormat(name, subtype, stored.tags)
    return OutputFormat(name, _subtype_like(output, name, stored.subtype), stored.tags)


def _subtype_like(output: Path, name: str, input_subtype: str) -> str:
    import soundfile as sf

    if output.suffix.lower() == ".opus":
        return "OPUS"
    lossless = input_subtype in INTEGER_BITS or input_subtype in ("FLOAT", "DOUBLE")
    if sf.check_format(name, input_subtype) and (name == "MP3" or not input_subtype.startswith("MPEG")):
        return input_subtype
    if not lossless and sf.check_format(name, "FLOAT"):
        return "FLOAT"  # a decoded lossy file has no bits; float keeps what was decoded
    return "PCM_24" if sf.check_format(name, "PCM_24") else sf.default_subtype(name)


def tags_of(file) -> dict[str, str]:
    """The texts (title, artist ...) that libsndfile found in an open file."""
    return {name: text for name in TAGS if (text := getattr(file, name, ""))}


@contextmanager
def open_output(path: Path, like: Sound, target: OutputFormat) -> Iterator[object]:
    """A ``soundfile.SoundFile`` for writing, with its tags.

    Raises
    ------
    PipelineError
        If the format can't hold the sound or the disk can't.
    """
    import soundfile as sf

    try:
        with sf.SoundFile(os.fsencode(path), "w", like.sr, like.channels, target.subtype, format=target.format) as file:
            for name, text in target.tags.items():
                with suppress(sf.LibsndfileError):  # a format that has no such tag
                    setattr(file, name, text)
            yield file
        check_whole(path, file.frames)
    except sf.LibsndfileError as err:
        hint = "; is the disk full?" if "System error" in err.error_string else ""
        raise PipelineError(
            f"can't write {target.format} {target.subtype} with {like.channels} channels at {like.sr} Hz ({err.error_string.strip(' .')}{hint})"
        ) from err
    except OSError as err:
        raise PipelineError(f"can't write ({err.strerror})") from err


def check_whole(path: Path, n_samples: int) -> None:
    """Look for the last sample of a file just written: of a disk that is full by then, libsndfile's encoders say nothing.

    Raises
    ------
    PipelineError
        If it is not there.
    """
    import soundfile as sf

    with suppress(sf.LibsndfileError), sf.SoundFile(os.fsencode(path)) as file:
        if n_samples == 0 or (file.frames >= n_samples and file.seek(n_samples - 1) >= 0 and len(file.read(1))):
            return
    raise PipelineError("can't write: the last of it does not read back; is the disk full?")


def written_sound(path: Path, blocks: Iterator[np.ndarray], like: Sound, target: OutputFormat) -> Sound:
    """A sound that is written to a file while it is first read, so that it need not be read back.

    What a lossy format makes of it is known only from the file, so there it is written at once.

    Raises
    ------
    PipelineError
        If the format can't hold the sound or the disk can't; while reading, too.
    """

    def write() -> Iterator[np.ndarray]:
        with open_output(path, like, target) as file:
            for block in blocks:
                stored = encode_samples(block, target.subtype)
                file.write(stored)
                yield decode_samples(stored, target.subtype)

    if target.subtype not in INTEGER_BITS and target.subtype not in ("FLOAT", "DOUBLE"):
        for _ in write():
            pass
        return open_sound(path)
    unwritten = [write()]
    return replace(like, blocks=lambda: unwritten.pop() if unwritten else open_sound(path).blocks())


def copy_samples(source: Path, stored: OutputFormat, output: Path, target: OutputFormat) -> None:
    """The input's samples as they are: the file itself if the format stays, else sample by sample.

    Raises
    ------
    PipelineError
        If the input is damaged or the output can't be written.
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
