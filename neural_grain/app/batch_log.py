"""The log of a batch: which renderings were begun and done in a folder, so that a batch that was stopped can be continued.

The log lies in the output folder and gets one line of JSON when a rendering begins and one when it is done. It tells the
outputs of this program, which a later run may replace, from the files of the user.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from neural_grain.app.targets import Job
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import append_line, file_stamp, prepare_folder, run_lock
from neural_grain.base.records import parse_record, relative_posix
from neural_grain.dsp.mix import NO_MIX

BATCH_LOG = "grain_renderings.jsonl"


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
        # It is on the disk before the output is. So no power cut makes an output look like the user's.
        with self._lock:
            append_line(self._path, f"{self._line_start}{json.dumps(record)}")
            self._line_start = ""

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


@contextmanager
def open_batch_log(folder: Path | None, model_path: Path | None, subtype: str | None) -> Iterator[BatchLog | None]:
    """Keep the log of a folder, which no other run can use at the same time; without a folder there is none."""
    if folder is None:
        yield None
        return
    prepare_folder(folder)
    with run_lock(folder / BATCH_LOG):
        yield BatchLog(folder, model_path, subtype)
