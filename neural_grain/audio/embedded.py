"""What an audio file embeds besides samples: loop points, markers, broadcast data, tags, pictures, the channel layout.

A rendering has the length of its input, so all of it stays valid. Between files of one container everything is kept
as it is. From one container to another tags, pictures and the channel layout are translated. What the output has no
place for is named, so that it can be reported.

In: the path of an input, and of a finished output without any of it. Out: the output with it.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mutagen import MutagenError

from neural_grain.audio import tags as tagging
from neural_grain.audio.chunks import (
    AIFF,
    CAF,
    RIFF,
    RIFX,
    W64,
    Container,
    container_at,
    read_body,
    read_chunks,
    rewrite_chunks,
)
from neural_grain.audio.layout import FLAC_MASKS, codec_layout
from neural_grain.audio.markers import (
    AIFF_CHUNKS,
    WAV_CHUNKS,
    aiff_chunks,
    markers_from_aiff,
    markers_from_wav,
    wav_chunks,
)
from neural_grain.audio.structure import find_streams
from neural_grain.audio.tags import Tags
from neural_grain.base.errors import printable

# Chunks that describe the samples as they are stored, so that the output has its own.
DERIVED = frozenset((
    b"fmt ", b"data", b"fact", b"PEAK", b"ds64", b"JUNK", b"junk", b"PAD ", b"FLLR", b"levl", b"COMM", b"SSND", b"FVER",
    b"desc", b"pakt", b"kuki", b"free", b"peak", b"ovvw",
))  # fmt: skip
LAYOUT_CHUNKS = {AIFF: b"CHAN", CAF: b"chan"}
CHUNK_NAMES = {
    b"smpl": "loop points", b"cue ": "cue points", b"inst": "instrument", b"acid": "tempo", b"bext": "broadcast data",
    b"iXML": "iXML", b"axml": "axml", b"_PMX": "XMP", b"cart": "cart", b"MARK": "markers", b"INST": "instrument",
    b"COMT": "comments", b"MIDI": "MIDI", b"APPL": "application data", b"mark": "markers", b"regn": "regions",
    b"plst": "playlist", b"basc": "tempo", b"trns": "transients", b"strg": "marker texts", b"midi": "MIDI",
    b"uuid": "application data", b"umid": "UMID",
}  # fmt: skip
EXTENSIBLE_TAG = b"\xfe\xff"  # of WAVE_FORMAT_EXTENSIBLE
GUID_END = (
    b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"  # after the format tag in the identifier of a subformat
)
USE_MASK = 1 << 16  # the layout tag of Core Audio that says that the mask follows
CORE_AUDIO_MASKS = {101: 0x3, 108: 0x33, 113: 0x7, 117: 0x37, 121: 0x3F}  # layout tags whose order is that of the mask
MASK_FIELD = "WAVEFORMATEXTENSIBLE_CHANNEL_MASK"  # a field of FLAC tags
FAMILIES = {"RF64": "WAV", "WAVEX": "WAV"}  # formats of libsndfile that share their chunks with another one
CONTAINERS = {"WAV": RIFF, "AIFF": AIFF, "CAF": CAF, "W64": W64}


class StoredFormat(Protocol):
    """What is needed of `neural_grain.audio.formats.OutputFormat`."""

    format: str
    subtype: str
    mask: int


def read_mask(path: Path, format_name: str, subtype: str, channels: int) -> int:
    """The channel layout that a file states, or that its codec implies; 0 if there is none.

    Parameters
    ----------
    format_name, subtype : str, container and sample format by libsndfile's names
    """
    implied = codec_layout(subtype, channels)
    if format_name == "FLAC":
        with suppress(MutagenError, ValueError):
            stated = tagging.tags_from_vorbis(path).fields.get(MASK_FIELD)
            return int(stated[0], 0) if stated else FLAC_MASKS[channels]
    container = CONTAINERS.get(FAMILIES.get(format_name, format_name))
    if container is None or implied:
        return implied.mask if implied else 0
    for chunk_id, body in _chunks(path, container, (b"fmt ", b"CHAN", b"chan")):
        is_format = chunk_id[:4] == b"fmt "
        if is_format and body[:2] == EXTENSIBLE_TAG:
            return int.from_bytes(body[20:24], "little")
        if not is_format:
            tag, mask = (int.from_bytes(body[i : i + 4], "big") for i in (0, 4))
            return mask if tag == USE_MASK else CORE_AUDIO_MASKS.get(tag >> 16, 0)
    return 0


def copy_embedded(source: Path, stored: StoredFormat, output: Path, target: StoredFormat) -> list[str]:
    """Give an output what its input holds besides samples.

    Parameters
    ----------
    stored, target : format, subtype and channel mask of the input and of the output
    output : Path, a finished file without any of it

    Returns
    -------
    list of str
        What had to be left behind.
    """
    families = [FAMILIES.get(kind.format, kind.format) for kind in (stored, target)]
    left_behind = ["what is embedded in the joined files after the first"] if len(find_streams(source)) > 1 else []
    with open(source, "rb") as file:
        if container_at(file) is RIFX:  # a WAV, but all numbers in its chunks are in the other order
            return [*left_behind, "all but the samples of a big-endian WAV"]
    try:
        if families[0] == families[1] and families[0] != "OGG":
            _copy_same(source, output, families[0], target)
            return left_behind
        tags, names = _read_tags(source, families[0])
    except (MutagenError, ValueError, struct.error):
        tags, names = Tags(), ["tags (damaged)"]
    tags.fields.pop(MASK_FIELD, None)
    left_behind += names + tags.unknown + _write_tags(output, families[1], tags, target)
    return left_behind + _translate_markers(source, output, *families)


def _translate_markers(source: Path, output: Path, family: str, output_family: str) -> list[str]:
    """Bring markers and loops of samplers from WAV to AIFF or back; returns what had to be left behind."""
    if {family, output_family} != {"WAV", "AIFF"}:
        return [] if family not in CONTAINERS else _marker_names(source, CONTAINERS[family])
    stored = _chunks(source, CONTAINERS[family])
    labels = next((body[4:] for name, body in stored if name == b"LIST" and body[:4] == b"adtl"), b"")
    left_behind: list[str] = []
    try:
        if family == "WAV":
            chunks, left_behind = aiff_chunks(markers_from_wav(dict(stored), labels))
        else:
            ((_, format_body),) = _chunks(output, RIFF, (b"fmt ",))
            chunks = wav_chunks(markers_from_aiff(dict(stored)), int.from_bytes(format_body[4:8], "little"))
        rewrite_chunks(output, CONTAINERS[output_family], replaced={}, before_data=[], after_data=chunks)
    except struct.error:
        return ["markers (damaged)"]
    return left_behind


def _marker_names(source: Path, container: Container) -> list[str]:
    """Names of the chunks with markers that a file holds."""
    names = [_chunk_name(name, body) for name, body in _chunks(source, container) if _has_markers(name, body)]
    return list(dict.fromkeys(names))


def _has_markers(name: bytes, body: bytes) -> bool:
    """True if a chunk is one of those that `neural_grain.audio.markers` translates."""
    return name in (*WAV_CHUNKS, *AIFF_CHUNKS) or body[:4] == b"adtl"


def _chunk_name(name: bytes, body: bytes) -> str:
    """What a chunk is called in messages."""
    fallback = "labels" if body[:4] == b"adtl" else printable(tagging.decode_text(name[:4]).strip())
    return CHUNK_NAMES.get(name[:4], fallback)


def _copy_same(source: Path, output: Path, family: str, target: StoredFormat) -> None:
    """Keep everything between two files of one container."""
    if family in CONTAINERS:
        _copy_chunks(source, output, CONTAINERS[family], target)
    elif family == "FLAC":
        _copy_flac_blocks(source, output)
    elif family == "MP3":
        _copy_mp3_tags(source, output)


def _copy_chunks(source: Path, output: Path, container: Container, target: StoredFormat) -> None:
    """Copy all chunks but those that describe the samples, on the same side of the samples."""
    sides: tuple[list, list] = [], []
    is_after = False
    with open(source, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for chunk in read_chunks(file, container):
            is_after |= chunk.id == container.data_id
            if chunk.id[:4] not in DERIVED and chunk.start + chunk.size <= size:
                sides[is_after].append((chunk.id, read_body(file, chunk)))
    replaced = {chunk_id: b"" for chunk_id, _ in sides[0] + sides[1]} | _layout_chunk(output, container, target)
    if any(replaced.values()) or sides[0] or sides[1]:
        rewrite_chunks(output, container, replaced=replaced, before_data=sides[0], after_data=sides[1])


def _layout_chunk(output: Path, container: Container, target: StoredFormat) -> dict[bytes, bytes]:
    """The format chunk of a WAV or W64 with a channel mask, if its layout needs one."""
    if container not in (RIFF, W64) or not target.mask:
        return {}
    ((chunk_id, body),) = _chunks(output, container, (b"fmt ",))
    channels = int.from_bytes(body[2:4], "little")
    if body[:2] == EXTENSIBLE_TAG or (channels <= 2 and target.mask == FLAC_MASKS[channels]):
        return {}
    extension = struct.pack("<HHI", 22, int.from_bytes(body[14:16], "little"), target.mask)
    return {chunk_id: EXTENSIBLE_TAG + body[2:16] + extension + body[:2] + GUID_END}


def _copy_flac_blocks(source: Path, output: Path) -> None:
    """Copy the metadata blocks of a FLAC file: tags, pictures, cue sheet and data of applications."""
    from mutagen.flac import FLAC, Padding, SeekTable, StreamInfo

    original, copy = FLAC(source), FLAC(output)
    own = (StreamInfo, SeekTable, Padding)
    blocks = [block for block in original.metadata_blocks if not isinstance(block, own)]
    copy.metadata_blocks = [
        block for block in copy.metadata_blocks if isinstance(block, (StreamInfo, SeekTable))
    ] + blocks
    copy.tags = original.tags
    copy.save()


def _copy_mp3_tags(source: Path, output: Path) -> None:
    """Copy the ID3 tags, in their version, and the APE tag of an MP3."""
    from mutagen.apev2 import APENoHeaderError, APEv2
    from mutagen.id3 import ID3, ID3NoHeaderError

    with suppress(ID3NoHeaderError):
        tags = ID3(source, translate=False)
        if tags.version < (2, 3):
            tags.update_to_v24()
        tags.save(output, v1=2 if _has_id3_version_1(source) else 0, v2_version=3 if tags.version[:2] == (2, 3) else 4)
    with suppress(APENoHeaderError):
        APEv2(source).save(output)


def _has_id3_version_1(path: Path) -> bool:
    """True if a file ends with a tag of ID3 version 1, which has 128 bytes."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 128))
        return file.read(3) == b"TAG"


def _read_tags(source: Path, family: str) -> tuple[Tags, list[str]]:
    """Tags of a file, and the names of what else it holds."""
    if family in ("FLAC", "OGG"):
        tags = tagging.tags_from_vorbis(source)
        return tags, _flac_extras(source) if family == "FLAC" else []
    if family == "MP3":
        from mutagen.apev2 import APENoHeaderError, APEv2
        from mutagen.id3 import ID3, ID3NoHeaderError

        tags, names = Tags(), []
        with suppress(ID3NoHeaderError):
            tags = tagging.tags_from_id3(ID3(source))
        with suppress(APENoHeaderError):
            names = ["APE tags"] if APEv2(source) else []
        return tags, names
    if family not in CONTAINERS:
        return Tags(), []
    parts: list[Tags] = []
    left_behind: list[str] = []
    for chunk_id, body in _chunks(source, CONTAINERS[family]):
        name = chunk_id[:4]
        tags = _tags_of_chunk(name, body, family)
        if tags is not None:
            parts.append(tags)
        elif name not in DERIVED and name not in (b"CHAN", b"chan") and not _has_markers(name, body):
            left_behind.append(_chunk_name(chunk_id, body))
    return tagging.merged(parts), list(dict.fromkeys(left_behind))


def _tags_of_chunk(name: bytes, body: bytes, family: str) -> Tags | None:
    """The tags in a chunk, or None if it holds something else."""
    if name in (b"id3 ", b"ID3 "):
        return tagging.tags_from_id3_bytes(body)
    if name == b"LIST" and body[:4] == b"INFO":
        return tagging.tags_from_info(body[4:])
    if family == "AIFF" and name in tagging.AIFF_FIELDS:
        return Tags({tagging.AIFF_FIELDS[name]: [tagging.decode_text(body)]})
    return tagging.tags_from_caf(body) if family == "CAF" and name == b"info" else None


def _flac_extras(source: Path) -> list[str]:
    """Names of the blocks of a FLAC file that are neither tags nor pictures."""
    from mutagen.flac import FLAC

    names = {2: "application data", 5: "cue sheet"}
    return [names[block.code] for block in FLAC(source).metadata_blocks if block.code in names]


def _write_tags(output: Path, family: str, tags: Tags, target: StoredFormat) -> list[str]:
    """Write tags and the channel layout into a file; returns what it has no place for."""
    if family == "FLAC" and target.mask not in (0, FLAC_MASKS.get(_n_speakers(target.mask))):
        tags.add(MASK_FIELD, [f"0x{target.mask:04X}"])
    if family in ("FLAC", "OGG"):
        tagging.write_vorbis(output, tags)
        return []
    if family == "MP3":
        tagging.id3_from_tags(tags).save(output)
        return []
    container = CONTAINERS.get(family)
    if container is None:
        return (["tags"] if tags else []) + (["channel layout"] if _n_speakers(target.mask) > 2 else [])
    before: list[tuple[bytes, bytes]] = []
    after: list[tuple[bytes, bytes]] = []
    if container in LAYOUT_CHUNKS and _n_speakers(target.mask) > 2:
        before.append((LAYOUT_CHUNKS[container], struct.pack(">III", USE_MASK, target.mask, 0)))
    if tags and container is RIFF:
        after = [(b"LIST", tagging.info_body(tags)), (b"id3 ", tagging.id3_bytes(tags))]
    elif tags and container is AIFF:
        after = [(b"ID3 ", tagging.id3_bytes(tags))]
    elif tags and container is CAF:
        before.append((b"info", tagging.caf_body(tags)))
    after = [(name, body) for name, body in after if body]
    replaced = {chunk_id: b"" for chunk_id, _ in before} | _layout_chunk(output, container, target)
    if replaced or after:
        rewrite_chunks(output, container, replaced=replaced, before_data=before, after_data=after)
    if container is CAF and tags.pictures:
        return ["pictures"]
    return ["tags"] if tags and container is W64 else []


def _n_speakers(mask: int) -> int:
    """Number of loudspeakers in a mask."""
    return mask.bit_count()


def _chunks(path: Path, container: Container, names: tuple[bytes, ...] = ()) -> list[tuple[bytes, bytes]]:
    """Identifiers and bodies of the chunks of a file that do not hold samples; only some if names are given."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return [
            (chunk.id, read_body(file, chunk))
            for chunk in read_chunks(file, container)
            if chunk.id != container.data_id and chunk.start + chunk.size <= size
            if not names or chunk.id[:4] in names
        ]
