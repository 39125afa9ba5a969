"""Everything that the labels and the enabled and disabled states of the window depend on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from neural_grain.dsp.move_curve import GrainContour
from neural_grain.dsp.solver import SliderZones
from neural_grain.session.actions import Needs
from neural_grain.session.library_state import LibraryState


@dataclass(frozen=True)
class ViewState:
    """What the window shows now.

    ``progress`` is within 0 to 1, or None if nobody knows how much of the work is done. ``contour`` is what each second
    achieved, and ``is_contour_current`` whether with the curve as it is.
    """

    file_text: str
    info_text: str
    grain_text: str
    status: str
    is_error: bool
    is_busy: bool
    progress: float | None
    has_model: bool
    has_picture: bool  # a sound is open, or is being opened and already has a picture
    has_file: bool
    is_playing: bool
    listening: str
    view: str
    shows_curve: bool
    has_curve: bool  # in place of the slider
    contour: GrainContour | None
    is_contour_current: bool
    zones: SliderZones | None
    measured_octaves: float | None  # of the position of the slider
    slot: str  # "A" or "B"
    can_undo: bool
    can_redo: bool
    has_list: bool  # of several sounds
    has_results: bool  # something was saved
    path: Path | None = None  # of the file whose picture is shown
    library: LibraryState = field(default_factory=LibraryState)

    def allows(self, needs: Needs) -> bool:
        """Whether an action with these needs is possible."""
        return {
            Needs.NOTHING: True,
            Needs.MODEL: self.has_model,
            Needs.FILE: self.has_file,
            Needs.CURVE: self.has_file and self.shows_curve,
            Needs.UNDO: self.has_file and self.can_undo,
            Needs.REDO: self.has_file and self.can_redo,
            Needs.LIST: self.has_list,
            Needs.RESULTS: self.has_results,
        }[needs]
