"""Which paths name one file, so that no output of a run replaces one of its inputs.

One file can have several names: symbolic links, hard links, and on many file systems names that differ in upper and
lower case or in their Unicode form. Names that differ only in this way are taken as one on every file system, because
libraries are moved from one to another.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from neural_grain.base.errors import PipelineError, printable


def name_keys(paths: Iterable[Path]) -> Iterator[str]:
    """Yield for each path what all spellings of it share: links in its folder resolved, in lower case."""
    folders: dict[Path, str] = {}  # resolving takes a system call for every part of a path
    for path in paths:
        folder = path.parent
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        yield unicodedata.normalize("NFC", os.path.join(folders[folder], path.name)).casefold()


def refuse_inputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise PipelineError if one of the outputs is one of the inputs, under whatever name."""
    names, files = set(name_keys(inputs)), {_file_id(output): output for output in outputs}
    files.pop(None, None)
    found = next((output for output, name in zip(outputs, name_keys(outputs), strict=True) if name in names), None)
    if found is None and files:
        found = next(filter(None, (files.get(_file_id(path)) for path in inputs)), None)
    if found is not None:
        which = "the input itself" if len(inputs) == 1 else "an input of this run"
        raise PipelineError(f"{printable(found)}: is {which}, which is never overwritten; choose another name")


def _file_id(path: Path) -> tuple[int, int] | None:
    """Device and inode, which all links to a file share; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def ignores_case(folder: Path) -> bool:
    """Return True if the file system of a folder, which need not exist yet, takes a.wav and A.wav as one name."""
    existing = next((path for path in (folder.absolute(), *folder.absolute().parents) if os.path.isdir(path)), None)
    if existing is None:  # on a drive of Windows that is not there
        return False
    try:
        with tempfile.NamedTemporaryFile(prefix=".grain-", dir=existing) as file:
            return Path(file.name).with_name(Path(file.name).name.upper()).exists()
    except OSError:  # nothing can be written there, and the run will say so
        return False
