"""A thread for the slow work of the window: loading a model, opening, measuring and saving files.

The window calls a method of `Worker`, which returns at once. The thread does the tasks one after the other and puts
messages on a queue, which the window reads from its event loop; the two share nothing else. A task puts any number of
`Progress` and `Pictured` messages, and exactly one `TaskEnd` when it is over.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from neural_grain.app.batch import JobResult, render_batch
from neural_grain.app.batch_log import open_batch_log
from neural_grain.app.instrument import write_presets
from neural_grain.app.plan import BatchPlan
from neural_grain.app.processor import checked_blocks
from neural_grain.app.report import describe_left_behind
from neural_grain.app.targets import Job, RenderTarget, free_output
from neural_grain.audio.limiter import CEILING
from neural_grain.audio.sound import Sound, cached_sound
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.progress import describe_time_left
from neural_grain.data.demo import write_demo
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.mixdown import mix_down
from neural_grain.dsp.move import Rendering, StoreSound, move_grain
from neural_grain.dsp.move_curve import CurveRendering, CurveSolver, move_along
from neural_grain.dsp.solver import AmountSolver
from neural_grain.session.colours import load_colour_maps
from neural_grain.session.messages import (
    BatchDone,
    CurveEstimated,
    DemoReady,
    FileOpened,
    FileSaved,
    Message,
    ModelLoaded,
    ModelSwitched,
    Progress,
    RenderingDone,
    TaskEnd,
    WorkCancelled,
    WorkFailed,
)
from neural_grain.session.model_shelf import ModelShelf
from neural_grain.session.opening import FileOpener

PREPARING = "preparing the curve"


class Cancelled(Exception):
    """The user cancelled the task, or a later one made it useless."""


class Worker:
    """Does tasks on a thread of its own, once it is started.

    Of several renderings in the queue only the last one is done. One that is under way stops when `render` or
    `abandon_rendering` is called. The same holds for estimates, but one that is under way stops only when another file
    is opened, because a curve should be heard while it is drawn.

    Parameters
    ----------
    model_path : Path or None, the model to load first; None for the built-in pattern
    device : str, for `GrainProcessor.load`

    Attributes
    ----------
    messages : queue.Queue of Message
    model_path : Path or None, the model in use, or the one that will be
    """

    def __init__(self, model_path: Path | None, device: str):
        self.messages: queue.Queue[Message] = queue.Queue()
        self._tasks: queue.Queue[Callable[[], TaskEnd] | None] = queue.Queue()
        self._models = ModelShelf(device, self._check)
        self._opener = FileOpener(self._check, self.messages.put)
        self._opened: FileOpened | None = None  # the file that was opened last
        self._is_file_closed = False  # whether the window has closed it since
        self.model_path = model_path
        self._newest_rendering = self._newest_estimate = self._newest_file = 0
        self._solved: tuple[AmountSolver, RenderTarget] | None = None  # of what the rendering below is
        self._rendering: Rendering | CurveRendering | None = None  # the last one, before its mix
        self._stop = threading.Event()
        self._is_closed = False
        self._is_overtaken: Callable[[], bool] = lambda: False  # whether a later rendering replaces this task
        self._thread = threading.Thread(target=self._work, name="grain worker", daemon=True)
        self.load(model_path)

    def start(self) -> None:
        """Start the thread, which begins with the model."""
        self._thread.start()

    def load(self, model_path: Path | None) -> None:
        """Load a model; ends with `ModelLoaded`."""
        self._tasks.put(lambda: self._load(model_path))

    def switch_model(self, model_path: Path | None) -> None:
        """Use another model, also for the file that was opened last; ends with `ModelSwitched`."""
        self._newest_rendering += 1
        self._newest_file += 1  # to the estimates the file is another one
        self._tasks.put(lambda: self._switch_model(model_path))

    def open(self, path: Path) -> None:
        """Read and analyse a file; ends with `FileOpened`."""
        self._newest_rendering += 1
        self._newest_file += 1
        self._is_file_closed = False
        self._tasks.put(lambda: self._open(path))

    def close_file(self) -> None:
        """Another model need not care about the file that was opened last."""
        self._is_file_closed = True

    def render(self, opened: FileOpened, target: RenderTarget) -> None:
        """Render and measure at a position of the slider or along a curve; ends with `RenderingDone`."""
        self._newest_rendering += 1
        number = self._newest_rendering
        self._tasks.put(lambda: self._render(opened, target, number))

    def abandon_rendering(self) -> None:
        """Stop the rendering that is under way, because the slider or the curve has moved."""
        self._newest_rendering += 1

    def estimate(self, opened: FileOpened, curve: GrainCurve | None) -> None:
        """Find amounts along a curve that can be played, or with None only prepare that; ends with `CurveEstimated`."""
        self._newest_estimate += 1
        number, file_number = self._newest_estimate, self._newest_file
        self._tasks.put(lambda: self._estimate(opened, curve, number, file_number))

    def save(self, job: Job) -> None:
        """Render a file to disk, replacing what is there; ends with `FileSaved`."""
        self._tasks.put(lambda: self._save(job, overwrite=True))

    def save_beside(self, source: Path, target: RenderTarget) -> None:
        """Render a file to a name beside it that nothing has; ends with `FileSaved`."""
        self._tasks.put(lambda: self._save(Job(source, free_output(source, target), target), overwrite=False))

    def batch(self, plan: BatchPlan, *, overwrite: bool) -> None:
        """Render files into a folder, as the command line does; ends with `BatchDone`."""
        self._tasks.put(lambda: self._batch(plan, overwrite))

    def make_demo(self, folder: Path) -> None:
        """Write the demo sounds below a folder, unless they are there; ends with `DemoReady`."""
        self._tasks.put(lambda: self._make_demo(folder))

    def cancel(self) -> None:
        """Cancel the task that is under way; it ends with `WorkCancelled`."""
        self._stop.set()

    @property
    def is_cancelling(self) -> bool:
        """Whether the task that is under way was cancelled but has not ended."""
        return self._stop.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Cancel all tasks, and end the thread."""
        self._is_closed = True
        self._tasks.put(None)
        self._stop.set()
        if self.is_alive:
            self._thread.join(timeout=10)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_closed:
            self._stop.clear()
            self._is_overtaken = lambda: False
            self.messages.put(self._run(task))

    def _run(self, task: Callable[[], TaskEnd]) -> TaskEnd:
        try:
            return task()
        except Cancelled:
            return WorkCancelled()
        except PipelineError as err:
            return WorkFailed(printable(str(err)))
        except MemoryError:
            return WorkFailed("there is not enough memory for this; close other programs, or use a shorter sound")
        except Exception as err:  # noqa: BLE001  the thread would die, and the window wait for it without end
            at = traceback.extract_tb(err.__traceback__)[-1]
            place = f"{Path(at.filename).name}:{at.lineno}"
            return WorkFailed(f"internal fault, please report it: {printable(repr(err))} at {place}")

    def _check(self) -> None:
        """Stop the task if it was cancelled or overtaken, or if the worker was closed just before the task began."""
        if self._stop.is_set() or self._is_closed or self._is_overtaken():
            raise Cancelled

    def _load(self, path: Path | None) -> ModelLoaded:
        processor, self.model_path = self._models.load(path), path
        load_colour_maps()  # the first picture needs them soon
        _load_libraries()
        return ModelLoaded(processor)

    def _switch_model(self, path: Path | None) -> ModelSwitched:
        before, opened = self._models.current, None if self._is_file_closed else self._opened
        processor = self._models.load(path)
        try:
            if opened is None:
                message = ModelSwitched(path, processor, None)
            elif processor.settings == opened.analysis.settings:
                solver = self._models.solver(opened.analysis, opened.path, opened.stamp)
                message = ModelSwitched(path, processor, replace(opened, solver=solver))
            else:
                message = ModelSwitched(path, processor, self._open(opened.path), is_reopened=True)
        except BaseException:
            if before is not None:
                self._models.use(before)
            raise
        self._opened, self.model_path = message.opened or self._opened, path
        return message

    def _open(self, path: Path) -> FileOpened:
        processor = self._models.current
        if processor is None:
            raise PipelineError(f"{self.model_path}: no usable model; make one with: python cak_grain_processor.py")
        self._solved = self._rendering = None
        opened = self._opener.open(path, processor, self._forget_sound)
        self._models.begin_sound(opened.solver)
        processor.adopt_solver(path, opened.stamp, opened.solver)
        self._opened = opened
        return opened

    def _forget_sound(self) -> None:
        """Release the memory of the file that was opened last."""
        self._opened = None
        self._models.forget_sound()

    def _render(self, opened: FileOpened, target: RenderTarget, number: int) -> RenderingDone:
        self._is_overtaken = lambda: number != self._newest_rendering
        if self._is_overtaken():
            return RenderingDone(opened, None)
        ceiling = max(CEILING, opened.analysis.peak)

        def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
            return cached_sound(like, checked_blocks(blocks, self._check))

        try:
            if self._solved != (opened.solver, target.wet):
                self._rendering = self._moved(opened, target, ceiling, store)
                self._solved = opened.solver, target.wet
            seconds = None if target.curve is None else self._models.curve_solver(opened.solver).seconds
            rendering = mix_down(
                opened.solver.field, self._rendering, target.mix, ceiling=ceiling, store=store, seconds=seconds
            )
        except Cancelled:
            if self._is_overtaken():
                return RenderingDone(opened, None)
            raise
        return RenderingDone(opened, replace(rendering, sound=opened.analysis.sound))

    def _moved(
        self, opened: FileOpened, target: RenderTarget, ceiling: float, store: StoreSound
    ) -> Rendering | CurveRendering:
        """Render and measure the wet sound, and keep only what was measured."""
        if target.curve is None:
            rendering = move_grain(opened.solver, target.octaves, ceiling=ceiling, store=store)
        else:
            solver = self._solver_of_curves(opened, lambda share: self._check())
            rendering = move_along(solver, target.curve, ceiling=ceiling, store=store)
        return replace(rendering, sound=opened.analysis.sound)

    def _estimate(self, opened: FileOpened, curve: GrainCurve | None, number: int, file_number: int) -> CurveEstimated:
        self._is_overtaken = lambda: file_number != self._newest_file
        if self._is_overtaken() or number != self._newest_estimate:
            return CurveEstimated(opened, None)
        if curve is not None and curve.is_constant:
            return CurveEstimated(opened, opened.solver.estimate(curve.points[0][1]))
        try:
            solver = self._solver_of_curves(opened, self._report_preparing)
            if curve is None:
                for sign in (-1.0, 1.0):
                    solver.local.reaches(sign)
                return CurveEstimated(opened, None)
            return CurveEstimated(opened, solver.estimate(curve))
        except Cancelled:
            if self._is_overtaken():
                return CurveEstimated(opened, None)
            self.abandon_rendering()  # it waits for what was cancelled here
            raise

    def _report_preparing(self, share: float) -> None:
        self._check()
        self.messages.put(Progress(PREPARING, share))

    def _solver_of_curves(self, opened: FileOpened, on_second: Callable[[float], None]) -> CurveSolver:
        """The solver of curves of an open file, which calls a function before each second."""
        solver = self._models.curve_solver(opened.solver)
        solver.local.on_second = on_second
        return solver

    def _save(self, job: Job, *, overwrite: bool) -> FileSaved:
        saved = self._models.current.render_file(job.source, job.output, job.target, overwrite=overwrite)
        return FileSaved(saved, job.target)

    def _make_demo(self, folder: Path) -> DemoReady:
        def progress(items: Iterable, total: int) -> Iterator:
            for i, item in enumerate(items):
                self._check()
                self.messages.put(Progress("making the demo sounds", (i + 1) / total))
                yield item

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise PipelineError(f"{folder}: can't be made ({err.strerror})") from err
        return DemoReady(write_demo(folder, progress, self._models.current.threads))

    def _batch(self, plan: BatchPlan, overwrite: bool) -> BatchDone:
        results: list[JobResult] = []
        n_jobs = len(plan.jobs)
        with (
            open_batch_log(plan.log_folder, self.model_path, None) as log,
            closing(render_batch(self._models.current, plan.jobs, overwrite=overwrite, log=log)) as rendered,
        ):
            started = time.monotonic()
            self.messages.put(Progress(f"file 1 of {n_jobs}", 0.0))
            for result in rendered:
                results.append(result)
                if len(results) < n_jobs:
                    self._check()
                    left_s = (time.monotonic() - started) * (n_jobs / len(results) - 1)
                    text = f"file {len(results) + 1} of {n_jobs}, {describe_time_left(left_s)}"
                    self.messages.put(Progress(text, len(results) / n_jobs))
        failures = [f"{printable(result.job.source.name)}: {result.failure}" for result in results if result.failure]
        left_behind = [
            f"{printable(result.job.source.name)}: {line}"
            for result in results
            if result.rendering is not None and (line := describe_left_behind(result.rendering))
        ]
        if plan.instrument and not failures:
            write_presets(plan.jobs)
        n_unchanged = sum(result.is_unchanged for result in results)
        return BatchDone(plan.log_folder, n_jobs - len(failures), n_unchanged, failures, left_behind)


def _load_libraries() -> None:
    """Import what the first file needs, and exempt the objects of all libraries from garbage collection.

    There are about 80,000. Whenever the collector went through them, the window would stop for 0.1 s.
    """
    gc.disable()
    try:
        import scipy.fft
        import scipy.ndimage
        import scipy.optimize  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
