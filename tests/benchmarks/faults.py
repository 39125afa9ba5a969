"""Every stage killed, interrupted, and put on a full disk at many moments, and then the same command again.

    python tests/benchmarks/faults.py [--moments 50] [--stages measure,convert] [--faults kill,interrupt] [--seed 0]

At each moment the command runs in a copy of a small project and the fault happens. After it, every JSON file, array,
picture, model and sound must be complete. Then the same command runs without a fault and must leave the same files as
a run that was never disturbed, with the same bytes (apart from timestamps and durations), and no other files. Prints a
row for each stage and fault, and every failure. The full disk is a tmpfs, which needs root; without root it is a limit
on file sizes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MODEL = "grain_processor_v2_output/final_grain_processor_v2.pt"
SOUND = "Drone/Static/sound 03.wav"


@dataclass(frozen=True)
class Stage:
    """A command, as a user runs it in a project."""

    name: str
    command: tuple[str, ...]
    makes: tuple[str, ...]  # outputs, which are removed from the project before the command runs


STAGES = (
    Stage("measure", ("measure_audio_grain.py", "-j", "2"), ("metadata.json",)),
    Stage("convert", ("convert_to_spectrograms.py", "-j", "2"), ("spectrograms", "training_pairs.json")),
    Stage(
        "train", ("cak_grain_processor.py", "--epochs", "3", "--device", "cpu"), ("grain_processor_v2_output",)
    ),
    Stage("render", ("neural_audio_processor.py", SOUND, "--grain", "-1", "-o", "one.flac", "--overwrite"), ()),
    Stage("batch", ("neural_audio_processor.py", "Drone/Static", "--grain", "-1", "-o", "out/"), ()),
    Stage("sweep", ("neural_audio_processor.py", SOUND, "--sweep", "3", "-o", "swept/"), ()),
)  # fmt: skip


def start(stage: Stage, folder: Path, *extra: str, **options) -> subprocess.Popen:
    """Start the command of a stage in a project folder; stderr goes to a file beside the folder."""
    command = [sys.executable, str(ROOT / stage.command[0]), *stage.command[1:], *extra]
    with Path(f"{folder}.err").open("w") as err:
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=err, **options)


def messages(folder: Path) -> list[str]:
    """What the last command wrote to stderr, without progress bars."""
    text = Path(f"{folder}.err").read_text().replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip() and "it/s" not in line and "s/it" not in line
            and "%|" not in line and "?file/s" not in line and "file/s]" not in line and "s/file]" not in line
            and "epoch/s]" not in line and "s/epoch]" not in line]  # fmt: skip


def is_whole(path: Path) -> bool:
    """True if a file that a stage wrote can be read to its end."""
    import soundfile as sf
    import torch
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
            torch.load(path, weights_only=True)
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.open()))
            return len({len(row) for row in rows}) == 1
        elif path.suffix in (".wav", ".flac"):
            with sf.SoundFile(path) as file:
                return len(file.read()) == file.frames
    except Exception:  # noqa: BLE001  whatever the reason, the file can't be read
        return False
    return True


def digest(path: Path) -> str:
    """Hash of everything in a file that must be reproducible: not durations, timestamps and absolute paths."""
    import torch

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
        state = torch.load(path, weights_only=True)
        for row in state["history"]:
            row["seconds"] = 0.0
        content = repr(state).encode() + b"".join(t.numpy().tobytes() for t in state["weights"].values())
    return hashlib.sha256(content).hexdigest()


def is_litter(path: Path) -> bool:
    """True if a file is a temporary one."""
    return path.name.startswith(".") or path.name.startswith("tmp")


def snapshot(folder: Path) -> dict[str, str]:
    """The `digest` of every file of a project, by its path."""
    return {str(p.relative_to(folder)): digest(p) for p in folder.rglob("*") if p.is_file()}


@dataclass
class Tally:
    """Counts and failures over several moments."""

    moments: int = 0
    hit: int = 0  # moments at which the command was still running
    litter: int = 0  # moments after which there was a temporary file (kill -9 may leave one)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """A run without a fault, for comparison."""

    stage: Stage
    template: Path  # the project before the run
    files: dict[str, str]
    seconds: float


def run_undisturbed(stage: Stage, project: Path, work: Path, times: int = 2) -> Undisturbed:
    """Make the template of a stage from a project in which all stages have run, and run the command in a copy."""
    template, folder = work / f"{stage.name}_template", work / f"{stage.name}_whole"
    shutil.copytree(project, template)
    for output in [output for other in STAGES[STAGES.index(stage) :] for output in other.makes]:
        shutil.rmtree(template / output, ignore_errors=True)
        (template / output).unlink(missing_ok=True)
    seconds = []
    for _ in range(times):  # the first run may be slow, because files are not cached yet
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        started = time.monotonic()
        assert start(stage, folder).wait() == 0, messages(folder)
        seconds.append(time.monotonic() - started)
    return Undisturbed(stage, template, snapshot(folder), min(seconds))


def moments(n: int, seconds: float, seed: int) -> list[float]:
    """Random moments in seconds, one in each n-th of a run."""
    rng = np.random.default_rng(seed)
    return [float((i + rng.random()) / n * seconds) for i in range(n)]


def check_again(tally: Tally, run: Undisturbed, folder: Path, at: str) -> None:
    """Run the same command again and compare its files; every second time stage 3 resumes its last epoch."""
    latest = folder / "grain_processor_v2_output/checkpoints/latest.pt"
    resumes = run.stage.name == "train" and latest.exists() and tally.moments % 2
    if start(run.stage, folder, *(["--resume"] if resumes else [])).wait() != 0:
        tally.failures.append(f"{at}: the second run fails: {messages(folder)[-3:]}")
    elif (now := snapshot(folder)) != run.files:
        different = sorted(name for name in now.keys() | run.files.keys() if now.get(name) != run.files.get(name))
        tally.failures.append(f"{at}: the second run leaves other files: {different[:5]}")


def faults_of_interrupt(status: int, folder: Path) -> list[str]:
    """Reasons why a command did not end correctly after Ctrl-C: it must print one line and have status 130."""
    printed = messages(folder)
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


def strike(tally: Tally, run: Undisturbed, folder: Path, moment_s: float, number: signal.Signals) -> None:
    """Send one signal at one moment, check the files, and run the same command again."""
    shutil.copytree(run.template, folder)
    at = f"{run.stage.name} {number.name} at {moment_s:.2f} s"
    process = start(run.stage, folder)
    try:
        process.wait(moment_s)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        tally.hit += 1
    status = process.wait()
    tally.moments += 1
    files = [path for path in folder.rglob("*") if path.is_file()]
    broken = [path.name for path in files if not is_litter(path) and not is_whole(path)]
    if broken:
        tally.failures.append(f"{at}: incomplete: {broken}")
    leftovers = [path.name for path in files if is_litter(path)]
    tally.litter += bool(leftovers)
    if number == signal.SIGINT:
        tally.failures += [f"{at}: {fault}" for fault in faults_of_interrupt(status, folder)]
        if leftovers:
            tally.failures.append(f"{at}: leaves {leftovers}")
    check_again(tally, run, folder, at)
    shutil.rmtree(folder)


def strike_often(run: Undisturbed, work: Path, n: int, seed: int, number: signal.Signals) -> Tally:
    """Send a signal at ``n`` moments."""
    tally = Tally()
    for i, moment_s in enumerate(moments(n, run.seconds, seed)):
        strike(tally, run, work / f"{run.stage.name}_{i}", moment_s, number)
    return tally


@dataclass(frozen=True)
class SmallDisk:
    """A disk with little space: a tmpfs, or where none can be mounted a limit on the size of files."""

    folder: Path
    is_mounted: bool
    options: dict  # for subprocess.run

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
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def fill_disk(run: Undisturbed, work: Path, n: int, seed: int) -> Tally:
    """Run the command on disks of random sizes, then make room and run the same command again."""
    tally, rng = Tally(), np.random.default_rng(seed)

    def size(folder: Path) -> int:
        return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))

    used = size(run.template)
    needed = size(work / f"{run.stage.name}_whole") - used
    for i in range(n):
        room = int((i + rng.random()) / n * needed)
        disk = SmallDisk.make(work / f"disk_{run.stage.name}_{i}", room, used + 16_384)
        try:
            at = f"{run.stage.name} with {room / 1e3:.0f} of {needed / 1e3:.0f} kB free"
            run_on_full_disk(tally, run, disk, at)
        finally:
            disk.remove()
    return tally


def run_on_full_disk(tally: Tally, run: Undisturbed, disk: SmallDisk, at: str) -> None:
    """Run the command on one disk, and again when there is room."""
    folder = disk.folder / "project"
    shutil.copytree(run.template, folder)
    command = [sys.executable, str(ROOT / run.stage.command[0]), *run.stage.command[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **disk.options)
    tally.moments += 1
    tally.hit += done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    if done.returncode not in (0, 1, 2) or "Traceback" in done.stderr or (done.returncode and not errors):
        tally.failures.append(f"{at}: status {done.returncode}: {done.stderr[-600:]!r}")
    files = [path for path in folder.rglob("*") if path.is_file()]
    if broken := [path.name for path in files if not is_whole(path)]:
        tally.failures.append(f"{at}: incomplete: {broken}")
    if leftovers := [path.name for path in files if is_litter(path)]:
        tally.litter += 1
        tally.failures.append(f"{at}: leaves {leftovers}")
    if disk.is_mounted:
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk.folder)], check=True)
    check_again(tally, run, folder, at)


FAULTS = {
    "kill": lambda run, work, n, seed: strike_often(run, work, n, seed, signal.SIGKILL),
    "interrupt": lambda run, work, n, seed: strike_often(run, work, n, seed, signal.SIGINT),
    "disk": fill_disk,
}


def make_project(folder: Path) -> Path:
    """Make a library of 12 short sounds and run stages 1 to 3 in it."""
    from conftest import write_library

    write_library(folder)
    for stage in STAGES[:3]:
        assert start(stage, folder).wait() == 0, messages(folder)
    return folder


def main(argv: list[str] | None = None) -> int:
    """Print the table and return the exit status, which is 1 if there was a failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--stages", default=",".join(stage.name for stage in STAGES))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    failures = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        project = make_project(work / "project")
        print("stage    fault      moments  struck  left hidden files  failures   undisturbed (s)", flush=True)
        for stage in STAGES:
            if stage.name not in args.stages.split(","):
                continue
            run = run_undisturbed(stage, project, work, 1 if stage.name == "train" else 2)
            for fault in args.faults.split(","):
                tally = FAULTS[fault](run, work, args.moments, args.seed)
                print(
                    f"{stage.name:8s} {fault:9s} {tally.moments:8d} {tally.hit:7d} {tally.litter:18d} "
                    f"{len(tally.failures):9d} {run.seconds:17.1f}",
                    flush=True,
                )
                for failure in tally.failures:
                    print("    " + failure, flush=True)
                failures += tally.failures
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
