"""Frames of MPEG audio (MP3), whose number no header needs to state.

An MP3 is a row of frames. Many encoders put the number of frames into an extra first frame (Xing, Info or VBRI).
Without it the decoder guesses from the size of the file, which is wrong for a variable bit rate. Here the frames are
counted by going from header to header, and a stream without that extra frame gets one. Header layout: ISO/IEC 11172-3,
section 2.4.2.3.

In: the bytes of a file. Out: the parts of it that are streams of their own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

BITRATES_KBPS = {  # of layer III, by version
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits
SIDE_INFORMATION_BYTES = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}  # by version, and whether mono
XING_FRAMES_FLAG = 1
XING_BITRATE_INDEX = 9  # gives frames that are large enough for the header at every sample rate
VBRI_OFFSET = 36
MAX_SURPLUS_FRAMES = 2  # after those promised, which some encoders count differently; more are another stream
MAX_JUNK_BYTES = 1 << 20  # before the first frame, tags not counted


class FrameHeader(NamedTuple):
    """What a frame header says."""

    version: int  # 1, or 2 for the lower sample rates
    sr: int
    n_bytes: int  # of the whole frame
    is_mono: bool
    has_checksum: bool


def parse_frame_header(header: bytes) -> FrameHeader | None:
    """Read the 4 bytes of a frame header of layer III; None if they are none, or of a free bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version_bits, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version_bits == 1 or layer != 3 or rate_index == 3 or not 1 <= bitrate_index <= 14:
        return None
    version, sr = 1 if version_bits == 3 else 2, SAMPLE_RATES_HZ[version_bits][rate_index]
    bitrate = 1000 * BITRATES_KBPS[version][bitrate_index - 1]
    n_bytes = (144 if version == 1 else 72) * bitrate // sr + padding
    return FrameHeader(version, sr, n_bytes, header[3] >> 6 == 3, not header[1] & 1)


@dataclass
class _Part:
    """Frames that belong together."""

    start: int
    first_header: bytes
    promised_frames: int | None  # None without a Xing, Info or VBRI frame
    n_frames: int = 0  # without that frame
    stop: int = 0


def mpeg_streams(data: mmap.mmap) -> Iterator[tuple[bytes, int, int, bool]]:
    """Find the streams of MPEG audio in a file.

    Yields
    ------
    (prefix, start, stop, is_length_known)
        As in `neural_grain.audio.structure.Stream`; nothing if the file does not look like MPEG audio of layer III.
    """
    parts = _find_parts(data)
    for i, part in enumerate(parts):
        start = 0 if i == 0 else part.start  # the decoder skips the tags before the first frame
        stop = len(data) if i == len(parts) - 1 else part.stop
        if part.promised_frames is None:
            yield _xing_frame(part.first_header, part.n_frames), part.start, stop, False
        else:
            yield b"", start, stop, True


def _find_parts(data: mmap.mmap) -> list[_Part]:
    """Divide frames where a stream ends: before a Xing, Info or VBRI frame, at a tag, and when it is complete."""
    parts: list[_Part] = []
    headers: dict[bytes, FrameHeader | None] = {}  # most frames of a file have one of a few headers
    position: int | None = 0
    is_after_tag = True
    while position is not None and position < len(data):
        raw = data[position : position + 4]
        header = headers[raw] if raw in headers else headers.setdefault(raw, parse_frame_header(raw))
        if header is None:
            end_of_tag = _tag_end(data, position)
            is_after_tag |= end_of_tag is not None
            position = end_of_tag or _next_frame(data, position + 1, is_first=not parts)
            continue
        promised = _promised_frames(data, position, header)
        last = parts[-1] if parts else None
        is_complete = last is not None and last.promised_frames is not None and last.n_frames >= last.promised_frames
        if is_after_tag or is_complete or promised is not None:
            if last:
                last.stop = position
            parts.append(_Part(position, raw, promised))
        if promised is None:
            parts[-1].n_frames += 1
        is_after_tag = False
        position += header.n_bytes
    return [part for i, part in enumerate(parts) if i == 0 or part.n_frames > MAX_SURPLUS_FRAMES]


def _tag_end(data: mmap.mmap, position: int) -> int | None:
    """End of an ID3v2, ID3v1 or APE tag that starts at an offset, or None."""
    head = data[position : position + 32]
    if head[:3] == b"ID3" and len(head) >= 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return position + 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return position + 128
    if head[:8] == b"APETAGEX":
        return position + 32 + int.from_bytes(head[12:16], "little")
    return None


def _next_frame(data: mmap.mmap, position: int, *, is_first: bool) -> int | None:
    """Offset of the next frame that another one like it follows; None if there is none."""
    end = min(len(data), position + MAX_JUNK_BYTES) if is_first else len(data)
    while (position := data.find(b"\xff", position, end)) >= 0:
        header = parse_frame_header(data[position : position + 4])
        if header:
            after = parse_frame_header(data[position + header.n_bytes : position + header.n_bytes + 4])
            if after and (after.version, after.sr) == (header.version, header.sr):
                return position
        position += 1
    return None


def _xing_offset(header: FrameHeader) -> int:
    """Where a Xing or Info header starts in its frame: after the frame header, checksum and side information."""
    return 4 + 2 * header.has_checksum + SIDE_INFORMATION_BYTES[header.version, header.is_mono]


def _promised_frames(data: mmap.mmap, position: int, header: FrameHeader) -> int | None:
    """The number of frames that a Xing, Info or VBRI frame states; None for any other frame."""
    start = position + _xing_offset(header)
    if data[start : start + 4] in (b"Xing", b"Info"):
        flags, n_frames = (int.from_bytes(data[i : i + 4], "big") for i in (start + 4, start + 8))
        return n_frames or None if flags & XING_FRAMES_FLAG else None  # 0 if the encoder could not go back to it
    start = position + VBRI_OFFSET
    return int.from_bytes(data[start + 14 : start + 18], "big") if data[start : start + 4] == b"VBRI" else None


def _xing_frame(first_header: bytes, n_frames: int) -> bytes:
    """A frame without sound that states the number of frames of a stream, for a decoder that would guess it."""
    raw = bytes(
        (first_header[0], first_header[1] | 1, XING_BITRATE_INDEX << 4 | first_header[2] & 0x0D, first_header[3])
    )
    header = parse_frame_header(raw)
    frame = bytearray(header.n_bytes)
    at = _xing_offset(header)
    frame[: len(raw)] = raw
    frame[at : at + 12] = b"Xing" + XING_FRAMES_FLAG.to_bytes(4, "big") + n_frames.to_bytes(4, "big")
    return bytes(frame)
