"""Markers and loops of samplers, translated between WAV and AIFF.

    WAV    "cue " (positions), LIST "adtl" (their names), "smpl" (loops, root note), "inst" (key and velocity range)
    AIFF   MARK (positions with names), INST (root note, ranges, a sustain loop and a release loop between two markers)

A WAV loop ends with a sample that still belongs to it, and an AIFF marker stands before a sample.

In and out: chunks, by identifier.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from neural_grain.audio.tags import decode_text

WAV_CHUNKS = (b"cue ", b"smpl", b"inst")  # and a LIST of the kind "adtl"
AIFF_CHUNKS = (b"MARK", b"INST")
FORWARD, ALTERNATING = 1, 2  # play modes of AIFF; WAV counts them from 0, and 2 is backward there
AIFF_LOOPS = 2
MAX_AIFF_NAME_BYTES = 254
DEFAULT_RANGES = (0, 127, 1, 127)  # low and high key, low and high velocity


class Marker(NamedTuple):
    """A named position, in samples from the start."""

    position: int
    name: str = ""


class Loop(NamedTuple):
    """A loop from the sample ``start`` to the one before ``stop``, with a play mode of AIFF."""

    start: int
    stop: int
    mode: int = FORWARD


@dataclass(frozen=True)
class Markers:
    """What a sampler needs to know of a recording.

    Parameters
    ----------
    root_note : int, MIDI note of the recording, or None if it is not stated
    detune_cents : int, by which the recording is higher than its root note
    ranges : low and high key, low and high velocity
    """

    markers: list[Marker] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    root_note: int | None = None
    detune_cents: int = 0
    gain_db: int = 0
    ranges: tuple[int, int, int, int] = DEFAULT_RANGES


def markers_from_wav(chunks: Mapping[bytes, bytes], labels: bytes = b"") -> Markers:
    """Read the chunks of a WAV; ``labels`` is the body of its LIST "adtl", without that word.

    Raises
    ------
    struct.error
        If a chunk is too short.
    """
    names = _label_names(labels)
    cue = chunks.get(b"cue ", bytes(4))
    points = [struct.unpack_from("<II4sIII", cue, 4 + 24 * i) for i in range(int.from_bytes(cue[:4], "little"))]
    result = Markers([Marker(point[5], names.get(point[0], "")) for point in points])
    if b"smpl" in chunks:
        _, _, _, note, fraction, _, _, n_loops, _ = struct.unpack_from("<9I", chunks[b"smpl"])
        stored = [struct.unpack_from("<6I", chunks[b"smpl"], 36 + 24 * i) for i in range(n_loops)]
        loops = [Loop(start, end + 1, mode + 1) for _, mode, start, end, _, _ in stored]
        result = replace(result, loops=loops, root_note=note, detune_cents=round(fraction / 2**32 * 100))
    if b"inst" in chunks:
        note, detune, gain, *ranges = struct.unpack_from("<Bbb4B", chunks[b"inst"])
        result = replace(result, gain_db=gain, ranges=tuple(ranges))
        if result.root_note is None:
            result = replace(result, root_note=note, detune_cents=detune)
    return result


def _label_names(labels: bytes) -> dict[int, str]:
    """Names of cue points by their number."""
    names, position = {}, 0
    while position + 12 <= len(labels):
        size = int.from_bytes(labels[position + 4 : position + 8], "little")
        if labels[position : position + 4] == b"labl":
            number = int.from_bytes(labels[position + 8 : position + 12], "little")
            names[number] = decode_text(labels[position + 12 : position + 8 + size])
        position += 8 + size + size % 2
    return names


def wav_chunks(markers: Markers, sr: int) -> list[tuple[bytes, bytes]]:
    """Chunks for a WAV."""
    chunks = []
    if markers.markers:
        cue, labels = struct.pack("<I", len(markers.markers)), b"adtl"
        for number, (position, name) in enumerate(markers.markers, 1):
            cue += struct.pack("<II4sIII", number, position, b"data", 0, 0, position)
            text = name.encode() + b"\0"
            labels += b"labl" + struct.pack("<II", 4 + len(text), number) + text + bytes(len(text) % 2)
        chunks += [(b"cue ", cue), (b"LIST", labels)]
    if markers.loops or markers.root_note is not None:
        note, cents = _root(markers)
        head = (0, 0, round(1e9 / sr), note, round(cents % 100 / 100 * 2**32), 0, 0, len(markers.loops), 0)
        loops = [(i, loop.mode - 1, loop.start, loop.stop - 1, 0, 0) for i, loop in enumerate(markers.loops)]
        chunks.append((b"smpl", struct.pack("<9I", *head) + b"".join(struct.pack("<6I", *loop) for loop in loops)))
    if markers.ranges != DEFAULT_RANGES or markers.gain_db:
        chunks.append((b"inst", struct.pack("<Bbb4B", *_root(markers), markers.gain_db, *markers.ranges)))
    return chunks


def _root(markers: Markers) -> tuple[int, int]:
    """Root note and detuning in cents; a detuning downwards is one upwards from the note below, as "smpl" needs it."""
    note = 60 if markers.root_note is None else markers.root_note
    return note + markers.detune_cents // 100, markers.detune_cents % 100


def markers_from_aiff(chunks: Mapping[bytes, bytes]) -> Markers:
    """Read the chunks of an AIFF.

    Raises
    ------
    struct.error
        If a chunk is too short.
    """
    positions: dict[int, Marker] = {}
    body, at = chunks.get(b"MARK", bytes(2)), 2
    for _ in range(int.from_bytes(body[:2], "big")):
        number, position, length = struct.unpack_from(">hIB", body, at)
        positions[number] = Marker(position, decode_text(body[at + 7 : at + 7 + length]))
        at += 8 + length - length % 2
    if b"INST" not in chunks:
        return Markers(list(positions.values()))
    note, detune, low, high, low_velocity, high_velocity, gain, *loop_fields = struct.unpack_from(
        ">Bb4B7h", chunks[b"INST"]
    )
    loops, used = [], set()
    for mode, begin, end in (loop_fields[:3], loop_fields[3:]):
        if mode in (FORWARD, ALTERNATING) and begin in positions and end in positions:
            loops.append(Loop(positions[begin].position, positions[end].position, mode))
            used |= {begin, end}
    markers = [marker for number, marker in positions.items() if number not in used or marker.name]
    return Markers(markers, loops, note, detune, gain, (low, high, low_velocity, high_velocity))


def aiff_chunks(markers: Markers) -> tuple[list[tuple[bytes, bytes]], list[str]]:
    """Chunks for an AIFF, and what it has no place for: more than two loops, and those that play backward."""
    loops = [loop for loop in markers.loops if loop.mode in (FORWARD, ALTERNATING)][:AIFF_LOOPS]
    ends = [Marker(position) for loop in loops for position in (loop.start, loop.stop)]
    stored = markers.markers + ends
    left_behind = ["some loops"] if len(loops) < len(markers.loops) else []
    chunks = []
    if stored:
        body = struct.pack(">H", len(stored))
        for number, (position, name) in enumerate(stored, 1):
            text = name.encode()[:MAX_AIFF_NAME_BYTES].decode(errors="ignore").encode()  # cut between two characters
            body += struct.pack(">hIB", number, position, len(text)) + text + bytes(1 - len(text) % 2)
        chunks.append((b"MARK", body))
    if markers.loops or markers.root_note is not None or markers.ranges != DEFAULT_RANGES:
        first = len(markers.markers) + 1
        fields = [value for i, loop in enumerate(loops) for value in (loop.mode, first + 2 * i, first + 2 * i + 1)]
        fields += [0] * (3 * AIFF_LOOPS - len(fields))
        note, cents = _root(markers)
        if cents > 50:  # the range of AIFF is -50 to 50
            note, cents = note + 1, cents - 100
        chunks.append((b"INST", struct.pack(">Bb4B7h", note, cents, *markers.ranges, markers.gain_db, *fields)))
    return chunks, left_behind
