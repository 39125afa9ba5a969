"""Standard streams that nobody may read: a command does its work even when its output has nowhere to go.

The reader of stdout may end early (``| head -1``), the disk behind it may be full, and a service may start a command
with closed streams. Every script calls `guard_streams` before it imports anything that prints or opens files.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType
from typing import NoReturn, TextIO

# With less, nothing can be done anyway, and OpenBLAS waits for memory for ever or ends the process without a word.
MIN_ADDRESS_BYTES = 256 << 20


class GuardedStream:
    """A text stream that drops everything from the first text that could not be written.

    Parameters
    ----------
    stream : TextIO, which gets the text and has all other attributes
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._is_broken = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text`` if the stream still takes it; returns its length in any case."""
        try:
            if not self._is_broken:
                self._stream.write(text)
        except OSError:
            self._is_broken = True
        return len(text)

    def flush(self) -> None:
        """Pass on what was written so far."""
        try:
            if not self._is_broken:
                self._stream.flush()
        except OSError:
            self._is_broken = True


def guard_streams() -> None:
    """Let no missing, closed or full stream stop this process. A second call changes nothing.

    What C libraries print about damaged files goes nowhere, because the program reports such files in its own words.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file opened would get its number, and with it what a C library prints
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        if not isinstance(stream, GuardedStream):
            setattr(sys, name, GuardedStream(_apart_from_c_libraries(stream) if name == "stderr" else stream))


def begin_script() -> None:
    """Prepare the process of a script for the import of packages: Ctrl-C and a full memory end it at once.

    OpenBLAS, which comes with NumPy and SciPy, gets one thread unless the user says otherwise. The program has threads
    of its own, and each one of OpenBLAS takes 32 MB of addresses.
    """
    guard_streams()
    signal.signal(signal.SIGINT, _end_interrupted)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _refuse_low_memory_limit()
    from neural_grain.base.errors import describe_system_fault  # only now that Ctrl-C is one line

    def report_exception(kind: type[BaseException], err: BaseException, trace: TracebackType | None) -> None:
        if fault := describe_system_fault(err):
            sys.stderr.write(f"error: {fault}\n")
            sys.stderr.flush()
            os._exit(2)
        sys.__excepthook__(kind, err, trace)

    sys.excepthook = report_exception


def _refuse_low_memory_limit() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_BYTES:
        sys.stderr.write(
            f"error: the memory of this process is limited to {limit >> 20} MB (ulimit -v); "
            f"{MIN_ADDRESS_BYTES >> 20} MB are the least that it starts with\n"
        )
        sys.stderr.flush()
        os._exit(2)


def _end_interrupted(*_: object) -> NoReturn:
    sys.stderr.write("\ninterrupted\n")
    sys.stderr.flush()
    os._exit(130)


def _apart_from_c_libraries(stream: TextIO) -> TextIO:
    """A stream to where stderr leads, after the descriptor that C libraries write to was made to lead nowhere."""
    try:
        stream.flush()
        if stream.fileno() != 2:
            return stream
    except (OSError, ValueError):  # a program or a test has put something else in its place, or it can't be written
        return stream
    own, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return os.fdopen(own, "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
