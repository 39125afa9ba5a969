"""The channel layout that a file states: where each container keeps it.

    WAV, W64    channel mask in the format chunk (Microsoft, WAVE_FORMAT_EXTENSIBLE)
    AIFF, CAF   chunk "CHAN" or "chan" with a layout tag, and a mask if the tag says so (Core Audio, AudioChannelLayout)
    FLAC        field WAVEFORMATEXTENSIBLE_CHANNEL_MASK of the tags; without it the number of channels decides

In: the path of a file. Out: a mask as in `layout`, or the chunks that state one.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

from mutagen import MutagenError

from neural_grain.audio.chunks import AIFF, CAF, FAMILIES, FAMILY_CONTAINERS, RIFF, W64, Container, chunk_bodies
from neural_grain.audio.layout import FLAC_MASKS, codec_layout
from neural_grain.audio.tags import tags_from_vorbis

MASK_FIELD = "WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
MASK_BITS = 32  # of a mask in all containers
EXTENSIBLE_TAG = b"\xfe\xff"  # the format tag of WAVE_FORMAT_EXTENSIBLE
SUBFORMAT_END = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"  # of its GUID, after the format tag
LAYOUT_CHUNKS = {AIFF: b"CHAN", CAF: b"chan"}
USE_MASK = 1 << 16  # the layout tag of Core Audio that says that the mask follows
CORE_AUDIO_MASKS = {101: 0x3, 108: 0x33, 113: 0x7, 117: 0x37, 121: 0x3F}  # layout tags whose order is that of the mask


def read_mask(path: Path, format_name: str, subtype: str, channels: int) -> int:
    """The channel mask that a file states, or that its codec implies; 0 if there is none.

    Parameters
    ----------
    format_name, subtype : str, container and sample format by libsndfile's names
    """
    implied = codec_layout(subtype, channels)
    if format_name == "FLAC":
        with suppress(MutagenError, ValueError):
            stated = tags_from_vorbis(path).fields.get(MASK_FIELD)
            mask = int(stated[0], 0) if stated else FLAC_MASKS[channels]
            return mask if 0 <= mask < 1 << MASK_BITS else 0
    container = FAMILY_CONTAINERS.get(FAMILIES.get(format_name, format_name))
    if container is None or implied:
        return implied.mask if implied else 0
    for chunk_id, body in chunk_bodies(path, container, (b"fmt ", b"CHAN", b"chan")):
        is_format = chunk_id[:4] == b"fmt "
        if is_format and body[:2] == EXTENSIBLE_TAG:
            return int.from_bytes(body[20:24], "little")
        if not is_format:
            tag, mask = (int.from_bytes(body[i : i + 4], "big") for i in (0, 4))
            return mask if tag == USE_MASK else CORE_AUDIO_MASKS.get(tag >> 16, 0)
    return 0


def format_chunk_with_mask(path: Path, container: Container, mask: int) -> dict[bytes, bytes]:
    """The format chunk of a WAV or W64, by its identifier, with a mask; empty if the layout needs none."""
    if container not in (RIFF, W64) or not mask:
        return {}
    ((chunk_id, body),) = chunk_bodies(path, container, (b"fmt ",))
    channels = int.from_bytes(body[2:4], "little")
    if body[:2] == EXTENSIBLE_TAG or (channels <= 2 and mask == FLAC_MASKS[channels]):
        return {}
    extension = struct.pack("<HHI", 22, int.from_bytes(body[14:16], "little"), mask)
    return {chunk_id: EXTENSIBLE_TAG + body[2:16] + extension + body[:2] + SUBFORMAT_END}


def layout_chunks(container: Container, mask: int) -> list[tuple[bytes, bytes]]:
    """The chunk of an AIFF or CAF that states a mask; none for up to two loudspeakers, and for other containers."""
    if container not in LAYOUT_CHUNKS or mask.bit_count() <= 2:
        return []
    return [(LAYOUT_CHUNKS[container], struct.pack(">III", USE_MASK, mask, 0))]


def flac_mask_field(mask: int) -> str | None:
    """The text of the field of FLAC tags that states a mask; None if the number of channels says the same."""
    return None if mask in (0, FLAC_MASKS.get(mask.bit_count())) else f"0x{mask:04X}"
