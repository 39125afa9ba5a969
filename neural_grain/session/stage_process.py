"""One stage as a process of its own, the same command that a user types.

The process reads nothing, but its stdin is the way to stop it: the stage takes the end of stdin as Ctrl-C, saves what
it can and ends. The system closes the pipe also when this program is killed, so no stage outlives it by more than some
seconds. The process has a lower priority than this one, so that the sound goes on playing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.progress import LoopProgress, read_progress

KILL_AFTER_S = 20.0  # after it was asked to stop; the stage itself gives up 5 s earlier
NICENESS = 10  # 0 is the normal priority, 19 the lowest
KEPT_LINES = 20  # of stderr, to find the reason of a failure in
DRIVEN = ("--progress", "lines", "--end-with-stdin")
INTERRUPTED = 130  # exit status


class StageProcess:
    """A stage that runs.

    Parameters
    ----------
    script : name of the module of the stage, such as "measure_audio_grain"
    arguments : for its command line
    folder : Path in which it works

    Raises
    ------
    PipelineError
        If it can't be started.
    """

    def __init__(self, script: str, arguments: list[str], folder: Path):
        command = [sys.executable, str(find_script(script)), *arguments, *DRIVEN]
        options: dict = {"start_new_session": True}  # Ctrl-C in the terminal is for the window
        if os.name == "nt":
            options = {"creationflags": subprocess.BELOW_NORMAL_PRIORITY_CLASS | subprocess.CREATE_NO_WINDOW}
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                **options,
            )
        except (OSError, ValueError) as err:
            raise PipelineError(f"{folder}: can't start {script} there ({err})") from err
        if hasattr(os, "setpriority"):
            with suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._killer: threading.Timer | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def lines(self) -> Iterator[LoopProgress | str]:
        """What the stage says, until it ends: its progress, and all other lines of its stderr."""
        for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if progress := read_progress(line):
                yield progress
            elif line:
                self._last_lines.append(line)
                yield printable(line)

    def stop(self) -> None:
        """Ask the stage to stop, and kill it if it does not; may be called from any thread, and again."""
        with self._lock:
            if self._killer is None:
                self._killer = threading.Timer(KILL_AFTER_S, self._process.kill)
                self._killer.daemon = True
                self._killer.start()
            with suppress(OSError):
                self._process.stdin.close()

    def wait(self) -> int:
        """Wait until the stage has ended; returns its exit status, negative if a signal ended it."""
        status = self._process.wait()
        with self._lock:
            if self._killer is not None:
                self._killer.cancel()
            with suppress(OSError):
                self._process.stdin.close()
        self._process.stderr.close()
        return status

    def failure(self) -> str:
        """Why it failed, in one line."""
        if self._process.returncode < 0:
            return (
                f"the process was ended from outside (signal {-self._process.returncode}), perhaps for want of memory"
            )
        errors = [line for line in self._last_lines if "error: " in line]
        if errors:
            return printable(errors[-1].partition("error: ")[2])
        last = self._last_lines[-1] if self._last_lines else f"exit status {self._process.returncode}"
        return f"internal fault, please report it: {printable(last)}"


def find_script(name: str) -> Path:
    """The file of a stage, beside this package in a checkout or where pip has installed it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not sys.executable:
        raise PipelineError(f"{name}.py is missing; install the program again")
    return Path(spec.origin).resolve()
