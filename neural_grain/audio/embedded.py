"""What an audio file embeds besides samples: loop points, markers, broadcast data, tags, pictures, the channel layout.

A rendering has the length of its input, so all of it stays valid. Between files of one container everything is kept
as it is. From one container to another tags, pictures and the channel layout are translated. What the output has no
place for is named, so that it can be reported.

In: the path of an input, and of a finished output without any of it. Out: the output with it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mutagen import MutagenError

from neural_grain.audio import tags as tagging
from neural_grain.audio.chunks import (
    AIFF,
    CAF,
    FAMILIES,
    FAMILY_CONTAINERS,
    RIFF,
    RIFX,
    W64,
    Container,
    chunk_bodies,
    container_at,
    read_body,
    read_chunks,
    rewrite_chunks,
)
from neural_grain.audio.markers import (
    AIFF_CHUNKS,
    WAV_CHUNKS,
    aiff_chunks,
    markers_from_aiff,
    markers_from_wav,
    wav_chunks,
)
from neural_grain.audio.stated_layout import MASK_FIELD, flac_mask_field, format_chunk_with_mask, layout_chunks
from neural_grain.audio.structure import find_streams
from neural_grain.audio.tags import Tags
from neural_grain.base.errors import PipelineError, printable

# Chunks that describe the samples as they are stored, so that the output has its own.
DERIVED = frozenset((
    b"fmt ", b"data", b"fact", b"PEAK", b"ds64", b"JUNK", b"junk", b"PAD ", b"FLLR", b"levl", b"COMM", b"SSND", b"FVER",
    b"desc", b"pakt", b"kuki", b"free", b"peak", b"ovvw",
))  # fmt: skip
CHUNK_NAMES = {
    b"smpl": "loop points", b"cue ": "cue points", b"inst": "instrument", b"acid": "tempo", b"bext": "broadcast data",
    b"iXML": "iXML", b"axml": "axml", b"_PMX": "XMP", b"cart": "cart", b"MARK": "markers", b"INST": "instrument",
    b"COMT": "comments", b"MIDI": "MIDI", b"APPL": "application data", b"mark": "markers", b"regn": "regions",
    b"plst": "playlist", b"basc": "tempo", b"trns": "transients", b"strg": "marker texts", b"midi": "MIDI",
    b"uuid": "application data", b"umid": "UMID",
}  # fmt: skip


class StoredFormat(Protocol):
    """What is needed of `neural_grain.audio.formats.OutputFormat`."""

    format: str
    subtype: str
    mask: int


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
            with _system_errors():
                _copy_same(source, output, families[0], target)
            return left_behind
        tags, names = _read_tags(source, families[0])
    except (MutagenError, ValueError, LookupError, struct.error):
        tags, names = Tags(), ["tags (damaged)"]
    tags.fields.pop(MASK_FIELD, None)
    left_behind += names + tags.unknown
    with _system_errors():
        left_behind += _write_what_fits(output, families[1], tags, target)
    left_behind += _translate_markers(source, output, *families)
    return list(dict.fromkeys(left_behind))


@contextmanager
def _system_errors() -> Iterator[None]:
    """Turn an error of the system while a file is written, such as a full disk, from mutagen's into a PipelineError."""
    try:
        yield
    except MutagenError as err:
        if isinstance(err.__context__, OSError):
            raise PipelineError(f"can't write ({err.__context__.strerror})") from err
        raise


def _write_what_fits(output: Path, family: str, tags: Tags, target: StoredFormat) -> list[str]:
    """Write tags as `_write_tags` does, but leave out what is larger than the container allows, such as huge pictures."""
    for fitting, too_large in ((tags, []), (replace(tags, pictures=[]), ["pictures"])):
        try:
            return too_large + _write_tags(output, family, fitting, target)
        except (MutagenError, ValueError) as err:
            if isinstance(err.__context__, OSError):
                raise
    return ["tags", *_write_tags(output, family, Tags(), target)]


def _translate_markers(source: Path, output: Path, family: str, output_family: str) -> list[str]:
    """Bring markers and loops of samplers from WAV to AIFF or back; returns what had to be left behind."""
    if {family, output_family} != {"WAV", "AIFF"}:
        return [] if family not in FAMILY_CONTAINERS else _marker_names(source, FAMILY_CONTAINERS[family])
    stored = chunk_bodies(source, FAMILY_CONTAINERS[family])
    labels = next((body[4:] for name, body in stored if name == b"LIST" and body[:4] == b"adtl"), b"")
    left_behind: list[str] = []
    try:
        if family == "WAV":
            chunks, left_behind = aiff_chunks(markers_from_wav(dict(stored), labels))
        else:
            ((_, format_body),) = chunk_bodies(output, RIFF, (b"fmt ",))
            chunks = wav_chunks(markers_from_aiff(dict(stored)), int.from_bytes(format_body[4:8], "little"))
        rewrite_chunks(output, FAMILY_CONTAINERS[output_family], replaced={}, before_data=[], after_data=chunks)
    except struct.error:
        return ["markers (damaged)"]
    return left_behind


def _marker_names(source: Path, container: Container) -> list[str]:
    """Names of the chunks with markers that a file holds."""
    names = [_chunk_name(name, body) for name, body in chunk_bodies(source, container) if _has_markers(name, body)]
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
    if family in FAMILY_CONTAINERS:
        _copy_chunks(source, output, FAMILY_CONTAINERS[family], target)
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
    replaced = {chunk_id: b"" for chunk_id, _ in sides[0] + sides[1]} | format_chunk_with_mask(
        output, container, target.mask
    )
    if any(replaced.values()) or sides[0] or sides[1]:
        rewrite_chunks(output, container, replaced=replaced, before_data=sides[0], after_data=sides[1])


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
    if family not in FAMILY_CONTAINERS:
        return Tags(), []
    parts: list[Tags] = []
    left_behind: list[str] = []
    for chunk_id, body in chunk_bodies(source, FAMILY_CONTAINERS[family]):
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
    if family == "FLAC" and (field := flac_mask_field(target.mask)):
        tags.add(MASK_FIELD, [field])
    if family in ("FLAC", "OGG"):
        tagging.write_vorbis(output, tags)
        return []
    if family == "MP3":
        tagging.id3_from_tags(tags).save(output)
        return []
    container = FAMILY_CONTAINERS.get(family)
    if container is None:
        return (["tags"] if tags else []) + (["channel layout"] if target.mask.bit_count() > 2 else [])
    before, after = layout_chunks(container, target.mask), []
    if tags and container is RIFF:
        after = [(b"LIST", tagging.info_body(tags)), (b"id3 ", tagging.id3_bytes(tags))]
    elif tags and container is AIFF:
        after = [(b"ID3 ", tagging.id3_bytes(tags))]
    elif tags and container is CAF:
        before.append((b"info", tagging.caf_body(tags)))
    after = [(name, body) for name, body in after if body]
    replaced = {chunk_id: b"" for chunk_id, _ in before} | format_chunk_with_mask(output, container, target.mask)
    if replaced or after:
        rewrite_chunks(output, container, replaced=replaced, before_data=before, after_data=after)
    if container is CAF and tags.pictures:
        return ["pictures"]
    return ["tags"] if tags and container is W64 else []
