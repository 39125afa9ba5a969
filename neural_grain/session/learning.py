"""Learning a model from folders of recordings: the three stages, one after the other, in the folder of the model.

`Learning` has a thread that starts each stage as a process (`StageProcess`), reads what it says and puts messages on a
queue, which the window reads from its event loop. After stage 1 it stops and asks if little can be learned.

Everything can be interrupted at any moment, and continues when the same model is begun again: stages 1 and 2 keep what
is unchanged, and stage 3 resumes if its tiles are those that it began with.
"""

from __future__ import annotations

import hashlib
import queue
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from neural_grain.audio.audio_files import find_audio
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import check_writable, run_lock
from neural_grain.base.progress import LoopProgress
from neural_grain.data.metadata import (
    DEFAULT_METADATA,
    NARROW_OCTAVES,
    Metadata,
    count_copies,
    library_warnings,
    read_metadata,
)
from neural_grain.data.tiles import DEFAULT_PAIRS
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.learn.settings import MIN_FILES
from neural_grain.session.messages import Message
from neural_grain.session.models import RECORD_NAME, NamedModel, read_model, write_record
from neural_grain.session.stage_process import INTERRUPTED, StageProcess

VERY_FEW_FILES = 10  # with fewer, a model mostly learns these files; with FEW_FILES or more it is at its best
TILE_BYTES_PER_S = 90_000  # of sound: two arrays of 128 x 256 floats for every 3 s
USABLE = (0, 1)  # exit status of a stage after which the next can go on; 1 means that some files were left out


@dataclass(frozen=True)
class Stage:
    """One of the three stages.

    Attributes
    ----------
    title : str
    script : str, name of its module
    loops : tuple of (what a loop of it does, where it begins, where it ends), as shares of the stage within 0 to 1
    """

    title: str
    script: str
    loops: tuple[tuple[str, float, float], ...]

    def share_of(self, progress: LoopProgress) -> float:
        """Share of the stage that is done, within 0 to 1."""
        for doing, start, stop in self.loops:
            if doing == progress.doing:
                return start + (stop - start) * progress.share
        return progress.share


STAGES = (
    Stage("Measure the grain", "measure_audio_grain", (("measuring", 0.0, 1.0),)),
    Stage("Split tones and texture", "convert_to_spectrograms", (("converting", 0.0, 1.0),)),
    Stage("Learn and audit", "cak_grain_processor", (("training", 0.0, 0.6), ("auditing", 0.6, 1.0))),
)


@dataclass(frozen=True)
class StageStarted(Message):
    """A stage begins; those before it are done."""

    index: int


@dataclass(frozen=True)
class StageProgress(Message):
    """How far a stage is: what it does and the share of the stage that is done."""

    index: int
    loop: LoopProgress
    share: float


@dataclass(frozen=True)
class Remark(Message):
    """A line that a stage printed, such as the reason why a file is left out."""

    text: str
    is_warning: bool


@dataclass(frozen=True)
class LittleToLearn(Message):
    """Reasons why a model would learn little. Learning waits for `Learning.go_on` or `Learning.cancel`."""

    reasons: tuple[str, ...]


class LearningEnd(Message):
    """The last message."""


@dataclass(frozen=True)
class Learned(LearningEnd):
    """The model is ready."""

    model: NamedModel


class LearningStopped(LearningEnd):
    """Learning was cancelled and can be continued."""


@dataclass(frozen=True)
class LearningFailed(LearningEnd):
    """Learning failed, for a reason in one line. What was done is kept."""

    reason: str


@dataclass(frozen=True)
class FolderCounted(Message):
    """Number of audio files in a folder, or why they can't be counted."""

    folder: Path
    n_files: int
    fault: str = ""


class _Stopped(Exception):
    """The user cancelled."""


class Learning:
    """Learns a model on a thread of its own, which ends after the last message.

    Parameters
    ----------
    model : NamedModel, from `begin_model`
    device : str, for stage 3

    Attributes
    ----------
    messages : queue.Queue of Message
    process : StageProcess or None, the stage that runs
    """

    def __init__(self, model: NamedModel, device: str = "auto"):
        self.model, self.messages = model, queue.Queue()
        self.process: StageProcess | None = None
        self._device = device
        self._has_progressed = False  # the stage that runs
        self._stop, self._answered = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # between the start of a process and a request to stop
        self._thread = threading.Thread(target=self._work, name="learning", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still works or waits for an answer."""
        return self._thread.is_alive()

    def go_on(self) -> None:
        """Learn although there is little to learn."""
        self._answered.set()

    def cancel(self) -> None:
        """Stop as soon as what is done is saved; ends with `LearningStopped`."""
        with self._lock:
            self._stop.set()
            if self.process is not None:
                self.process.stop()
        self._answered.set()

    def close(self) -> None:
        """Cancel, and wait for the end."""
        self.cancel()
        self._thread.join()

    def _work(self) -> None:
        try:
            with run_lock(self.model.folder / RECORD_NAME):
                self._learn()
            end: LearningEnd = Learned(read_model(self.model.name, self.model.folder))
        except _Stopped:
            end = LearningStopped()
        except PipelineError as err:
            end = LearningFailed(printable(str(err)))
        except OSError as err:  # the folder of the model has vanished or can't be read any more
            end = LearningFailed(printable(f"{err.filename or self.model.folder}: {err.strerror or err}"))
        except Exception as err:  # noqa: BLE001  the thread would die, and the window wait for it without end
            end = LearningFailed(f"internal fault, please report it: {printable(repr(err))}")
        self.messages.put(end)

    def _learn(self) -> None:
        record, folder = self.model.record, self.model.folder
        check_writable(folder)
        self._run_stage(0, [str(path) for path in record.folders])
        metadata = read_metadata(folder / DEFAULT_METADATA)
        self._update_record(n_files=len(metadata.files))
        if reasons := doubts(metadata, folder):
            self.messages.put(LittleToLearn(reasons))
            self._answered.wait()
            self._check()
        self._run_stage(1, ["--no-images"])
        tiles = hashlib.sha256((folder / DEFAULT_PAIRS).read_bytes()).hexdigest()
        training = ["--epochs", str(record.epochs), "--device", self._device]
        # A checkpoint of another number of epochs is not of the same training either.
        is_same = self.model.has_checkpoint and self.model.record.tiles == f"{record.epochs}:{tiles}"
        self._update_record(tiles=f"{record.epochs}:{tiles}")
        try:
            self._run_stage(2, [*training, "--resume"] if is_same else training)
        except PipelineError:
            if not is_same or self._has_progressed:
                raise
            self._run_stage(2, training)  # the checkpoint is of no use, such as one of another version of the program
        self._update_record(is_finished=True)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _update_record(self, **fields: object) -> None:
        self.model = replace(self.model, record=replace(self.model.record, **fields))
        write_record(self.model)

    def _run_stage(self, index: int, arguments: list[str]) -> None:
        stage, self._has_progressed = STAGES[index], False
        self.messages.put(StageStarted(index))
        with self._lock:
            self._check()
            self.process = process = StageProcess(stage.script, arguments, self.model.folder)
        for line in process.lines():
            if isinstance(line, LoopProgress):
                self._has_progressed = True
                self.messages.put(StageProgress(index, line, stage.share_of(line)))
            elif not line.startswith("error: "):
                self.messages.put(Remark(line.removeprefix("warning: "), line.startswith("warning: ")))
        status = process.wait()
        self._check()
        if status == INTERRUPTED:  # by somebody else
            raise _Stopped
        if status not in USABLE:
            raise PipelineError(process.failure())


def doubts(metadata: Metadata, folder: Path) -> tuple[str, ...]:
    """Reasons to ask before the long part of the work; empty if there are none.

    Raises
    ------
    PipelineError
        If there are fewer recordings than a model needs.
    """
    n_sounds = len(metadata.files) - count_copies(metadata.files)
    if n_sounds < MIN_FILES:
        raise PipelineError(
            f"only {n_sounds} different recording{'s' * (n_sounds != 1)} could be measured: a model needs at least "
            f"{MIN_FILES}; choose folders with more"
        )
    reasons = []
    is_narrow = grain_spread_octaves(item.grain for item in metadata.files) < NARROW_OCTAVES
    if n_sounds < VERY_FEW_FILES or is_narrow:
        reasons += library_warnings(metadata.files)
    needed = TILE_BYTES_PER_S * sum(item.duration_s for item in metadata.files)
    free = shutil.disk_usage(folder).free
    if needed > free:
        reasons.append(f"about {needed / 1e9:.1f} GB are needed in {folder}, and {free / 1e9:.1f} GB are free")
    return tuple(reasons)


def count_in_background(folder: Path, messages: queue.Queue) -> None:
    """Count the audio files in a folder on a thread; ends with `FolderCounted` on the queue."""

    def count() -> None:
        try:
            messages.put(FolderCounted(folder, len(find_audio([folder]))))
        except PipelineError as err:
            messages.put(FolderCounted(folder, 0, printable(str(err))))

    threading.Thread(target=count, name="count files", daemon=True).start()
