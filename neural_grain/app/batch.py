"""Batches: many files, or many positions of the slider, rendered in one run.

`plan_batch` decides which inputs are rendered to which outputs, `render_batch` renders them on threads or on a
cluster, and `BatchLog` remembers in the output folder what is done, so that a batch that was stopped can be
continued by the same command. The tree of an input folder is kept below the output folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from neural_grain.app.outputs import FileRendering
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget, output_name
from neural_grain.audio.audio_files import AUDIO_EXTENSIONS, find_audio, unreadable_formats
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import file_stamp, prepare_folder, run_lock
from neural_grain.base.identity import ignores_case, name_keys, refuse_inputs
from neural_grain.base.parallel import map_unordered, on_cluster
from neural_grain.base.records import parse_record, relative_posix
from neural_grain.dsp.mix import NO_MIX

BATCH_LOG = "grain_renderings.jsonl"


@dataclass(frozen=True)
class Job:
    """One rendering to make."""

    source: Path
    output: Path
    target: RenderTarget


@dataclass(frozen=True)
class BatchPlan:
    """The renderings of a run."""

    jobs: list[Job]
    log_folder: Path | None = None  # where the batch log is kept; None for one named file that goes to one file
    warnings: tuple[str, ...] = ()  # what was left out, in lines
    instrument: bool = False  # whether the outputs of each source become an instrument


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
class LogRecord:
    """One line of the batch log. The field names are those in the file.

    Attributes
    ----------
    output : POSIX path relative to the folder of the log
    asked : octaves and grain of the `RenderTarget`; its layer is a part of the name of the output
    curve : SHA-256 of its curve, "" without one
    mix : share of the moved sound, and output gain in dB
    model_and_subtype : SHA-256 of the model file ("" without one), and the requested sample format
    stamps : `file_stamp` of input and output when the rendering was done; None when it was begun
    """

    output: str
    input: str
    asked: tuple[float, float | None]
    model_and_subtype: tuple[str, str | None]
    stamps: tuple[tuple[int, int], tuple[int, int]] | None = None
    curve: str = ""
    mix: tuple[float, float] = (NO_MIX.wet, NO_MIX.gain_db)


@dataclass(frozen=True)
class _Task:
    """A job on its way to a thread or a worker of a cluster."""

    job: Job
    overwrite: bool
    started_ns: int  # system time at which the task was made


def plan_batch(
    inputs: Sequence[Path],
    targets: Sequence[RenderTarget],
    output: str | None,
    *,
    also_read: Sequence[Path] = (),
    keep_tree: bool = False,
) -> BatchPlan:
    """Find the inputs and decide where each rendering goes, so that none goes to an input.

    Parameters
    ----------
    inputs : audio files, and folders that are searched for them
    targets : every input is rendered once for each
    output : a file, or a folder (it exists, or the text ends with /); the current folder if None
    also_read : other files that the run reads
    keep_tree : files that are named themselves also keep their tree, below the folder that all of them are in

    Raises
    ------
    PipelineError
        If there is no input, if two renderings would go to one output, or if an output is an input.
    """
    is_folder = output is None or output.endswith("/") or os.path.isdir(output)
    folder = Path(output or ".") if is_folder else None
    found = _find_sources(inputs, keep_tree)
    sources = _without_outputs(found, inputs, folder)
    warnings = unreadable_formats(inputs)
    if n_outputs := len(found) - len(sources):
        warnings.append(f"left out: {n_outputs} files that {BATCH_LOG} lists as outputs of earlier runs")
    if not sources:
        extensions = " ".join(sorted(AUDIO_EXTENSIONS))
        fault = f"0 files found in {', '.join(map(printable, inputs))} (looked for {extensions})"
        raise PipelineError("; ".join((fault, *warnings)))
    n_jobs = len(sources) * len(targets)
    if folder is not None:
        jobs = jobs_in_folder(sources, targets, folder)
    elif n_jobs > 1:
        raise PipelineError(f"-o {output}: {n_jobs} outputs need a folder; end it with /")
    else:
        jobs = [Job(next(iter(sources)), Path(output), targets[0])]
    refuse_inputs([job.output for job in jobs], [*sources, *also_read])
    is_batch = output is not None or n_jobs > 1 or any(os.path.isdir(path) for path in inputs)
    return BatchPlan(jobs, folder if is_batch else None, tuple(warnings))


def _find_sources(inputs: Sequence[Path], keep_tree: bool) -> dict[Path, Path]:
    """Audio files among and below the inputs, each with the folder that its tree starts from."""
    files = [Path(os.path.abspath(path)) for path in inputs if not os.path.isdir(path)]
    shared = Path(os.path.commonpath([file.parent for file in files])) if keep_tree and files else None
    sources: dict[Path, Path] = {}
    for path in inputs:
        root = Path(os.path.abspath(path)) if os.path.isdir(path) else shared
        for source in find_audio([path]):
            sources.setdefault(source, root or source.parent)
    return sources


def _without_outputs(sources: dict[Path, Path], inputs: Sequence[Path], folder: Path | None) -> dict[Path, Path]:
    """Leave out what a batch log knows as output.

    Of the files that were found in folders, that is everything in the logs there and above. A file that is named
    itself is left out only if it is an output of the log that this run will continue, the one in ``folder``.
    """
    named = {Path(os.path.abspath(path)) for path in inputs}
    places = {os.path.realpath(source.parent) for source in sources if source not in named}
    outputs_around = _logged_outputs({above for place in places for above in (Path(place), *Path(place).parents)})
    own_outputs = set() if folder is None else _logged_outputs([folder])
    return {
        source: root
        for (source, root), key in zip(sources.items(), name_keys(sources), strict=True)
        if key not in own_outputs and (source in named or key not in outputs_around)
    }


def _logged_outputs(folders: Iterable[Path]) -> set[str]:
    """Names, as `name_keys` gives them, of everything that the batch logs in these folders know as output."""
    logs = [folder / BATCH_LOG for folder in folders]
    return set(name_keys(log.parent / record.output for log in logs if os.path.isfile(log) for record in read_log(log)))


def jobs_in_folder(sources: Mapping[Path, Path], targets: Sequence[RenderTarget], folder: Path) -> list[Job]:
    """Jobs with default names below ``folder``, in the tree of the sources.

    Where sources differ only in their extension (a.wav, a.flac), the names of their outputs keep it.

    Parameters
    ----------
    sources : as `find_sources` returns them

    Raises
    ------
    PipelineError
        If two sources would go to one output.
    """
    stem_counts = Counter(source.with_suffix("") for source in sources)
    jobs: list[Job] = []
    for source, root in sources.items():
        is_unique = stem_counts[source.with_suffix("")] == 1
        named_after = source if is_unique else source.with_name(f"{source.name}.wav")
        for target in targets:
            output = folder / source.parent.relative_to(root) / output_name(named_after, target)
            jobs.append(Job(source, output, target))
    _check_outputs_differ(jobs, folder)
    return jobs


def _check_outputs_differ(jobs: Sequence[Job], folder: Path) -> None:
    job_of: dict[str, Job] = {}
    for job, key in zip(jobs, name_keys(job.output for job in jobs), strict=True):
        other = job_of.setdefault(key, job)
        if other is not job and (other.output == job.output or ignores_case(folder)):
            raise PipelineError(
                f"{printable(job.output)}: both {printable(other.source)} and {printable(job.source)} would go there"
            )


def read_log(path: Path) -> list[LogRecord]:
    """Read a batch log without its lines that are cut off or damaged."""
    lines: list[object] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as err:
        raise PipelineError(f"{path}: not readable ({err.strerror})") from err
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            lines.append(json.loads(line))
    try:
        return list(parse_record(tuple[LogRecord, ...], lines, str(path)))
    except PipelineError:  # parsing each line for itself is slow, but shows which ones are damaged
        records = []
        for line in lines:
            with suppress(PipelineError):
                records.append(parse_record(LogRecord, line, str(path)))
        return records


class BatchLog:
    """Remembers in the output folder which renderings were begun and done.

    The log gets one line of JSON when a rendering begins and one when it is done. A line that is cut off or damaged
    is ignored.

    Parameters
    ----------
    folder : Path, the output folder
    model_path, subtype : of this run, or None; a rendering with another model or sample format is not up to date
    """

    def __init__(self, folder: Path, model_path: Path | None, subtype: str | None):
        self._path = folder / BATCH_LOG
        try:
            model = "" if model_path is None else hashlib.sha256(model_path.read_bytes()).hexdigest()
            self._model_and_subtype = (model, subtype)
        except OSError as err:
            raise PipelineError(f"{model_path}: not readable ({err.strerror})") from err
        self._lock = threading.Lock()
        exists = os.path.exists(self._path)
        self._last = {record.output: record for record in read_log(self._path)} if exists else {}
        self._line_start = "\n" if exists else ""  # ends a last line that was cut off

    def has(self, job: Job) -> bool:
        """True if the job was done, and neither its input nor its output has changed since."""
        try:
            return self._last.get(self._name(job)) == self._record(job, is_done=True)
        except PipelineError:  # one of the two files is missing
            return False

    def owns(self, job: Job) -> bool:
        """True if the output was left by an earlier run. If not, it is the user's and must not be replaced."""
        last = self._last.get(self._name(job))
        if last is None or last.stamps is None:
            return last is not None
        try:
            return last.stamps[1] == file_stamp(job.output)
        except PipelineError:
            return False

    def taken(self, jobs: Iterable[Job]) -> list[Path]:
        """Outputs that exist and are the user's."""
        return [job.output for job in jobs if os.path.exists(job.output) and not self.owns(job)]

    def add(self, job: Job, *, is_done: bool) -> None:
        """Append that a job was begun, or is done."""
        record = asdict(self._record(job, is_done))
        if not is_done:
            del record["stamps"]
        if not record["curve"]:
            del record["curve"]
        if job.target.mix.is_neutral:
            del record["mix"]
        self._append(json.dumps(record))

    def _name(self, job: Job) -> str:
        return relative_posix(job.output, self._path.parent.absolute())

    def _record(self, job: Job, is_done: bool) -> LogRecord:
        return LogRecord(
            output=self._name(job),
            input=str(job.source),
            asked=(job.target.octaves, job.target.target_grain),
            model_and_subtype=self._model_and_subtype,
            stamps=(file_stamp(job.source), file_stamp(job.output)) if is_done else None,
            curve="" if job.target.curve is None else hashlib.sha256(repr(job.target.curve).encode()).hexdigest(),
            mix=(job.target.mix.wet, job.target.mix.gain_db),
        )

    def _append(self, line: str) -> None:
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(f"{self._line_start}{line}\n")
                self._line_start = ""
        except OSError as err:
            raise PipelineError(f"{self._path}: can't write ({err.strerror})") from err


@contextmanager
def open_batch_log(folder: Path | None, model_path: Path | None, subtype: str | None) -> Iterator[BatchLog | None]:
    """Keep the log of a folder, which no other run can use at the same time; without a folder there is none."""
    if folder is None:
        yield None
        return
    prepare_folder(folder)
    with run_lock(folder / BATCH_LOG):
        yield BatchLog(folder, model_path, subtype)


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
        is_free = not os.path.exists(job.output)
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
