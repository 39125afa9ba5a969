"""The projects that benchmarks/faults.py strikes: commands, undisturbed runs, and what must be true of files.

A `Stage` is a command as a user types it in a small project. `Undisturbed` is what it leaves if nothing disturbs it.
`snapshot` reduces a project to a digest of each file, without timestamps and durations, so that two can be compared.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MODEL_FOLDER = "grain_processor_v2_output"
SOUND = "Drone/Static/sound 03.wav"
CURVE = "0 0\n0.4 -2\n0.6 1\n1 0\n"
N_SOUNDS, SOUND_S = 6, 1.0
CACHES = ("neural-grain-", "torchinductor_")  # folders that stay in TMPDIR, of our libraries and of torch
HANG_S = 400.0  # the longest command takes some ten seconds, or minutes where others use the processors
PROGRESS = re.compile(r"it/s|s/it|%\||file/s|s/file|epoch/s|s/epoch")


@dataclass(frozen=True)
class Stage:
    """A command, as a user runs it in a project."""

    name: str
    command: tuple[str, ...]
    makes: tuple[str, ...]  # outputs, which are removed from the project before the command runs
    folders: tuple[str, ...] = ()  # that the command writes into, besides the project itself


STAGES = (
    Stage("measure", ("measure_audio_grain.py", "-j", "2"), ("metadata.json",)),
    Stage(
        "convert",
        ("convert_to_spectrograms.py", "-j", "2"),
        ("spectrograms", "training_pairs.json"),
        ("spectrograms", "spectrograms/arrays", "spectrograms/images"),
    ),
    Stage(
        "train",
        ("cak_grain_processor.py", "--epochs", "2", "--batch-size", "4", "--device", "cpu"),
        (MODEL_FOLDER,),
        (MODEL_FOLDER, f"{MODEL_FOLDER}/checkpoints", f"{MODEL_FOLDER}/samples"),
    ),
    Stage("render", ("neural_audio_processor.py", SOUND, "--grain", "-1", "-o", "one.flac", "--overwrite"), ()),
    Stage("batch", ("neural_audio_processor.py", "Drone", "--grain", "-1", "-o", "out/"), (), ("out", "out/Static")),
    Stage("sweep", ("neural_audio_processor.py", SOUND, "--sweep", "3", "-o", "swept/"), (), ("swept",)),
    Stage(
        "curve", ("neural_audio_processor.py", SOUND, "--curve", "curve.txt", "-o", "curved.wav", "--overwrite"), ()
    ),
    Stage(
        "learn",
        ("tests/benchmarks/learn_headless.py", "models", "Drone", "Harmonic Progression"),
        (),
        ("models", "models/a", f"models/a/{MODEL_FOLDER}"),
    ),
)  # fmt: skip
STAGE_OF = {stage.name: stage for stage in STAGES}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Environment of a command: a folder of its own for temporary files, and one thread for products of matrices."""
    temporary = Path(f"{folder}.tmp")
    temporary.mkdir(exist_ok=True)
    return {"OMP_NUM_THREADS": "1", **os.environ, "TMPDIR": str(temporary), **more}


def start(stage: Stage, folder: Path, *extra: str, env: dict | None = None, **options) -> subprocess.Popen:
    """Start the command of a stage in a project folder; stderr goes to a file beside the folder."""
    command = [sys.executable, str(ROOT / stage.command[0]), *stage.command[1:], *extra]
    with Path(f"{folder}.err").open("w") as err:
        return subprocess.Popen(
            command, cwd=folder, env=environment(folder, **(env or {})), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=err, **options,
        )  # fmt: skip


def wait(process: subprocess.Popen, folder: Path) -> int:
    """Wait until a command and every process it started in its project have ended; returns the exit status.

    Raises
    ------
    TimeoutError
        If one of them goes on for more than `HANG_S`.
    """
    end = time.monotonic() + HANG_S
    try:
        status = process.wait(HANG_S)
        while left := processes_in(folder):
            if time.monotonic() > end:
                raise TimeoutError(f"processes {left} go on")
            time.sleep(0.05)
    except (subprocess.TimeoutExpired, TimeoutError) as err:
        for pid in {process.pid, *processes_in(folder)}:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()
        raise TimeoutError(f"does not end within {HANG_S:g} s ({err})") from err
    return status


def processes_in(folder: Path) -> list[int]:
    """Numbers of the living processes that work in a folder, or below it."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc/self/cwd").exists() else ():
        if entry.name.isdigit():
            with suppress(OSError):
                if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                    found.append(int(entry.name))
    return found


def messages(folder: Path) -> list[str]:
    """What the last command wrote to stderr, without progress bars."""
    text = Path(f"{folder}.err").read_text(errors="replace").replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip() and not PROGRESS.search(line)]


def files_in(folder: Path) -> list[Path]:
    """Every file of a project."""
    return [path for path in folder.rglob("*") if path.is_file()]


def is_whole(path: Path) -> bool:
    """True if a file that a stage wrote can be read to its end."""
    import soundfile as sf
    from PIL import Image

    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines()[:-1]:  # the last line may be cut off, and is then ignored
                json.loads(line or "null")
        elif path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".pt":
            load_tensors(path)
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.open()))
            return len({len(row) for row in rows}) == 1
        elif path.suffix in (".wav", ".flac"):
            with sf.SoundFile(path) as file:
                return len(file.read()) == file.frames
    except Exception:  # noqa: BLE001  whatever the reason, the file can't be read
        return False
    return True


def load_tensors(path: Path) -> dict:
    """The content of a file that torch wrote, read without torch, which takes seconds to import."""
    from neural_grain.learn.archive import read_archive

    with path.open("rb") as file:
        return read_archive(file)


def digest(path: Path, *, with_times: bool = True) -> str:
    """Hash of all that must be reproducible in a file: not durations, absolute paths and, if asked for, file times."""
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        last = {}
        for line in path.read_text().splitlines():
            if line:
                record = json.loads(line)
                last[record["output"]] = "stamps" in record
        content = repr(sorted(last.items())).encode()
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        content = repr([{name: value for name, value in row.items() if name != "seconds"} for row in rows]).encode()
    elif path.name == "latest.pt":
        state = load_tensors(path)
        for row in state["history"]:
            row["seconds"] = 0.0
        content = repr(state).encode() + b"".join(array.tobytes() for array in state["weights"].values())
    elif path.suffix == ".json" and not with_times:
        content = re.sub(rb'"mtime_ns": -?\d+', b"", content)
        content = re.sub(rb'"tiles": "\d+:\w+"', b"", content)  # of learning.json: digest of a file with times in it
    return hashlib.sha256(content).hexdigest()


def is_litter(path: Path) -> bool:
    """True if a file is a temporary one."""
    return path.name.startswith(".") or path.name.startswith("tmp")


def temporary_litter(folder: Path) -> list[str]:
    """What the commands of a project left in their folder of temporary files, except caches of libraries."""
    temporary = Path(f"{folder}.tmp")
    return [f"TMPDIR/{path.name}" for path in temporary.glob("*") if not path.name.startswith(CACHES)]


def snapshot(folder: Path, *, with_times: bool = True) -> dict[str, str]:
    """The `digest` of every file of a project, by its path."""
    return {str(path.relative_to(folder)): digest(path, with_times=with_times) for path in files_in(folder)}


def differences(now: dict[str, str], then: dict[str, str]) -> list[str]:
    """Names of some files that are not the same in two snapshots."""
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))[:5]


@dataclass(frozen=True)
class Undisturbed:
    """A run without a fault, for comparison."""

    stage: Stage
    template: Path  # the project before the run
    whole: Path  # and after it
    files: dict[str, str]
    seconds: float
    peak_bytes: int = 0  # of addresses, in the largest process
    n_handles: int = 0  # of the process with the most of them


def make_template(stage: Stage, project: Path, work: Path) -> Path:
    """The project before a stage: without its outputs and those of the later stages."""
    template = work / f"{stage.name}_template"
    shutil.copytree(project, template)
    for output in [output for other in STAGES[STAGES.index(stage) :] for output in other.makes]:
        shutil.rmtree(template / output, ignore_errors=True)
        (template / output).unlink(missing_ok=True)
    return template


def run_undisturbed(stage: Stage, project: Path, work: Path, times: int = 2) -> Undisturbed:
    """Make the template of a stage from a project in which all stages have run, and run the command in a copy."""
    template, folder = make_template(stage, project, work), work / f"{stage.name}_whole"
    seconds, peaks, handles = [], [], []
    for _ in range(times):  # the first run may be slow, because files are not cached yet
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        started = time.monotonic()
        process = start(stage, folder)
        for peak_bytes, n_handles in watch(process, folder):
            peaks.append(peak_bytes)
            handles.append(n_handles)
        seconds.append(time.monotonic() - started)
        assert process.returncode == 0, messages(folder)
    return Undisturbed(
        stage, template, folder, snapshot(folder), min(seconds), max(peaks, default=0), max(handles, default=0)
    )


def watch(process: subprocess.Popen, folder: Path) -> Iterator[tuple[int, int]]:
    """Bytes of addresses and open handles of each process in a project, again and again until the command ends."""
    while process.poll() is None:
        for pid in processes_in(folder):
            with suppress(OSError, TypeError):  # it has ended
                status = Path(f"/proc/{pid}/status").read_text()
                peak_kb = int(re.search(r"VmPeak:\s+(\d+)", status)[1])
                yield 1024 * peak_kb, len(os.listdir(f"/proc/{pid}/fd"))
        time.sleep(0.02)


def make_project(folder: Path, stages: Iterable[Stage] = STAGES[:3]) -> Path:
    """Make a library of short sounds and run stages 1 to 3 in it."""
    from conftest import write_library

    write_library(folder, N_SOUNDS, SOUND_S)
    (folder / "curve.txt").write_text(CURVE)
    for stage in stages:
        assert start(stage, folder).wait() == 0, messages(folder)
    return folder


def limit(kind: int, value: int) -> None:
    """Limit a resource of this process, for ``preexec_fn``."""
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
