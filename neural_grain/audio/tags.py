"""Tags: texts and pictures that describe a recording, read from one container and written to another.

Every container has its own names for the same fields. Here a field has the name that Vorbis comments use (TITLE,
ARTIST, ...), and may have several values. mutagen reads and writes Vorbis comments, ID3 and APE tags; the texts of WAV
(LIST INFO), AIFF and CAF are a few bytes each and are read and written here.

In: the path of an audio file. Out: `Tags`.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mutagen.flac import Picture
    from mutagen.id3 import ID3

ID3_FRAMES = {  # by field: the text frame of ID3v2.4
    "TITLE": "TIT2", "SUBTITLE": "TIT3", "GROUPING": "TIT1", "ARTIST": "TPE1", "ALBUMARTIST": "TPE2",
    "CONDUCTOR": "TPE3", "REMIXER": "TPE4", "ALBUM": "TALB", "COMPOSER": "TCOM", "LYRICIST": "TEXT", "GENRE": "TCON",
    "DATE": "TDRC", "ORIGINALDATE": "TDOR", "TRACKNUMBER": "TRCK", "DISCNUMBER": "TPOS", "BPM": "TBPM",
    "INITIALKEY": "TKEY", "COPYRIGHT": "TCOP", "ORGANIZATION": "TPUB", "ISRC": "TSRC", "LANGUAGE": "TLAN",
    "MOOD": "TMOO", "ENCODED-BY": "TENC", "ENCODER": "TSSE", "ALBUMSORT": "TSOA", "ARTISTSORT": "TSOP",
    "TITLESORT": "TSOT", "MEDIA": "TMED",
}  # fmt: skip
INFO_FIELDS = {  # of LIST INFO in WAV
    b"INAM": "TITLE", b"IART": "ARTIST", b"IPRD": "ALBUM", b"ICMT": "COMMENT", b"ICRD": "DATE", b"IGNR": "GENRE",
    b"ITRK": "TRACKNUMBER", b"ICOP": "COPYRIGHT", b"ISFT": "ENCODER", b"IENG": "ENGINEER", b"ISBJ": "SUBJECT",
    b"IKEY": "KEYWORDS", b"ILNG": "LANGUAGE", b"IMED": "MEDIA", b"ISRC": "SOURCE", b"IMUS": "COMPOSER",
}  # fmt: skip
AIFF_FIELDS = {b"NAME": "TITLE", b"AUTH": "ARTIST", b"(c) ": "COPYRIGHT", b"ANNO": "COMMENT"}
CAF_FIELDS = {
    "title": "TITLE", "artist": "ARTIST", "album": "ALBUM", "genre": "GENRE", "year": "DATE", "comments": "COMMENT",
    "copyright": "COPYRIGHT", "tempo": "BPM", "key signature": "INITIALKEY", "track number": "TRACKNUMBER",
    "composer": "COMPOSER", "lyricist": "LYRICIST", "recorded date": "ORIGINALDATE", "encoding application": "ENCODER",
}  # fmt: skip


@dataclass
class Tags:
    """Texts and pictures.

    Attributes
    ----------
    fields : values by the name that Vorbis comments use, in capitals
    pictures : as mutagen holds those of FLAC
    unknown : names of what no other container has a place for
    """

    fields: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, name: str, values: Iterable[str]) -> None:
        """Add the values of a field, each only once."""
        known = self.fields.setdefault(name.upper(), [])
        for value in values:
            if value and value not in known:
                known.append(value)

    def __bool__(self) -> bool:
        return any(self.fields.values()) or bool(self.pictures)


def tags_from_vorbis(path: Path) -> Tags:
    """Tags of a FLAC, OGG or Opus file. Raises mutagen.MutagenError if they are damaged."""
    import mutagen
    from mutagen.flac import Picture

    try:
        file, tags = mutagen.File(path), Tags()
    except LookupError as err:  # from mutagen, if a page has no packet
        raise mutagen.MutagenError(f"{path}: damaged") from err
    tags.pictures += getattr(file, "pictures", [])
    for name, value in file.tags if file is not None and file.tags else ():
        if name.upper() != "METADATA_BLOCK_PICTURE":
            tags.add(name, [value])
            continue
        with suppress(mutagen.MutagenError, ValueError):
            tags.pictures.append(Picture(base64.b64decode(value)))
    return tags


def tags_from_id3(id3: ID3) -> Tags:
    """Tags of an ID3 tag, as mutagen reads it."""
    from mutagen.flac import Picture

    tags, names = Tags(), {frame: name for name, frame in ID3_FRAMES.items()}
    for frame in id3.values():
        if frame.FrameID in names:
            tags.add(names[frame.FrameID], map(str, frame.text))
        elif frame.FrameID == "TXXX":
            tags.add(frame.desc or "COMMENT", map(str, frame.text))
        elif frame.FrameID == "COMM":
            tags.add("COMMENT", map(str, frame.text))
        elif frame.FrameID == "USLT":
            tags.add("LYRICS", [frame.text])
        elif frame.FrameID == "APIC":
            picture = Picture()
            picture.data, picture.type, picture.mime, picture.desc = frame.data, frame.type, frame.mime, frame.desc
            tags.pictures.append(picture)
        else:
            tags.unknown.append(f"ID3 {frame.FrameID}")
    return tags


def tags_from_id3_bytes(body: bytes) -> Tags:
    """Tags of an ID3 tag that lies in a chunk. Raises mutagen.MutagenError if it is damaged."""
    from mutagen.id3 import ID3

    return tags_from_id3(ID3(io.BytesIO(body)))


def id3_from_tags(tags: Tags) -> ID3:
    """An ID3v2.4 tag with these texts and pictures."""
    from mutagen import id3

    frames = id3.ID3()
    for name, values in tags.fields.items():
        if name in ID3_FRAMES:
            frames.add(getattr(id3, ID3_FRAMES[name])(encoding=id3.Encoding.UTF8, text=values))
        elif name in ("COMMENT", "DESCRIPTION"):
            description = "" if name == "COMMENT" else name
            frames.add(id3.COMM(encoding=id3.Encoding.UTF8, lang="und", desc=description, text=values))
        else:
            frames.add(id3.TXXX(encoding=id3.Encoding.UTF8, desc=name, text=values))
    for picture in tags.pictures:
        kind, description = picture.type, picture.desc
        frames.add(
            id3.APIC(encoding=id3.Encoding.UTF8, mime=picture.mime, type=kind, desc=description, data=picture.data)
        )
    return frames


def id3_bytes(tags: Tags) -> bytes:
    """An ID3v2.4 tag for a chunk of WAV or AIFF."""
    body = io.BytesIO()
    id3_from_tags(tags).save(body, padding=lambda _: 0)
    return body.getvalue()


def write_vorbis(path: Path, tags: Tags) -> None:
    """Write tags into a FLAC, OGG or Opus file."""
    import mutagen

    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    for name, values in tags.fields.items():
        file.tags[_vorbis_name(name)] = values
    if hasattr(file, "add_picture"):
        for picture in tags.pictures:
            file.add_picture(picture)
    elif tags.pictures:
        file.tags["METADATA_BLOCK_PICTURE"] = [base64.b64encode(p.write()).decode() for p in tags.pictures]
    file.save()


def _vorbis_name(name: str) -> str:
    """A field name with only the characters that Vorbis comments allow."""
    return "".join(c if " " <= c <= "}" and c != "=" else "_" for c in name) or "COMMENT"


def tags_from_info(body: bytes) -> Tags:
    """Tags of the body of a LIST INFO chunk of WAV, after the word INFO."""
    tags, position = Tags(), 0
    while position + 8 <= len(body):
        size = int.from_bytes(body[position + 4 : position + 8], "little")
        name = body[position : position + 4]
        text = decode_text(body[position + 8 : position + 8 + size])
        tags.add(INFO_FIELDS.get(name, decode_text(name)), [text])
        position += 8 + size + size % 2
    return tags


def info_body(tags: Tags) -> bytes:
    """Body of a LIST chunk with the texts that LIST INFO has names for; empty if there are none."""
    names = {name: chunk_id for chunk_id, name in INFO_FIELDS.items()}
    body = b""
    for name, values in tags.fields.items():
        if name in names and values:
            text = "; ".join(values).encode() + b"\0"
            body += names[name] + len(text).to_bytes(4, "little") + text + bytes(len(text) % 2)
    return b"INFO" + body if body else b""


def tags_from_caf(body: bytes) -> Tags:
    """Tags of the body of an "info" chunk of CAF: a number, then names and values that end with a zero byte."""
    tags, texts = Tags(), body[4:].split(b"\0")
    for name, value in zip(texts[::2], texts[1::2], strict=False):
        text_name = decode_text(name)
        tags.add(CAF_FIELDS.get(text_name, text_name), [decode_text(value)])
    return tags


def caf_body(tags: Tags) -> bytes:
    """Body of an "info" chunk of CAF."""
    names = {name: caf_name for caf_name, name in CAF_FIELDS.items()}
    texts = [(names.get(name, name.lower()), "; ".join(values)) for name, values in tags.fields.items() if values]
    return struct.pack(">I", len(texts)) + b"".join(f"{name}\0{value}\0".encode() for name, value in texts)


def decode_text(raw: bytes) -> str:
    """Text of unknown encoding up to the first zero byte: UTF-8 if it is that, Windows-1252 if not."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def merged(parts: Iterable[Tags]) -> Tags:
    """Tags of several places in one file."""
    tags = Tags()
    for part in parts:
        for name, values in part.fields.items():
            tags.add(name, values)
        tags.pictures += part.pictures
        tags.unknown += part.unknown
    return tags
