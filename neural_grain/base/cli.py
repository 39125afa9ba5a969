"""What the four commands share: exit status, Ctrl-C, progress, warnings and common options.

The main function of a command calls `run_stage` with the work to do; `exit_status` calls it, and `exit_process` ends
the process. Results go to stdout, everything else to stderr. The exit status is 0 if all was done, 1 if some inputs
failed, 2 if nothing could be done, and 130 after Ctrl-C.
"""

from __future__ import annotations

import _thread
import argparse
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from neural_grain import __version__
from neural_grain.base.errors import PipelineError, describe_system_fault, printable
from neural_grain.base.files import remove_own_temporaries
from neural_grain.base.progress import progress_lines
from neural_grain.base.streams import guard_streams

RETRY_INTERRUPT_S = 0.05  # how soon Ctrl-C is tried again when it came during an import
MAX_JOBS = 1024  # threads; systems refuse some thousands
MAX_SEED = 2**63 - 1  # of the random numbers of torch
END_WITHIN_S = 15.0  # after stdin has ended: by then every stage has saved what it can


def run_stage(
    body: Callable[[], int],
    interrupted: Callable[[], str] = lambda: "interrupted; run the same command again",
    *,
    end_with_stdin: bool = False,
) -> int:
    """Run a stage and turn its errors into one line on stderr.

    Parameters
    ----------
    body : the work; returns the exit status
    interrupted : returns the line that is printed after Ctrl-C
    end_with_stdin : take the end of stdin as Ctrl-C

    Returns
    -------
    int
        The exit status of ``body``, 2 after a `PipelineError` or a fault of the system, or 130 after Ctrl-C.
    """
    if sys.stdout is None or sys.stderr is None:  # the main function was called by a program without a terminal
        guard_streams()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: a file name may not be printable here
    _silence_libraries()
    is_interrupted = threading.Event()
    try:
        with _interrupt_after_imports(is_interrupted):
            if end_with_stdin:
                threading.Thread(target=_interrupt_at_end_of_stdin, name="end of stdin", daemon=True).start()
            return body()
    except KeyboardInterrupt:
        pass  # reported below
    except Exception as err:
        if not is_interrupted.is_set():  # else C code may have turned the interrupt into this, as matplotlib's does
            fault = printable(str(err)) if isinstance(err, PipelineError) else describe_system_fault(err)
            if not fault:
                raise
            print(f"error: {fault}", file=sys.stderr)
            return 2
    print(f"\n{interrupted()}", file=sys.stderr)
    return 130


def _silence_libraries() -> None:
    """Keep log messages and warnings of libraries from the terminal, unless Python itself was told to show warnings."""
    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(?!neural_grain|__main__)")
        # matplotlib gives this one in our name, for a file name in a script that its font lacks.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)


@contextmanager
def _interrupt_after_imports(is_interrupted: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set the event and raise KeyboardInterrupt, but not inside an import.

    There C code may swallow the exception or turn it into another one, as the start of numpy.random does.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread can set or run a handler
        yield
        return

    def handle(_number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            retry = threading.Timer(RETRY_INTERRUPT_S, _send_interrupt)
            retry.daemon = True
            retry.start()
        else:
            is_interrupted.set()
            raise KeyboardInterrupt

    handler_before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler_before)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in a frame or its callers."""
    callers = (caller for caller, _ in traceback.walk_stack(frame))
    return any(caller.f_code.co_filename == "<frozen importlib._bootstrap>" for caller in callers)


def _send_interrupt() -> None:
    """Interrupt the main thread from another one, even if it waits for something."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:  # on Windows, where the main thread notices it when it has stopped waiting
        _thread.interrupt_main()


def _interrupt_at_end_of_stdin() -> None:
    """Interrupt the main thread when stdin ends, and end the process if it does not stop.

    A program that runs a stage holds the other end of a pipe. The system closes it when that program ends in whatever
    way, so that no stage is left behind. This is the same on all systems, unlike signals.
    """
    with suppress(OSError):  # stdin is closed already
        while os.read(0, 4096):
            pass
    _send_interrupt()
    time.sleep(END_WITHIN_S)
    exit_process(130)


def exit_status(main: Callable[[], int]) -> int:
    """Call the main function of a command, whose output need not have a reader, and return the exit status."""
    guard_streams()
    try:
        return main()
    except SystemExit as exit_:  # from argparse: --help and --version end with 0, wrong usage with 2
        return exit_.code


def exit_process(status: int) -> NoReturn:
    """End the process at once, with all its threads.

    A normal exit would wait for a thread that is still at work on a long file, or abort in C code that it runs.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    remove_own_temporaries()
    os._exit(status)


def progress_bar(
    description: str, unit: str = "file", *, as_lines: bool = False
) -> Callable[[Iterable, int], Iterable]:
    """Make a function that shows progress and the remaining time on stderr, given an iterable and its length.

    Parameters
    ----------
    as_lines : for a program, as `progress_lines` prints it
    """
    if as_lines:
        return progress_lines(description)
    from tqdm import tqdm

    # None: no bar unless stderr is a terminal.
    return lambda items, total: tqdm(items, description, total, unit=unit, file=sys.stderr, disable=total == 0 or None)


def warn(message: str) -> None:
    """Print one line on stderr."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def whole_number_within(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers within bounds, for argparse, which would name the parser after a ValueError."""

    def parse(text: str) -> int:
        with suppress(ValueError):
            if low <= (value := int(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {low} to {high}")

    return parse


def number(text: str) -> float:
    """Parse a number, for argparse."""
    try:
        return float(text)
    except ValueError as err:
        hint = f"; write {text.replace(',', '.')}" if re.fullmatch(r"[+-]?\d*,\d+", text) else ""
        raise argparse.ArgumentTypeError(f"{text} is not a number{hint}") from err


def number_within(low: float, high: float, words: str) -> Callable[[str], float]:
    """Make a parser of numbers within bounds, for argparse; ``words`` name the bounds, such as "0 to 100 percent"."""

    def parse(text: str) -> float:
        value = number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not within {words}")
        return value

    return parse


def add_version_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``."""
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")


def add_parallel_arguments(parser: argparse.ArgumentParser, jobs: int) -> None:
    """Add ``-j`` and ``--dask``, which have the same meaning in every stage that works on many files."""
    parser.add_argument(
        "-j",
        "--jobs",
        type=whole_number_within(1, MAX_JOBS),
        default=jobs,
        help="files at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="work on the Dask cluster of this scheduler, such as tcp://host:8786, instead of -j threads; its machines "
        "must see the same folders under the same paths",
    )


def add_driver_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress`` and ``--end-with-stdin``, for programs that run a stage, such as the window."""
    parser.add_argument(
        "--progress",
        choices=("bar", "lines"),
        default="bar",
        help="how progress is shown: as a bar, or as lines of JSON for a program (default: %(default)s)",
    )
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="stop as after Ctrl-C when standard input ends, so that the program that runs this takes it along",
    )
