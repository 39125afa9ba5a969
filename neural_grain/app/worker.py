"""TODO"""

from __future__ import annotations

import gc
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neural_grain.app.batch import Job
from neural_grain.app.processor import FileRendering, GrainProcessor
from neural_grain.audio.limiter import CEILING
from neural_grain.audio.sound import Sound, open_sound, sound_from_array
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import file_stamp, scratch_array
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.move import Rendering, move_grain
from neural_grain.dsp.solver import AmountSolver


class Cancelled(Exception):
    """The user no longer wants what is being done."""


@dataclass(frozen=True)
class Opened:
    """A file that the window shows: its samples, and its solver."""

    path: Path
    y: np.ndarray
    solver: AmountSolver

    @property
    def analysis(self) -> Analysis:
        """What is known of the sound."""
        return self.solver.analysis


@dataclass(frozen=True)
class Rendered:
    """What a rendering came to; the samples are not kept."""

    opened: Opened
    rendering: Rendering


@dataclass(frozen=True)
class Message:
    """What the worker tells the window: progress and looked under way; at the end of a task model, opened, rendered,
    saved, batch, cancelled or error."""

    kind: str
    content: object


class Worker:
    """Does the slow work on a thread of its own and only puts messages on a queue.

    Of several renderings that wait, only the last one asked for is done; one that is under way is given up.
    """

    def __init__(self, model_path: Path, device: str):
        # Before the window is there: imported by the thread, its libraries would stop the window for 0.3 s.
        import scipy.optimize  # noqa: F401

        self.messages: queue.Queue[Message] = queue.Queue()
        self._tasks: queue.Queue[tuple[str, Callable[[], object]] | None] = queue.Queue()
        self._device = device
        self._processor: GrainProcessor | None = None
        self._wanted = 0
        self._stop = threading.Event()
        self._is_opening = False
        self._is_stale: Callable[[], bool] = lambda: False  # whether a later wish has overtaken what is being done
        self._thread = threading.Thread(target=self._work, name="grain worker", daemon=True)
        self._thread.start()
        self.load(model_path)

    def load(self, model_path: Path) -> None:
        """Read a model."""
        self._put("model", lambda: self._load(model_path))

    def open(self, path: Path) -> None:
        """Read and analyse a file."""
        self._wanted += 1
        self._put("opened", lambda: self._open(path))

    def render(self, opened: Opened, octaves: float) -> None:
        """Render and measure at a position of the slider, unless a later wish overtakes it."""
        self._wanted += 1
        ticket = self._wanted
        self._put("rendered", lambda: self._render(opened, octaves, ticket))

    def forget(self) -> None:
        """Give up a rendering whose position has been left."""
        self._wanted += 1

    def save(self, jobs: list[Job]) -> None:
        """Render one file to disk, at one position or several, over older files if the dialog was told so."""
        self._put("saved", lambda: [self._save(job) for job in jobs])

    def batch(self, jobs: list[Job]) -> None:
        """Render many files, going on past those that fail."""
        self._put("batch", lambda: self._batch(jobs))

    def cancel(self) -> None:
        """Give up what is being done."""
        self._stop.set()

    def close(self) -> None:
        """End the thread; what it is doing is given up."""
        self._tasks.put(None)
        self._stop.set()
        self._thread.join(timeout=10)

    def _put(self, kind: str, task: Callable[[], object]) -> None:
        self._tasks.put((kind, task))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            kind, work = task
            self._stop.clear()
            self._is_opening, self._is_stale = kind == "opened", lambda: False
            try:
                content = work()
            except Cancelled:
                self.messages.put(Message("cancelled", kind))
            except PipelineError as err:
                self.messages.put(Message("error", printable(str(err))))
            except Exception as err:  # noqa: BLE001  a fault of ours must be said: a dead thread would look like long work
                at = traceback.extract_tb(err.__traceback__)[-1]
                place = f"{Path(at.filename).name}:{at.lineno}"
                self.messages.put(
                    Message("error", f"internal fault, please report it: {printable(repr(err))} at {place}")
                )
            else:
                self.messages.put(Message(kind, content))

    def _stoppable(self, sound: Sound, said: str = "") -> Sound:
        """A sound whose reading ends when it is no longer wanted, and that says how far it is."""

        def blocks() -> Iterator[np.ndarray]:
            n_read, shown = 0, 0
            for block in sound.blocks():
                if self._stop.is_set() or self._is_stale():
                    raise Cancelled
                n_read += len(block)
                if said and self._is_opening and n_read - shown > sound.n_samples / 20:
                    shown = n_read
                    self.messages.put(Message("progress", (said, n_read / sound.n_samples)))
                yield block

        return replace(sound, blocks=blocks)

    def _load(self, path: Path) -> GrainProcessor:
        self._model_path = path
        if "neural_grain.learn.checkpoint" not in sys.modules:
            # torch comes with 200,000 objects that stay: each time the garbage collector went through
            # them all, while they are made or later, every thread would wait 0.2 s, and the window as well.
            from threadpoolctl import threadpool_limits

            gc.disable()
            try:
                import neural_grain.learn.checkpoint  # noqa: F401
            finally:
                gc.freeze()
                gc.enable()
            # One thread for each small product and convolution: several that must wait for each other on cores that
            # others use as well took up to thirty times as long. What is long is divided by time (`in_order`).
            threadpool_limits(1)
        processor = GrainProcessor.load(path, self._device)
        self._processor = processor  # an older one stays if this can't be read
        return processor

    def _open(self, path: Path) -> Opened:
        if self._processor is None:
            raise PipelineError(f"{self._model_path}: no usable model; make one with: python cak_grain_processor.py")
        try:
            stamp = file_stamp(path)
            sound = self._stoppable(open_sound(path), said="reading")
            y = scratch_array((sound.n_samples, sound.channels))
            at = 0
            for block in sound.blocks():
                y[at : at + len(block)] = block
                at += len(block)
            solver = self._processor.solver(
                self._stoppable(sound_from_array(y, sound.sr), said="looking"),
                lambda analysis: self.messages.put(Message("looked", (path, analysis))),
            )
            if self._stop.is_set():
                raise Cancelled
            for sign in (-1.0, 1.0):
                solver.reach(sign)  # found now, or the first move of the slider would wait for it
            self._processor.keep(path, stamp, solver)
        except PipelineError as err:
            raise PipelineError(f"{path.name}: {err}") from err
        return Opened(path, y, solver)

    def _render(self, opened: Opened, octaves: float, ticket: int) -> Rendered | None:
        self._is_stale = lambda: ticket != self._wanted
        if self._is_stale():
            return None
        try:
            rendering = move_grain(opened.solver, octaves, ceiling=max(CEILING, opened.analysis.peak))
        except Cancelled:
            if self._is_stale():
                return None
            raise
        return Rendered(opened, replace(rendering, sound=opened.analysis.sound))

    def _save(self, job: Job) -> FileRendering:
        if self._stop.is_set():
            raise Cancelled
        return self._processor.render_file(job.source, job.output, job.asked, overwrite=True)

    def _batch(self, jobs: list[Job]) -> tuple[int, list[str]]:
        """How many were rendered, and a line for each that was not."""
        failures = []
        for i, job in enumerate(jobs):
            self.messages.put(Message("progress", (f"file {i + 1} of {len(jobs)}", i / len(jobs))))
            try:
                self._save(replace(job))
            except PipelineError as err:
                failures.append(f"{job.source.name}: {printable(str(err))}")
        return len(jobs) - len(failures), failures
