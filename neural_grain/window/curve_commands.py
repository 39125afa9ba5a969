"""What the menu of the curve does: shapes, stretching, and text files.

No file of another kind is replaced by mistake. The file dialog of the system has asked about a curve that is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from neural_grain.app.targets import read_curve
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import atomic_write
from neural_grain.base.identity import refuse_inputs
from neural_grain.dsp.curve import FittedCurve, GrainCurve, format_curve
from neural_grain.session.captions import count_of
from neural_grain.session.curve_editor import shaped_curve
from neural_grain.session.state import Session

if TYPE_CHECKING:
    from neural_grain.window.dialogs import Dialogs
    from neural_grain.window.lane import CurveLane


def write_curve(path: Path, curve: GrainCurve) -> None:
    """Write the text file of a curve, in place of what is there."""
    with atomic_write(path) as temporary:
        temporary.write_text(format_curve(curve), encoding="utf-8")


def is_other_file(path: Path) -> bool:
    """Whether something other than a curve has this name."""
    if not os.path.exists(path):
        return False
    try:
        read_curve(path)
    except PipelineError:
        return True
    return False


class CurveCommands:
    """Commands of the menu, as methods.

    Parameters
    ----------
    lane : CurveLane
    session : Session, whose status says what became of a file
    dialogs : returns the `Dialogs` to ask with
    folder : returns the folder in which they begin
    refresh : called when the status has changed
    """

    def __init__(
        self,
        lane: CurveLane,
        session: Session,
        dialogs: Callable[[], Dialogs],
        folder: Callable[[], str],
        refresh: Callable[[], None],
    ):
        self._lane, self._editor, self._session = lane, lane.editor, session
        self._dialogs, self._folder, self._refresh = dialogs, folder, refresh
        self._n_shapes = 0

    def clear(self) -> None:
        """Remove all points."""
        self._lane.edit(lambda: self._editor.replace(()))

    def shape(self, name: str) -> None:
        """Take one of the `SHAPES` in place of the curve; a random one is another each time."""
        self._n_shapes += 1
        curve = shaped_curve(name, self._editor.duration_s, self._n_shapes)
        self._lane.edit(lambda: self._editor.replace(curve.points))

    def stretch(self) -> None:
        """Stretch the curve to the length of the sound."""
        if self._editor.curve is not None and self._editor.curve.end_s > 0:
            curve = FittedCurve(self._editor.curve).for_duration(self._editor.duration_s)
            self._lane.edit(lambda: self._editor.replace(curve.points))

    def load(self) -> None:
        """Ask for a text file, and take its points in place of the curve."""
        if name := self._dialogs().open_curve(self._folder()):
            self._attempt(self._load, Path(name))

    def save(self) -> None:
        """Ask for a name, and write the points to a text file."""
        curve, opened = self._editor.curve, self._session.opened  # these may change while the dialog waits
        if curve is None:
            self._session.set_status("the curve has no points to save", is_error=True)
            self._refresh()
        elif name := self._dialogs().save_curve(self._folder(), f"{opened.path.stem}_curve.txt"):
            self._attempt(lambda path: self._save(curve, path, opened.path), Path(name))

    def _attempt(self, command: Callable[[Path], None], path: Path) -> None:
        """Do something with a file; what goes wrong is said in the status line."""
        try:
            command(path)
        except PipelineError as err:
            self._session.set_status(printable(str(err)), is_error=True)
        self._refresh()

    def _load(self, path: Path) -> None:
        curve, duration_s = read_curve(path), self._editor.duration_s
        self._lane.edit(lambda: self._editor.replace(curve.points))
        beyond = f", which goes on to {curve.end_s:g} s, after the end of the sound" if curve.end_s > duration_s else ""
        self._session.set_status(
            f"loaded {printable(path.name)}: a curve of {count_of(len(curve.points), 'point')}{beyond}"
        )

    def _save(self, curve: GrainCurve, path: Path, source: Path) -> None:
        refuse_inputs([path], [source])
        question = f"{printable(path.name)} is not a curve. Replace it?"
        if not is_other_file(path) or self._dialogs().confirm(question):
            write_curve(path, curve)
            self._session.set_status(f"saved the curve to {printable(path)}")
