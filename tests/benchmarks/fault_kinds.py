"""The faults of benchmarks/faults.py: signals, too little of a resource, folders and clocks that change, two runs.

For each fault there is a list of places where it strikes (moments, sizes, folders), and a function that strikes a copy
of the project at one of them. After it, the same command must leave what an undisturbed run leaves.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks import fault_project as project
from benchmarks.fault_project import ROOT, STAGES, Undisturbed

PR_CAPBSET_DROP, IGNORE_PERMISSIONS = 24, (1, 2)  # of Linux: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
WORDED = re.compile(r"([\w.]+: )?(error|warning): ")
DATES_NS = tuple(10**9 * seconds for seconds in (0, 1, -86_400, 2**31 + 1, 4_102_444_800))  # 1970, 1969, 2038, 2100


@dataclass
class Struck:
    """What came of one strike."""

    hit: bool = False  # the command did not end as usual
    abrupt: bool = False  # it had no chance to end in its own words, as after kill -9 or when a library gave up
    litter: bool = False  # temporary files were left, which the next run removed
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a fault strikes: a number, whose meaning depends on the fault, and what goes with it."""

    text: str
    value: float = 0.0
    more: tuple = ()
    index: int = 0


def moments(n: int, seconds: float, seed: int) -> list[float]:
    """Random moments in seconds, one in each n-th of a run."""
    rng = np.random.default_rng(seed)
    return [float((i + rng.random()) / n * seconds) for i in range(n)]


def moments_of(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Random moments of a run."""
    return [Place(f"at {s:.2f} s", s, index=i) for i, s in enumerate(moments(n, run.seconds, seed))]


def new_copy(run: Undisturbed, folder: Path) -> None:
    """A copy of the project as it is before the command."""
    shutil.copytree(run.template, folder)


def check_files(struck: Struck, folder: Path, *, may_litter: bool) -> None:
    """Every file that a stage wrote must be whole, and temporary files are allowed only sometimes."""
    files = project.files_in(folder)
    if broken := [path.name for path in files if not project.is_litter(path) and not project.is_whole(path)]:
        struck.failures.append(f"incomplete: {broken}")
    leftovers = [path.name for path in files if project.is_litter(path)] + project.temporary_litter(folder)
    struck.litter = bool(leftovers)
    if leftovers and not may_litter:
        struck.failures.append(f"leaves {leftovers}")


def check_again(struck: Struck, run: Undisturbed, folder: Path, index: int = 0) -> None:
    """Run the same command again and compare its files; every second time stage 3 resumes its last epoch."""
    latest = folder / project.MODEL_FOLDER / "checkpoints/latest.pt"
    resumes = run.stage.name == "train" and latest.exists() and index % 2
    try:
        status = project.wait(project.start(run.stage, folder, *(["--resume"] if resumes else [])), folder)
    except TimeoutError as err:
        struck.failures.append(f"the second run {err}: {project.messages(folder)[-3:]}")
        return
    if status != 0:
        struck.failures.append(f"the second run fails: {project.messages(folder)[-3:]}")
    elif different := project.differences(project.snapshot(folder), run.files):
        struck.failures.append(f"the second run leaves other files: {different}")


def faults_of_words(status: int, folder: Path) -> list[str]:
    """Reasons why a command did not fail in its own words: one of the exit statuses, a line, and no traceback."""
    printed = project.messages(folder)
    if any("Traceback" in line for line in printed):
        return [f"traceback: {printed[-3:]}"]
    if status not in (0, 1, 2):
        return [f"status {status}: {printed[-3:]}"]
    if status and not any(WORDED.match(line) for line in printed):
        return [f"status {status} without a reason: {printed[-3:]}"]
    return []


def faults_of_interrupt(status: int, folder: Path) -> list[str]:
    """Reasons why a command did not end correctly after Ctrl-C: it must print one line and have status 130."""
    printed = project.messages(folder)
    if status == -signal.SIGINT and not any(str(ROOT) in line and "import signal" not in line for line in printed):
        return []  # Python itself was interrupted, before the first line of the script
    if status == 0:
        return []
    if status != 130:
        return [f"status {status}: {printed[:2]} ... {printed[-5:]}"]
    lines = [line for line in printed if not line.startswith(("warning:", "training on"))]
    if len(lines) == 1 and lines[0].startswith("interrupted"):
        return []
    return [f"not one line: {printed[:3]} ... {printed[-5:]}"]


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
    """Bytes that a folder takes on a disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def sizes_of_disk(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Random numbers of free bytes, up to what the command needs."""
    needed = used_bytes(run.whole) - used_bytes(run.template)
    rooms = [int(room) for room in moments(n, needed, seed)]
    return [
        Place(f"with {room / 1e3:.0f} of {needed / 1e3:.0f} kB free", room, index=i) for i, room in enumerate(rooms)
    ]


def on_full_disk(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Run the command on a small disk, and again when there is room."""
    struck = Struck()
    disk = SmallDisk.make(folder, int(place.value), used_bytes(run.template) + 16_384)
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


def moments_read_only(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Moments at which all folders, or those of the output, become read-only; the first one is before the start."""
    places = []
    for i, moment_s in enumerate([0.0, 0.0, *moments(max(0, n - 2), run.seconds, seed)]):
        which = "." if i % 2 or not run.stage.folders else run.stage.folders[(i // 2) % len(run.stage.folders)]
        places.append(Place(f"{which} read-only at {moment_s:.2f} s", moment_s, (which,), i))
    return places


def obey_permissions() -> None:
    """Take from root the right to ignore permissions, from the next program that this process becomes."""
    if os.geteuid() == 0:
        for capability in IGNORE_PERMISSIONS:
            if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "can't give up the right to ignore permissions")


def read_only(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Make folders read-only at one moment, and writable again for the second run."""
    struck = Struck()
    new_copy(run, folder)

    def set_mode(mode: int) -> None:
        wanted = folder / place.more[0]
        top = next(path for path in (wanted, *wanted.parents) if path.exists())
        for path in (top, *filter(Path.is_dir, top.rglob("*"))):
            path.chmod(mode)

    if not place.value:
        set_mode(0o555)
    process = project.start(run.stage, folder, preexec_fn=obey_permissions)
    try:
        process.wait(place.value or project.HANG_S)
    except subprocess.TimeoutExpired:
        set_mode(0o555)
    status = project.wait(process, folder)
    struck.hit = status != 0
    struck.failures += faults_of_words(status, folder)
    check_files(struck, folder, may_litter=True)
    for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
        path.chmod(0o755)
    check_again(struck, run, folder, place.index)
    return struck


def moments_of_vanishing(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Moments at which the library, a folder of the output or the whole project is renamed or removed."""
    places = []
    for i, moment_s in enumerate(moments(n, run.seconds, seed)):
        which = ("Drone", ".", *run.stage.folders)[(i // 2) % (2 + len(run.stage.folders))]
        how = ("renamed", "removed")[i % 2]
        places.append(Place(f"{which} {how} at {moment_s:.2f} s", moment_s, (which, how), i))
    return places


def vanishing(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Rename or remove a folder at one moment, and bring back what is the user's for the second run."""
    struck = Struck()
    new_copy(run, folder)
    which, how = place.more
    target, aside = folder / which, Path(f"{folder}.aside")
    process = project.start(run.stage, folder)
    try:
        process.wait(place.value)
    except subprocess.TimeoutExpired:
        if target.exists():
            shutil.move(target, aside)
            if how == "removed":
                shutil.rmtree(aside, ignore_errors=True)
    moved = aside if which == "." and aside.exists() else folder
    status = project.wait(process, moved)
    if aside.exists():
        check_files(Struck(), aside, may_litter=True)
        if not target.exists():
            shutil.move(aside, target)
        elif which in ("Drone", "."):
            struck.failures.append(f"{which} was made anew")
    if which in ("Drone", ".") and not target.exists():
        shutil.copytree(run.template / which, target)
    struck.hit = status != 0
    struck.failures += faults_of_words(status, folder)
    check_files(struck, folder, may_litter=True)
    shutil.rmtree(aside, ignore_errors=True)
    # Learning ends well if only the audit could not read the sounds, and a model that is finished is not learned again.
    if status or run.stage.name != "learn":
        check_again(struck, run, folder, place.index)
    return struck


def moments_of_dates(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Moments of kill -9, each with a date that all files have before it, and another for what was written then."""
    places = []
    for i, place in enumerate(moments_of(run, n, seed)):
        before, after = DATES_NS[i % len(DATES_NS)], DATES_NS[(i + 1 + i // len(DATES_NS)) % len(DATES_NS)]
        text = f"kill {place.text}, sounds of {before // 10**9} s, outputs of {after // 10**9} s"
        places.append(replace(place, text=text, more=(before, after)))
    return places


def clock_set(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Give all sounds and then all outputs times of the past or the future, with a kill in between."""
    struck = Struck()
    new_copy(run, folder)
    before_ns, after_ns = place.more
    for path in project.files_in(folder):
        if path.suffix == ".wav":
            os.utime(path, ns=(before_ns, before_ns))
    known = set(project.files_in(folder))
    for stage in STAGES[: STAGES.index(run.stage)][:3]:  # what comes before must know the new times of the sounds
        if stage.name != "train" and project.wait(project.start(stage, folder), folder):
            struck.failures.append(f"{stage.name} fails: {project.messages(folder)[-3:]}")
    process = project.start(run.stage, folder)
    try:
        process.wait(place.value)
    except subprocess.TimeoutExpired:
        process.kill()
        struck.hit = struck.abrupt = True
    project.wait(process, folder)
    for path in project.files_in(folder):
        # A sound that was rendered keeps its time, which the log has noted: another one shows that it was changed.
        if path not in known and path.suffix != ".wav":
            os.utime(path, ns=(after_ns, after_ns))
    check_files(struck, folder, may_litter=True)
    if project.wait(project.start(run.stage, folder), folder):
        struck.failures.append(f"the second run fails: {project.messages(folder)[-3:]}")
    whole = project.snapshot(run.whole, with_times=False)
    if different := project.differences(project.snapshot(folder, with_times=False), whole):
        struck.failures.append(f"the second run leaves other files: {different}")
    return struck


def partners(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """The stages from this one on, each with a random start; n of them in a new project and n in a finished one."""
    rng = np.random.default_rng(seed)
    places = []
    for other in STAGES[STAGES.index(run.stage) :]:
        for kind in ("new", "changed"):
            for _ in range(n):
                delay_s = float(rng.uniform(0, run.seconds))
                text = f"with {other.name} after {delay_s:.2f} s in a {kind} project"
                places.append(Place(text, delay_s, (other.name, kind), len(places)))
    return places


def at_once(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Run two commands at once in one project, then one after the other, as in a project where only that was done."""
    struck = Struck()
    other, kind = project.STAGE_OF[place.more[0]], place.more[1]
    references = Path(f"{folder}.reference")
    for each in (references, folder):
        if kind == "new":
            new_copy(run, each)
        else:  # the whole project, in which a sound was replaced by another
            shutil.copytree(run.template.parent / "project", each)
            shutil.copy2(each / "Harmonic Progression/sound 05.wav", each / project.SOUND)
    pair = (run.stage, other)
    expected = [project.wait(project.start(stage, references), references) for stage in pair]
    words = Path(f"{folder}.other")
    words.symlink_to(folder)  # the same project by another name, so that each command has its own file of messages
    first = project.start(run.stage, folder)
    try:
        first.wait(place.value)
    except subprocess.TimeoutExpired:
        struck.hit = True
    second = project.start(other, words)
    statuses = first.wait(project.HANG_S), second.wait(project.HANG_S)
    project.wait(second, folder)
    for status, each in zip(statuses, (folder, words), strict=True):
        struck.failures += faults_of_words(status, each)
    check_files(struck, folder, may_litter=False)
    for stage, status in zip(pair, expected, strict=True):
        if project.wait(project.start(stage, folder), folder) != status:
            struck.failures.append(f"{stage.name} ends differently afterwards: {project.messages(folder)[-3:]}")
    if different := project.differences(project.snapshot(folder), project.snapshot(references)):
        struck.failures.append(f"afterwards there are other files: {different}")
    return struck


@dataclass(frozen=True)
class Fault:
    """A fault: how many strikes a stage gets by default, where they are, and how to strike."""

    n: int
    places: Callable[[Undisturbed, int, int], list[Place]]
    strike: Callable[[Undisturbed, Path, Place], Struck]


FAULTS = {
    "kill": Fault(100, moments_of, partial(signalled, signal.SIGKILL)),
    "interrupt": Fault(100, moments_of, partial(signalled, signal.SIGINT)),
    "disk": Fault(50, sizes_of_disk, on_full_disk),
    "memory": Fault(20, sizes_of_memory, partial(limited, resource.RLIMIT_AS)),
    "handles": Fault(20, numbers_of_handles, partial(limited, resource.RLIMIT_NOFILE)),
    "readonly": Fault(20, moments_read_only, read_only),
    "vanish": Fault(20, moments_of_vanishing, vanishing),
    "clock": Fault(10, moments_of_dates, clock_set),
    "pairs": Fault(1, partners, at_once),
}


def strike(name: str, run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Strike a copy of the project, which is removed afterwards; what goes wrong in the harness is a failure, too."""
    try:
        struck = FAULTS[name].strike(run, folder, place)
    except Exception as err:  # noqa: BLE001  a strike that can't be judged must not end the others
        struck = Struck(failures=[f"not judged: {type(err).__name__}: {err}"])
    for path in folder.parent.glob(f"{folder.name}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    return struck
