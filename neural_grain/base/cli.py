"""TODO"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import allow_temporaries, remove_own_temporaries


def progress_bar(description: str, unit: str = "file") -> Callable[[Iterable, int], Iterable]:
    """A progress bar on stderr, with the time left, for anything that is gone through in order."""
    from tqdm import tqdm

    return lambda items, total: tqdm(items, description, total, unit=unit, file=sys.stderr, disable=total == 0 or None)


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def set_interrupt_handler(handler: object) -> None:
    """Set what Ctrl-C does; only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but after an import: inside it, C code may swallow it or make another error of it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            again = threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), number])
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def run_stage(
    body: Callable[[], int], interrupted: Callable[[], str] = lambda: "interrupted; run the same command again"
) -> int:
    """Run a stage: what a user can mend becomes one line on stderr and exit status 2, Ctrl-C 130 with ``interrupted()``."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name may hold what can't be printed here
    before = signal.getsignal(signal.SIGINT)
    set_interrupt_handler(_interrupt)
    allow_temporaries()
    try:
        return body()
    except PipelineError as err:
        print(f"error: {printable(str(err))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        set_interrupt_handler(before)
        remove_own_temporaries()
        print(f"\n{interrupted()}", file=sys.stderr)
        return 130
    finally:
        set_interrupt_handler(before)


def exit_process(status: int) -> NoReturn:
    """End the process with its threads: one that still computes while Python is taken apart would abort it."""
    remove_own_temporaries()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(status)


def positive_int(text: str) -> int:
    """``-j``: a number of threads of at least 1."""
    jobs = int(text)
    if jobs < 1:
        raise ValueError(text)
    return jobs


def positive_int_2(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def add_parallel_arguments(parser: argparse.ArgumentParser, jobs: int) -> None:
    """``-j`` and ``--dask``, which mean the same in every stage that works on many files."""
    parser.add_argument("-j", "--jobs", type=positive_int, default=jobs, help="files at a time (default: %(default)s)")
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="work on the Dask cluster of this scheduler, such as tcp://host:8786, instead of -j threads; its machines "
        "must see the same folders under the same paths",
    )
