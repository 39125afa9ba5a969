"""What is open in the window, what was measured on it, and what the worker is doing.

A `Session` gives tasks to the `Worker` and turns its messages into state. It knows the window only by the target that
the window passes in: the position of the slider, in octaves, or a curve.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from pathlib import Path

import numpy as np

from neural_grain.app.batch import BatchPlan, Job
from neural_grain.app.messages import (
    BatchDone,
    CurveEstimated,
    FileOpened,
    FileSaved,
    Message,
    ModelLoaded,
    Pictured,
    Progress,
    RenderingDone,
    TaskEnd,
    WorkCancelled,
    WorkFailed,
)
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.report import describe_beside_curve, describe_left_behind, describe_rendering
from neural_grain.app.targets import RenderTarget
from neural_grain.app.worker import PREPARING, Worker
from neural_grain.audio.sound import Sound
from neural_grain.base.errors import printable
from neural_grain.dsp.gains import AmountCurve, Amounts
from neural_grain.dsp.move import Rendering
from neural_grain.dsp.move_curve import CurveRendering, GrainContour
from neural_grain.dsp.solver import SliderZones


class TaskKind(Enum):
    """What the window shows of a task of the worker."""

    WORK = 0
    WRITING = 1  # of files, which is asked about before the window closes
    QUICK = 2  # shown as work only if it reports progress


MEASURING = "measuring ..."
NOTHING_LEARNED = 'nothing learned yet; to learn, see "Learn from my sounds ..." in the menu "Model"'
VARIATIONS = range(-3, 4)  # octaves at which variations are saved
MAX_NAME_LENGTH = 60  # characters of a file name that are shown


def describe_file(path: Path, sound: Sound) -> str:
    """Line about a file: its name, duration, channels and rate."""
    name = printable(path.name)
    if len(name) > MAX_NAME_LENGTH:
        name = f"{name[:40]} ... {name[-14:]}"
    channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
    return f"{name}   {sound.n_samples / sound.sr:.1f} s, {channels}, {sound.sr} Hz"


def describe_request(grain: float, target: RenderTarget) -> str:
    """Line about a target that is not measured yet, in the form of `describe_rendering`."""
    if target.curve is not None:
        return "curve: to be measured"
    factor = 2.0**-target.octaves
    return f"grain {grain:.3g} -> {grain * factor:.3g}? (asked x{factor:#.3g}, to be measured)"


def target_of(rendering: Rendering | CurveRendering) -> RenderTarget:
    """What a rendering was asked to reach."""
    if isinstance(rendering, CurveRendering):
        return RenderTarget(curve=rendering.curve)
    return RenderTarget(rendering.requested_octaves)


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
    rendering : Rendering, CurveRendering or None, the last measurement of the open file
    curve_amounts : Amounts, AmountCurve or None, along the curve that the worker looked at last
    saved_target : RenderTarget of the open file that is on disk or need not be saved
    status, is_error : what happened last, in one line
    progress : float within 0 to 1, or None if it is not known
    """

    def __init__(self, worker: Worker):
        self.worker = worker
        self.processor: GrainProcessor | None = None
        self.opened: FileOpened | None = None
        self.preview: Pictured | None = None
        self.rendering: Rendering | CurveRendering | None = None
        self.curve_amounts: Amounts | AmountCurve | None = None
        self.saved_target = RenderTarget()
        self.status, self.is_error = "loading the model ...", False
        self._tasks = deque([TaskKind.WORK])  # of the worker; the first loads the model
        self.progress: float | None = None

    @property
    def n_tasks(self) -> int:
        """Number of tasks that the worker has not ended yet."""
        return len(self._tasks)

    @property
    def is_writing(self) -> bool:
        """Whether one of them writes files."""
        return TaskKind.WRITING in self._tasks

    @property
    def is_busy(self) -> bool:
        """Whether there is work that the user should see."""
        return self.progress is not None or any(kind is not TaskKind.QUICK for kind in self._tasks)

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

    def is_measured(self, target: RenderTarget) -> bool:
        """Whether the last measurement was of this target."""
        return self.rendering is not None and target_of(self.rendering) == target

    @property
    def contour(self) -> GrainContour | None:
        """What each second achieved, if the last measurement was along a curve."""
        return self.rendering.contour if isinstance(self.rendering, CurveRendering) else None

    @property
    def zones(self) -> SliderZones | None:
        """How far the open sound can be moved."""
        return None if self.opened is None else self.opened.solver.zones

    def measured_octaves(self, target: RenderTarget) -> float | None:
        """Octaves that the open sound was moved by at a position of the slider, None if that was not measured."""
        if target.curve is not None or not self.is_measured(target):
            return None
        return self.rendering.achieved_octaves

    def is_unsaved(self, target: RenderTarget) -> bool:
        """Whether the open file with this target would be lost."""
        return self.opened is not None and not target.is_unmoved and target != self.saved_target

    def grain_text(self, target: RenderTarget) -> str:
        """Line about the grain of the open file with a target."""
        if self.opened is None:
            return "open a sound to begin" if self.processor is not None and self.preview is None else " "
        if self.is_measured(target):
            is_curve = isinstance(self.rendering, CurveRendering)
            return (describe_beside_curve if is_curve else describe_rendering)(self.rendering)
        return describe_request(self.opened.analysis.grain, target)

    def amounts(self, target: RenderTarget) -> Amounts | AmountCurve | None:
        """Measured amounts for a target, the solver's estimate until there are any, None for no change.

        Those of a curve may lag behind it until the worker has looked at it.
        """
        if self.opened is None or target.is_unmoved:
            return None
        if self.is_measured(target):
            return self.rendering.amounts
        return self.curve_amounts if target.curve is not None else self.opened.solver.estimate(target.octaves)

    def gain_db_of_frames(self, target: RenderTarget, frames: np.ndarray) -> np.ndarray | None:
        """Gains for a target, shape (n_mels, frames); None for no change."""
        amounts = self.amounts(target)
        return None if amounts is None else self.opened.solver.field.gain_db_of_frames(amounts, frames)

    def set_status(self, status: str, *, is_error: bool = False) -> None:
        """Say what the user's last action led to."""
        self.status, self.is_error = status, is_error

    def set_background_status(self, status: str) -> None:
        """Say what nobody asked for; an error stays until the user does something else."""
        if not self.is_error:
            self.status = status

    def _add_task(self, kind: TaskKind = TaskKind.WORK) -> None:
        self._tasks.append(kind)
        if kind is not TaskKind.QUICK:
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

    def prepare_curve(self) -> None:
        """Let the worker find what all curves of the open file need, before one is drawn."""
        self.worker.estimate(self.opened, None)
        self._add_task(TaskKind.QUICK)

    def estimate(self, target: RenderTarget) -> None:
        """Let the worker find amounts along the curve of a target, if it has one."""
        if self.opened is not None and target.curve is not None and not self.is_measured(target):
            self.worker.estimate(self.opened, target.curve)
            self._add_task(TaskKind.QUICK)

    def measure(self, target: RenderTarget) -> None:
        """Render the open file with a target and measure it, unless that is done."""
        if self.opened is not None and not self.is_measured(target):
            self.set_background_status(MEASURING)
            self.worker.render(self.opened, target)
            self._add_task()

    def save(self, output: Path, target: RenderTarget) -> None:
        """Render the open file to disk, or only a layer of the result."""
        self.set_status(f"saving {printable(output.name)} ...")
        self.worker.save(Job(self.opened.path, output, target))
        self._add_task(TaskKind.WRITING)

    def batch(self, plan: BatchPlan, *, overwrite: bool) -> None:
        """Render files into a folder."""
        self.set_status(f"rendering {len(plan.jobs)} files ...")
        self.worker.batch(plan, overwrite=overwrite)
        self._add_task(TaskKind.WRITING)

    def close_file(self) -> None:
        """Forget the open file, and the one that is being opened."""
        self.preview = self.opened = self.rendering = self.curve_amounts = None

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
                self.opened, self.saved_target = message, RenderTarget()
                self.set_background_status(self.idle_status)
            case RenderingDone(opened, rendering):
                if self.status == MEASURING:
                    self.status = self.idle_status
                if rendering is not None and opened is self.opened:
                    self.rendering = rendering
                    if isinstance(rendering, CurveRendering):
                        self.curve_amounts = rendering.amounts
            case CurveEstimated(opened, amounts):
                if self.status == f"{PREPARING} ...":
                    self.status = self.idle_status
                if amounts is not None and opened is self.opened:
                    self.curve_amounts = amounts
            case FileSaved(saved):
                line = describe_rendering(saved.rendering, saved.layer)
                lines = filter(None, (line, describe_left_behind(saved), *saved.warnings))
                self.set_status(f"saved {printable(saved.output)}: {'; '.join(lines)}")
                if saved.layer is None:
                    self.saved_target = target_of(saved.rendering) if saved.rendering else RenderTarget()
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
