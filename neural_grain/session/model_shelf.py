"""The models that were used last, and what they found out about the open sound.

Only the generated texture depends on a model, as long as its settings are those of the analysis. So another model needs
no new analysis of the open sound, only a solver of its own (`ModelShelf.solver`). The last few models and their solvers
stay, so that going back to one of them is immediate.

In: paths of models, and the `Analysis` of the open sound. Out: `GrainProcessor`, `AmountSolver` and `CurveSolver`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from neural_grain.app.processor import GrainProcessor
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import file_stamp
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.contour import Seconds
from neural_grain.dsp.move_curve import CurveSolver
from neural_grain.dsp.solver import AmountSolver

MAX_MODELS = 4  # that stay loaded; each takes little memory, and its solver about 35 MB for ten minutes of sound


@dataclass
class _Kept:
    """A model, and its solvers of the open sound once they are needed."""

    path: Path | None
    stamp: tuple[int, int] | None  # of its file
    processor: GrainProcessor
    solver: AmountSolver | None = None
    curve_solver: CurveSolver | None = None


@dataclass
class ModelShelf:
    """Loads models and keeps the last few.

    Parameters
    ----------
    device : str, for `GrainProcessor.load`
    check : called during long work; what it raises stops that
    """

    device: str
    check: Callable[[], None]
    _kept: list[_Kept] = field(default_factory=list)  # the model in use last
    _seconds: Seconds | None = None  # of the open sound, for its curves

    @property
    def current(self) -> GrainProcessor | None:
        """The model in use, or None."""
        return self._kept[-1].processor if self._kept else None

    def load(self, path: Path | None) -> GrainProcessor:
        """Use a model, which is read unless it is one of the last ones; None is the built-in pattern."""
        stamp = _stamp_of(path)
        found = next((each for each in self._kept if (each.path, each.stamp) == (path, stamp)), None)
        if found is None:
            found = _Kept(path, stamp, GrainProcessor.load(path, self.device))
            found.processor.check = self.check
        self._kept = [*(each for each in self._kept if each is not found), found][-MAX_MODELS:]
        return found.processor

    def use(self, processor: GrainProcessor) -> None:
        """Use a model that is kept."""
        self._kept.sort(key=lambda each: each.processor is processor)

    def begin_sound(self, solver: AmountSolver) -> None:
        """Keep the solver of another sound, which the model in use made, and forget the sound before."""
        self.forget_sound()
        self._kept[-1].solver = solver

    def forget_sound(self) -> None:
        """Release what is known about the open sound."""
        self._seconds = None
        for each in self._kept:
            each.solver = each.curve_solver = None
            each.processor.forget_file()

    def solver(self, analysis: Analysis, source: Path, stamp: tuple[int, int]) -> AmountSolver:
        """The solver of the model in use for the open sound, made when it is first needed.

        Parameters
        ----------
        source, stamp : as for `GrainProcessor.adopt_solver`
        """
        kept = self._kept[-1]
        if kept.solver is None or kept.solver.analysis is not analysis:
            solver = kept.processor.solver_of(analysis)
            find_reaches(solver, self.check)
            kept.processor.adopt_solver(source, stamp, solver)
            kept.solver, kept.curve_solver = solver, None
        return kept.solver

    def curve_solver(self, solver: AmountSolver) -> CurveSolver:
        """The solver of curves of the open sound that goes with a solver, made when it is first needed."""
        kept = next((each for each in self._kept if each.solver is solver), None)
        if kept is None:  # the sound was closed, or its model has left
            return CurveSolver(solver)
        if kept.curve_solver is None:
            kept.curve_solver = CurveSolver(solver, self._seconds)
            self._seconds = kept.curve_solver.seconds
            kept.processor.adopt_curve_solver(kept.curve_solver)
        return kept.curve_solver


def find_reaches(solver: AmountSolver, check: Callable[[], None]) -> None:
    """Find both curves of reach, which the solver keeps; the first move of the slider would have to wait for them."""
    for sign in (-1.0, 1.0):
        check()
        solver.reach(sign)


def _stamp_of(path: Path | None) -> tuple[int, int] | None:
    """The stamp of a model, None for one that is missing, which loading it will report."""
    try:
        return None if path is None else file_stamp(path)
    except PipelineError:
        return None
