"""Records the states that a disk may be in after a power cut, inside the command that writes to it.

`install` wraps ``os.fsync`` and ``os.sync`` and watches changes of names with an audit hook. `Recorder` keeps on the
real disk, outside the project, what an imagined disk would hold. Several processes may write to one record.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAMES, STATES = "contents", "states"
WATCHED = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
EMPTY = hashlib.sha1(b"").hexdigest()


class Recorder:
    """What an imagined disk holds.

    Parameters
    ----------
    folder : Path, the project
    record : Path, where the record is kept
    """

    def __init__(self, folder: Path, record: Path):
        self._folder, self._record = folder, record
        self._lock = threading.RLock()
        self._flushed: dict[str, str] = {}  # content of each inode at its last flush, as a hash
        #: Of each folder at its last flush: its files (name -> inode, time, hash of the content) and folders (name -> 0).
        self._listed: dict[str, dict[str, list | int]] = {}

    def begin(self) -> None:
        """Take all that is there as flushed."""
        for name in (NAMES, STATES):
            (self._record / name).mkdir(parents=True)
        (self._record / "disk.json").write_text("[{}, {}]")
        self.flush_all()

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """Load what is recorded so far, and keep it afterwards; one thread of one process at a time."""
        with self._lock, (self._record / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            disk = self._record / "disk.json"
            self._flushed, self._listed = json.loads(disk.read_text())
            yield
            disk.write_text(json.dumps([self._flushed, self._listed]))

    def flush(self, path: Path) -> None:
        """A file, or the names in a folder, reach the disk."""
        with self._shared():
            if path.is_dir():
                self._list(path)
            else:
                self._keep(path)
            self._note_states()

    def flush_all(self) -> None:
        """Everything reaches the disk."""
        with self._shared():
            paths = [self._folder, *self._folder.rglob("*")]
            for path in paths:
                if not path.is_dir():
                    self._keep(path)
            for path in filter(Path.is_dir, paths):
                self._list(path)
            self._note_states()

    def end(self) -> None:
        """The command has ended."""
        with self._shared():
            self._note_states()

    def before_change(self, path: Path, *, is_removed: bool) -> None:
        """A name is about to change; an inode that loses its name may get another content later."""
        with self._shared():
            self._note_states()
            with suppress(OSError):
                if is_removed and path.is_file():
                    self._flushed.pop(str(path.stat().st_ino), None)

    def _keep(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            digest = hashlib.sha1(content).hexdigest()
            if not (self._record / NAMES / digest).exists():
                (self._record / NAMES / digest).write_bytes(content)
            status = path.stat()
            self._flushed[str(status.st_ino)] = digest
            listed = self._listed.get(str(path.parent), {})
            if listed.get(path.name) and listed[path.name][0] == status.st_ino:  # the name was flushed before
                listed[path.name] = [status.st_ino, status.st_mtime_ns, digest]

    def _list(self, path: Path) -> None:
        names: dict[str, list | int] = {}
        for entry in os.scandir(path):
            with suppress(FileNotFoundError):
                flushed = self._flushed.get(str(entry.inode()), EMPTY)
                names[entry.name] = 0 if entry.is_dir() else [entry.inode(), entry.stat().st_mtime_ns, flushed]
        self._listed[str(path)] = names

    def _note_states(self) -> None:
        """Note the two states of the disk, each once."""
        (self._record / NAMES / EMPTY).touch()
        for files, folders in (self._with_names(), self._strict()):
            text = json.dumps({"folders": sorted(folders), "files": dict(sorted(files.items()))})
            state = self._record / STATES / hashlib.sha1(text.encode()).hexdigest()
            if not state.exists():
                state.write_text(text)

    def _with_names(self) -> tuple[dict, list]:
        """All names that are there now, with what was flushed of each file."""
        files, folders = {}, []
        for path in self._folder.rglob("*"):
            name = str(path.relative_to(self._folder))
            if path.is_dir():
                folders.append(name)
            else:
                with suppress(FileNotFoundError):
                    status = path.stat()
                    files[name] = self._flushed.get(str(status.st_ino), EMPTY), status.st_mtime_ns
        return files, folders

    def _strict(self) -> tuple[dict, list]:
        """The names that were flushed, in folders whose names were flushed."""
        files, folders, waiting = {}, [], [self._folder]
        while waiting:
            folder = waiting.pop()
            for name, entry in self._listed.get(str(folder), {}).items():
                path = folder / name
                relative = str(path.relative_to(self._folder))
                if entry == 0:
                    folders.append(relative)
                    waiting.append(path)
                else:
                    files[relative] = entry[2], entry[1]
        return files, folders


def install(folder: str, record: str) -> None:
    """Record all that this process does in ``folder``."""
    recorder, is_inside = Recorder(Path(folder), Path(record)), threading.local()
    real_fsync, real_sync = os.fsync, os.sync

    @contextmanager
    def once() -> Iterator[bool]:
        """False if this thread records already."""
        if getattr(is_inside, "value", False):
            yield False
            return
        is_inside.value = True
        try:
            yield True
        finally:
            is_inside.value = False

    def belongs(path: Path) -> bool:
        return path.is_relative_to(folder)

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        with once() as is_free:
            if is_free and belongs(path):
                recorder.flush(path)

    def sync() -> None:
        with once() as is_free:
            if is_free:
                recorder.flush_all()

    def watch(event: str, arguments: tuple) -> None:
        if event not in WATCHED:
            return
        with once() as is_free:
            if not is_free or not isinstance(arguments[0], str | bytes | os.PathLike):
                return
            target = arguments[1] if event == "os.rename" else arguments[0]
            path = Path(os.path.abspath(os.fsdecode(target)))
            if belongs(path):
                recorder.before_change(path, is_removed=event in ("os.rename", "os.remove"))

    del real_sync  # the real disk need not be flushed
    os.fsync, os.sync = fsync, sync
    sys.addaudithook(watch)
