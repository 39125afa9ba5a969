"""Output files: container and sample format, conversion of samples, writing and copying.

libsndfile multiplies floats by 2**15 - 1 when it writes 16-bit samples and divides by 2**15 when it reads them. So
samples are converted here, with 2**15 in both directions, and are read back exactly as they were written.

In: blocks of float32 samples, shape (samples, channels), full scale 1.0, or an input file. Out: an audio file.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.audio.chunks import AIFF, read_body, read_chunks
from neural_grain.audio.layout import check_layout, to_codec_order
from neural_grain.audio.limiter import CEILING, limit_peaks
from neural_grain.audio.sound import LevelMeter, Sound, audio_streams, libsndfile_path, open_sound, open_stream
from neural_grain.audio.stated_layout import read_mask
from neural_grain.base.errors import PipelineError

if TYPE_CHECKING:
    from soundfile import SoundFile

# Of samples: the length of a WAV or AIFF has 32 bits, and it holds other things, too.
MAX_32_BIT_BYTES = 2**32 - 2**24
FORMATS = {
    **dict.fromkeys((".wav", ".wave"), "WAV"), **dict.fromkeys((".aif", ".aiff", ".aifc"), "AIFF"), ".rf64": "RF64",
    ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3", ".caf": "CAF", ".w64": "W64", ".au": "AU",
}  # fmt: skip
INTEGER_BITS = {
    "PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32,
    "ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32,
}  # fmt: skip
FLOAT_SUBTYPES = {"FLOAT": 4, "DOUBLE": 8}  # and the bytes of a sample
# Encoders that fill up the last block of samples, so that the output would be longer than the input.
BLOCK_SUBTYPES = (
    "IMA_ADPCM", "MS_ADPCM", "VOX_ADPCM", "GSM610", "G721_32", "G723_24", "G723_40", "NMS_ADPCM_16", "NMS_ADPCM_24",
    "NMS_ADPCM_32",
)  # fmt: skip
LOSSY_SUBTYPES = ("VORBIS", "OPUS", "MPEG_LAYER_III")
LOSSY_CEILING = 0.89  # 1 dB below full scale: a lossy codec changes the waveform, and its peaks with it
AIFF_DATA_OFFSET = 8  # of the samples in the body of their chunk
DITHER_SEED = 0  # so that every rendering of a file is the same


@dataclass(frozen=True)
class OutputFormat:
    """Container and sample format of a file, by libsndfile's names, and its channel layout.

    Parameters
    ----------
    mask : int, channel mask as in `neural_grain.audio.layout`
    dither : bool, True if the samples have more bits than the format
    """

    format: str
    subtype: str
    mask: int = 0
    dither: bool = False


def is_lossless(subtype: str) -> bool:
    """Whether a sample format stores samples rather than an approximation of them."""
    return subtype in INTEGER_BITS or subtype in FLOAT_SUBTYPES


def native_dtype(subtype: str) -> str:
    """NumPy type in which libsndfile returns samples exactly as they are stored."""
    if subtype in INTEGER_BITS:
        return "int16" if INTEGER_BITS[subtype] <= 16 else "int32"
    return "float64" if subtype == "DOUBLE" else "float32"


def sample_bits(subtype: str) -> int:
    """Bits that distinguish the samples of a format; those of a lossy format decode to floats."""
    return INTEGER_BITS.get(subtype, 64 if subtype == "DOUBLE" else 33)


def sample_bytes(subtype: str) -> int:
    """Bytes that a sample takes in a file; a compressed one takes no more than one."""
    return -(-INTEGER_BITS[subtype] // 8) if subtype in INTEGER_BITS else FLOAT_SUBTYPES.get(subtype, 1)


def has_headroom(subtype: str) -> bool:
    """Whether a sample format can hold samples beyond full scale."""
    return subtype in FLOAT_SUBTYPES or subtype in LOSSY_SUBTYPES


def rendering_ceiling(subtype: str, input_peak: float) -> float:
    """Largest absolute sample that a rendering may have in a sample format, so that it can be played without clipping.

    Parameters
    ----------
    input_peak : float, of the sound that is rendered: a float file may stay as loud as it is
    """
    if subtype in FLOAT_SUBTYPES:
        return max(1.0, input_peak)
    return LOSSY_CEILING if subtype in LOSSY_SUBTYPES else CEILING


def encode_samples(y: np.ndarray, subtype: str, dither: np.random.Generator | None = None) -> np.ndarray:
    """Convert samples to the values that libsndfile stores unchanged.

    Parameters
    ----------
    y : np.ndarray, full scale 1.0; louder integer samples are clipped
    subtype : str, sample format by libsndfile's name
    dither : source of noise with a triangular distribution of two steps, which is added before rounding (Lipshitz,
        Wannamaker and Vanderkooy, "Quantization and dither: a theoretical survey", JAES 1992); none if None

    Returns
    -------
    np.ndarray, same shape, int16 or int32 left-aligned, or ``y`` itself for float and lossy formats
    """
    if subtype not in INTEGER_BITS:
        return y
    bits, dtype = INTEGER_BITS[subtype], native_dtype(subtype)
    full_scale = 2.0 ** (bits - 1)
    scaled = np.float64(y) * full_scale
    if dither is not None:
        scaled += dither.random(y.shape) - dither.random(y.shape)
    values = np.clip(np.rint(scaled), -full_scale, full_scale - 1).astype(np.int64)
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
    """Container, sample format and channel layout of an existing file."""
    with open_stream(path, audio_streams(path)[0]) as file:
        format_name = "WAV" if file.format == "WAVEX" else file.format  # they differ in their format chunk only
        return OutputFormat(format_name, file.subtype, read_mask(path, format_name, file.subtype, file.channels))


def output_format(
    output: Path, stored: OutputFormat, sound: Sound, *, subtype: str | None = None, is_copy: bool = False
) -> OutputFormat:
    """Choose the container by the extension of the output, and the input's sample format if the container can hold it.

    Parameters
    ----------
    output : Path
    stored : OutputFormat of the input
    sound : Sound, the input
    subtype : str, sample format to use instead; a `PipelineError` if the container can't hold it
    is_copy : bool, True if the samples stay as they are
    """
    import soundfile as sf

    container = FORMATS.get(output.suffix.lower())
    if container is None:
        extension = output.suffix or "a name without an extension"
        raise PipelineError(f"{output}: can't write {extension}; use one of {' '.join(FORMATS)}")
    if subtype is None:
        is_opus = output.suffix.lower() == ".opus"
        subtype = _nearest_subtype(container, stored, is_opus=is_opus, is_copy=is_copy)
    elif not sf.check_format(container, subtype):
        available = " ".join(name for name in sf.available_subtypes(container) if name not in BLOCK_SUBTYPES)
        raise PipelineError(f"{output}: {container} can't hold {subtype}; it holds {available}")
    elif subtype in BLOCK_SUBTYPES and not (is_copy and (container, subtype) == (stored.format, stored.subtype)):
        raise PipelineError(f"{output}: {subtype} stores whole blocks, so the length would change; choose PCM_16")
    if (container, subtype) != (stored.format, stored.subtype):
        check_layout(subtype, sound.channels, stored.mask)
    n_bytes = sound.n_samples * sound.channels * sample_bytes(subtype)
    if container == "AIFF" and n_bytes > MAX_32_BIT_BYTES:
        raise PipelineError(f"{output}: an AIFF holds 4 GB, and the samples need more; choose .wav, .caf or .flac")
    if container == "WAV" and n_bytes > MAX_32_BIT_BYTES:
        container = "RF64"
    return OutputFormat(container, subtype, stored.mask, dither=sample_bits(subtype) < sample_bits(stored.subtype))


def _nearest_subtype(container: str, stored: OutputFormat, *, is_opus: bool, is_copy: bool) -> str:
    """The input's sample format, or the nearest one that the container can hold."""
    import soundfile as sf

    if is_opus:  # its container is OGG, like that of Vorbis
        return "OPUS"
    is_block_format = stored.subtype in BLOCK_SUBTYPES and not (is_copy and container == stored.format)
    subtype = "PCM_16" if is_block_format else stored.subtype
    # RIFF containers can hold MPEG audio as well, but few programs read that.
    is_misplaced_mpeg = subtype.startswith("MPEG") and container != "MP3"
    if sf.check_format(container, subtype) and not is_misplaced_mpeg:
        return subtype
    if not is_lossless(subtype) and sf.check_format(container, "FLOAT"):
        return "FLOAT"  # a lossy file has no bit depth, and float keeps all that was decoded
    return "PCM_24" if sf.check_format(container, "PCM_24") else sf.default_subtype(container)


@contextmanager
def open_output(path: Path, like: Sound, target: OutputFormat) -> Iterator[SoundFile]:
    """Open a file for writing, and check on closing that everything was written.

    Parameters
    ----------
    path : Path
    like : Sound, gives the sample rate and the number of channels
    target : OutputFormat
    """
    import soundfile as sf

    try:
        with sf.SoundFile(
            libsndfile_path(path), "w", like.sr, like.channels, target.subtype, format=target.format
        ) as file:
            yield file
        if target.format == "AIFF":
            _correct_aiff_length(path, file.frames)
        _check_end(path, file.frames)
    except sf.LibsndfileError as err:
        hint = "; is the disk full?" if "System error" in err.error_string else ""
        raise PipelineError(
            f"can't write {target.format} {target.subtype} with {like.channels} channels at {like.sr} Hz "
            f"({err.error_string.strip(' .')}{hint})"
        ) from err
    except OSError as err:
        raise PipelineError(f"can't write ({err.strerror})") from err


def _correct_aiff_length(path: Path, n_samples: int) -> None:
    """Write the true length into an AIFF: libsndfile counts the byte that pads an odd number of samples as a sample."""
    with open(path, "r+b") as file:
        chunks = {chunk.id: chunk for chunk in read_chunks(file, AIFF)}
        common, data = chunks[b"COMM"], chunks[b"SSND"]
        written = int.from_bytes(read_body(file, common)[2:6], "big")
        if written == n_samples + 1 and data.size == AIFF_DATA_OFFSET + written:
            for start, value in ((common.start + 2, n_samples), (data.start - 4, data.size - 1)):
                file.seek(start)
                file.write(value.to_bytes(4, "big"))


def _check_end(path: Path, n_samples: int) -> None:
    """Read the last sample of a finished file, because libsndfile's encoders don't report a full disk."""
    import soundfile as sf

    with suppress(sf.LibsndfileError), sf.SoundFile(libsndfile_path(path)) as file:
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
        dither = np.random.default_rng(DITHER_SEED) if target.dither else None
        with open_output(path, like, target) as file:
            for block in blocks:
                stored = encode_samples(block, target.subtype, dither)
                file.write(to_codec_order(stored, target.subtype))
                yield decode_samples(stored, target.subtype)

    if not is_lossless(target.subtype):
        for _ in write():
            pass
        return open_sound(path)
    first_reading = [write()]
    return replace(like, blocks=lambda: first_reading.pop() if first_reading else open_sound(path).blocks())


@dataclass(frozen=True)
class Copy:
    """What became of samples that were to stay as they are.

    Parameters
    ----------
    is_identical : bool, True if the output has the bytes of the input
    limited_db : float, by which peaks beyond full scale were turned down for a format that can't hold them
    level_db : float, change of the RMS level by a gain
    """

    is_identical: bool
    limited_db: float = 0.0
    level_db: float = 0.0


def copy_samples(source: Path, stored: OutputFormat, output: Path, target: OutputFormat, gain: float = 1.0) -> Copy:
    """Write the samples of a file in another format or with a gain; without either, copy the whole file.

    Samples that the format can hold are written exactly; others are rounded with dither. A file whose header does not
    state its length is written anew, unless that would encode it a second time.

    Parameters
    ----------
    source : Path
    stored : OutputFormat of ``source``
    output : Path
    target : OutputFormat of ``output``
    gain : float > 0, factor on the samples; with one, peaks are limited as those of a rendering
    """
    is_sound_header = len(streams := audio_streams(source)) == 1 and not streams[0].prefix
    is_same_format = gain == 1 and (stored.format, stored.subtype) == (target.format, target.subtype)
    if is_same_format and (is_sound_header or not is_lossless(stored.subtype)):
        try:
            shutil.copyfile(source, output)
        except OSError as err:
            raise PipelineError(f"can't write ({err.strerror})") from err
        return Copy(is_identical=True)
    sound = open_sound(source, "float64")
    level, is_exact = _level_and_exactness(sound, target.subtype, gain)
    if gain != 1:
        ceiling = rendering_ceiling(target.subtype, level.peak / gain)
    else:  # without one, a format that can hold full scale keeps it
        ceiling = CEILING if level.peak > 1.0 and not has_headroom(target.subtype) else math.inf
    output_level = LevelMeter()
    blocks = (gain * block for block in sound.blocks())
    if level.peak > ceiling:
        blocks = limit_peaks(blocks, ceiling, sound)
    blocks = output_level.through(blocks)
    for _ in written_sound(output, blocks, sound, replace(target, dither=target.dither and not is_exact)).blocks():
        pass
    limited_db = 20 * math.log10(max(1.0, level.peak / ceiling))
    level_db = 10 * math.log10(output_level.energy * gain**2 / level.energy) if gain != 1 and level.energy else 0.0
    return Copy(is_identical=False, limited_db=limited_db, level_db=level_db)


def _level_and_exactness(sound: Sound, subtype: str, gain: float) -> tuple[LevelMeter, bool]:
    """The level of a sound times a gain, and whether an integer format holds all its samples exactly."""
    full_scale = 2.0 ** (INTEGER_BITS[subtype] - 1) if subtype in INTEGER_BITS else None
    meter, is_exact = LevelMeter(), full_scale is not None
    for block in meter.through(gain * block for block in sound.blocks()):
        is_exact = is_exact and bool(np.all(block * full_scale == np.rint(block * full_scale)))
    return meter, is_exact
