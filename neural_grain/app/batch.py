"""Batches: many files, or many positions of the slider, rendered in one run on threads or on a cluster.

In: the jobs of a `neural_grain.app.plan.BatchPlan`. Out: a `JobResult` for each, as they come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from neural_grain.app.batch_log import BatchLog
from neural_grain.app.outputs import FileRendering
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import Job
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.parallel import map_unordered, on_cluster


@dataclass(frozen=True)
class JobResult:
    """What became of a job: a rendering, the reason of a failure, or neither if an earlier run had done it."""

    job: Job
    rendering: FileRendering | None = None
    failure: str = ""

    @property
    def is_unchanged(self) -> bool:
        """True if the job was done by an earlier run and is still valid."""
        return self.rendering is None and not self.failure


@dataclass(frozen=True)
class _Task:
    """A job on its way to a thread or a worker of a cluster."""

    job: Job
    overwrite: bool
    started_ns: int  # system time at which the task was made


def render_batch(
    processor: GrainProcessor,
    jobs: Sequence[Job],
    *,
    overwrite: bool = False,
    subtype: str | None = None,
    log: BatchLog | None = None,
    threads: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Iterator[JobResult]:
    """Render files, several at a time, and continue after those that fail.

    Parameters
    ----------
    overwrite : replace outputs that exist; the log's own are always replaced
    log : jobs that it has are not rendered again
    threads : int >= 1, files at a time on this machine; see `neural_grain.base.parallel.cluster` for several machines
    progress : wraps the results, given how many there will be

    Yields
    ------
    the jobs that were done before, then the others in the order in which they are done
    """
    done = {job for job in jobs if log is not None and log.has(job)}
    yield from (JobResult(job) for job in jobs if job in done)
    waiting = [job for job in jobs if job not in done]
    is_remote = on_cluster()
    is_shared = threads == 1 and not is_remote  # if not, each file needs a processor of its own, which keeps its solver
    render = partial(
        _render_task,
        get_processor=(lambda: processor) if is_shared else partial(GrainProcessor, processor.loaded, threads=1),
        folder=Path.cwd() if is_remote else Path(),  # the processes of a cluster have other current folders
        subtype=subtype,
        is_remote=is_remote,
    )
    tasks = _begin_tasks(waiting, overwrite, log, is_remote)
    for _, result in progress(map_unordered(render, tasks, threads), len(waiting)):
        if log is not None and result.rendering is not None:
            with suppress(PipelineError):  # if one of the files has vanished, the job is not done
                log.add(result.job, is_done=True)
        yield result


def _begin_tasks(jobs: Iterable[Job], overwrite: bool, log: BatchLog | None, is_remote: bool) -> Iterator[_Task]:
    """Turn each job into a task when a thread or worker is free for it, and log that it was begun."""
    for job in jobs:
        is_free = not os.path.exists(job.output)  # no error if the path is too long: rendering will report that
        may_replace = overwrite or (log is not None and log.owns(job))
        if log is not None and (may_replace or is_free):
            with suppress(PipelineError):  # rendering will meet the same fault, and its error names the job
                log.add(job, is_done=False)
        # A worker may die after it has written the output, and then another one has to write it again.
        yield _Task(job, may_replace or (is_remote and is_free), time.time_ns())


def _render_task(
    task: _Task, *, get_processor: Callable[[], GrainProcessor], folder: Path, subtype: str | None, is_remote: bool
) -> JobResult:
    """Render one job, perhaps on another machine; ``folder`` is where relative outputs start."""
    job, output = task.job, folder / task.job.output
    try:
        rendering = get_processor().render_file(
            job.source, output, job.target, overwrite=task.overwrite, subtype=subtype
        )
        if is_remote:
            # A worker may die before its result arrives. The one that repeats the task must leave a file with the
            # same time, because the log may already hold it.
            os.utime(output, ns=(task.started_ns, task.started_ns))
    except PipelineError as err:
        return JobResult(job, failure=printable(str(err)))
    return JobResult(job, replace(rendering, output=job.output))
