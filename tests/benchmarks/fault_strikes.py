"""What every fault of benchmarks/faults.py has in common: where it strikes, and how what came of it is judged."""

from __future__ import annotations

import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks import fault_project as project
from benchmarks.fault_project import ROOT, Undisturbed

WORDED = re.compile(r"([\w.]+: )?(error|warning): ")


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
    if status in (-signal.SIGINT, 1) and not any(str(ROOT) in line and "import signal" not in line for line in printed):
        return []  # Python itself was interrupted, before the first line of the script (1: in its module site)
    if status == 0:
        return []
    if status != 130:
        return [f"status {status}: {printed[:2]} ... {printed[-5:]}"]
    lines = [line for line in printed if not line.startswith(("warning:", "training on"))]
    if len(lines) == 1 and lines[0].startswith("interrupted"):
        return []
    return [f"not one line: {printed[:3]} ... {printed[-5:]}"]
