"""Mutation testing: random small faults are put into the code, one at a time, and a test should fail for each.

    python tests/benchmarks/mutants.py [--mutants 200] [--jobs 2] [--seed 0] [--parts dsp,learn] [--tests tests/dsp]
        [--only 17,33] [--list]

First the tests of dsp/ and learn/ run once on the code as it is, which shows what lines each of them runs; one that
fails is left out. Then each fault (`mutations`) is put into a copy of the code, and the tests that run its line follow,
those of the file of the same name first and quick ones before slow ones, until one fails. A test that takes ten times
as long as usual has failed. Prints a line for each fault when it is done, a table with a row for each module, and the change of
each fault that no test noticed. The same seed and code give the same faults.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mutations import Mutation, find_mutations, is_real

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/dsp,tests/learn,tests/golden,tests/app/test_processor.py,tests/stages/test_curves.py,tests/stages/test_hostile.py"
NOT_COPIED = (".git", ".venv*", "__pycache__", ".*_cache", "docs", ".assets")
PATIENCE, PATIENCE_S = 10, 10  # a test has failed after this many times its usual time, and so many seconds more
TRACE_S = 1800  # for a file of tests on the code as it is
START_S = 120  # for the start of pytest and what the tests share
KILLED, SURVIVED, UNTESTED = "killed", "SURVIVED", "UNTESTED"


@dataclass(frozen=True)
class Mutant:
    """A fault in a module, ``path`` relative to the top folder."""

    number: int
    path: str
    mutation: Mutation

    @property
    def module(self) -> str:
        return self.path.removeprefix("neural_grain/").removesuffix(".py")

    def diff(self) -> str:
        """The change, without context."""
        before = (ROOT / self.path).read_bytes()
        pair = [text.decode().splitlines() for text in (before, self.mutation.apply(before))]
        lines = list(difflib.unified_diff(*pair, n=0, lineterm=""))[3:]
        return "\n".join(line for line in lines if not line.startswith("@@"))


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    outcome: str
    by: str  # the test that failed
    seconds: float
    n_tests: int


@dataclass(frozen=True)
class TestRun:
    """A test on the code as it is."""

    name: str  # pytest's node id
    seconds: float
    lines: dict[str, list[int]]

    @property
    def file(self) -> str:
        return self.name.split("::")[0]


def draw_mutants(n: int, seed: int, parts: list[str]) -> list[Mutant]:
    """Draw places in the code, each of them equally likely, and one of the faults possible there."""
    places = []
    product = ROOT / "neural_grain"
    for path in sorted(path for part in parts for end in ("/*.py", ".py") for path in product.glob(part + end)):
        found = find_mutations(path.read_bytes())
        places += [(path, list(group)) for _, group in groupby(found, key=lambda each: (each.start, each.stop))]
    rng, mutants = random.Random(seed), []
    for path, mutations in rng.sample(places, len(places)):
        mutation = rng.choice(mutations)
        if len(mutants) < n and is_real(path.read_bytes(), mutation):
            mutants.append(Mutant(len(mutants), path.relative_to(ROOT).as_posix(), mutation))
    return mutants


def run_tests(tree: Path, arguments: list[str], timeout_s: float, **variables: object) -> tuple[int, str]:
    """Run tests in a copy of the code: pytest's exit status and output, or -1 if it was stopped."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-rfE"]
    command += [f"-p{plugin}" for plugin in ("mutant_tests", "no:cacheprovider", "no:xdist")]
    command += ["--products", tree.parent / "products", "--basetemp", tree.parent / f"tmp-{tree.name}", *arguments]
    paths = os.pathsep.join([str(tree / "tests/benchmarks"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    env |= {name: str(value) for name, value in variables.items()}
    done = subprocess.Popen(
        command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        out, _ = done.communicate(timeout=timeout_s)
        return done.returncode, out.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return -1, ""
    finally:
        with suppress(ProcessLookupError):  # what the tests have started ends with them
            os.killpg(done.pid, signal.SIGKILL)
        done.wait()


class Bench:
    """Copies of the code, one for each job, and what the tests do on the code as it is."""

    def __init__(self, folder: Path, jobs: int):
        self._trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(jobs):
            shutil.copytree(ROOT, folder / f"tree{i}", ignore=shutil.ignore_patterns(*NOT_COPIED))
            self._trees.put(folder / f"tree{i}")
        self.tests: list[TestRun] = []

    def trace(self, file: str) -> tuple[str, float, list[str]]:
        """Run one file of tests on the code as it is: its name, the seconds it took, and what of it can't be used."""
        tree, started = self._trees.get(), time.monotonic()
        try:
            traced = tree.parent / f"{Path(file).stem}.json"
            status, out = run_tests(tree, [file], TRACE_S, MUTANT_TRACE=traced)
            if status not in (0, 1):
                return file, time.monotonic() - started, [f"{file}\n{out}"]
            tests = json.loads(traced.read_text()).items()
            self.tests += [TestRun(name, test["seconds"], test["lines"]) for name, test in tests if test["passes"]]
            return file, time.monotonic() - started, [name for name, test in tests if not test["passes"]]
        finally:
            self._trees.put(tree)

    def tests_of(self, mutant: Mutant) -> list[TestRun]:
        """The tests that run the line of a mutant, in the order in which they should run."""
        first, last = mutant.mutation.lines
        if mutant.mutation.is_in_function:
            users = [t for t in self.tests if any(first <= line <= last for line in t.lines.get(mutant.path, ()))]
        else:  # it takes effect at the import
            users = [test for test in self.tests if test.lines.get(mutant.path)]
        same_name = f"test_{Path(mutant.path).stem}.py"
        cost = Counter()
        for test in users:
            cost[test.file] += test.seconds
        return sorted(users, key=lambda t: (not t.file.endswith(same_name), cost[t.file], t.file, t.seconds))

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the tests of a mutant until one fails."""
        tests, started = self.tests_of(mutant), time.monotonic()
        if not tests:
            return Verdict(mutant, UNTESTED, "", 0.0, 0)
        tree = self._trees.get()
        try:
            started = time.monotonic()
            source = (ROOT / mutant.path).read_bytes()
            (tree / mutant.path).write_bytes(mutant.mutation.apply(source))
            plan = tree.parent / f"{tree.name}.json"
            plan.write_text(json.dumps([(test.name, PATIENCE_S + PATIENCE * test.seconds) for test in tests]))
            limit_s = START_S + 3 * sum(test.seconds for test in tests)
            files = sorted({test.file for test in tests})
            variables = {"MUTANT_PLAN": plan, "PYTHONDONTWRITEBYTECODE": "1"}  # no bytecode of a fault is left
            status, out = run_tests(tree, ["-x", *files], limit_s, **variables)
            if status == 5:
                raise RuntimeError(f"no test was found for {mutant.path}\n{out}")
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.M) or re.search(r"Exit: (\S+) takes too long", out)
            by = "too slow" if status == -1 else failed[1] if failed else f"exit status {status}"
            return Verdict(
                mutant, KILLED if status else SURVIVED, by if status else "", time.monotonic() - started, len(tests)
            )
        finally:
            (tree / mutant.path).write_bytes((ROOT / mutant.path).read_bytes())
            self._trees.put(tree)


def print_table(verdicts: list[Verdict]) -> None:
    """A row for each module, and the sum."""
    print(f"\n{'module':<24}{'mutants':>8}{'killed':>8}{'survived':>10}{'untested':>10}{'killed':>9}")
    modules = sorted({verdict.mutant.module for verdict in verdicts})
    for name, those in [(m, [v for v in verdicts if v.mutant.module == m]) for m in modules] + [("all", verdicts)]:
        n = Counter(verdict.outcome for verdict in those)
        share = f"{n[KILLED] / len(those):.1%}"
        print(f"{name:<24}{len(those):>8}{n[KILLED]:>8}{n[SURVIVED]:>10}{n[UNTESTED]:>10}{share:>9}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=200, help="how many faults (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="test processes at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--parts", default="dsp,learn", help="folders and modules of neural_grain/ (default: %(default)s)"
    )
    parser.add_argument("--tests", default=TESTS, help="folders and files of tests (default: %(default)s)")
    parser.add_argument("--only", default="", help="numbers of faults, to try these again")
    parser.add_argument("--list", action="store_true", help="print the faults and try none")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    mutants = draw_mutants(args.mutants, args.seed, args.parts.split(","))
    if args.only:
        mutants = [mutant for mutant in mutants if str(mutant.number) in args.only.split(",")]
    if args.list:
        for mutant in mutants:
            print(
                f"{mutant.number:>4}  {mutant.path}:{mutant.mutation.lines[0]}  {mutant.mutation.kind}\n{mutant.diff()}"
            )
        return 0
    places = [ROOT / each for each in args.tests.split(",")]
    paths = sorted(path for place in places for path in ([place] if place.is_file() else place.glob("test_*.py")))
    files = [path.relative_to(ROOT).as_posix() for path in paths]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        bench, left_out = Bench(Path(folder), args.jobs), []
        for traced in as_completed([pool.submit(bench.trace, file) for file in files]):
            file, seconds, failed = traced.result()
            left_out += failed
            print(f"unchanged  {seconds:6.1f} s  {file}{f': {len(failed)} left out' if failed else ''}")
        verdicts = []
        for judged in as_completed([pool.submit(bench.judge, mutant) for mutant in mutants]):
            verdicts.append(verdict := judged.result())
            mutant = verdict.mutant
            place = f"{mutant.module}:{mutant.mutation.lines[0]}"
            print(
                f"{len(verdicts):>4}/{len(mutants)}  {verdict.outcome:<8} {verdict.seconds:6.1f} s  {verdict.n_tests:>4} tests"
                f"  #{mutant.number:<4} {place:<28} {mutant.mutation.kind:<18} {verdict.by}"
            )
    print_table(verdicts)
    for verdict in sorted((v for v in verdicts if v.outcome != KILLED), key=lambda v: v.mutant.number):
        mutant = verdict.mutant
        print(f"\n#{mutant.number} {mutant.path}:{mutant.mutation.lines[0]} {mutant.mutation.kind}, {verdict.outcome}")
        print(mutant.diff())
    for name in left_out:
        print(f"\nwarning: left out, because it fails on the code as it is: {name}")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
