"""What is open in the window, what was measured on it, and what the worker is doing.

A `Session` gives tasks to the `Worker` and turns its messages into state. It knows the window only by the position of
the slider, in octaves, that the window passes in.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from neural_grain.app.batch import BatchPlan, Job
from neural_grain.app.processor import (
    NOTHING_LEARNED,
    GrainProcessor,
    RenderTarget,
)
from neural_grain.app.report import describe_left_behind, describe_rendering
from neural_grain.app.worker import (
    BatchDone,
    FileOpened,
    FileSaved,
    Message,
    ModelLoaded,
    Pictured,
    Progress,
    RenderingDone,
    TaskEnd,
    WorkCancelled,
    Worker,
    WorkFailed,
)
from neural_grain.audio.sound import Sound
from neural_grain.base.errors import printable
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.move import Rendering

MEASURING = "measuring ..."
VARIATIONS = range(-3, 4)  # octaves at which variations are saved
MAX_NAME_LENGTH = 60  # characters of a file name that are shown


def describe_file(path: Path, sound: Sound) -> str:
    """Line about a file: its name, duration, channels and rate."""
    name = printable(path.name)
    if len(name) > MAX_NAME_LENGTH:
        name = f"{name[:40]} ... {name[-14:]}"
    channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
    return f"{name}   {sound.n_samples / sound.sr:.1f} s, {channels}, {sound.sr} Hz"


def describe_request(grain: float, octaves: float) -> str:
    """Line about a position that is not measured yet, in the form of `describe_rendering`."""
    factor = 2.0**-octaves
    return f"grain {grain:.3g} -> {grain * factor:.3g}? (asked x{factor:#.3g}, to be measured)"


def audit_verdict(processor: GrainProcessor) -> str:
    """Verdict of the audit after training."""
    return processor.loaded.audit.get("verdict", "not audited")


def describe_model(processor: GrainProcessor | None) -> str:
    """Sheet about a model: what it was trained on, and the verdict of its audit."""
    if processor is None:
        return "no model is loaded"
    if processor.loaded is None:
        return NOTHING_LEARNED
    training = processor.loaded.training
    return (
        f"trained on {training.get('files', '?')} files, {training.get('tiles', '?')} tiles, "
        f"{training.get('epochs_done', '?')} epochs\n\naudit: {audit_verdict(processor)}"
    )


class Session:
    """State of the window apart from its widgets.

    Parameters
    ----------
    worker : Worker, which is loading its first model

    Attributes
    ----------
    processor : GrainProcessor or None, the model
    opened : FileOpened or None
    preview : Pictured or None, a file that is being opened and already has a picture
    rendering : Rendering or None, the last measurement of the open file
    saved_octaves : float, position of the open file that is on disk or need not be saved
    status, is_error : what happened last, in one line
    progress : float within 0 to 1, or None if it is not known
    """

    def __init__(self, worker: Worker):
        self.worker = worker
        self.processor: GrainProcessor | None = None
        self.opened: FileOpened | None = None
        self.preview: Pictured | None = None
        self.rendering: Rendering | None = None
        self.saved_octaves = 0.0
        self.status, self.is_error = "loading the model ...", False
        self._tasks = deque([False])  # for each task of the worker, whether it writes files; the first loads the model
        self.progress: float | None = None

    @property
    def n_tasks(self) -> int:
        """Number of tasks that the worker has not ended yet."""
        return len(self._tasks)

    @property
    def is_writing(self) -> bool:
        """Whether one of them writes files."""
        return any(self._tasks)

    @property
    def visible(self) -> FileOpened | Pictured | None:
        """The file whose picture is shown."""
        return self.opened or self.preview

    @property
    def file_text(self) -> str:
        """Line about the file whose picture is shown."""
        return " " if self.visible is None else describe_file(self.visible.path, self.visible.picture.sound)

    @property
    def idle_status(self) -> str:
        """What the status line says while there is nothing else to say."""
        return NOTHING_LEARNED if self.processor is not None and self.processor.loaded is None else ""

    def is_measured(self, octaves: float) -> bool:
        """Whether the last measurement was at this position."""
        return self.rendering is not None and self.rendering.requested_octaves == octaves

    def is_unsaved(self, octaves: float) -> bool:
        """Whether the open file at this position would be lost."""
        return self.opened is not None and octaves not in (0, self.saved_octaves)

    def grain_text(self, octaves: float) -> str:
        """Line about the grain of the open file at a position."""
        if self.opened is None:
            return "open a sound to begin" if self.processor is not None and self.preview is None else " "
        if self.is_measured(octaves):
            return describe_rendering(self.rendering)
        return describe_request(self.opened.analysis.grain, octaves)

    def amounts(self, octaves: float) -> Amounts | None:
        """Measured amounts at a position, the solver's estimate until there are any, None for no change."""
        if self.opened is None or octaves == 0:
            return None
        return self.rendering.amounts if self.is_measured(octaves) else self.opened.solver.estimate(octaves)

    def gain_db_of_frames(self, octaves: float, frames: np.ndarray) -> np.ndarray | None:
        """Gains at a position, shape (n_mels, frames); None for no change."""
        amounts = self.amounts(octaves)
        return None if amounts is None else self.opened.solver.field.gain_db_of_frames(amounts, frames)

    def set_status(self, status: str, *, is_error: bool = False) -> None:
        """Say what the user's last action led to."""
        self.status, self.is_error = status, is_error

    def set_background_status(self, status: str) -> None:
        """Say what nobody asked for; an error stays until the user does something else."""
        if not self.is_error:
            self.status = status

    def _add_task(self, *, writes: bool = False) -> None:
        self._tasks.append(writes)
        self.progress = None

    def load(self, path: Path) -> None:
        """Load a model, and analyse the open file again with it."""
        self.set_status(f"loading {printable(path.name)} ...")
        self.worker.load(path)
        self._add_task()
        if self.opened is not None:
            self.open(self.opened.path)

    def open(self, path: Path) -> None:
        """Open a file."""
        self.set_status(f"reading {printable(path.name)} ...")
        self.worker.open(path)
        self._add_task()

    def measure(self, octaves: float) -> None:
        """Render the open file at a position and measure it, unless that is done."""
        if self.opened is not None and not self.is_measured(octaves):
            self.set_background_status(MEASURING)
            self.worker.render(self.opened, octaves)
            self._add_task()

    def save(self, output: Path, octaves: float, layer: str | None) -> None:
        """Render the open file to disk, or only a layer of the result."""
        self.set_status(f"saving {printable(output.name)} ...")
        self.worker.save(Job(self.opened.path, output, RenderTarget(octaves, layer=layer)))
        self._add_task(writes=True)

    def batch(self, plan: BatchPlan, *, overwrite: bool) -> None:
        """Render files into a folder."""
        self.set_status(f"rendering {len(plan.jobs)} files ...")
        self.worker.batch(plan, overwrite=overwrite)
        self._add_task(writes=True)

    def close_file(self) -> None:
        """Forget the open file, and the one that is being opened."""
        self.preview = self.opened = self.rendering = None

    def handle(self, message: Message) -> None:
        """Turn a message of the worker into state."""
        if isinstance(message, TaskEnd):
            self._tasks.popleft()  # the worker does them in order
            self.progress = None
        match message:
            case Progress(text, share):
                self.set_background_status(f"{text} ...")
                self.progress = share
            case Pictured():
                self.close_file()
                self.preview, self.progress = message, None
            case ModelLoaded(processor):
                self.processor = processor
                self.set_status(self.idle_status or f"model ready: {audit_verdict(processor)}")
            case FileOpened():
                self.close_file()
                self.opened, self.saved_octaves = message, 0.0
                self.set_background_status(self.idle_status)
            case RenderingDone(opened, rendering):
                if self.status == MEASURING:
                    self.status = self.idle_status
                if rendering is not None and opened is self.opened:
                    self.rendering = rendering
            case FileSaved(saved):
                line = describe_rendering(saved.rendering, saved.layer)
                lines = filter(None, (line, describe_left_behind(saved)))
                self.set_status(f"saved {printable(saved.output)}: {'; '.join(lines)}")
                if saved.layer is None:
                    self.saved_octaves = saved.rendering.requested_octaves if saved.rendering else 0.0
            case BatchDone(folder, n_done, n_unchanged, failures, _):
                unchanged = f", {n_unchanged} of them unchanged since an earlier run" if n_unchanged else ""
                failed = f", {len(failures)} failed: {failures[0]}" if failures else ""
                self.set_status(
                    f"{n_done} files rendered{failed or f' in {printable(folder)}{unchanged}'}", is_error=bool(failures)
                )
            case WorkCancelled():
                self.preview = None
                self.set_status("cancelled")
            case WorkFailed(reason):
                self.preview = None
                self.set_status(reason, is_error=True)
