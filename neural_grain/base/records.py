"""TODO"""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields
from pathlib import Path

from neural_grain.base.errors import PipelineError, short_repr
from neural_grain.base.files import atomic_write


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
            encoding="utf-8",
            errors="backslashreplace",  # bytes of a name that are no UTF-8: they become \udcff, as JSON writes it
        )


def read_json(path: Path, version: int, made_by: str) -> dict:
    """Read a JSON object of a known version.

    Raises
    ------
    PipelineError
        If the file is missing, damaged or of another version; ``made_by`` is the command that makes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise PipelineError(f"{path}: no such file; make it with: {made_by}") from err
    except (OSError, ValueError, RecursionError) as err:
        raise PipelineError(f"{path}: not readable as JSON ({err}); make it again with: {made_by}") from err
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: holds a {type(content).__name__}, not an object; make it again with: {made_by}")
    if content.get("version") != version:
        raise PipelineError(
            f"{path}: field version is {short_repr(content.get('version'))}, this program reads {version}; "
            f"make it again with: {made_by}"
        )
    return content


def parse_record(kind: type, record: object, where: str, folder: Path = Path()):
    """Build a dataclass of numbers, texts and paths (relative to ``folder``) from a JSON object, every field checked.

    Raises
    ------
    PipelineError
        Naming ``where`` and the field that is missing, of the wrong type or out of range.
    """
    if not isinstance(record, dict):
        raise PipelineError(f"{where}: is a {type(record).__name__}, not an object")
    values = {}
    for item in fields(kind):
        if item.name not in record:
            raise PipelineError(f"{where}: field {item.name} is missing")
        value = record[item.name]
        if value is None and item.type.endswith("| None"):
            values[item.name] = None
            continue
        wanted = {"int": int, "float": (int, float)}.get(item.type, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise PipelineError(f"{where}: field {item.name} is {short_repr(value)}, not a {item.type}")
        if item.type == "float":
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            if not math.isfinite(value):
                raise PipelineError(f"{where}: field {item.name} is not a finite number")
        if item.name == "grain" and not 0 < value <= 1:
            raise PipelineError(f"{where}: field grain is {value!r}, not within 0 to 1")
        if item.type.startswith("Path"):
            if not _can_be_a_path(value):
                raise PipelineError(f"{where}: field {item.name} is {short_repr(value)}, which no file can be named")
            value = Path(os.path.abspath(os.path.join(folder, value)))
        values[item.name] = value
    return kind(**values)


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def parse_records(kind: type, content: dict, name: str, path: Path) -> tuple:
    """The list ``content[name]`` of the JSON file ``path`` as dataclasses, their paths made absolute.

    Raises
    ------
    PipelineError
        Naming the file and the field that is wrong.
    """
    entries = content.get(name)
    if not isinstance(entries, list):
        raise PipelineError(f"{path}: field {name} is not a list")
    folder = Path(os.path.abspath(path)).parent
    return tuple(parse_record(kind, entry, f"{path}: {name}[{i}]", folder) for i, entry in enumerate(entries))


def relative_posix(path: Path, folder: Path) -> str:
    """POSIX path of ``path`` relative to ``folder``, as our JSON files hold it."""
    return os.path.relpath(path, folder).replace(os.sep, "/")
