"""The messages that the worker puts on a queue for the window.

A task of the worker puts any number of `Progress` and `Pictured` messages on its queue, and exactly one `TaskEnd`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neural_grain.app.outputs import FileRendering
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.analysis import Analysis, Picture
from neural_grain.dsp.gains import AmountCurve, Amounts
from neural_grain.dsp.move import Rendering
from neural_grain.dsp.move_curve import CurveRendering
from neural_grain.dsp.solver import AmountSolver


class Message:
    """Anything that the worker tells the window."""


@dataclass(frozen=True)
class SoundFacts:
    """What the window says about a sound besides its length and rate.

    Attributes
    ----------
    subtype : str, sample format by libsndfile's name, such as PCM_24
    overview : np.ndarray, shape (2, at most 4096), lowest and highest sample of each of its parts
    loudness_lufs : float, integrated loudness, -inf if that is below -70 LUFS
    """

    subtype: str
    overview: np.ndarray
    loudness_lufs: float


class TaskEnd(Message):
    """The last message of a task."""


@dataclass(frozen=True)
class Progress(Message):
    """What the worker does, and the share of it that is done, within 0 to 1."""

    text: str
    share: float


@dataclass(frozen=True)
class Pictured(Message):
    """A file that is being opened has a picture; its layers and its pattern, which take longer, are still missing."""

    path: Path
    picture: Picture
    facts: SoundFacts


@dataclass(frozen=True)
class ModelLoaded(TaskEnd):
    """A model is ready."""

    processor: GrainProcessor


@dataclass(frozen=True)
class FileOpened(TaskEnd):
    """A file is ready to be played and rendered: its samples, shape (n_samples, channels), and its solver.

    ``stamp`` is its `file_stamp` before it was read.
    """

    path: Path
    y: np.ndarray
    solver: AmountSolver
    facts: SoundFacts
    stamp: tuple[int, int]

    @property
    def analysis(self) -> Analysis:
        """Picture and grain of the sound."""
        return self.solver.analysis

    @property
    def picture(self) -> Picture:
        """The analysis, of which the picture is a part."""
        return self.analysis


@dataclass(frozen=True)
class ModelSwitched(TaskEnd):
    """Another model (None for the built-in pattern) is in use, also for the file that was opened last.

    ``opened`` is that file with the solver of the model, None without a file. Its analysis is the same as before unless
    ``is_reopened``: the settings of the model are others.
    """

    path: Path | None
    processor: GrainProcessor
    opened: FileOpened | None
    is_reopened: bool = False


@dataclass(frozen=True)
class RenderingDone(TaskEnd):
    """An open file was rendered and measured; None if a later target overtook the rendering."""

    opened: FileOpened
    rendering: Rendering | CurveRendering | None


@dataclass(frozen=True)
class CurveEstimated(TaskEnd):
    """The amounts along a curve are known well enough to be heard; None if a later curve or file overtook this one."""

    opened: FileOpened
    amounts: Amounts | AmountCurve | None


@dataclass(frozen=True)
class FileSaved(TaskEnd):
    """A file was rendered to disk, with this target."""

    saved: FileRendering
    target: RenderTarget


@dataclass(frozen=True)
class BatchDone(TaskEnd):
    """Files were rendered into a folder.

    ``failures`` has a line for each that was not, ``left_behind`` one for each that lost something besides samples.
    """

    folder: Path
    n_done: int
    n_unchanged: int  # of these, by an earlier run
    failures: list[str]
    left_behind: list[str]


@dataclass(frozen=True)
class DemoReady(TaskEnd):
    """The demo sounds are there."""

    paths: list[Path]


class WorkCancelled(TaskEnd):
    """The task was cancelled."""


@dataclass(frozen=True)
class WorkFailed(TaskEnd):
    """The task failed, for a reason in one line."""

    reason: str
