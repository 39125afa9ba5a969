"""Chunks: the parts that WAV, RF64, W64, AIFF and CAF files consist of.

A chunk is an identifier, a size and a body. One chunk holds the samples. The others hold the format, texts, loop
points, markers and whatever else programs keep in a file. All these containers differ only in the width and order of
the numbers:

    WAV, RF64   EBU Tech 3306 (RF64), Microsoft "Multimedia Programming Interface and Data Specifications 1.0" (RIFF)
    W64         Sony Wave64: a 16-byte GUID and a 64-bit size that includes both
    AIFF        Apple "Audio Interchange File Format 1.3"
    CAF         Apple "Core Audio Format Specification 1.0"

In: an open binary file. Out: its `Chunk`s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write

W64_GUID_END = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of all chunks but the outermost
STARTS = (b"RIFF", b"RF64", b"RIFX", b"FORM", b"caff", b"riff")  # of a file; another file may follow the first
DS64_DATA_SIZE_OFFSET = 8  # in the body of the chunk with the 64-bit sizes of RF64
COPY_BYTES = 1 << 20
MAX_CHUNKS = 10_000  # in one file; more are taken for damage


@dataclass(frozen=True)
class Container:
    """How a container lays out its chunks."""

    byteorder: Literal["little", "big"]
    data_id: bytes  # of the chunk with the samples
    first_chunk: int  # offset of the first chunk from the start of the container
    id_bytes: int = 4
    size_bytes: int = 4
    alignment: int = 2  # of the start of every chunk
    size_covers_header: bool = False

    @property
    def header_bytes(self) -> int:
        """Length of the identifier and the size of a chunk."""
        return self.id_bytes + self.size_bytes


RIFF = Container("little", b"data", 12)
RIFX = Container("big", b"data", 12)
AIFF = Container("big", b"SSND", 12)
CAF = Container("big", b"data", 8, size_bytes=8, alignment=1)
W64 = Container("little", b"data" + W64_GUID_END, 40, 16, 8, alignment=8, size_covers_header=True)
FAMILIES = {"RF64": "WAV", "WAVEX": "WAV"}  # formats of libsndfile that share their chunks with another one
FAMILY_CONTAINERS = {"WAV": RIFF, "AIFF": AIFF, "CAF": CAF, "W64": W64}


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in a file: ``size`` is what its header says, which may be more than the file holds."""

    id: bytes
    start: int  # offset of the body
    size: int  # bytes of the body


def container_at(file: BinaryIO, begin: int = 0) -> Container | None:
    """The container that starts at an offset of a file, or None if none of the known ones does."""
    file.seek(begin)
    head = file.read(12)
    if head[8:] == b"WAVE":
        return {b"RIFF": RIFF, b"RF64": RIFF, b"RIFX": RIFX}.get(head[:4])
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return AIFF
    return {b"caff": CAF, b"riff": W64}.get(head[:4])


def read_chunks(file: BinaryIO, container: Container, begin: int = 0, *, after: Chunk | None = None) -> Iterator[Chunk]:
    """Yield the chunks of a container up to the first whose header is incomplete or whose size is impossible.

    RF64 keeps the size of its samples in the chunk "ds64"; the size of its data chunk is taken from there.

    Parameters
    ----------
    begin : int, offset at which the container starts
    after : Chunk, start with the one that follows it instead of the first
    """
    position = _end_of(after, container, begin) if after else begin + container.first_chunk
    data_size_64, n_bytes = None, file.seek(0, os.SEEK_END)
    for _ in range(MAX_CHUNKS):
        if position >= n_bytes:
            return
        file.seek(position)
        header = file.read(container.header_bytes)
        if len(header) < container.header_bytes:
            return
        chunk_id = header[: container.id_bytes]
        size = int.from_bytes(header[container.id_bytes :], container.byteorder)
        if container.size_covers_header:
            size -= container.header_bytes
        if chunk_id == container.data_id and data_size_64 is not None:
            size = data_size_64
        if size < 0 or not chunk_id[:4].isascii() or chunk_id[:4] in STARTS:
            return
        if chunk_id == b"ds64":
            body = file.read(24)
            data_size_64 = int.from_bytes(body[DS64_DATA_SIZE_OFFSET : DS64_DATA_SIZE_OFFSET + 8], "little")
        chunk = Chunk(chunk_id, position + container.header_bytes, size)
        yield chunk
        position = _end_of(chunk, container, begin)


def _end_of(chunk: Chunk, container: Container, begin: int) -> int:
    """Offset of the chunk after this one."""
    length = chunk.start + chunk.size - begin
    return begin + length + -length % container.alignment


def read_body(file: BinaryIO, chunk: Chunk) -> bytes:
    """The body of a chunk."""
    file.seek(chunk.start)
    return file.read(chunk.size)


def chunk_bodies(path: Path, container: Container, names: Sequence[bytes] = ()) -> list[tuple[bytes, bytes]]:
    """Identifiers and bodies of the whole chunks of a file that do not hold samples.

    Parameters
    ----------
    names : the first four bytes of the identifiers that are wanted; all if there are none
    """
    with open(path, "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        return [
            (chunk.id, read_body(file, chunk))
            for chunk in read_chunks(file, container)
            if chunk.id != container.data_id and chunk.start + chunk.size <= n_bytes
            if not names or chunk.id[:4] in names
        ]


def rewrite_chunks(
    path: Path,
    container: Container,
    *,
    replaced: Mapping[bytes, bytes],
    before_data: Sequence[tuple[bytes, bytes]],
    after_data: Sequence[tuple[bytes, bytes]],
) -> None:
    """Add chunks to a file, and replace or remove some that it has.

    Parameters
    ----------
    replaced : new bodies by identifier; an empty body removes the chunk
    before_data, after_data : identifiers and bodies of the chunks to add before and after the samples
    """
    # Both files are closed before the new one replaces the old one: Windows replaces no file that is open.
    with atomic_write(path) as temporary, open(path, "rb") as source, open(temporary, "wb") as target:
        target.write(source.read(container.first_chunk))
        ds64_start = None
        for chunk in read_chunks(source, container):
            if chunk.id == container.data_id:
                _write_chunks(target, container, before_data)
            if chunk.id == b"ds64":
                ds64_start = target.tell() + container.header_bytes
            body = replaced.get(chunk.id)
            if body is None:
                _copy_chunk(source, target, container, chunk)
            elif body:
                _write_chunks(target, container, [(chunk.id, body)])
            if chunk.id == container.data_id:
                _write_chunks(target, container, after_data)
        _write_total_size(target, container, ds64_start)


def _write_chunks(target: BinaryIO, container: Container, chunks: Iterable[tuple[bytes, bytes]]) -> None:
    """Write whole chunks with their headers and padding."""
    for chunk_id, body in chunks:
        size = len(body) + (container.header_bytes if container.size_covers_header else 0)
        target.write(chunk_id + size.to_bytes(container.size_bytes, container.byteorder) + body)
        _pad(target, container)


def _copy_chunk(source: BinaryIO, target: BinaryIO, container: Container, chunk: Chunk) -> None:
    """Copy a chunk, however large it is, with the header that it has."""
    source.seek(chunk.start - container.header_bytes)
    n_left = container.header_bytes + chunk.size
    while n_left > 0 and (part := source.read(min(n_left, COPY_BYTES))):
        target.write(part)
        n_left -= len(part)
    _pad(target, container)


def _pad(target: BinaryIO, container: Container) -> None:
    """Fill up to the start of the next chunk."""
    target.write(bytes(-target.tell() % container.alignment))


def _write_total_size(target: BinaryIO, container: Container, ds64_start: int | None) -> None:
    """Write the size of the whole file into its header. CAF has none."""
    total = target.tell()
    if container is CAF:
        return
    if container.size_covers_header:  # W64
        target.seek(container.id_bytes)
        target.write(total.to_bytes(8, container.byteorder))
    elif ds64_start is not None:
        target.seek(ds64_start)
        target.write((total - 8).to_bytes(8, container.byteorder))
    elif total - 8 >= 1 << 32:
        raise PipelineError("longer than 4 GB with the chunks of the input; choose another format, such as .rf64")
    else:
        target.seek(4)
        target.write((total - 8).to_bytes(4, container.byteorder))
