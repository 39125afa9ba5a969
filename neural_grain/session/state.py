"""What is open in the window, what was measured on it, and what the worker is doing.

A `Session` gives tasks to the `Worker` and turns its messages into state. It knows the window only by the target that
the window passes in: the position of the slider, in octaves, or a curve.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np

from neural_grain.app.plan import BatchPlan
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.report import describe_beside_curve, describe_left_behind, describe_rendering, describe_result
from neural_grain.app.targets import Job, RenderTarget
from neural_grain.base.errors import printable
from neural_grain.dsp.gain_field import LayerLevels
from neural_grain.dsp.gains import AmountCurve, Amounts
from neural_grain.dsp.move import Rendering
from neural_grain.dsp.move_curve import CurveRendering, GrainContour
from neural_grain.dsp.solver import SliderZones
from neural_grain.session.captions import (
    NOTHING_LEARNED,
    audit_verdict,
    count_of,
    describe_request,
    describe_sound,
    shortened_name,
)
from neural_grain.session.library_state import LibraryState
from neural_grain.session.messages import (
    BatchDone,
    CurveEstimated,
    DemoReady,
    FileOpened,
    FileSaved,
    Message,
    ModelLoaded,
    ModelSwitched,
    Pictured,
    Progress,
    RenderingDone,
    TaskEnd,
    WorkCancelled,
    WorkFailed,
)
from neural_grain.session.worker import PREPARING, Worker


class TaskKind(Enum):
    """What the window shows of a task of the worker."""

    WORK = 0
    WRITING = 1  # of files, which is asked about before the window closes
    QUICK = 2  # shown as work only if it reports progress
    SWITCHING = 3  # to another model


MEASURING = "measuring ..."
VARIATIONS = range(-3, 4)  # octaves at which variations are saved


def target_of(rendering: Rendering | CurveRendering) -> RenderTarget:
    """What a rendering was asked to reach."""
    if isinstance(rendering, CurveRendering):
        return RenderTarget(curve=rendering.curve, mix=rendering.mix)
    return RenderTarget(rendering.requested_octaves, mix=rendering.mix)


class Session:
    """State of the window apart from its widgets.

    Parameters
    ----------
    worker : Worker, which is loading its first model

    Attributes
    ----------
    processor : GrainProcessor or None, the model
    model_path : Path or None, of the model; None for the built-in pattern
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
        self.model_path = worker.model_path
        self.opened: FileOpened | None = None
        self.preview: Pictured | None = None
        self.rendering: Rendering | CurveRendering | None = None
        self.curve_amounts: Amounts | AmountCurve | None = None
        self.saved_target = RenderTarget()
        self._saved_with: GrainProcessor | None = None  # the model with which that was saved
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
    def is_switching(self) -> bool:
        """Whether another model will be in use."""
        return TaskKind.SWITCHING in self._tasks

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
        """Name of the file whose picture is shown."""
        return " " if self.visible is None else shortened_name(self.visible.path)

    def info_text(self, position_s: float | None) -> str:
        """Line about the sound whose picture is shown, of which some second is heard."""
        visible = self.visible
        return "" if visible is None else describe_sound(visible.picture.sound, visible.facts, position_s)

    def library_state(self, target: RenderTarget) -> LibraryState:
        """Grain of the open sound before and after, among the sounds that the model learned from."""
        loaded = None if self.processor is None else self.processor.loaded
        state = LibraryState(None if loaded is None else loaded.grains)
        if self.opened is None:
            return state
        before = self.opened.analysis.grain
        if self.is_measured(target):
            return replace(state, before=before, after=self.rendering.grain_after, is_measured=True)
        if target.curve is not None or target.is_unmoved or target.mix.wet != 1:
            return replace(state, before=before)
        return replace(state, before=before, after=before * 2.0**-target.octaves)

    @property
    def idle_status(self) -> str:
        """What the status line says while there is nothing else to say."""
        return NOTHING_LEARNED if self.processor is not None and self.processor.loaded is None else ""

    def is_measured(self, target: RenderTarget) -> bool:
        """Whether the last measurement was of this target."""
        return self.rendering is not None and target_of(self.rendering) == target

    def is_solved(self, target: RenderTarget) -> bool:
        """Whether the amounts of the last measurement are those of this target, whatever its mix."""
        return self.rendering is not None and target_of(self.rendering).wet == target.wet

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
        is_saved = target == self.saved_target and self.processor is self._saved_with
        return self.opened is not None and not target.is_copy and not is_saved

    def grain_text(self, target: RenderTarget) -> str:
        """Line about the grain of the open file with a target."""
        if self.opened is None:
            return " "
        if self.is_measured(target):
            is_curve = isinstance(self.rendering, CurveRendering)
            return (describe_beside_curve if is_curve else describe_rendering)(self.rendering)
        return describe_request(self.opened.analysis.grain, target)

    def amounts(self, target: RenderTarget) -> Amounts | AmountCurve | None:
        """Measured amounts for a target, the solver's estimate until there are any, None for no change.

        They do not depend on its mix. Those of a curve may lag behind it until the worker has looked at it.
        """
        if self.opened is None or target.is_unmoved:
            return None
        if self.is_solved(target):
            return self.rendering.amounts
        return self.curve_amounts if target.curve is not None else self.opened.solver.estimate(target.octaves)

    def gain_db_of_frames(self, target: RenderTarget, frames: np.ndarray) -> np.ndarray | None:
        """Gains for a target, shape (n_mels, frames); None for no change."""
        amounts = self.amounts(target)
        return None if amounts is None else self.opened.solver.field.gain_db_of_frames(amounts, frames)

    def layer_levels(self, target: RenderTarget, frames: np.ndarray) -> LayerLevels | None:
        """Levels of both layers after a target; None before the sound is split."""
        if self.opened is None:
            return None
        return self.opened.solver.field.layer_levels(self.amounts(target), frames)

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

    def switch_model(self, path: Path | None) -> None:
        """Use another model, or the built-in pattern, while the open file goes on playing."""
        self.set_status(f"loading {printable(path.name) if path else 'the built-in pattern'} ...")
        self.worker.switch_model(path)
        self._add_task(TaskKind.SWITCHING)

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
        if self.opened is not None and target.curve is not None and not self.is_solved(target):
            self.worker.estimate(self.opened, target.curve)
            self._add_task(TaskKind.QUICK)

    def measure(self, target: RenderTarget) -> None:
        """Render the open file with a target and measure it, unless that is done."""
        if self.opened is not None and not self.is_measured(target):
            self.set_background_status(MEASURING)
            self.worker.render(self.opened, target)
            self._add_task()

    def save(self, source: Path, output: Path, target: RenderTarget) -> None:
        """Render a file to disk, or only a layer of the result."""
        self.set_status(f"saving {printable(output.name)} ...")
        self.worker.save(Job(source, output, target))
        self._add_task(TaskKind.WRITING)

    def save_beside(self, target: RenderTarget) -> None:
        """Render the open file to a name beside it that nothing has; `FileSaved` tells which."""
        self.set_status(f"saving beside {printable(self.opened.path.name)} ...")
        self.worker.save_beside(self.opened.path, target)
        self._add_task(TaskKind.WRITING)

    def batch(self, plan: BatchPlan, *, overwrite: bool) -> None:
        """Render files into a folder."""
        self.set_status(f"rendering {count_of(len(plan.jobs), 'file')} ...")
        self.worker.batch(plan, overwrite=overwrite)
        self._add_task(TaskKind.WRITING)

    def make_demo(self, folder: Path) -> None:
        """Make the demo sounds."""
        self.set_status("making the demo sounds ...")
        self.worker.make_demo(folder)
        self._add_task()

    def mark_saved(self, target: RenderTarget) -> None:
        """The open file with a target and the model in use is on disk, or need not be saved."""
        self.saved_target, self._saved_with = target, self.processor

    def _begin_file(self, opened: FileOpened) -> None:
        self._forget_file()
        self.opened = opened
        self.mark_saved(RenderTarget())

    def _report_model(self) -> None:
        self.set_background_status(self.idle_status or f"model ready: {audit_verdict(self.processor)}")

    def close_file(self) -> None:
        """Close the open file."""
        self.worker.close_file()
        self._forget_file()

    def _forget_file(self) -> None:
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
                self._forget_file()
                self.preview, self.progress = message, None
            case ModelLoaded(processor):
                self.processor, self.model_path = processor, self.worker.model_path
                self._report_model()
            case ModelSwitched(path, processor, opened, is_reopened):
                self.processor, self.model_path = processor, path
                if is_reopened:
                    self._begin_file(opened)
                elif opened is not None and self.opened is not None and opened.analysis is self.opened.analysis:
                    self.opened, self.rendering = opened, None  # amounts along a curve are heard until there are others
                self._report_model()
            case FileOpened():
                self._begin_file(message)
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
            case FileSaved(saved, target):
                lines = filter(None, (describe_result(saved), describe_left_behind(saved), *saved.warnings))
                self.set_status(f"saved {printable(saved.output)}: {'; '.join(lines)}")
                if saved.layer is None and self.opened is not None and self.opened.path == saved.input:
                    self.mark_saved(target)
            case BatchDone(folder, n_done, n_unchanged, failures, _):
                unchanged = f", {n_unchanged} of them unchanged since an earlier run" if n_unchanged else ""
                failed = f", {len(failures)} failed: {failures[0]}" if failures else ""
                self.set_status(
                    f"{count_of(n_done, 'file')} rendered{failed or f' in {printable(folder)}{unchanged}'}",
                    is_error=bool(failures),
                )
            case DemoReady():
                self.set_status(self.idle_status)
            case WorkCancelled():
                self.preview = None
                self.set_status("cancelled")
            case WorkFailed(reason):
                self.preview = None
                self.set_status(reason, is_error=True)
