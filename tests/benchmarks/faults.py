"""Every stage struck by faults at many moments, and then the same command again.

    python tests/benchmarks/faults.py [--jobs 12] [--stages measure,convert] [--faults kill,power] [--strikes 10] [--seed 0]

The stages are the four commands (stage 4 for a file, a batch, a sweep and a curve), and learning as the window does it.
The faults are kill -9, Ctrl-C, a full disk (a tmpfs, which needs root; else a limit on file sizes), too few
addresses and open files, folders that become read-only or vanish, clocks that were set, a second run in the same
project, and the states that a disk may be in after a power cut. The command runs in a copy of a small project and the
fault happens. After it, every JSON file, array, picture, model and sound must be complete. Then the same command runs
without a fault and must leave the same files as a run that was never disturbed, with the same bytes (apart from
timestamps and durations), and no other files. Prints every failure, and a row for each stage and fault.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import power
from benchmarks.fault_kinds import FAULTS, Fault, Place, Struck, limit_files, strike
from benchmarks.fault_project import STAGE_OF, STAGES, Stage, Undisturbed, make_project, run_undisturbed, snapshot

FAULTS["power"] = Fault(100, power.states, power.after_power_cut)
HEADER = "stage    fault      strikes  struck  abrupt  litter  failures  undisturbed (s)"

__all__ = [
    "FAULTS",
    "STAGES",
    "STAGE_OF",
    "limit_files",
    "main",
    "make_project",
    "run_undisturbed",
    "snapshot",
    "strike_often",
]


@dataclass
class Row:
    """The strikes of one fault on one stage."""

    stage: Stage
    fault: str
    seconds: float
    n: int
    done: list[Struck] = field(default_factory=list)

    def __str__(self) -> str:
        counts = [sum(getattr(each, name) for each in self.done) for name in ("hit", "abrupt", "litter")]
        n_failed = sum(bool(each.failures) for each in self.done)
        return (
            f"{self.stage.name:8s} {self.fault:9s} {self.n:8d} {counts[0]:7d} {counts[1]:7d} {counts[2]:7d} "
            f"{n_failed:9d} {self.seconds:16.1f}"
        )


def strike_often(run: Undisturbed, work: Path, fault: str, n: int, seed: int = 0) -> list[Struck]:
    """Strike a stage ``n`` times, one after the other."""
    places = FAULTS[fault].places(run, n, seed)
    return [strike(fault, run, work / f"{run.stage.name}_{fault}_{i}", place) for i, place in enumerate(places)]


def measure_undisturbed(pool: ProcessPoolExecutor, project: Path, work: Path, stages: list[Stage], jobs: int) -> dict:
    """Undisturbed runs of all stages, as many at a time as there will be strikes, because that decides how long."""
    waiting: dict[Future, Stage] = {}
    for stage in stages:
        for i in range(max(2, jobs // len(stages))):
            place = work / f"{stage.name}{i}"
            place.mkdir()
            (place / "project").symlink_to(project)
            waiting[pool.submit(run_undisturbed, stage, project, place, 1)] = stage
    runs: dict[str, Undisturbed] = {}
    for future in as_completed(waiting):
        run, stage = future.result(), waiting[future]
        first = runs.setdefault(stage.name, run)
        if first.files != run.files:
            print(f"{stage.name}: two undisturbed runs leave different files", flush=True)
        slower = max(first.seconds, run.seconds)
        peaks = max(first.peak_bytes, run.peak_bytes), max(first.n_handles, run.n_handles)
        runs[stage.name] = replace(first, seconds=slower, peak_bytes=peaks[0], n_handles=peaks[1])
    return runs


def strikes(rows: list[Row], runs: dict[str, Undisturbed], args: argparse.Namespace) -> Iterator[tuple[Row, Place]]:
    """Every strike of every row."""
    for row in rows:
        places = FAULTS[row.fault].places(runs[row.stage.name], args.strikes or FAULTS[row.fault].n, args.seed)
        if row.fault == "pairs":
            places = [place for place in places if place.more[0] in runs]
        row.n = len(places)
        for place in places:
            yield row, place


def strike_all(pool: ProcessPoolExecutor, rows: list[Row], runs: dict, work: Path, args: argparse.Namespace) -> int:
    """Make all strikes, some at a time; print failures as they come and rows when they are done."""
    running: dict[Future, tuple[Row, Place]] = {}
    source, n_failed, number, is_empty = strikes(rows, runs, args), 0, 0, False
    while not is_empty or running:
        while not is_empty and len(running) < 2 * args.jobs:
            try:
                row, place = next(source)
            except StopIteration:
                is_empty = True
                break
            number += 1
            run = runs[row.stage.name]
            folder = work / f"{row.stage.name}_{row.fault}_{number}"
            running[pool.submit(strike, row.fault, run, folder, place)] = row, place
        future = next(as_completed(running))
        row, place = running.pop(future)
        struck = future.result()
        row.done.append(struck)
        for failure in struck.failures:
            print(f"    {row.stage.name} {row.fault} {place.text}: {failure}", flush=True)
            n_failed += 1
        if len(row.done) == row.n:
            print(row, flush=True)
    return n_failed


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default=",".join(stage.name for stage in STAGES))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--strikes", type=int, help="of each fault on each stage (default: 2 to 100, by the fault)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="strikes at a time")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table and return the exit status, which is 1 if there was a failure."""
    args = build_parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = args.stages.split(",")
    stages, started = [stage for stage in STAGES if stage.name in names], time.monotonic()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(args.jobs, context) as pool:
        work = Path(name)
        work.chmod(0o755)  # for the user of the read-only folders
        project = make_project(work / "project")
        runs = measure_undisturbed(pool, project, work, stages, args.jobs)
        print(HEADER, flush=True)
        rows = [Row(stage, fault, runs[stage.name].seconds, 0) for stage in stages for fault in args.faults.split(",")]
        n_failed = strike_all(pool, rows, runs, work, args)
    n_strikes = sum(row.n for row in rows)
    print(f"{n_strikes} strikes, {n_failed} failures, {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
