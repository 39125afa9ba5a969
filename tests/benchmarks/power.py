"""The states that a disk may be in after a power cut, for benchmarks/faults.py.

A command runs once under a recorder (`power_recorder`), which Python loads as its ``sitecustomize``. At each change of
a name and at each flush, the recorder notes which states the disk may be in if the power fails then:

- "names": all names are there, but a file holds only what was flushed of it (a journal of names, as most systems keep);
- "strict": a name is there only if its folder was flushed as well (all that POSIX promises).

Each different state is a place to strike: the project is laid out like that, and the same command must end as if
undisturbed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from benchmarks import fault_project as project
from benchmarks.fault_kinds import Place, Struck, check_again
from benchmarks.fault_project import Undisturbed
from benchmarks.power_recorder import NAMES, STATES, Recorder


def states(run: Undisturbed, n: int, seed: int) -> list[Place]:
    """Record a run, and choose at most ``n`` of the states, evenly over the run."""
    record, folder = record_run(run)
    shutil.rmtree(folder)
    found = sorted((record / STATES).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    chosen = found if len(found) <= n else [found[i] for i in np.linspace(0, len(found) - 1, n).astype(int)]
    return [Place(f"state {i} of {len(found)}", i, (str(path),), i) for i, path in enumerate(chosen)]


def record_run(run: Undisturbed) -> tuple[Path, Path]:
    """Run a command under the recorder; returns what it recorded, and the project."""
    folder, record = run.whole.parent / "powered", run.whole.parent / "power_record"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(record, ignore_errors=True)
    shutil.copytree(run.template, folder)
    recorder = Recorder(folder, record)
    recorder.begin()
    hook = record / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import power_recorder; sys.path.pop()\n"
        f"power_recorder.install({str(folder)!r}, {str(record)!r})\n"
    )
    search = os.pathsep.join(filter(None, (str(hook), os.environ.get("PYTHONPATH"))))
    status = project.wait(project.start(run.stage, folder, env={"PYTHONPATH": search}), folder)
    recorder.end()
    assert status == 0, project.messages(folder)
    assert not project.differences(project.snapshot(folder), run.files)
    return record, folder


def lay_out(state: Path, folder: Path) -> dict[str, str]:
    """Make a project in a recorded state; returns its files and the hash of each."""
    record = state.parents[1]
    content = json.loads(state.read_text())
    for name in content["folders"]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, (digest, mtime_ns) in content["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record / NAMES / digest, path)
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return content["files"]


def named_by_documents(folder: Path) -> set[Path]:
    """Every file of a project that one of its documents names."""
    named = set()
    for path in folder.rglob("training_pairs.json"):
        if path.stat().st_size:
            tiles = json.loads(path.read_text())["tiles"]
            named |= {
                path.parent / tile[kind] for tile in tiles for kind in ("array", "texture", "image") if tile[kind]
            }
    return named


def after_power_cut(run: Undisturbed, folder: Path, place: Place) -> Struck:
    """Lay out the project in one state, check that what counts is whole, and run the command again.

    Arrays and pictures are flushed in a group, before the document that names them is written. Those that no document
    names yet may be incomplete.
    """
    struck = Struck(hit=True, abrupt=True)
    folder.mkdir()
    lay_out(Path(place.more[0]), folder)
    files = [path for path in project.files_in(folder) if not project.is_litter(path)]
    try:
        named = named_by_documents(folder)
        counted = [path for path in files if path.suffix not in (".npy", ".png", ".jsonl") or path in named]
        missing = [path.name for path in named if not path.exists()]
    except (ValueError, KeyError) as err:
        struck.failures.append(f"a document is not whole ({err})")
        counted, missing = [], []
    if broken := [path.name for path in counted if not project.is_whole(path)]:
        struck.failures.append(f"incomplete: {broken}")
    if missing:
        struck.failures.append(f"named but missing: {missing}")
    struck.litter = len(files) < len(project.files_in(folder))
    check_again(struck, run, folder, place.index)
    return struck
