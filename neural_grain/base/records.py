"""JSON documents with a version, and their conversion to checked dataclasses.

`read_json` parses a document, `read_earlier` reads the one that an earlier run of the same stage left, and
`parse_record` converts a part of it to a dataclass with msgspec, which compares every value with the type and the
bounds of its field (``Annotated[float, Meta(gt=0, le=1)]``).
The standard library's json reads the text, because msgspec's own parser refuses lone surrogates. Those
stand for the bytes of file names that are not UTF-8.

Paths are POSIX paths relative to the folder of the document in JSON, and absolute `Path` objects in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import msgspec

from neural_grain.base.errors import PipelineError, short_repr
from neural_grain.base.files import atomic_write

Record = TypeVar("Record")
Document = TypeVar("Document")
#: How our documents begin, also if they are cut off, or blank after a power cut.
OWN_START = re.compile(rb'[\s\0]*(\{\s*("version".*)?)?', re.DOTALL)
MSGSPEC_CACHE = "__msgspec_cache__"
STEP_OF_PLACE = re.compile(r"\.(\w+)|\[(\d+)\]")  # msgspec names a place as $.settings.grain or $[3].path


def write_json(path: Path, content: dict) -> None:
    """Write a JSON document. A reader sees the old file or the new one, never a part of it."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(_encode(content) + b"\n")


def _encode(content: dict) -> bytes:
    """The text of a JSON document with an indentation of two."""
    try:
        compact = json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
        return msgspec.json.format(compact, indent=2)  # a quarter of the time of json's own indentation
    except UnicodeEncodeError:  # a lone surrogate, which msgspec refuses: its escape sequence in JSON is \udcff
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False).encode(errors="backslashreplace")


def read_json(path: Path, version: int, made_by: str | None) -> dict:
    """Read a JSON object of a known version.

    Parameters
    ----------
    path : Path
    version : int, the version that this program reads
    made_by : the command that makes such a file, for the error message; None if this is the command

    Returns
    -------
    dict
        All numbers in it are finite.
    """
    again = f"; make it again with: {made_by}" if made_by else ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_float=_finite_float, parse_constant=_finite_float)
    except FileNotFoundError as err:
        raise PipelineError(f"{path}: no such file; make it with: {made_by}") from err
    except (OSError, ValueError, RecursionError) as err:
        raise PipelineError(f"{path}: not readable as JSON ({err}){again}") from err
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: holds a {type(content).__name__}, not an object{again}")
    if content.get("version") != version:
        raise PipelineError(
            f"{path}: field version is {short_repr(content.get('version'))}, this program reads {version}{again}"
        )
    return content


def read_earlier(read: Callable[..., Document], path: Path, warn: Callable[[str], None]) -> Document | None:
    """Read the document that an earlier run of this stage left, which the stage will replace.

    Parameters
    ----------
    read : called with ``path`` and ``made_by=None``; raises a PipelineError if the document is of no use
    path : Path
    warn : called with one line if the document is damaged or outdated, so that it has to be made again

    Returns
    -------
    The document, or None if there is none or if it is of no use

    Raises
    ------
    PipelineError
        If the file is not one of our documents, so that it must not be replaced.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read(path, made_by=None)
    except PipelineError as err:
        kept = _keep_if_foreign(path, err)
        warn(f"{err}; it is made again" + (f", and the old file is kept as {kept.name}" if kept else ""))
        return None


def _keep_if_foreign(path: Path, fault: PipelineError) -> Path | None:
    """Copy a JSON file that does not begin like our documents, and may be the user's, to another name beside it."""
    try:
        content = path.read_bytes()
    except OSError as err:
        raise PipelineError(f"{path}: not readable ({err.strerror})") from err
    start = OWN_START.fullmatch(content[:1000])
    if path.suffix.lower() != ".json" and not (start and start[2]):
        raise PipelineError(f"{fault}; choose another name for the output")
    if start:
        return None
    kept = path.with_name(f"{path.stem}.{hashlib.sha1(content).hexdigest()[:8]}{path.suffix}")
    if not kept.exists():
        with atomic_write(kept) as temporary:
            temporary.write_bytes(content)
    return kept


def _finite_float(text: str) -> float:
    """Convert a number of a JSON text; ``NaN``, ``Infinity`` and ``1e999`` raise ValueError."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def parse_record(kind: type[Record], record: object, where: str, folder: Path = Path()) -> Record:
    """Convert plain values to a dataclass, or to a tuple of dataclasses, and check every field.

    Parameters
    ----------
    kind : type
        A dataclass such as ``FileGrain``, or ``tuple[FileGrain, ...]``.
    record : object
        Dicts, lists and scalars from a JSON document or a checkpoint.
    where : str
        The file and the place in it, for the error message.
    folder : Path
        Relative paths in the record start here.

    Raises
    ------
    PipelineError
        Naming the field that is missing, of the wrong type or out of range, such as
        ``metadata.json: files[3].grain: expected float <= 1.0, got 2.0``.
    """
    _restore_dataclasses(kind)
    try:
        return msgspec.convert(record, kind, dec_hook=lambda _, value: _absolute_path(value, folder))
    except msgspec.ValidationError as err:
        raise PipelineError(_describe(err, record, where)) from err
    except UnicodeEncodeError as err:  # msgspec compares names as UTF-8, which a lone surrogate has none of
        raise PipelineError(f"{where}: the name of a field is not valid Unicode") from err
    finally:
        _restore_dataclasses(kind)


def _restore_dataclasses(kind: object) -> None:
    """Undo what msgspec and cloudpickle do to the dataclasses in a type.

    msgspec stores a cache in each class. It can't be pickled, so the class could not be sent to a cluster by value.
    A class that has come back from a cluster has copies of `dataclasses.MISSING`, which msgspec takes for defaults.
    """
    for part in get_args(kind):
        _restore_dataclasses(part)
    if not is_dataclass(kind):
        return
    if MSGSPEC_CACHE in vars(kind):
        delattr(kind, MSGSPEC_CACHE)
    for field in fields(kind):
        for name in ("default", "default_factory"):
            if isinstance(getattr(field, name), type(MISSING)):
                setattr(field, name, MISSING)
    for part in get_type_hints(kind).values():
        _restore_dataclasses(part)


def _absolute_path(value: object, folder: Path) -> Path:
    """Decode a path for msgspec, which adds the place of the value to the errors raised here."""
    if not isinstance(value, str):
        raise TypeError(f"Expected str, got {type(value).__name__}")
    try:
        is_usable = b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        is_usable = False
    if not is_usable:
        raise ValueError("Expected a path that a file can have")
    return Path(os.path.abspath(os.path.join(folder, value)))


def _describe(err: msgspec.ValidationError, record: object, where: str) -> str:
    """Turn "Expected `float` <= 1.0 - at `$[3].grain`" into one line that names the file, the place and the value."""
    reason, _, place = str(err).replace("`", "").partition(" - at ")
    value = record
    for name, index in STEP_OF_PLACE.findall(place):
        where += f".{name}" if name else f"[{index}]"
        if isinstance(value, dict | list | tuple):  # a checkpoint may also hold a set, which has no places
            value = value[name or int(index)]
    expected, _, got = reason.partition(", got ")
    if expected.startswith("Expected"):
        reason = f"{expected}, got {short_repr(value) if isinstance(value, str | int | float) else got}"
    return f"{where}: {reason[0].lower()}{reason[1:]}"


def json_record(item: object, folder: Path) -> dict:
    """Fields of a dataclass as JSON values, in their order; paths become relative to ``folder``."""
    return {
        name: relative_posix(value, folder) if isinstance(value, Path) else value for name, value in vars(item).items()
    }


def relative_posix(path: Path, folder: Path) -> str:
    """POSIX path of ``path`` relative to ``folder``, as our JSON files hold it; absolute on another drive of Windows."""
    path, start = os.path.abspath(path), os.path.join(os.path.abspath(folder), "")
    if path.startswith(start):  # most are, and relpath takes four times as long
        return path[len(start) :].replace(os.sep, "/")
    with suppress(ValueError):  # no path leads from one drive to another
        path = os.path.relpath(path, start)
    return path.replace(os.sep, "/")
