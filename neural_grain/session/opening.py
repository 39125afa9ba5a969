"""Opens a file for the window: reads it, draws it, measures its loudness, analyses it, and makes its solver.

The sound is read four times, once from the file and then from memory. Each reading reports its progress, and stops when
the task is cancelled.

In: a path, and the `GrainProcessor` in use. Out: `Pictured` as soon as there is a picture, and `FileOpened`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neural_grain.app.processor import GrainProcessor, checked_blocks
from neural_grain.audio.formats import read_format
from neural_grain.audio.sound import Sound, open_sound, sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import file_stamp, scratch_array
from neural_grain.dsp.analysis import picture_and_loudness
from neural_grain.dsp.overview import Overview
from neural_grain.session.messages import FileOpened, Message, Pictured, Progress, SoundFacts
from neural_grain.session.model_shelf import find_reaches

PROGRESS_STEPS = 20  # progress messages while a file is read once


@dataclass(frozen=True)
class ReadingPass:
    """One reading of a sound while it is opened, and which part of the work that is, within 0 to 1."""

    activity: str
    start: float
    stop: float


OPENING = (  # the parts are those of the time that the readings of ten minutes of stereo took
    ReadingPass("reading", 0.0, 0.03),
    ReadingPass("drawing", 0.03, 0.1),
    ReadingPass("splitting tones and texture", 0.1, 0.8),
    ReadingPass("analysing", 0.8, 1.0),
)


class Samples(NamedTuple):
    """What the first reading of a file gives."""

    y: np.ndarray  # (n_samples, channels)
    sr: int
    overview: np.ndarray  # as in `SoundFacts`


class FileOpener:
    """Opens files.

    Parameters
    ----------
    check : called before every block of samples; what it raises stops the work
    report : takes the messages
    """

    def __init__(self, check: Callable[[], None], report: Callable[[Message], None]):
        self._check, self._report = check, report

    def open(self, path: Path, processor: GrainProcessor, on_pictured: Callable[[], None]) -> FileOpened:
        """Open a file; a `PipelineError` names it.

        Parameters
        ----------
        on_pictured : called before the analysis, to release the memory of the file before
        """
        try:
            stamp = file_stamp(path)
            y, sr, overview = self._read(path)
            sound = self._observed(sound_from_array(y, sr), OPENING[1:])
            picture, loudness_lufs = picture_and_loudness(sound, processor.settings, processor.threads)
            facts = SoundFacts(read_format(path).subtype, overview, loudness_lufs)
            self._report(Pictured(path, picture, facts))
            on_pictured()
            solver = processor.solver(sound)
            find_reaches(solver, self._check)
        except PipelineError as err:
            raise PipelineError(f"{path.name}: {err}") from err
        return FileOpened(path, y, solver, facts, stamp)

    def _read(self, path: Path) -> Samples:
        """Read a file into memory."""
        sound = self._observed(open_sound(path), OPENING[:1])
        y = scratch_array((sound.n_samples, sound.channels))
        start, overview = 0, Overview(sound.n_samples)
        for block in sound.blocks():
            y[start : start + len(block)] = block
            overview.add(block)
            start += len(block)
        return Samples(y, sound.sr, overview.extremes)

    def _observed(self, sound: Sound, passes: Iterable[ReadingPass]) -> Sound:
        """The same sound, whose first readings report their progress, and every reading stops when the task does."""
        waiting = list(passes)

        def blocks() -> Iterator[np.ndarray]:
            current = waiting.pop(0) if waiting else None
            n_read = n_reported = 0
            for block in checked_blocks(sound.blocks(), self._check):
                n_read += len(block)
                if current and n_read - n_reported > sound.n_samples / PROGRESS_STEPS:
                    n_reported = n_read
                    share = current.start + (current.stop - current.start) * n_read / sound.n_samples
                    self._report(Progress(current.activity, share))
                yield block

        return replace(sound, blocks=blocks)
