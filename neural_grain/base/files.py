"""TODO"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from neural_grain.base.errors import PipelineError

HIDDEN_NAME = re.compile(r"\.grain-[0-9a-f]{16}\.(part|lock)(\..*)?", re.DOTALL)  # what `_hidden_name` makes
SCRATCH_BYTES = 1 << 29  # of a picture (3 hours); a larger one lies in a file
_locked_files: set[Path] = set()  # hidden files of this process; see `held` and `let_go`
_is_ending = False  # no threading.Event: what a cluster gets of this module must be picklable


def file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns: what tells a changed file from an unchanged one.

    Raises
    ------
    PipelineError
        If the file is not there.
    """
    try:
        status = os.stat(path)
    except OSError as err:
        raise PipelineError(f"not readable ({err.strerror})") from err
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, stamp: tuple[int, int]) -> None:
    """Refuse what was read from a file that was written meanwhile.

    Raises
    ------
    PipelineError
        If its size or time is no longer ``stamp``.
    """
    if file_stamp(path) != stamp:
        raise PipelineError("changed while it was read; run the same command again when it is whole")


def check_writable(folder: Path) -> None:
    """Make ``folder`` if need be and try a file in it, before hours of work are spent.

    Raises
    ------
    PipelineError
        If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise PipelineError(f"{folder}: can't write there ({err.strerror}); choose another folder") from err


def hidden_name(path: Path, kind: str) -> Path:
    """The temporary file or lock beside ``path``: always the same one, short whatever ``path`` is called."""
    return path.with_name(f".grain-{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}.{kind}{path.suffix}")


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed, by kill -9 too; False where there are no such locks.

    Raises
    ------
    BlockingIOError
        If another run holds it.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def locked(hidden: Path, path: Path) -> Iterator[None]:
    """Hold the file ``hidden``, made if need be, against all other runs while ``path`` is written; remove it if that fails.

    Raises
    ------
    PipelineError
        If another run holds it, or it can't be made.
    """
    while True:
        try:
            handle = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as err:
            raise PipelineError(f"{path}: can't write ({err.strerror})") from err
        try:
            is_locked = _lock(handle)
            if not is_locked or os.path.samestat(os.fstat(handle), os.stat(hidden)):
                break
        except BlockingIOError as err:
            os.close(handle)
            raise PipelineError(f"{path}: another run is writing it; wait until it has ended") from err
        except FileNotFoundError:
            pass
        os.close(handle)  # its last holder renamed or removed it meanwhile: this is no longer the file of that name
    _locked_files.add(hidden)
    try:
        if _is_ending:  # on a thread that outlives the run for a moment
            raise PipelineError("interrupted")
        yield
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    finally:
        _locked_files.discard(hidden)
        os.close(handle)


def allow_temporaries() -> None:
    """Allow temporary files again after `remove_own_temporaries`, for the next run in this process."""
    global _is_ending
    _is_ending = False


def remove_own_temporaries() -> None:
    """Remove the hidden files of this process, and let its threads make no more: the process is about to end."""
    global _is_ending
    _is_ending = True
    for hidden in list(_locked_files):
        hidden.unlink(missing_ok=True)


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Let no other run write ``path``, and what belongs to it, until the block ends.

    Raises
    ------
    PipelineError
        If another one does.
    """
    lock = hidden_name(path, "lock")
    with locked(lock, path):
        yield
        lock.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well, and goes if not.

    What a killed run leaves is taken over when ``path`` is written the next time, or removed by `remove_leftovers`.

    Raises
    ------
    PipelineError
        If it can't be written, or another run is writing it.
    """
    part = hidden_name(path, "part")
    with locked(part, path):
        try:
            yield part
            os.replace(part, path)
        except OSError as err:
            raise PipelineError(f"{path}: can't write ({err.strerror or f'{err}; is the disk full?'})") from err


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files that killed runs left in a folder; those of living runs are locked, and stay."""
    for entry in os.scandir(folder):
        if not (HIDDEN_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDWR)
            try:
                if _lock(handle):
                    os.unlink(entry.path)
            finally:
                os.close(handle)


def prepare_folder(folder: Path) -> None:
    """What a run does first with a folder that it writes into: `check_writable` and `remove_leftovers`.

    Raises
    ------
    PipelineError
        If nothing can be written there.
    """
    check_writable(folder)
    remove_leftovers(folder)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` lies below ``folder``, wherever links lead."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def scratch_array(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array, in memory, or in a file without a name if it is very large.

    Raises
    ------
    PipelineError
        If the disk has no room for that file.
    """
    n_bytes = 4 * math.prod(shape)
    if n_bytes <= SCRATCH_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a mapped file that grows into a full disk kills the process
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as err:
        raise PipelineError(
            f"{tempfile.gettempdir()}: no room for {n_bytes / 1e9:.1f} GB of working space ({err.strerror}); "
            "set TMPDIR to another folder"
        ) from err
