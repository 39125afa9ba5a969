"""TODO"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.audio.formats import INTEGER_BITS, OutputFormat, copy_samples, output_format, tags_of, written_sound
from neural_grain.audio.limiter import CEILING
from neural_grain.audio.sound import Sound, open_audio, open_sound, sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write, check_unchanged, check_writable, file_stamp
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.move import Rendering, move_grain
from neural_grain.dsp.solver import AmountSolver

DEFAULT_MODEL = "grain_processor_v2_output/final_grain_processor_v2.pt"  # where stage 3 leaves it
if TYPE_CHECKING:
    from neural_grain.learn.checkpoint import LoadedModel

SLIDER_RANGE = 3.0
NAME_BYTES = 255  # of a file, on every usual file system


@dataclass(frozen=True)
class RenderTarget:
    """What is asked of a rendering: octaves of the slider, or a grain to reach."""

    octaves: float = 0.0
    target_grain: float | None = None

    def octaves_from(self, grain: float) -> float:
        """Octaves from a sound's own grain."""
        return self.octaves if self.target_grain is None else math.log2(grain / self.target_grain)

    @property
    def is_copy(self) -> bool:
        """Whether the samples shall stay as they are."""
        return self.target_grain is None and self.octaves == 0


@dataclass(frozen=True)
class FileRendering:
    """What became of one file."""

    input: Path
    output: Path
    rendering: Rendering | None  # None if the input has no grain; then only 0 can be asked


def output_name(source: Path, asked: RenderTarget) -> str:
    """Default name of a rendering: drone.flac at -2 becomes drone_grain-2.0.wav, at a grain drone_grain0.02.wav."""
    text = f"{asked.octaves:+.2f}" if asked.target_grain is None else f"{asked.target_grain:.3g}"
    if asked.target_grain is None and text.endswith("0"):
        text = text[:-1]
    ending, stem = f"_grain{text}.wav", os.fsencode(source.stem)
    room = NAME_BYTES - len(ending)
    if len(stem) <= room:
        return source.stem + ending
    mark = hashlib.sha1(stem).hexdigest()[:8]  # tells names apart that differ only beyond the cut
    return f"{stem[: room - 9].decode('utf-8', 'ignore')}_{mark}{ending}"


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Refuse to write over the input, or without leave over anything else.

    Raises
    ------
    PipelineError
        If it would.
    """
    if len(os.fsencode(output.name)) > NAME_BYTES:
        raise PipelineError(f"{output}: the name is longer than {NAME_BYTES} bytes; give a shorter one")
    if output.exists():
        if output.samefile(source):
            raise PipelineError(f"{output}: is the input itself, which is never overwritten; choose another name")
        if output.is_dir():
            raise PipelineError(f"{output}: is a folder; end it with / to write into it")
        if not overwrite:
            raise PipelineError(f"{output}: exists already; give --overwrite to replace it")


class GrainProcessor:
    """A model that is ready to render; knows nothing of windows.

    >>> processor = GrainProcessor.load(MODEL, device="cpu")
    >>> y = np.sin(440 * 2 * np.pi * np.arange(44100) / 44100)
    >>> y += 0.001 * np.random.default_rng(0).standard_normal(44100)
    >>> z = processor.render(y, 44100, grain=-2)
    >>> z.shape
    (44100,)
    >>> round(float(np.log2(processor.measure(y, 44100) / processor.measure(z, 44100))), 1)
    -2.0
    >>> np.array_equal(processor.render(y, 44100, grain=0), y)
    True

    Parameters
    ----------
    loaded : LoadedModel
    threads : int > 0, for one sound
    """

    def __init__(self, loaded: LoadedModel, threads: int | None = None):
        self.loaded = loaded
        self.threads = threads or os.cpu_count() or 1
        self._last: tuple[tuple, AmountSolver] | None = None

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> GrainProcessor:
        """Read a model that stage 3 made.

        Parameters
        ----------
        device : "auto", "cpu", "cuda" or "mps"

        Raises
        ------
        PipelineError
            If there is no usable model.
        """
        # Imported late: the window opens before torch is there.
        from neural_grain.learn.checkpoint import load_model
        from neural_grain.learn.device import choose_device

        if not Path(path).exists():
            raise PipelineError(f"{path}: no model there yet; make one with: python cak_grain_processor.py")
        return cls(load_model(Path(path), choose_device(device)))

    def measure(self, y: np.ndarray, sr: int) -> float:
        """Grain of samples, shape (n,) or (n, channels).

        Raises
        ------
        PipelineError
            If they have none: too short, silent, not finite.
        """
        return measure_grain(sound_from_array(y, sr), self.loaded.settings.grain)

    def render(self, y: np.ndarray, sr: int, *, grain: float) -> np.ndarray:
        """Move the grain of samples by some octaves, as far as the sound goes.

        Parameters
        ----------
        y : np.ndarray, shape (n,) or (n, channels), full scale 1.0
        sr : int > 0, Hz
        grain : float, octaves: negative is more texture, positive is smoother

        Returns
        -------
        np.ndarray, shape of ``y``, float32; ``y`` itself for 0

        Raises
        ------
        PipelineError
            If the samples have no grain.
        """
        if grain == 0:
            return y
        solver = self.solver(sound_from_array(y, sr))
        rendering = move_grain(solver, grain, ceiling=max(1.0, solver.analysis.peak))
        return np.concatenate(list(rendering.sound.blocks())).reshape(y.shape)

    def solver(self, sound: Sound, looked: Callable[[Analysis], None] = lambda _: None) -> AmountSolver:
        """What depends on the sound alone: its analysis, which is told as soon as it is there, and its pattern."""
        analysis = analyse(sound, self.loaded.settings, self.threads)
        looked(analysis)
        return AmountSolver(analysis, self.loaded.pattern_db(analysis.x))

    def _solver_of(self, source: Path, sound: Sound) -> AmountSolver:
        """The same of a file; that of the last one is kept, for it is often rendered again."""
        key, last = (source, *file_stamp(source)), self._last
        if last is None or last[0] != key:
            self._last = last = (key, self.solver(sound))
        return last[1]

    def keep(self, source: Path, stamp: tuple[int, int], solver: AmountSolver) -> None:
        """Take over a file's solver, so that it is rendered without another look; its stamp tells if it changes."""
        fresh = copy(solver)
        fresh.ends = {}  # measured in memory, they would differ a little from those measured in a file's sample format
        self._last = (source, *stamp), fresh

    def render_file(
        self, source: Path, output: Path, asked: RenderTarget, *, overwrite: bool = False, subtype: str | None = None
    ) -> FileRendering:
        """Render one file; the output appears under its name only when it is whole.

        Parameters
        ----------
        subtype : sample format by libsndfile's name; the input's if None

        Raises
        ------
        PipelineError
            If the input can't be read or has no grain, or the output can't be written.
        """
        stamp = file_stamp(source)
        sound = open_sound(source)
        check_output(source, output, overwrite)
        with open_audio(source) as file:
            stored = OutputFormat(file.format, file.subtype, tags_of(file))
        target = output_format(output, stored, sound.n_samples * sound.channels * 8, subtype)
        check_writable(output.parent)
        with atomic_write(output) as temporary:
            if asked.is_copy:
                copy_samples(source, stored, temporary, target)
                unmoved = self._unmoved(sound)
                check_unchanged(source, stamp)
                return FileRendering(source, output, unmoved)
            solver = self._solver_of(source, sound)
            ceiling = CEILING if target.subtype in INTEGER_BITS else max(1.0, solver.analysis.peak)

            def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
                return written_sound(temporary, blocks, like, target)

            octaves = asked.octaves_from(solver.analysis.grain)
            rendering = move_grain(solver, octaves, ceiling=ceiling, store=store)
            if rendering.sound is solver.analysis.sound:  # nothing could be moved: what was stored is not it
                copy_samples(source, stored, temporary, target)
            check_unchanged(source, stamp)
        return FileRendering(source, output, replace(rendering, sound=open_sound(output)))

    def _unmoved(self, sound: Sound) -> Rendering | None:
        try:
            grain = measure_grain(sound, self.loaded.settings.grain, self.threads)
        except PipelineError:
            return None  # silence has no grain, and at 0 it need not have any
        return Rendering(sound, 0.0, grain, grain, True, Amounts(0.0, 0.0), 0.0, 0.0)


def describe_rendering(rendering: Rendering | None) -> str:
    """One line about a rendering: "grain 0.0031 -> 0.0124 (asked x4.00, got x3.97)"."""
    if rendering is None:
        return "no grain to measure; copied as it is"
    asked, got = 2.0**-rendering.asked_octaves, 2.0**-rendering.got_octaves
    line = f"grain {rendering.grain_before:.3g} -> {rendering.grain_after:.3g} (asked x{asked:#.3g}, got x{got:#.3g}"
    if not rendering.within_reach:
        line += ": as far as this sound goes"
    line += ")"
    if rendering.limited_db > 0.1:
        line += f", peaks limited by {rendering.limited_db:.1f} dB"
    if abs(rendering.level_db) > 0.5:
        line += f", {abs(rendering.level_db):.1f} dB {'quieter' if rendering.level_db < 0 else 'louder'}"
    return line


def rendering_report(result: FileRendering) -> dict:
    """What became of a file, for machines: names, plain numbers, no NaN."""
    names = {"input": str(result.input), "output": str(result.output)}
    rendering = result.rendering
    if rendering is None:
        return names | {"grain_before": None, "grain_after": None}
    numbers = {name: value for name, value in vars(rendering).items() if name not in ("sound", "amounts")}
    expander = rendering.amounts.expander
    return names | numbers | {"got_octaves": rendering.got_octaves, "expander_amount": expander}
