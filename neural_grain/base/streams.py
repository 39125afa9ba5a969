"""Standard streams that nobody may read: a command does its work even when its output has nowhere to go.

The reader of stdout may end early (``| head -1``), the disk behind it may be full, and a service may start a command
with closed streams. Every script calls `guard_streams` before it imports anything that prints or opens files.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO


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
