"""Damaged JSON documents, logs and curves for benchmarks/fuzz.py.

A document is damaged as values (one to three of them replaced, removed, repeated or added) or as text (bits, cuts,
nesting, encodings). The mutants depend on the generator of random numbers only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

VALUES = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, -1e308, 10**19, -(10**19), 2**63, 10**400, "", "x", "..", ".",
    "/etc/passwd", "../../outside.txt", "../outside.txt", "/", "~", "a\0b", "\ud800", "\x1b[31m", "line\nbreak", "x" * 5000,
    "nan", "Drone", "CON", "é" * 200, [], {}, [[]], [None], {"": ""}, {"version": 1}, [1, 2, 3], ["a", "b"], [1e9, -1e9],
)  # fmt: skip
FACTORS = (-1, 0, 0.5, 1.0001, 2, 1e6, 1e300)
RAW = (
    "", "[", "{", "null", "3", '"x"', "[]", "{}", "NaN", "-Infinity", "1e999", "9" * 5000, "[" * 100_000, '{"a":' * 50_000,
    '{"version": 1}', '{"version": 1, "version": 2}', "\ufeff{}", "\0\0\0\0", "// comment\n{}", "{'a': 1}", "true", '{"a": 1,}',
)  # fmt: skip
PIECES = (b"\xff\xfe", b"\0", b"NaN", b"Infinity", b"1e999", b"9" * 400, b"\\ud800", b'"', b"{", b"}", b"[", b"]", b",", b":",
          b"null", b"\n", b"\r", b"\xef\xbb\xbf", b"-", b"../", b"\\u0000", b"\xe2\x80\xa8")  # fmt: skip
CURVE_LINES = (
    "", "nan 0", "0 nan", "inf 1", "-1 0", "0 4", "0 -3.0001", "1e400 0", "0x10 1", "1_0 2", "0 0 0", "0", "a b", "0,5 1,5", "0;1",
    "# comment", "; comment", "0 0 # c", "1\t2", "1,2", "1, 2,", "1e-320 0", "1e308 3", "9" * 400 + " 0", "0 " + "9" * 400, "\u0663 \u0661",
    "\u2028", "\ufeff0 0", "0 1\0", "\x1b[31m 0", "0 +1", "0 1e0", "  0   0  ", "--1 0", "0.0001 1", "infinity 0", "1 2 ; 3",
)  # fmt: skip


def places(content: object, place: tuple = ()) -> Iterator[tuple]:
    """The path of keys and indices to every value in a document."""
    yield place
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield from places(content[key], (*place, key))


def damaged_values(content: object, rng: np.random.Generator, values: tuple = VALUES) -> object:
    """A copy with one to three values replaced, exchanged, scaled, removed, repeated or added."""
    content = copy.deepcopy(content)
    for _ in range(rng.integers(1, 4)):
        found = list(places(content))
        place = found[rng.integers(len(found))]
        value = copy.deepcopy(values[rng.integers(len(values))])
        if not place:
            if rng.random() < 0.1:
                return value
            continue
        parent, key, change = value_at(content, place[:-1]), place[-1], rng.integers(9)
        if change < 3:
            parent[key] = value
        elif change == 3:
            del parent[key]
        elif change == 4 and isinstance(parent, list):
            parent.insert(int(rng.integers(len(parent) + 1)), copy.deepcopy(parent[key]))
        elif change == 5 and isinstance(parent, dict):
            parent[str(values[rng.integers(len(values))])[:20]] = value
        elif change == 6:
            parent[key] = copy.deepcopy(value_at(content, found[rng.integers(len(found))]))
        elif not isinstance(parent[key], dict | list | str | None):
            with suppress(TypeError, OverflowError):  # a set, or an integer beyond all floats
                parent[key] = parent[key] * FACTORS[rng.integers(len(FACTORS))]
        elif isinstance(parent[key], str):
            parent[key] = damaged_text(parent[key].encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return content


def value_at(content: object, place: tuple) -> object:
    """The value at a path of keys and indices."""
    for key in place:
        content = content[key]
    return content


def damaged_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Change text without regard to what it means: bits, cuts, pieces put in, pieces repeated."""
    out = bytearray(data)
    kind = rng.integers(6)
    if kind == 0 and out:
        for at in rng.integers(0, len(out), rng.integers(1, 20)):
            out[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del out[int(rng.integers(0, len(out) + 1)) :]
    elif kind == 2:
        start = int(rng.integers(0, len(out) + 1))
        del out[start : start + int(rng.integers(1, 200))]
    elif kind == 3:
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, len(out) + 1))
            out[at:at] = PIECES[rng.integers(len(PIECES))]
    elif kind == 4:
        start = int(rng.integers(0, len(out) + 1))
        piece = bytes(out[start : start + int(rng.integers(1, 300))])
        out[start:start] = piece * int(rng.choice([1, 2, 100]))
    else:
        codec = ("utf-16", "utf-8-sig", "latin-1", "utf-32")[rng.integers(4)]
        return data.decode("utf-8", "replace").encode(codec, "replace")
    return bytes(out)


def damaged_json(content: object, rng: np.random.Generator) -> tuple[str, bytes]:
    """The damage in a word, and a damaged document."""
    kind = rng.random()
    if kind < 0.6:
        return "values", json.dumps(damaged_values(content, rng), indent=2).encode()
    if kind < 0.95:
        return "text", damaged_text(json.dumps(content, indent=2).encode(), rng)
    return "raw", RAW[rng.integers(len(RAW))].encode()


def damaged_lines(records: list, rng: np.random.Generator) -> tuple[str, bytes]:
    """The damage in a word, and a damaged log with a record in each line."""
    lines = [json.dumps(record).encode() for record in records]
    at = int(rng.integers(len(lines)))
    damage, data = damaged_json(records[at], rng)
    lines[at] = data.replace(b"\n", b" ") if rng.random() < 0.8 else data
    return damage, b"\n".join(lines) + (b"\n" if rng.random() < 0.8 else b"")


def damaged_curve(rng: np.random.Generator) -> tuple[str, bytes]:
    """The damage in a word, and the text of a curve."""
    n = int(rng.integers(1, 8))
    lines = [f"{i * rng.choice([0.05, 0.1, 1.0, 1e-7]):.6g} {rng.uniform(-3, 3):.3f}" for i in range(n)]
    kind = rng.random()
    if kind < 0.5:
        for _ in range(rng.integers(1, 4)):
            lines.insert(int(rng.integers(len(lines) + 1)), CURVE_LINES[rng.integers(len(CURVE_LINES))])
        return "lines", ("\n", "\r\n", "\r")[rng.integers(3)].join(lines).encode("utf-8", "replace")
    if kind < 0.9:
        return "text", damaged_text("\n".join(lines).encode(), rng)
    if kind < 0.95:
        return "many points", "".join(
            f"{i * 1e-5:.6g} {i % 7 - 3}\n" for i in range(int(rng.integers(9e4, 1.1e5)))
        ).encode()
    return "not text", rng.integers(0, 256, int(rng.integers(1, 5000)), dtype=np.uint8).tobytes()
