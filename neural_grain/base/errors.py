"""TODO"""

from __future__ import annotations

import reprlib
from pathlib import Path


class PipelineError(Exception):
    """A fault that the user can mend: one line that names the thing, the value and what to do."""


UNPRINTABLE = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160), 0x2028, 0x2029)}  # control, line breaks


def printable(path: Path | str) -> str:
    """A name as it can be printed: on one line, whatever characters it holds."""
    return str(path).encode("utf-8", "replace").decode().translate(UNPRINTABLE)


def short_repr(value: object) -> str:
    """A value out of a file as an error shows it: cut short, and only its type if it is no plain one."""
    if isinstance(value, str | float | bool) or value is None or (isinstance(value, int) and abs(value) < 10**30):
        return reprlib.repr(value)
    return f"of type {type(value).__name__}, or too long"
