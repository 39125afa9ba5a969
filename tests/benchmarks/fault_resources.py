"""Faults of benchmarks/faults.py that strike a process: signals, a full disk, too little memory, too few open files.

For each there is a list of places where it strikes (moments, sizes), and a function that strikes a copy of the project
at one of them.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks import fault_project as project
from benchmarks.fault_project import ROOT, Undisturbed
from benchmarks.fault_strikes import (
    WORDED,
    Place,
    Struck,
    check_again,
    check_files,
    faults_of_interrupt,
    faults_of_words,
    moments,
    new_copy,
)

PAGE_BYTES = resource.getpagesize()


def signalled(number: signal.Signals, run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Send a signal at one moment. Of learning, kill -9 strikes the window or the stage that it runs, in turn."""
    struck = Struck()
    new_copy(run, folder)
    process = project.start(run.stage, folder)
    try:
        process.wait(place.value)
    except subprocess.TimeoutExpired:
        children = [pid for pid in project.processes_in(folder) if pid != process.pid]
        is_for_stage = number == signal.SIGKILL and run.stage.name == "learn" and place.index % 2 and children
        os.kill(children[0] if is_for_stage else process.pid, number)
        struck.hit, struck.abrupt = True, number == signal.SIGKILL
    status = project.wait(process, folder)
    check_files(struck, folder, may_litter=number == signal.SIGKILL)
    if number == signal.SIGINT:
        struck.failures += faults_of_interrupt(status, folder)
    check_again(struck, run, folder, place.index)
    return struck


@dataclass(frozen=True)
class SmallDisk:
    """A disk with little space: a tmpfs, or where none can be mounted a limit on the size of files."""

    folder: Path
    is_mounted: bool
    options: dict  # for subprocess

    @classmethod
    def make(cls, folder: Path, n_bytes: int, n_used: int) -> SmallDisk:
        """Make a disk with room for ``n_used`` bytes and ``n_bytes`` more."""
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes + n_used}", "tmpfs", str(folder)]
        is_mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
        return cls(folder, is_mounted, {} if is_mounted else {"preexec_fn": limit_files(n_bytes)})

    def remove(self) -> None:
        """Unmount and remove it."""
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
        shutil.rmtree(self.folder)


def limit_files(n_bytes: int) -> Callable[[], None]:
    """Make a ``preexec_fn`` that limits the size of files; writing more fails like on a full disk."""
    return partial(project.limit, resource.RLIMIT_FSIZE, n_bytes)


def used_bytes(folder: Path) -> int:
    """Bytes that a folder takes on a tmpfs, where files take whole pages and folders nothing."""
    return sum(-(-path.stat().st_size // PAGE_BYTES) * PAGE_BYTES for path in project.files_in(folder))


def sizes_of_disk(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Random numbers of free bytes, up to what the command needs, in whole pages."""
    needed = used_bytes(run.whole) - used_bytes(run.template)
    rooms = [int(room) // PAGE_BYTES * PAGE_BYTES for room in moments(n, needed, seed)]
    return [
        Place(f"with {room / 1e3:.0f} of {needed / 1e3:.0f} kB free", room, index=i) for i, room in enumerate(rooms)
    ]


def on_full_disk(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Run the command on a small disk, and again when there is room."""
    struck = Struck()
    disk = SmallDisk.make(folder, int(place.value), used_bytes(run.template))
    try:
        inner = folder / "project"
        new_copy(run, inner)
        Path(f"{inner}.err").symlink_to(f"{folder}.err")  # outside the small disk
        Path(f"{inner}.tmp").symlink_to(f"{folder}.tmp")
        Path(f"{folder}.tmp").mkdir(exist_ok=True)
        status = project.wait(project.start(run.stage, inner, **disk.options), inner)
        struck.hit = status != 0
        struck.failures += faults_of_words(status, inner)
        check_files(struck, inner, may_litter=False)
        if disk.is_mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
        check_again(struck, run, inner, place.index)
    finally:
        disk.remove()
    return struck


def sizes_of_memory(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Random numbers of bytes of addresses, up to what the largest process takes."""
    sizes = [int(size) for size in moments(n, run.peak_bytes, seed)]
    return [Place(f"with {size >> 20} of {run.peak_bytes >> 20} MB", size, index=i) for i, size in enumerate(sizes)]


def numbers_of_handles(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Numbers of open files, from those of a bare Python to what the command needs."""
    numbers = range(4, run.n_handles + 2)
    chosen = numbers if len(numbers) <= n else np.linspace(numbers[0], numbers[-1], n).astype(int)
    return [Place(f"with {k} of {run.n_handles} open files", int(k), index=i) for i, k in enumerate(chosen)]


def limited(kind: int, run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Run the command with too little of a resource, and again with enough.

    The system's loader, Python before the script's first line, or a library in C may end the process in its own way.
    That counts as abrupt. An exception that passed through our code must have become one line.
    """
    struck = Struck()
    new_copy(run, folder)
    process = project.start(run.stage, folder, preexec_fn=partial(project.limit, kind, int(place.value)))
    status = project.wait(process, folder)
    printed = project.messages(folder)
    struck.hit = status != 0
    is_ours = any(str(ROOT) in line for line in printed)
    is_worded = any(WORDED.match(line) for line in printed)
    struck.abrupt = status < 0 or (status != 0 and not is_ours and not is_worded)
    if not struck.abrupt:
        struck.failures += faults_of_words(status, folder)
    check_files(struck, folder, may_litter=struck.abrupt)
    check_again(struck, run, folder, place.index)
    return struck
