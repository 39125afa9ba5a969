"""One run over many audio files that continues where an earlier run stopped.

Stages 1 and 2 work in the same way. Results of an earlier run are kept for the files that have not changed. All other
files are processed, the largest first, so that no long file is left to one core at the end. If the user presses
Ctrl-C, the results so far are handed to ``rescue``, which saves them, and the next run continues from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from neural_grain.base.parallel import map_unordered

Progress = Callable[[Iterable, int], Iterable]  # wraps results, given how many there will be


class FileResult(Protocol):
    """What became of one audio file."""

    @property
    def path(self) -> Path:
        """The audio file."""


Item = TypeVar("Item")
Result = TypeVar("Result", bound=FileResult)


class RunCounts(NamedTuple):
    """Number of files that a run processed, kept from the earlier run, and no longer found."""

    processed: int
    unchanged: int
    gone: int


@dataclass(frozen=True)
class EarlierRun(Generic[Result]):
    """What an earlier run left.

    Attributes
    ----------
    named : every audio file that its document names
    usable : results that were made with the settings of this run
    current : those of ``usable`` that are still valid, because neither the audio file nor what was made of it changed
    """

    named: frozenset[Path] = frozenset()
    usable: Mapping[Path, Result] = field(default_factory=dict)
    current: Mapping[Path, Result] = field(default_factory=dict)


class FileResults(NamedTuple, Generic[Result]):
    """The results of all files, in the order of the items, and what the run did."""

    results: list[Result]
    counts: RunCounts


def no_progress(items: Iterable, total: int) -> Iterable:
    """Iterate without a progress bar."""
    return items


def process_files(
    function: Callable[[Item], Result],
    items: Mapping[Path, Item],
    earlier: EarlierRun[Result],
    *,
    size_bytes: Callable[[Item], int],
    jobs: int,
    progress: Progress,
    rescue: Callable[[list[Result]], None],
) -> FileResults[Result]:
    """Call ``function`` for every file that has no current result.

    Parameters
    ----------
    function : work on one item; on a cluster it is sent to the workers
    items : what ``function`` gets, by audio file
    size_bytes : size of the audio file of an item
    jobs : int >= 1, threads on this machine; see `neural_grain.base.parallel.cluster` for several machines
    progress : wraps the results, for a progress bar
    rescue : called on Ctrl-C once a file was processed, with the new results and the usable earlier ones of the others
    """
    waiting = [item for path, item in items.items() if path not in earlier.current]
    waiting.sort(key=size_bytes, reverse=True)
    done: dict[Path, Result] = {}

    def in_order(results: Mapping[Path, Result]) -> list[Result]:
        return [results[path] for path in items if path in results]

    try:
        for _, result in progress(map_unordered(function, waiting, jobs), len(waiting)):
            done[result.path] = result
    except KeyboardInterrupt:
        if done:
            rescue(in_order({**earlier.usable, **done}))
        raise
    counts = RunCounts(len(waiting), len(items) - len(waiting), len(earlier.named - set(items)))
    return FileResults(in_order({**earlier.current, **done}), counts)
