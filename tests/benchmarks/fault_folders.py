"""Faults of benchmarks/faults.py around a process: folders that are read-only or vanish, clocks, and a second process.

For each there is a list of places where it strikes (moments, folders), and a function that strikes a copy of the
project at one of them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks import fault_project as project
from benchmarks.fault_project import STAGES, Undisturbed
from benchmarks.fault_strikes import (
    Place,
    Struck,
    check_again,
    check_files,
    faults_of_words,
    moments,
    moments_of,
    new_copy,
)

PR_CAPBSET_DROP, IGNORE_PERMISSIONS = 24, (1, 2)  # of Linux: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
DATES_NS = tuple(10**9 * seconds for seconds in (0, 1, -86_400, 2**31 + 1, 4_102_444_800))  # 1970, 1969, 2038, 2100


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
