"""TODO"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from neural_grain.app.processor import FileRendering, GrainProcessor, RenderTarget
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import file_stamp
from neural_grain.base.parallel import map_unordered, on_cluster
from neural_grain.base.records import relative_posix

BATCH_LOG = "grain_renderings.jsonl"


@dataclass(frozen=True)
class Job:
    """One rendering to do."""

    source: Path
    output: Path
    asked: RenderTarget


class BatchLog:
    """Remembers in the output folder what was rendered from what, so that a batch that stopped goes on where it was.

    One line of JSON when a file is begun and one when it is done, appended; a line that was cut off
    counts for nothing.

    Parameters
    ----------
    folder : Path
    model_path : Path
    subtype : str or None
    """

    def __init__(self, folder: Path, model_path: Path, subtype: str | None):
        self._path = folder / BATCH_LOG
        self._common = [hashlib.sha256(model_path.read_bytes()).hexdigest(), subtype]
        self._last: dict[str, dict] = {}
        self._lock = threading.Lock()
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    record = json.loads(line)
                    if len(record.get("stamps", [0, 0])) == 2 and isinstance(record.get("stamps", []), list):
                        self._last[record["output"]] = record
            self._append("")  # in case the last line was cut off

    def _record(self, job: Job, is_done: bool) -> dict:
        record = {
            "output": relative_posix(job.output, self._path.parent.absolute()),
            "input": str(job.source),
            "asked": [job.asked.octaves, job.asked.target_grain],
            "model_and_subtype": self._common,
        }
        stamps = {"stamps": [list(file_stamp(path)) for path in (job.source, job.output)]} if is_done else {}
        return record | stamps

    def has(self, job: Job) -> bool:
        """Whether a job was done and neither its input nor its output has changed since."""
        try:
            record = self._record(job, is_done=True)
        except PipelineError:
            return False
        return self._last.get(record["output"]) == record

    def owns(self, job: Job) -> bool:
        """Whether the output is an earlier run's and not the user's."""
        last = self._last.get(relative_posix(job.output, self._path.parent.absolute()), {})
        try:
            return bool(last) and ("stamps" not in last or last["stamps"][1] == list(file_stamp(job.output)))
        except PipelineError:
            return False

    def add(self, job: Job, *, is_done: bool) -> None:
        """Remember that a job was begun, or done.

        Raises
        ------
        PipelineError
            If that can't be written.
        """
        self._append(json.dumps(self._record(job, is_done)))

    def _append(self, line: str) -> None:
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as err:
            raise PipelineError(f"{self._path}: can't write ({err.strerror})") from err


def render_batch(
    processor: GrainProcessor,
    batch: list[Job],
    *,
    overwrite: bool = False,
    subtype: str | None = None,
    log: BatchLog | None = None,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Iterator[tuple[Job, FileRendering | str | None]]:
    """Render files, some at a time, and go on past those that fail.

    Yields
    ------
    each job with what became of it: nothing if it was done before, these come first; then, in the order
    in which they are done, a rendering or the reason why there is none
    """
    is_far = on_cluster()
    is_alone = jobs == 1 and not is_far
    here = Path.cwd() if is_far else Path()  # other processes have another current folder
    one = processor if is_alone else GrainProcessor(processor.loaded, 1)

    def render(task: tuple[Job, bool, int]) -> FileRendering | str:
        job, may_replace, begun_ns = task
        mine = one if is_alone else GrainProcessor(one.loaded, 1)  # each keeps a file of its own
        try:
            result = mine.render_file(job.source, here / job.output, job.asked, overwrite=may_replace, subtype=subtype)
            if is_far:
                # A worker may write the file and die before that is known: then another one writes the same again,
                # perhaps after the log has its time.
                os.utime(here / job.output, ns=(begun_ns, begun_ns))
            return replace(result, output=job.output)
        except PipelineError as err:
            return printable(str(err))

    before = {job for job in batch if log is not None and log.has(job)}
    yield from ((job, None) for job in batch if job in before)
    to_do = [job for job in batch if job not in before]

    def begun() -> Iterator[tuple[Job, bool, int]]:
        for job in to_do:
            is_free = not job.output.exists()
            may_replace = overwrite or (log is not None and log.owns(job))
            if log is not None and (may_replace or is_free):
                with suppress(PipelineError):  # what is wrong, `render_file` will say
                    log.add(job, is_done=False)
            yield job, may_replace or (is_far and is_free), time.time_ns()

    for (job, *_), result in progress(map_unordered(render, begun(), jobs), len(to_do)):
        if log is not None and isinstance(result, FileRendering):
            with suppress(PipelineError):  # one of the two files has gone already: then it is not done
                log.add(job, is_done=True)
        yield job, result
