"""Reads files of tensors and plain values that torch wrote, without torch.

Such a file is a zip archive: ``data.pkl`` holds the values as a pickle, and each ``data/KEY`` the numbers of a tensor.
It may come from anywhere. No code in it ever runs, and it takes little more memory than its own size: the pickle may
use only the opcodes that plain values need and name only what makes a tensor, and a tensor is a part of a record that
lies in the archive. Only float32 tensors are read, because models hold no others.

In: a binary file. Out: the values, with a NumPy array that can't be written to for each tensor.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from typing import BinaryIO

import numpy as np

MAX_ARCHIVE_BYTES = 1 << 24  # a model takes 0.1 MB; a list of records takes ten times its size in memory
MAX_PICKLE_BYTES = 1 << 22  # it takes 0.3 kB for each epoch; an empty list of 1 byte there takes 64 bytes of memory
MAX_TUPLES = 4096  # Python hashes nested tuples to any depth, and then its stack overflows; a tensor takes four
MAX_DIMENSIONS = 8
ALLOWED_OPCODES = (
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "BINPERSID", "REDUCE",
    "BUILD",
)  # fmt: skip
FLOAT_STORAGE = "float32"


def read_archive(file: BinaryIO) -> object:
    """The values in a file that `torch.save` wrote.

    Raises
    ------
    Exception
        Of any type, if the file is damaged, hostile, or holds more than float32 tensors and plain values.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    if n_bytes > MAX_ARCHIVE_BYTES:
        raise ValueError("too large")
    with zipfile.ZipFile(file) as archive:  # torch's older format is not a zip file and is refused here
        records = archive.infolist()
        # torch compresses nothing. What is compressed may unpack to any size, whatever size is promised.
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("compressed")
        if sum(record.file_size for record in records) > n_bytes:
            raise ValueError("records that overlap")
        (pickled,) = (record for record in records if record.filename.endswith("data.pkl"))
        if pickled.file_size > MAX_PICKLE_BYTES:
            raise ValueError("too many values")
        data = archive.read(pickled)
        _check_opcodes(data)
        return _TensorUnpickler(data, archive, pickled.filename.removesuffix("data.pkl")).load()


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle that does more than make plain values and tensors, or that would take much more memory."""
    n_puts = n_tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in ALLOWED_OPCODES:
            raise ValueError(f"opcode {opcode.name}")
        # Values are kept for later use at increasing places. Memory would be taken for all up to the largest.
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            if argument > n_puts:
                raise ValueError(f"place {argument}")
            n_puts += 1
        n_tuples += opcode.name.startswith("TUPLE")
    if n_tuples > MAX_TUPLES:
        raise ValueError(f"{n_tuples} tuples")


class _Sealed:
    """What a pickle gets instead of a function or an array whose attributes it could set."""

    def __setstate__(self, state: object) -> None:
        raise ValueError("only a dictionary may have attributes")


class _Array(_Sealed, np.ndarray):
    """The numbers of a record, or of a tensor."""


class _Dictionary(dict):
    """For OrderedDict, which a network's weights lie in. It is made empty, and its attributes are ignored."""

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _MakeTensor(_Sealed):
    """A part of a record as an array that shares its memory; for a function of torch with the same arguments."""

    def __call__(
        self, storage: _Array, start: int, shape: tuple, strides: tuple, requires_grad: bool, hooks: object
    ) -> _Array:
        numbers = (start, *shape, *strides)
        if not all(type(n) is int and 0 <= n <= len(storage) for n in numbers) or len(shape) > MAX_DIMENSIONS:
            raise ValueError("no place or shape within a record")
        n_values = math.prod(shape)
        dense = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        is_dense = all(n == 1 or stride == step for n, stride, step in zip(shape, strides, dense, strict=True))
        if start + n_values > len(storage) or not is_dense:
            raise ValueError(f"{shape} is no part of {len(storage)} values")
        return storage[start : start + n_values].reshape(shape)


class _TensorUnpickler(pickle.Unpickler):
    """Makes the values of a pickle that `_check_opcodes` accepted, with arrays in place of tensors."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(data))
        self._archive = archive
        self._folder = folder
        order = f"{folder}byteorder"  # files of early versions of torch have none
        is_big = order in archive.namelist() and archive.read(order) == b"big"
        self._stored_type = ">f4" if is_big else "<f4"
        self._storages: dict[str, _Array] = {}  # so that a record that is named again takes no memory again

    def find_class(self, module: str, name: str) -> object:
        """What a pickle may name."""
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _MakeTensor(),
            ("torch", "FloatStorage"): FLOAT_STORAGE,
            ("collections", "OrderedDict"): _Dictionary,
        }
        return known[module, name]

    def persistent_load(self, identity: tuple) -> _Array:
        """The numbers of a record."""
        kind, storage_type, key, _, n_values = identity
        if kind != "storage" or storage_type != FLOAT_STORAGE or not isinstance(key, str):
            raise ValueError("no record of float32")
        if key not in self._storages:
            stored = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), self._stored_type)
            self._storages[key] = stored.astype(np.float32, copy=False).view(_Array)
        storage = self._storages[key]
        if len(storage) != n_values:
            raise ValueError(f"a record of {len(storage)} values, not {n_values}")
        return storage
