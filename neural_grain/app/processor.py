"""Renders audio with a trained model, or without one: the Python interface of the program.

`GrainProcessor` holds a model, or none, in which case the whole texture of a sound gets the same gain. It moves the
grain of samples or of a whole file by a number of octaves, or to a grain (`RenderTarget`), and returns what it
measured:

    grain(out) = grain(in) * 2 ** -octaves
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.app.outputs import FileRendering, check_output, rendering_warnings
from neural_grain.app.targets import RenderTarget
from neural_grain.audio.embedded import copy_embedded
from neural_grain.audio.formats import (
    Copy,
    OutputFormat,
    copy_samples,
    has_headroom,
    output_format,
    read_format,
    rendering_ceiling,
    written_sound,
)
from neural_grain.audio.limiter import limit_peaks
from neural_grain.audio.sound import LevelMeter, Sound, float_samples, open_sound, sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write, check_unchanged, check_writable, file_stamp
from neural_grain.base.parallel import available_cores
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.generation import WHITE_NOISE
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.mixdown import mix_down
from neural_grain.dsp.move import Rendering, move_grain
from neural_grain.dsp.move_curve import CurveRendering, CurveSolver, move_along
from neural_grain.dsp.settings import GrainSettings, SpectrogramSettings, default_settings
from neural_grain.dsp.solver import AmountSolver
from neural_grain.learn.model_file import LoadedModel, load_model
from neural_grain.learn.settings import DEFAULT_MODEL_DIR, FINAL_NAME

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DEFAULT_MODEL = f"{DEFAULT_MODEL_DIR}/{FINAL_NAME}"
NOTHING_LEARNED = (
    "nothing learned yet; to learn, run measure_audio_grain.py, convert_to_spectrograms.py and cak_grain_processor.py"
)


@dataclass
class _FileSolver:
    """The solver of one version of a file."""

    source: Path
    stamp: tuple[int, int]
    solver: AmountSolver

    # Not a cached_property: the lock in one can't travel to the workers of a cluster.
    _curve_solver: CurveSolver | None = None

    @property
    def curve_solver(self) -> CurveSolver:
        """The solver of its curves, which is made when it is first needed."""
        self._curve_solver = self._curve_solver or CurveSolver(self.solver)
        return self._curve_solver


def find_model(path: Path | None) -> Path | None:
    """The model to use: the one that was asked for, else the default one if it exists.

    Returns
    -------
    Path or None
        None if there is no model, where the built-in pattern is used

    Raises
    ------
    PipelineError
        If the model that was asked for does not exist.
    """
    if path is None:
        return Path(DEFAULT_MODEL) if os.path.exists(DEFAULT_MODEL) else None
    if not os.path.exists(path):
        raise PipelineError(f"{path}: no model there; make one with: python cak_grain_processor.py")
    return path


class GrainProcessor:
    """A loaded model, or none, that renders sounds and files.

    >>> processor = GrainProcessor()
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
    loaded : LoadedModel, or None for the built-in pattern, which gives the whole texture the same gain
    threads : int > 0, for one sound; all cores if None

    Attributes
    ----------
    settings : SpectrogramSettings, of the model
    check : called before every block that is rendered to a file; what it raises stops the rendering
    """

    def __init__(self, loaded: LoadedModel | None = None, threads: int | None = None):
        self.loaded = loaded
        self.check: Callable[[], None] = lambda: None
        self.settings: SpectrogramSettings = loaded.settings if loaded else default_settings(GrainSettings())
        self.threads = threads or available_cores()
        self._last: _FileSolver | None = None

    @classmethod
    def load(cls, path: Path | str | None, device: str = "auto") -> GrainProcessor:
        """Read a model that stage 3 made.

        Parameters
        ----------
        path : of the model, or None for the built-in pattern
        device : "auto" or "cpu", or "cuda" or "mps", which need torch
        """
        if path is None:
            return cls()
        path = Path(path)
        find_model(path)
        if device in ("auto", "cpu"):
            return cls(load_model(path))
        # torch is imported here and not at the top: it takes seconds, and only these devices need it.
        from neural_grain.learn.checkpoint import load_on_device
        from neural_grain.learn.device import choose_device

        return cls(load_on_device(path, choose_device(device)))

    def measure(self, y: ArrayLike, sr: int) -> float:
        """Grain of samples, given as to `render`, which says what is raised."""
        return measure_grain(_sound_of(y, sr), self.settings.grain)

    def render(
        self,
        y: ArrayLike,
        sr: int,
        *,
        grain: float | None = None,
        curve: GrainCurve | Sequence[tuple[float, float]] | None = None,
        mix: Mix = NO_MIX,
    ) -> np.ndarray:
        """Move the grain of samples by some octaves, or as far as the sound allows.

        Parameters
        ----------
        y : array_like, shape (n,) or (n, channels)
            Floats of full scale 1.0, or integers of 8, 16 or 32 bits; uint8 has silence at 128.
        sr : int > 0, Hz
        grain : float, octaves: negative is more texture, positive is smoother
        curve : the same over time, instead of ``grain``: pairs of seconds and octaves within -3 to +3
        mix : of the moved samples with ``y``, and output gain

        Returns
        -------
        np.ndarray, shape of ``y``, float32, full scale 1.0; for 0 the samples of ``y`` themselves, unrounded

        Raises
        ------
        ValueError
            If an argument is not as described.
        PipelineError
            If the samples have no grain: too few, silent, or not finite.
        """
        if (grain is None) == (curve is None):
            raise ValueError(f"grain={grain!r}, curve={curve!r}: exactly one of them must be given")
        if curve is None:
            if not isinstance(grain, Real) or not math.isfinite(grain):
                raise ValueError(f"grain={grain!r} must be a finite number of octaves")
            target = RenderTarget(float(grain), mix=mix)
        else:
            target = RenderTarget(curve=curve if isinstance(curve, GrainCurve) else GrainCurve.of(curve), mix=mix)
        sound = _sound_of(y, sr)
        if target.is_copy:
            return float_samples(y)
        if target.is_gain:
            return np.concatenate(list(_amplified(sound, mix.gain))).reshape(np.shape(y))
        solver = self.solver(sound)
        ceiling = max(1.0, solver.analysis.peak)
        if target.curve is None:
            seconds, rendering = None, move_grain(solver, target.octaves, ceiling=ceiling)
        else:
            curve_solver = CurveSolver(solver)
            seconds, rendering = curve_solver.seconds, move_along(curve_solver, target.curve, ceiling=ceiling)
        rendering = mix_down(solver.field, rendering, mix, ceiling=ceiling, seconds=seconds)
        return np.concatenate(list(rendering.sound.blocks())).reshape(np.shape(y))

    def solver(self, sound: Sound) -> AmountSolver:
        """Analyse a sound and find its pattern, which is everything that does not depend on the target."""
        return self.solver_of(analyse(sound, self.settings, self.threads))

    def solver_of(self, analysis: Analysis) -> AmountSolver:
        """The same for a sound that was analysed with the settings of the model."""
        return AmountSolver(
            GainField(analysis, self.loaded.generated_texture(analysis) if self.loaded else WHITE_NOISE)
        )

    def adopt_solver(self, source: Path, stamp: tuple[int, int], solver: AmountSolver) -> None:
        """Use this solver when the file is rendered next, unless the file has changed.

        Parameters
        ----------
        stamp : what `file_stamp` returned before the file was read
        """
        own = copy(solver)
        # Limits measured in memory differ a little from those measured in the sample format of a file.
        own.measured_limits = {}
        self._last = _FileSolver(source, stamp, own)

    def forget_file(self) -> None:
        """Release what is known about the file that was rendered or adopted last."""
        self._last = None

    def adopt_curve_solver(self, curve_solver: CurveSolver) -> None:
        """Use what is known about the seconds of the sound whose solver was adopted last."""
        if self._last is not None and self._last.solver.field is curve_solver.local.field:
            own = copy(curve_solver)
            own.solver = self._last.solver
            self._last = replace(self._last, _curve_solver=own)

    def _file_solver(self, source: Path, sound: Sound) -> _FileSolver:
        """Solver of a file. The last one is kept, because a file is often rendered several times in a row."""
        stamp, last = file_stamp(source), self._last
        if last is None or (last.source, last.stamp) != (source, stamp):
            self._last = last = _FileSolver(source, stamp, self.solver(sound))
        return last

    def render_file(
        self, source: Path, output: Path, target: RenderTarget, *, overwrite: bool = False, subtype: str | None = None
    ) -> FileRendering:
        """Render one file. The output appears under its name only when it is complete.

        Parameters
        ----------
        overwrite : replace an output that exists; the input is never replaced
        subtype : sample format by libsndfile's name; the input's if None

        Raises
        ------
        PipelineError
            If the input can't be read or has no grain, or the output can't be written.
        """
        stamp = file_stamp(source)
        sound = open_sound(source)
        check_output(source, output, overwrite)
        stored = read_format(source)
        wanted = output_format(output, stored, sound, subtype=subtype, is_copy=target.is_copy)
        check_writable(output.parent)
        left_behind: list[str] = []
        with atomic_write(output) as temporary:
            if target.is_gain:
                copied = copy_samples(source, stored, temporary, wanted, target.mix.gain)
                rendering = self._unmoved(sound, target)
            else:
                solvers = self._file_solver(source, sound)
                rendering = self._render_to(temporary, solvers, target, wanted)
                copied = None
                # Where nothing could be moved, attempts were written none the less.
                if target.layer is None and rendering.sound is solvers.solver.analysis.sound:
                    copied = copy_samples(source, stored, temporary, wanted)
            if copied is None or not copied.is_identical:
                left_behind = copy_embedded(source, stored, temporary, wanted)
            if copied and rendering:
                rendering = self._measured_copy(rendering, copied, temporary)
            check_unchanged(source, stamp)
        rendering = rendering and replace(rendering, sound=open_sound(output))
        warnings = rendering_warnings(target, sound)
        return FileRendering(source, output, rendering, tuple(left_behind), target.layer, warnings, target.mix)

    def _render_to(
        self, path: Path, solvers: _FileSolver, target: RenderTarget, wanted: OutputFormat
    ) -> Rendering | CurveRendering:
        """Render into a file of a format.

        A layer replaces the whole rendering, which is written and measured first: only so has the layer exactly the
        amounts with which the whole is rendered to a file of this format.
        """

        def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
            return written_sound(path, checked_blocks(blocks, self.check), like, wanted)

        solver = solvers.solver
        ceiling = rendering_ceiling(wanted.subtype, solver.analysis.peak)
        seconds = None
        if target.curve is None:
            rendering = move_grain(solver, target.octaves_from(solver.analysis.grain), ceiling=ceiling, store=store)
        else:
            sound, seconds = solver.analysis.sound, solvers.curve_solver.seconds
            solvers.curve_solver.local.on_second = lambda share: self.check()
            curve = target.curve_for(sound.n_samples / sound.sr, seconds)
            rendering = move_along(solvers.curve_solver, curve, ceiling=ceiling, store=store)
        rendering = mix_down(solver.field, rendering, target.mix, ceiling=ceiling, store=store, seconds=seconds)
        if target.layer is None:
            return rendering
        sound, level = solver.analysis.sound, LevelMeter()
        blocks = solver.field.render_layer(rendering.amounts, target.layer, ceiling, target.mix)
        if has_headroom(wanted.subtype):
            ceiling = math.inf  # a layer may have higher peaks than the whole
        for _ in store(sound, limit_peaks(level.through(blocks), ceiling, sound)).blocks():
            pass  # reading is what writes the file
        limited_db = 20 * math.log10(max(1.0, level.peak / ceiling))
        return replace(rendering, limited_db=max(rendering.limited_db, limited_db))

    def _unmoved(self, sound: Sound, target: RenderTarget) -> Rendering | None:
        """Result of a copy; None if the sound has no grain, which a copy does not need."""
        try:
            grain = measure_grain(sound, self.settings.grain, self.threads)
        except PipelineError:
            return None
        octaves = 0.0 if target.curve is not None else target.octaves_from(grain)
        return Rendering(sound, octaves, grain, grain, True, Amounts(0.0, 0.0), 0.0, 0.0, target.mix)

    def _measured_copy(self, rendering: Rendering, copied: Copy, path: Path) -> Rendering:
        """The result of a copy with the grain of the file as it lies there, which another format may have changed."""
        if copied.is_identical:
            return rendering
        try:
            grain = measure_grain(open_sound(path), self.settings.grain, self.threads)
        except PipelineError as err:
            raise PipelineError(f"the output has no grain to measure: {err}") from err
        return replace(rendering, grain_after=grain, level_db=copied.level_db, limited_db=copied.limited_db)


def _amplified(sound: Sound, gain: float) -> Iterator[np.ndarray]:
    """The blocks of a sound times a gain; peaks beyond full scale, or beyond those of the sound, are limited."""
    level = LevelMeter()
    for _ in level.through(sound.blocks()):
        pass
    blocks = (np.float32(gain) * block for block in sound.blocks())
    return limit_peaks(blocks, max(1.0, level.peak), sound)


def _sound_of(y: ArrayLike, sr: int) -> Sound:
    """Samples that a caller of the Python interface gives, as a `Sound`."""
    sound = sound_from_array(y, sr)
    if 0 < sound.n_samples < sound.channels:
        raise ValueError(f"y.shape={np.shape(y)} must be (samples, channels): samples come first, so give y.T")
    return sound


def checked_blocks(blocks: Iterable[np.ndarray], check: Callable[[], None]) -> Iterator[np.ndarray]:
    """The same blocks, with a call of ``check`` before each."""
    for block in blocks:
        check()
        yield block
