"""The error that a user can mend, and safe printing of text from outside.

Everything in this package that reads or writes files raises `PipelineError` if that fails, and docstrings do not
repeat it. `neural_grain.base.cli.run_stage` prints the error as one line. A fault of the program itself is a
ValueError, TypeError and so on, and ends in a traceback.
"""

from __future__ import annotations

import errno
import os
import reprlib
import traceback
from pathlib import Path

#: Control characters and line separators, which would break a message into lines or change the terminal.
UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
LONGEST_INT = 10**30  # Python refuses to convert an int of more than 4,300 digits to text


class PipelineError(Exception):
    """An error that the user can mend. Its message is one line that names the thing, the value and what to do."""


class SystemRefusal(PipelineError):
    """The system did not let a file be read, which says nothing about its content; it may let it be read next time."""


#: What the loader and libraries say, in errors of several types, when the system gives them no more memory.
NO_MEMORY = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread")


def describe_system_fault(err: BaseException) -> str:
    """What the system or the installation lacks, in one line, if that led to ``err``; empty if nothing is known."""
    chain: list[BaseException] = []
    cause: BaseException | None = err
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for each in chain:
        is_worded = isinstance(each, OSError | ImportError | RuntimeError)
        if isinstance(each, MemoryError) or (is_worded and any(words in str(each).lower() for words in NO_MEMORY)):
            return "out of memory; close other programs, or work on fewer files at a time (-j 1)"
        if isinstance(each, OSError) and each.errno in (errno.EMFILE, errno.ENFILE):
            return "too many open files; close other programs, or raise the limit (ulimit -n)"
        if isinstance(each, FileNotFoundError) and each.filename is None:  # from os.getcwd
            return "the folder that this command was started in is gone; change to another one"
    # Python removes its own frames of an import from tracebacks, but the code of the imported module stays.
    running = (frame for frame, _ in traceback.walk_tb(err.__traceback__) if frame.f_code.co_name == "<module>")
    is_import = any(frame.f_globals.get("__name__") != "__main__" for frame in running)
    if isinstance(err, ImportError) or (isinstance(err, OSError) and is_import):
        reason = printable(str(err).strip().partition("\n")[0])
        return f"a package can't be loaded ({reason}); is there memory left? If so, install the packages again"
    if isinstance(err, OSError):  # of a path that can't even be looked up, such as one that is too long
        path = "" if err.filename is None else f"{os.fsdecode(err.filename)}: "
        return printable(f"{path}{err.strerror or err}")
    return ""


def printable(text: Path | str) -> str:
    """Convert a path or any text to one printable line.

    Control characters become escape sequences, and bytes of a file name that are not UTF-8 become question marks.
    """
    return str(text).encode("utf-8", "replace").decode().translate(UNPRINTABLE)


def short_repr(value: object) -> str:
    """Describe a value that was read from a file, for an error message of limited length.

    Plain values are shown, shortened if they are long. Of all others only the type is named.
    """
    is_plain = isinstance(value, str | float | bool) or value is None
    if is_plain or (isinstance(value, int) and abs(value) < LONGEST_INT):
        return reprlib.repr(value)
    return f"of type {type(value).__name__}, or too long"
