"""The start of a script's process, before it imports packages.

In: nothing. Out: a process in which Ctrl-C, a lack of memory or a package that can't be loaded is one line on stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType
from typing import NoReturn

from neural_grain.base.streams import guard_streams

# With less, nothing can be done, and OpenBLAS waits for memory for ever or ends the process without a message.
MIN_ADDRESS_BYTES = 256 << 20


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
            _end(2, f"error: {fault}")
        sys.__excepthook__(kind, err, trace)

    sys.excepthook = report_exception


def _refuse_low_memory_limit() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_BYTES:
        _end(
            2,
            f"error: the memory is limited to {limit >> 20} MB (ulimit -v); at least {MIN_ADDRESS_BYTES >> 20} MB are "
            "needed to start",
        )


def _end_interrupted(*_: object) -> NoReturn:
    _end(130, "\ninterrupted")


def _end(status: int, line: str) -> NoReturn:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    os._exit(status)
