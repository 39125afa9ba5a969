"""Damaged audio files for benchmarks/fuzz.py: valid files of every format, each with one kind of damage.

In: a number and a seed. Out: the bytes of so many files, in shares by format. They depend on the seed only.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf

SR = 48_000  # Opus does not have 44.1 kHz
FORMATS = {
    "wav": [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAVEX", "PCM_16"),
            ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "GSM610"), ("WAV", "DOUBLE"), ("RF64", "PCM_16")],
    "flac": [("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    "ogg": [("OGG", "VORBIS")],
    "opus": [("OGG", "OPUS")],
    "mp3": [("MP3", "MPEG_LAYER_III")],
    "aiff": [("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AIFF", "PCM_24"), ("AIFF", "IMA_ADPCM")],
    "caf": [("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("CAF", "FLOAT")],
    "w64": [("W64", "PCM_16")],
    "au": [("AU", "PCM_16"), ("AU", "FLOAT")],
}  # fmt: skip
SHARES = {"wav": 6, "flac": 5, "ogg": 3, "opus": 3, "mp3": 4, "aiff": 5, "caf": 3, "w64": 1, "au": 1}
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 1023, 1024, 0x7FFF, 0x8000, 0xFFFF, 100_000, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1,
            2**36 - 1, 2**48, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
FIELDS = {  # offset, number of bytes and byte order of header fields: rate, channels, bits, sizes
    "wav": [(4, 4, "<"), (16, 4, "<"), (20, 2, "<"), (22, 2, "<"), (24, 4, "<"), (28, 4, "<"), (32, 2, "<"), (34, 2, "<"), (40, 4, "<")],
    "flac": [(5, 3, ">"), (8, 2, ">"), (10, 2, ">"), (12, 3, ">"), (15, 3, ">"), (18, 3, ">"), (18, 8, ">"), (21, 5, ">")],
    "ogg": [(6, 8, "<"), (14, 4, "<"), (18, 4, "<"), (26, 1, "<"), (37, 4, "<"), (39, 1, "<"), (40, 4, "<"), (56, 1, "<")],
    "opus": [(6, 8, "<"), (14, 4, "<"), (18, 4, "<"), (26, 1, "<"), (37, 4, "<"), (39, 1, "<"), (40, 4, "<"), (56, 1, "<")],
    "mp3": [(0, 4, ">"), (1, 2, ">"), (2, 1, ">"), (36, 8, ">"), (44, 4, ">"), (48, 4, ">")],
    "aiff": [(4, 4, ">"), (16, 4, ">"), (20, 2, ">"), (22, 4, ">"), (26, 2, ">"), (28, 2, ">"), (28, 8, ">"), (42, 4, ">")],
    "caf": [(12, 8, ">"), (20, 8, ">"), (28, 4, ">"), (32, 4, ">"), (36, 4, ">"), (40, 4, ">"), (44, 4, ">"), (48, 4, ">")],
    "w64": [(16, 8, "<"), (56, 8, "<"), (64, 2, "<"), (66, 2, "<"), (68, 4, "<"), (76, 2, "<"), (78, 2, "<"), (96, 8, "<")],
    "au": [(4, 4, ">"), (8, 4, ">"), (12, 4, ">"), (16, 4, ">"), (20, 4, ">")],
}  # fmt: skip


class Mutant(NamedTuple):
    """A damaged file."""

    extension: str
    damage: str
    data: bytes


def whole_sound() -> np.ndarray:
    """Half a second of a tone with noise."""
    t = np.arange(SR // 2) / SR
    return 0.3 * np.sin(2 * np.pi * 220 * t) + 0.02 * np.random.default_rng(0).standard_normal(len(t))


def whole_files(folder: Path) -> dict[str, list[bytes]]:
    """The bytes of a valid file in each format and sample format, with one or two channels."""
    y, files = whole_sound(), defaultdict(list)
    for extension, kinds in FORMATS.items():
        for i, (format_, subtype) in enumerate(kinds):
            samples = y if i % 2 or subtype in ("GSM610", "IMA_ADPCM") else np.stack([y, y[::-1]], axis=1)
            path = folder / "whole"
            with sf.SoundFile(path, "w", SR, samples.reshape(len(y), -1).shape[1], subtype, format=format_) as file:
                if i == 0 and extension in ("wav", "mp3", "flac", "ogg", "opus"):
                    file.title = "a title"  # gives some mutants tags to damage
                file.write(samples)
            files[extension].append(path.read_bytes())
            path.unlink()
    return dict(files)


def with_ogg_checksums(data: bytes) -> bytes:
    """An Ogg file whose pages have correct checksums; without them a decoder skips the pages."""
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    out = bytearray(data)
    start = out.find(b"OggS")
    while start >= 0 and start + 27 <= len(out):
        n_segments = out[start + 26]
        stop = start + 27 + n_segments + sum(out[start + 27 : start + 27 + n_segments])
        if stop > len(out):
            break
        out[start + 22 : start + 26] = bytes(4)
        crc = 0
        for byte in out[start:stop]:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ table[(crc >> 24) ^ byte]
        out[start + 22 : start + 26] = struct.pack("<I", crc)
        start = out.find(b"OggS", stop)
    return bytes(out)


def chunks(data: bytes) -> list[tuple[int, int]]:
    """Start and stop of each chunk of a RIFF, AIFF or CAF file; empty for other formats."""
    kinds = {b"RIFF": (12, "<4sI"), b"RF64": (12, "<4sI"), b"FORM": (12, ">4sI"), b"caff": (8, ">4sQ")}
    if data[:4] not in kinds:
        return []
    at, layout = kinds[data[:4]]
    found, n_header = [], struct.calcsize(layout)
    while at + n_header <= len(data):
        _, size = struct.unpack_from(layout, data, at)
        stop = min(len(data), at + n_header + size + size % 2)
        found.append((at, stop))
        at = stop
    return found


def bits_flipped(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Flip up to 49 bits, in the first 200 bytes or anywhere."""
    out = bytearray(data)
    end = min(len(out), 200) if rng.random() < 0.5 else len(out)
    for at in rng.integers(0, end, rng.integers(1, 50)):
        out[at] ^= 1 << rng.integers(8)
    return bytes(out)


def cut(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Remove the end, or a piece of the middle."""
    start = int(rng.integers(0, len(data) if rng.random() < 0.7 else min(len(data), 300)))
    return data[:start] if rng.random() < 0.6 else data[:start] + data[start + int(rng.integers(1, 5000)) :]


def chunk_repeated(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Repeat, remove or move a chunk, or where there are no chunks a piece."""
    places = chunks(data)
    if not places:
        start = int(rng.integers(0, len(data)))
        places = [(start, start + int(rng.integers(1, 3000)))]
    start, stop = places[rng.integers(len(places))]
    piece, times = data[start:stop], int(rng.choice([0, 1, 2, 50]))
    rest = data[:start] + data[stop:]
    at = stop if rng.random() < 0.5 else int(rng.choice([0, 12, start, len(rest)]))
    return data[:at] + piece * times + data[at:] if times else rest


def field_extreme(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Set one to three fields of the header to extreme values."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.75:
            at, size, order = FIELDS[extension][rng.integers(len(FIELDS[extension]))]
        else:
            places = chunks(data)
            at = (
                places[rng.integers(len(places))][0] + 4 if places and rng.random() < 0.5 else int(rng.integers(0, 128))
            )
            size, order = int(rng.choice([1, 2, 4, 8])), "<>"[rng.integers(2)]
        value = int(EXTREMES[rng.integers(len(EXTREMES))]) & (256**size - 1)
        out[at : at + size] = value.to_bytes(size, "little" if order == "<" else "big")
    return bytes(out)


def big_tag(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Add a tag of up to a megabyte, whose size field may be wrong, before or after the sound."""
    true_size = int(rng.choice([10, 1_000_000]))
    stated_size = int(rng.choice([true_size, 0, 2**28 - 1, 2**32 - 1]))
    body = rng.integers(0, 256, true_size, dtype=np.uint8).tobytes()
    if extension in ("mp3", "flac", "ogg", "opus") and rng.random() < 0.7:
        synchsafe = bytes((stated_size >> shift) & 0x7F for shift in (21, 14, 7, 0))
        return b"ID3\x04\x00\x00" + synchsafe + body + data
    order = "<" if extension in ("wav", "w64") else ">"
    kind = [b"LIST", b"INFO", b"id3 ", b"NAME", b"COMT", b"MARK", b"cue ", b"smpl", b"bext", b"PEAK"][rng.integers(10)]
    chunk = kind + struct.pack(order + "I", stated_size) + (b"INFO" if kind == b"LIST" else b"") + body
    at = 12 if rng.random() < 0.6 else len(data)
    return data[:at] + chunk + data[at:]


def wild_samples(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Replace a part of the body by random bytes, zeros or ones, which as floats include NaN and huge numbers."""
    start = int(rng.integers(44, len(data)))
    n = int(rng.integers(1, len(data) - start + 1))
    piece = [rng.integers(0, 256, n, dtype=np.uint8).tobytes(), b"\xff" * n, bytes(n)][rng.integers(3)]
    return data[:start] + piece + data[start + n :]


MUTATIONS: tuple[Callable[[bytes, str, np.random.Generator], bytes], ...] = (
    bits_flipped, cut, chunk_repeated, field_extreme, field_extreme, big_tag, wild_samples,
)  # fmt: skip


def mutants(folder: Path, n: int, seed: int) -> Iterator[Mutant]:
    """Make ``n`` mutants; ``folder`` is for temporary files."""
    rng, files = np.random.default_rng(seed), whole_files(folder)
    extensions = [extension for extension, share in SHARES.items() for _ in range(share)]
    for i in range(n):
        extension = extensions[i % len(extensions)]
        data = files[extension][rng.integers(len(files[extension]))]
        if rng.random() < 0.1:
            other = list(files)[rng.integers(len(files))]
            tail = files[other][rng.integers(len(files[other]))]
            at = int(rng.integers(4, 200))
            damage, data = f"spliced with {other}", data[:at] + tail[at if rng.random() < 0.5 else 0 :]
        else:
            mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
            damage, data = mutation.__name__, mutation(data, extension, rng)
        if extension in ("ogg", "opus") and rng.random() < 0.7:
            data = with_ogg_checksums(data)
        yield Mutant(extension, damage, data)
