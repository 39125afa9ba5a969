"""Progress of a command as lines, for a program that runs it.

A line is the word "progress:" and a JSON object. A program tells these lines from all others on stderr by their
beginning, and reads them with `read_progress`:

    progress: {"doing": "measuring", "done": 3, "total": 12, "left_s": 4.2}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

from neural_grain.base.errors import PipelineError
from neural_grain.base.records import parse_record

MARK = "progress: "
INTERVAL_S = 0.1  # between two lines, so that a loop over many small files does not spend its time on them


@dataclass(frozen=True)
class LoopProgress:
    """How far a loop is. ``left_s`` is the time that it will still take, None if nobody knows yet."""

    doing: str
    done: int
    total: int
    left_s: float | None

    def __str__(self) -> str:
        return MARK + json.dumps(asdict(self))

    @property
    def share(self) -> float:
        """Part of the loop that is done, within 0 to 1."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total > 0 else 1.0


def read_progress(line: str) -> LoopProgress | None:
    """Read a line; None if it is no line of progress."""
    if not line.startswith(MARK):
        return None
    try:
        return parse_record(LoopProgress, json.loads(line.removeprefix(MARK)), "progress")
    except (ValueError, RecursionError, PipelineError):
        return None


def progress_lines(description: str) -> Callable[[Iterable, int], Iterable]:
    """Make a function that prints progress as lines on stderr, given an iterable and its length."""

    def wrapped(items: Iterable, total: int) -> Iterator:
        started = printed = time.monotonic()
        if total:
            print(LoopProgress(description, 0, total, None), file=sys.stderr)
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if done >= total or now - printed >= INTERVAL_S:
                printed = now
                left_s = (now - started) / done * max(0, total - done)
                print(LoopProgress(description, done, total, round(left_s, 1)), file=sys.stderr)

    return wrapped


def describe_time_left(seconds: float) -> str:
    """A rough time in words, as exact as an estimate can be."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {10 * round(seconds / 10)} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {10 * (minutes % 60 // 10)} min left"
