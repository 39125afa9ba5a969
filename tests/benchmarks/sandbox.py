"""Runs work on a hostile file in a process of its own, and judges what came of it: for benchmarks/fuzz.py.

A `Case` is a file, the project that it is put into, and what is done with it. Everything may happen but this: an
exception that is no `PipelineError`, a numerical warning, a crash, more than 10 s of processor time, more than 2 GB of
memory, and a trespass, which is a file read or written outside the project, a program started, or a marker that code
in the file would leave. An audit hook sees what Python opens; the folder around the project shows what C code wrote.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from neural_grain.base.errors import PipelineError

HANG_S = 10.0  # of processor time
WAIT_S = 100.0  # on the clock, where others use the processors, too
MEMORY_MB = 2048
FAULTS = ("traceback", "warning", "crash", "hang", "memory", "trespass")
MARKER = "hacked"  # the file or folder that hostile code would make
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect")
#: Places that every Python program reads.
READABLE = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/usr", "/lib", "/etc/ssl",
                                        "/proc", "/sys", "/dev/null", "/dev/urandom", "/etc/mime.types")))  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Parameters
    ----------
    group : the row of the table, such as "wav"
    damage : what was done to the file
    name : of the file, relative to the project
    data : its content
    base : Path of a project that is copied first, or None for an empty one
    work : what is done with it: takes the project, and returns a word for each step, after a colon with a reason
    """

    group: str
    damage: str
    name: str
    data: bytes
    base: Path | None
    work: Callable[[Path], tuple[str, ...]]


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the words of its steps, or of a fault."""

    words: tuple[str, ...]
    memory_mb: float = 0.0
    seconds: float = 0.0

    @property
    def is_fault(self) -> bool:
        """True if this must not happen, whatever the file holds."""
        return any(word.startswith(FAULTS) for word in self.words)


def run_guarded(step: Callable[[], str]) -> str:
    """Return the result of a step, or the exception that it raised with the place in our code."""
    try:
        return step()
    except PipelineError as err:
        return f"refused: {err}"
    except BaseException as err:  # noqa: BLE001  exceptions of any kind are what is looked for
        trace = err.__traceback__
        while trace.tb_next is not None and "site-packages" not in trace.tb_next.tb_frame.f_code.co_filename:
            trace = trace.tb_next
        kind = "warning" if isinstance(err, Warning) else "traceback"
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        return f"{kind}: {type(err).__name__}: {str(err)[:300]} at {place}"


def run_command(main: Callable[[list[str]], int], arguments: list[str], folder: Path) -> str:
    """Call the main function of a command in a folder: it must succeed, or fail with one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as exit_:
            status = exit_.code
    lines = [line for line in err.getvalue().splitlines() if "error: " in line]
    if status in (0, 1):
        return "used"
    if status != 2 or not lines or max(map(len, lines)) > 1500:
        return f"traceback: status {status} with {[line[:200] for line in lines]}"
    return f"refused: {lines[-1]}"


def watch(folder: Path, trespasses: list[str]) -> None:
    """Note everything that this process does outside a folder, from now on."""
    own = (os.path.realpath(folder), os.path.realpath(tempfile.gettempdir()))

    def is_below(path: object, places: Iterable[str]) -> bool:
        if isinstance(path, int) or path is None:
            return True
        real = os.path.realpath(os.fsdecode(path))
        return any(real == place or real.startswith(place + os.sep) for place in places)

    def hook(event: str, arguments: tuple) -> None:
        if event in PROGRAMS:
            trespasses.append(f"trespass: {event} {arguments[:1]}")
        elif event == "open":
            path, _, flags = arguments
            may_read = own if (flags or 0) & WRITING else (*own, *READABLE)
            is_null = path in (os.devnull, "/dev/null")
            if not is_null and not is_below(path, may_read):
                trespasses.append(f"trespass: {'writes' if (flags or 0) & WRITING else 'reads'} {path!r}")
        elif event in CHANGES and not all(is_below(path, own) for path in arguments[:1]):
            trespasses.append(f"trespass: {event} {arguments[0]!r}")

    sys.addaudithook(hook)


def perform(case: Case, around: Path, answer: Connection) -> None:
    """Do the work of a case and send its `Outcome`; runs in a process of its own."""
    warnings.simplefilter("error")
    sys.dont_write_bytecode = True  # of a module that is imported only now
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print messages to stderr
    resource.setrlimit(resource.RLIMIT_CPU, (int(HANG_S), int(HANG_S) + 5))
    project, temporary = around / "project", around / "temporary"
    temporary.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    if case.base is None:
        project.mkdir()
    else:
        shutil.copytree(case.base, project)
    path = project / case.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(case.data)
    os.chdir(project)
    trespasses: list[str] = []
    before_mb, started = peak_mb(), time.monotonic()
    watch(project, trespasses)
    words = case.work(project)
    memory_mb = peak_mb() - before_mb
    if memory_mb > MEMORY_MB:
        words = (*words, f"memory: {memory_mb:.0f} MB")
    if any(project.rglob(MARKER)):
        words = (*words, "trespass: code in the file was run")
    answer.send(Outcome((*words, *dict.fromkeys(trespasses)), memory_mb, time.monotonic() - started))


def peak_mb() -> float:
    """Largest memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Running:
    """A process that works on a case, in a folder with a file that nobody may touch."""

    process: BaseProcess
    case: Case
    around: Path
    started: float

    @classmethod
    def start(cls, case: Case, around: Path, sender: Connection) -> Running:
        """Start it."""
        around.mkdir()
        (around / "outside.txt").write_text("outside")
        process = multiprocessing.get_context("fork").Process(target=perform, args=(case, around, sender), daemon=True)
        process.start()
        return cls(process, case, around, time.monotonic())

    def outcome(self, answer: Connection, is_ready: bool) -> Outcome | None:
        """The outcome of the process, which may have crashed or hang; None while it works."""
        if is_ready:
            try:
                return answer.recv()
            except EOFError:
                self.process.join()
                code = self.process.exitcode
                if code == -signal.SIGXCPU:
                    return Outcome((f"hang: more than {HANG_S:g} s",))
                return Outcome((f"crash: {signal.Signals(-code).name if code < 0 else code}",))
        if time.monotonic() - self.started > WAIT_S:
            self.process.kill()
            return Outcome((f"hang: more than {WAIT_S:g} s on the clock",))
        return None

    def end(self, outcome: Outcome) -> Outcome:
        """The outcome with what happened around the project, which is removed."""
        self.process.join()
        names = {path.name for path in [*self.around.iterdir(), *self.around.glob("temporary/*")]}
        is_same = names <= {"outside.txt", "project", "temporary"} and self._is_untouched()
        shutil.rmtree(self.around, ignore_errors=True)
        words = () if is_same else (f"trespass: around the project there is {sorted(names)}",)
        return Outcome((*outcome.words, *words), outcome.memory_mb, outcome.seconds)

    def _is_untouched(self) -> bool:
        outside = self.around / "outside.txt"
        return outside.exists() and outside.read_text() == "outside"


def outcomes(cases: Iterable[Case], work: Path, jobs: int) -> Iterator[tuple[Case, Outcome]]:
    """Yield the outcome of each case, several at a time, each in a process of its own."""
    source, running, number, is_empty = iter(cases), {}, 0, False
    while not is_empty or running:
        while not is_empty and len(running) < jobs:
            case = next(source, None)
            if case is None:
                is_empty = True
                break
            number += 1
            receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
            running[receiver] = Running.start(case, work / f"case{number}", sender)
            sender.close()
        ready = wait(list(running), timeout=0.5)
        for receiver, run in list(running.items()):
            outcome = run.outcome(receiver, receiver in ready)
            if outcome is not None:
                del running[receiver]
                receiver.close()
                yield run.case, run.end(outcome)
