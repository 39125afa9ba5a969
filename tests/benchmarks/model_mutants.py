"""Damaged and malicious model files and arrays for benchmarks/fuzz.py.

A model file is a zip archive that torch wrote. It is damaged as bytes, as a pickle inside a valid archive, or as values
that torch writes again; and some pickles would run code that makes a file named "hacked". An array is a .npy file.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np
from benchmarks.document_mutants import damaged_text, damaged_values
from benchmarks.sandbox import MARKER

VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "x",
    "x" * 20_000,
    b"x",
    [],
    {},
    (),
    (1, 2),
    {1, 2},
    [[1]],
    2**40,
)
OPCODES = bytes(range(0x21, 0x80)) + bytes(range(0x80, 0x9A))
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3000000000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (128, 100000000), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (128, 256), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (128, 256), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (128, 256), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 256), }",
    "{'descr': '>f4', 'fortran_order': False, 'shape': (128, 256), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (128, 256), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (128, 256), 'x': __import__('os').mkdir('hacked')}",
    "__import__('os').mkdir('hacked')",
    "(" * 9000, "{'shape': " + "9" * 9000 + "}", "\0" * 100, "'''",
)  # fmt: skip


class _Runs:
    """Pickled, it is a call of a function."""

    def __init__(self, function: object, *arguments: object):
        self._call = function, arguments

    def __reduce__(self) -> tuple:
        return self._call


def malicious_pickles() -> list[bytes]:
    """Pickles that would make the marker, in the ways that a pickle can name code."""
    import builtins
    import os
    import subprocess

    code = f"__import__('os').mkdir({MARKER!r})"
    calls = [
        _Runs(os.mkdir, MARKER), _Runs(os.system, f"mkdir {MARKER}"), _Runs(eval, code), _Runs(exec, code), _Runs(builtins.open, MARKER, "w"),
        _Runs(subprocess.getoutput, f"mkdir {MARKER}"), _Runs(__import__, "antigravity"),
    ]  # fmt: skip
    pickles = [pickle.dumps(call, protocol) for call in calls for protocol in (0, 2, 4)]
    inside = [pickle.dumps({"version": 8, "weights": call, "settings": call}, 2) for call in calls[:4]]
    by_name = f"\x80\x02cos\nmkdir\n(X\x06\0\0\0{MARKER}tR.".encode("latin-1")
    by_instance = f"(ios\nmkdir\nX\x06\0\0\0{MARKER}\n.".encode("latin-1")
    stacked = b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06" + MARKER.encode() + b"\x85R."
    built = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0__class__cos\nmkdir\nsb."
    return [*pickles, *inside, by_name, by_instance, stacked, built]


def with_pickle(model: bytes, change: object) -> bytes:
    """A model file whose pickle is changed; the archive stays valid."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(out, "w") as new:
        for record in old.infolist():
            data = old.read(record)
            new.writestr(record.filename, change(data) if record.filename.endswith("data.pkl") else data)
    return out.getvalue()


def damaged_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """A pickle with some opcodes or arguments changed, put in or taken out."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at, kind = int(rng.integers(2, len(out))), rng.integers(4)
        if kind == 0:
            out[at] = OPCODES[rng.integers(len(OPCODES))]
        elif kind == 1:
            out.insert(at, OPCODES[rng.integers(len(OPCODES))])
        elif kind == 2:
            del out[at : at + int(rng.integers(1, 4))]
        else:
            out[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 10**9])))
    return bytes(out)


def damaged_model(model: bytes, content: dict, rng: np.random.Generator) -> tuple[str, bytes]:
    """The damage in a word, and a damaged model file; ``content`` is what torch reads of ``model``."""
    import torch

    kind = rng.random()
    if kind < 0.25:
        return "bytes", damaged_text(model, rng)
    if kind < 0.5:
        return "pickle", with_pickle(model, lambda data: damaged_pickle(data, rng))
    if kind < 0.65:
        pickles = malicious_pickles()
        return "malicious", with_pickle(model, lambda _: pickles[rng.integers(len(pickles))])
    if kind < 0.7:
        pickles = malicious_pickles()
        return "bare pickle", pickles[rng.integers(len(pickles))]
    out = io.BytesIO()
    tensors = (
        torch.zeros(3),
        torch.full((16, 16), torch.nan),
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(0),
        torch.rand(128, 8),
    )
    torch.save(damaged_values(content, rng, (*VALUES, *tensors)), out)
    return "values", out.getvalue()


def damaged_array(array: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The damage in a word, and a damaged .npy file."""
    kind, body = rng.random(), array[128:]
    if kind < 0.3:
        return "bytes", damaged_text(array, rng)
    if kind < 0.6:
        text = HEADERS[rng.integers(len(HEADERS))].encode().ljust(118) + b"\n"
        return "header", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) & 0xFFFF) + text + body
    if kind < 0.8:
        values = np.frombuffer(body, np.float32).copy()
        wild = np.array([np.nan, np.inf, -np.inf, -1, 2, 1e30, -1e-30, 1.0000001], np.float32)
        values[rng.integers(0, len(values), int(rng.integers(1, 100)))] = wild[rng.integers(len(wild))]
        return "values", array[:128] + values.tobytes()
    if kind < 0.9:
        out = io.BytesIO()
        np.save(out, np.array([_Runs(eval, f"__import__('os').mkdir({MARKER!r})")], object), allow_pickle=True)
        return "malicious", out.getvalue()
    out = io.BytesIO()
    np.savez(out, np.zeros((128, 256), np.float32))
    return "archive", out.getvalue()
