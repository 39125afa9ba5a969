"""Hostile files in the stages and the window: the outcomes, by kind of file.

    python tests/benchmarks/fuzz.py [--jobs 12] [--kinds audio,models] [--mutants 2400] [--seed 0] [--keep FOLDER]

Audio goes through stages 1, 2 and 4; documents, curves, models and arrays go through all that reads them. A mutant is
a valid file with one kind of damage, and each gets a process of its own. No exception, numerical warning, crash, hang
(10 s of processor time), memory above 2 GB, and nothing outside the project that is read, written or run: `sandbox`
says how that is seen. After that, some folders of mutants go through the real commands. Prints every fault, and a row
for each kind of file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything that starts threads
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.audio_mutants import mutants
from benchmarks.fuzz_cases import KINDS, MODEL, Bases
from benchmarks.sandbox import FAULTS, Case, Outcome, outcomes

ROOT = Path(__file__).resolve().parents[2]


def row(name: str, tried: list[Outcome]) -> str:
    """The number of files for each outcome; a file is used if every step used it."""
    counts = Counter()
    for outcome in tried:
        words = {word.split(":")[0] for word in outcome.words}
        counts.update(
            {"used"} if words == {"used"} else {"refused"} if words <= {"used", "refused"} else words & set(FAULTS)
        )
    cells = " ".join(f"{counts[column]:9d}" for column in ("used", "refused", *FAULTS))
    peak_mb, slowest_s = max(each.memory_mb for each in tried), max(each.seconds for each in tried)
    return f"{name:>26s} {len(tried):9d} {cells} {peak_mb:8.0f} {slowest_s:10.2f}"


def header() -> str:
    """The names of the columns."""
    cells = " ".join(f"{column:>9s}" for column in ("tried", "used", "refused", *FAULTS))
    return f"{'kind':>26s} {cells}  peak MB  slowest s"


def try_kind(name: str, bases: Bases, args: argparse.Namespace) -> int:
    """Try all mutants of a kind, print its rows, and return the number of faults."""
    tried: dict[str, list[Outcome]] = {}
    n, n_faults = args.mutants or KINDS[name].n, 0
    work = bases.folder / f"work_{name}"
    work.mkdir()
    for case, outcome in outcomes(KINDS[name].cases(bases, n, args.seed), work, args.jobs):
        tried.setdefault(case.group, []).append(outcome)
        if outcome.is_fault:
            n_faults += 1
            print(f"    {case.group} ({case.damage}): {' / '.join(outcome.words)[:700]}", flush=True)
            if args.keep:
                keep(case, args.keep, n_faults)
    for group in sorted(tried):
        print(row(group, tried[group]), flush=True)
    print(row(f"all {name}", [outcome for group in tried.values() for outcome in group]), flush=True)
    return n_faults


def keep(case: Case, folder: Path, number: int) -> None:
    """Keep a file that caused a fault."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case.group}_{number}_{Path(case.name).name}").write_bytes(case.data)


def run_commands(folder: Path, model: Path, seed: int) -> str:
    """Take a folder of 100 mutants through stages 1, 2 and 4 as a user does; returns one row."""
    (folder / "mutants").mkdir(parents=True)
    for i, mutant in enumerate(mutants(folder, 100, seed)):
        (folder / "mutants" / f"{i:05d}.{mutant.extension}").write_bytes(mutant.data)
    cells = []
    for script, *arguments in (
        ("measure_audio_grain.py", "mutants"),
        ("convert_to_spectrograms.py", "--no-images"),
        ("neural_audio_processor.py", "mutants", "--grain", "-1", "-o", "out/", "--model", model),
    ):
        started = time.monotonic()
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        is_warned = "RuntimeWarning:" in done.stderr
        fault = "TRACEBACK" if "Traceback" in done.stderr else "WARNING" if is_warned else "clean"
        cells.append(f"status {done.returncode:3d} {fault} {time.monotonic() - started:5.1f} s")
        if fault != "clean":
            cells.append(done.stderr[-3000:])
    return " | ".join(cells)


def main(argv: list[str] | None = None) -> int:
    """Print the tables; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--mutants", type=int, help="of each kind (default: 200 to 10,000, by the kind)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files at a time")
    parser.add_argument("--model", type=Path, help="(default: one that has learned nothing)")
    parser.add_argument("--commands", type=int, default=4, help="folders of 100 audio files for the real commands")
    parser.add_argument("--keep", type=Path, help="where files that cause a fault are kept")
    args = parser.parse_args(argv)
    args.keep = args.keep and args.keep.absolute()
    started, n_faults = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name:
        bases = Bases.make(Path(name).resolve(), args.model and args.model.absolute())
        print(header(), flush=True)
        for kind in args.kinds.split(","):
            n_faults += try_kind(kind, bases, args)
        for i in range(args.commands):
            ran = run_commands(bases.folder / f"commands{i}", bases.models / MODEL, args.seed + 1 + i)
            print(f"100 audio files, seed {args.seed + 1 + i}: {ran}", flush=True)
            n_faults += any(word in ran for word in ("TRACEBACK", "WARNING"))
    print(f"{n_faults} faults, {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
