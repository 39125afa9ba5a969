"""The audio streams in a file, and headers that do not state their length.

A decoder believes the header of a file. But a program that writes to a pipe does not know the length beforehand, a
recorder that crashed never wrote it, and files that were joined hold several headers. So the structure of the file is
read here, and each stream in it is handed to the decoder with a header that it can believe. Where the length is not
known, decoding to the end decides.

In: the path of a file. Out: a `Stream` for each part of the file that is decoded by itself.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from neural_grain.audio.chunks import DS64_DATA_SIZE_OFFSET, Chunk, Container, container_at, read_chunks
from neural_grain.audio.mpeg import mpeg_streams

# What programs write as the size of the samples when they write to a pipe: SoX 0x7FFFF000 (WAV) and 0x7F000008 (AIFF),
# arecord 0x80000000, FFmpeg 0xFFFFFFFF, all of them less the length of a header. 0 stands for a crash.
UNKNOWN_SIZES_32 = ((0x7F00_0000, 0x7F00_0100), (0x7FFF_F000 - 0x100, 0x8000_0100), (0xFFFF_F000 - 0x100, 0xFFFF_FFFF))
MIN_UNKNOWN_SIZE_64 = 2**62
FLAC_START = b"fLaC\x00\x00\x00\x22"  # the marker, and the header of the STREAMINFO block, which comes first
FLAC_TOTAL_BYTES = slice(21, 26)  # of the stream: 4 bits of another field, then the number of samples in 36 bits
OGG_PAGE_HEADER_BYTES = 27
OGG_FIRST_PAGE_FLAG = 0x02


@dataclass(frozen=True)
class Stream:
    """A part of a file that is decoded by itself: ``prefix``, then the bytes from ``start`` to ``stop``.

    Parameters
    ----------
    prefix : bytes, header that replaces the one in the file
    is_length_known : bool, False if the number of samples is found by decoding
    promised_bytes, held_bytes : int, size of the samples in the header and in the file; both 0 if not compared
    """

    prefix: bytes
    start: int
    stop: int
    is_length_known: bool = True
    promised_bytes: int = 0
    held_bytes: int = 0


class StreamFile(io.RawIOBase):
    """The bytes of a `Stream` as a file that can be read and sought."""

    def __init__(self, path: Path, stream: Stream):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        self._stream = stream
        self._position = 0
        self._size = len(stream.prefix) + stream.stop - stream.start

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position from the start of the prefix."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the position or the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as the stream goes; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        prefix = self._stream.prefix[self._position : self._position + len(view)]
        view[: len(prefix)] = prefix
        n_read = len(prefix)
        n_file = min(len(view), self._size - self._position) - n_read
        if n_file > 0:
            self._file.seek(self._stream.start + self._position + n_read - len(self._stream.prefix))
            with suppress(OSError):  # a short read, which the decoder reports; it can't pass an exception on
                n_read += self._file.readinto(view[n_read : n_read + n_file]) or 0
        self._position += n_read
        return n_read

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def find_streams(path: Path) -> list[Stream]:
    """Find the streams of a file.

    Returns
    -------
    list of Stream
        One that covers the whole file if there is nothing special about it, or if its structure is not known.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    size = os.path.getsize(path)
    whole = Stream(b"", 0, size)
    with open(path, "rb") as file:
        container = container_at(file)
        if container:
            return list(_container_streams(file, size)) or [whole]
        head = file.read(4) if not file.seek(0) else b""
        if head == b".snd":
            return [_au_stream(file, size)]
        if size == 0:
            return [whole]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if head == b"fLaC":
                return list(_flac_streams(data))
            if head == b"OggS":
                return list(_ogg_streams(data))
            return [Stream(*part) for part in mpeg_streams(data)] or [whole]


def _is_unknown_size(size: int, container: Container) -> bool:
    """True if a size stands for "not known"."""
    if container.size_bytes == 8:
        return size >= MIN_UNKNOWN_SIZE_64
    return any(low <= size <= high for low, high in UNKNOWN_SIZES_32)


def _container_streams(file: BinaryIO, size: int) -> Iterator[Stream]:
    """Streams of WAV, RF64, W64, AIFF and CAF files, of which several may be joined."""
    begin = 0
    while (container := container_at(file, begin)) is not None:
        data = next((chunk for chunk in read_chunks(file, container, begin) if chunk.id == container.data_id), None)
        if data is None:
            return
        held = size - data.start
        is_unknown = (data.size > held and _is_unknown_size(data.size, container)) or (
            data.size == 0 and held > 0 and not _ends_with_chunks(file, container, begin, data, size)
        )
        if is_unknown:
            prefix = _header_with_size(file, container, begin, data, held)
            yield Stream(prefix, data.start, size)
            return
        end = _joined_file_start(file, container, begin, data, size)
        stop = size if end is None else end
        yield Stream(b"", begin, stop, promised_bytes=data.size, held_bytes=min(data.size, held))
        if end is None:
            return
        begin = end


def _ends_with_chunks(file: BinaryIO, container: Container, begin: int, data: Chunk, size: int) -> bool:
    """True if the rest of the file after an empty data chunk is chunks, so that the file really has no samples."""
    end = data.start
    for chunk in read_chunks(file, container, begin, after=data):
        end = chunk.start + chunk.size
    return size - 1 <= end <= size + 1  # the last padding byte may be missing


def _joined_file_start(file: BinaryIO, container: Container, begin: int, data: Chunk, size: int) -> int | None:
    """Offset of another file of the same kind behind the end of this one, or None."""
    ends = [data.start + data.size]
    ends += [chunk.start + chunk.size for chunk in read_chunks(file, container, begin, after=data)]
    candidates = [start for end in ends for start in (end, end + end % 2) if start < size]
    return next((start for start in candidates if container_at(file, start) is not None), None)


def _header_with_size(file: BinaryIO, container: Container, begin: int, data: Chunk, held: int) -> bytes:
    """Everything before the samples, with their size corrected."""
    file.seek(begin)
    header = bytearray(file.read(data.start - begin))
    ds64 = next((chunk for chunk in read_chunks(file, container, begin) if chunk.id == b"ds64"), None)
    if ds64 is not None:
        at = ds64.start - begin + DS64_DATA_SIZE_OFFSET
        header[at : at + 8] = held.to_bytes(8, "little")
        header[at - 8 : at] = (len(header) + held - 8).to_bytes(8, "little")
        return bytes(header)
    written = held + container.header_bytes if container.size_covers_header else held
    header[-container.size_bytes :] = written.to_bytes(container.size_bytes, container.byteorder)
    return bytes(header)


def _au_stream(file: BinaryIO, size: int) -> Stream:
    """The stream of an AU file, whose header is three numbers: offset, size and format of the samples."""
    file.seek(4)
    start, promised = (int.from_bytes(file.read(4), "big") for _ in range(2))
    whole, held = Stream(b"", 0, size), max(0, size - start)
    return whole if promised == 0xFFFF_FFFF else replace(whole, promised_bytes=promised, held_bytes=min(promised, held))


def _flac_streams(data: mmap.mmap) -> Iterator[Stream]:
    """Streams of a FLAC file. A number of samples of 0 means that it is not known (RFC 9639, section 8.2)."""
    start = 0
    while start >= 0:
        following = data.find(FLAC_START, start + len(FLAC_START))
        total = int.from_bytes(data[start : start + FLAC_TOTAL_BYTES.stop][FLAC_TOTAL_BYTES], "big") % 2**36
        yield Stream(b"", start, len(data) if following < 0 else following, is_length_known=total > 0)
        start = following


def _ogg_streams(data: mmap.mmap) -> Iterator[Stream]:
    """Links of a chained OGG file (RFC 3533): each begins with first pages, after other pages."""
    begin, position, had_other_pages = 0, 0, False
    while position >= 0:
        header = data[position : position + OGG_PAGE_HEADER_BYTES]
        if len(header) < OGG_PAGE_HEADER_BYTES:
            break
        is_first = bool(header[5] & OGG_FIRST_PAGE_FLAG)
        if is_first and had_other_pages:
            yield Stream(b"", begin, position)
            begin = position
        had_other_pages = not is_first
        table = data[position + OGG_PAGE_HEADER_BYTES : position + OGG_PAGE_HEADER_BYTES + header[26]]
        position = data.find(b"OggS", position + OGG_PAGE_HEADER_BYTES + len(table) + sum(table))
    yield Stream(b"", begin, len(data))
