"""Files that are written as a whole or not at all, and runs that do not disturb each other.

`atomic_write` writes a hidden temporary file beside its target, flushes it to the disk and renames it at the end. So a
reader sees the old file or the new one, never a part, and so does the user after a power cut. `run_lock` keeps other
runs from writing a file. Both hold the same lock: one of the operating system (through ``filelock``) on a hidden file
beside the target. It ends with its process, even by kill -9. Hidden files that a killed run leaves are removed by the
next run in that folder (`prepare_folder`).

`file_stamp` recognises a file that has changed, and `scratch_array` holds arrays that may exceed the memory.
"""

from __future__ import annotations

import errno
import hashlib
import math
import mmap
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neural_grain.base.errors import PipelineError, SystemRefusal

HIDDEN_NAME = re.compile(r"(\.grain-[0-9a-f]{16})\.(part|lock)(\..*)?", re.DOTALL)
SCRATCH_BYTES = 1 << 27  # six minutes of stereo; a larger array goes to a file
#: Errors of file systems that have no locks, such as some network folders. There runs are not kept apart.
NO_LOCKS = frozenset(getattr(errno, name, -1) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"))


class OwnLocks:
    """The locks that this process holds, so that none stays behind when it ends while threads of it still write."""

    def __init__(self) -> None:
        self.holders: dict[Path, int] = {}  # locked paths, and the thread that holds each lock
        self.admission = threading.Lock()  # held while a lock is acquired or released, and for ever at the end

    def __reduce__(self) -> tuple:
        return type(self), ()  # a worker of a cluster has locks of its own


OWN_LOCKS = OwnLocks()


class Stamp(NamedTuple):
    """Size and modification time of a file. If neither has changed, the file is taken as unchanged."""

    size_bytes: int
    mtime_ns: int


NO_STAMP = Stamp(-1, -1)  # of a file that could not be looked up or read


def file_stamp(path: Path) -> Stamp:
    """Read size and modification time of a file."""
    try:
        status = os.stat(path)
    except OSError as err:
        raise SystemRefusal(f"not readable ({err.strerror})") from err
    return Stamp(status.st_size, status.st_mtime_ns)


def readable_size(path: Path) -> int:
    """Size in bytes of a regular file that can be opened for reading.

    Raises
    ------
    OSError
        If it can't be opened: it is a folder, it is missing, or its permissions forbid it.
    PipelineError
        If it is a pipe, a socket or a device. Opening a pipe would wait for a program that writes to it.
    """
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise PipelineError("not readable (a pipe, socket or device, not a file)")
    with open(path, "rb"):
        return status.st_size


def check_unchanged(path: Path, stamp: Stamp) -> None:
    """Raise PipelineError if a file was written since ``stamp``, so that what was read of it may be mixed."""
    if file_stamp(path) != stamp:
        raise PipelineError("changed while it was read; run the same command again when it is whole")


def is_inside(path: Path, folder: Path) -> bool:
    """Return True if ``path`` is in ``folder`` or in a folder below it, with symbolic links resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_writable(folder: Path) -> None:
    """Create ``folder`` if it is missing, and raise PipelineError if no file can be written there.

    A stage calls this before hours of work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise PipelineError(f"{folder}: can't write there ({err.strerror}); choose another folder") from err


def prepare_folder(folder: Path) -> None:
    """Create a folder for a run that will write into it, check that it can, and remove what killed runs left."""
    check_writable(folder)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files that killed runs left in a folder. Those of living runs are locked and stay."""
    names: list[str] = []
    with suppress(OSError):  # a folder in which one may write but not look, or that was removed
        names = [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    for match in filter(None, map(HIDDEN_NAME.fullmatch, names)):
        with suppress(OSError):  # another run holds it, or removes it at the same time
            lock = _Lock.acquire(folder / f"{match[1]}.lock")
            try:
                if lock.is_exclusive:
                    os.unlink(folder / match[0])
            finally:
                lock.release()


def hidden_path(path: Path, kind: str) -> Path:
    """Path of the ``lock`` or the temporary file (``part``) beside ``path``.

    It is the same in every run, and short even if the name of ``path`` has the greatest possible length.
    The temporary file keeps the extension, which some writers take the format from.
    """
    digest = hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".grain-{digest}.{kind}{path.suffix if kind == 'part' else ''}")


class _Lock(NamedTuple):
    """An open and locked lock file."""

    path: Path
    descriptor: int
    is_exclusive: bool  # False on a file system without locks

    @classmethod
    def acquire(cls, path: Path) -> _Lock:
        """Create and lock a file.

        Raises
        ------
        BlockingIOError
            If another thread or process holds it.
        OSError
            If it can't be created.
        """
        from filelock import lock_descriptor  # imported late: it takes 35 ms, and --help does not need it

        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not lock_descriptor(descriptor, blocking=False):
                    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
                # If its last holder removed the file after it was opened here, this is a lock that nobody else sees.
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return cls(path, descriptor, True)
            except FileNotFoundError:
                pass
            except OSError as err:
                if err.errno in NO_LOCKS:
                    return cls(path, descriptor, False)
                os.close(descriptor)
                raise
            os.close(descriptor)

    def release(self) -> None:
        """Remove and unlock the file."""
        if os.name == "nt":  # no open file can be removed, and so it can't be another run's either
            os.close(self.descriptor)
        with suppress(OSError):  # while it is still locked: afterwards it may be another run's
            os.unlink(self.path)
        if os.name != "nt":
            os.close(self.descriptor)


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Keep other runs from writing ``path``, and the files that belong to it, until the block ends.

    Only the thread that holds the lock can write ``path`` with `atomic_write` meanwhile.

    Raises
    ------
    PipelineError
        At once, if another run or thread holds the lock.
    """
    target = Path(os.path.abspath(path))
    if OWN_LOCKS.holders.get(target) == threading.get_ident():
        yield
        return
    try:
        with OWN_LOCKS.admission:
            lock = _Lock.acquire(hidden_path(target, "lock"))
            OWN_LOCKS.holders[target] = threading.get_ident()
    except BlockingIOError as err:
        raise PipelineError(f"{path}: another run is writing it; wait until it has ended") from err
    except OSError as err:
        raise _write_error(path, err) from err
    try:
        yield
    finally:
        with OWN_LOCKS.admission:
            lock.release()
            del OWN_LOCKS.holders[target]


@contextmanager
def atomic_write(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Write a file through a temporary one.

    Parameters
    ----------
    path : Path
    flush : False for one of many files that another file will name. Before that one is written, `flush_written_files`
        flushes them all. One tile takes 4 ms to flush and less to make; in a group it takes 0.4 ms.

    Yields
    ------
    Path
        The temporary file to write. It replaces ``path`` if the block ends well, and is removed if not.

    Raises
    ------
    PipelineError
        If the file can't be written, or another run or thread is writing it.
    """
    part = hidden_path(path, "part")
    flush = flush or not hasattr(os, "sync")  # Windows can't flush a group of files
    with run_lock(path):
        try:
            yield part
            if flush:
                _flush(part, os.O_RDWR)
            os.replace(part, path)
            if flush:
                with suppress(OSError):  # folders that can't be opened or flushed, as on some network file systems
                    _flush(path.parent, os.O_RDONLY)
        except OSError as err:
            raise _write_error(path, err) from err
        finally:
            _remove(part)


def _write_error(path: Path, err: OSError) -> PipelineError:
    """Make an error that names the file, unless it is a temporary one: then the caller names what it will become."""
    name = "" if HIDDEN_NAME.fullmatch(path.name) else f"{path}: "
    reason = err.strerror or f"{err}; is the disk full?"  # numpy gives none if it could write only a part of an array
    return PipelineError(f"{name}can't write ({reason})")


def _remove(path: Path) -> bool:
    """Remove a file, and return whether that was possible.

    It is not if there is no such file, if its folder was replaced or locked meanwhile, and on Windows if it is open.
    """
    try:
        path.unlink()
    except OSError:
        return False
    return True


def append_line(path: Path, line: str) -> None:
    """Append to a text file, and wait until the line is on the disk: also after a power cut, it is there before all
    that is written later.
    """
    is_new = not path.exists()
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            with suppress(OSError):
                _flush(path.parent, os.O_RDONLY)
    except OSError as err:
        raise PipelineError(f"{path}: can't write ({err.strerror})") from err


def _flush(path: Path, mode: int) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_written_files() -> None:
    """Wait until everything that was written with ``atomic_write(flush=False)`` is on the disk."""
    if hasattr(os, "sync"):  # elsewhere each file was flushed
        os.sync()


def remove_own_temporaries() -> None:
    """Remove the hidden files of this process, which is about to end while threads of it may still write.

    From now on, a thread that wants a lock waits for ever. One that holds a lock may be about to create its temporary
    file, so the search is repeated until it finds nothing that can be removed.
    """
    OWN_LOCKS.admission.acquire()
    hidden = [hidden_path(target, kind) for target in OWN_LOCKS.holders for kind in ("part", "lock")]
    while any([_remove(path) for path in hidden]):
        pass


def scratch_array(shape: tuple[int, ...]) -> np.ndarray:
    """Create an uninitialised float32 array: in memory, or if it is very large, in a file that has no name."""
    n_bytes = 4 * math.prod(shape)
    if n_bytes <= SCRATCH_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a mapped file that grows into a full disk would kill the process
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as err:
        raise PipelineError(
            f"{tempfile.gettempdir()}: no room for {n_bytes / 1e9:.1f} GB of working space ({err.strerror}); "
            "set TMPDIR to another folder"
        ) from err


def release_pages(*arrays: np.ndarray) -> None:
    """Give back the memory that pages of scratch arrays hold; what lies in files stays there and is read again."""
    for array in arrays:
        if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            array.base.madvise(mmap.MADV_DONTNEED)
