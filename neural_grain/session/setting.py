"""What the user has chosen for the open sound, and its history.

A `Setting` is everything that undo brings back, that the slots A and B hold: the position of the slider, the curve, the mix
and the model. A preset names all of it but the model. `SettingHistory` keeps those that were, so that they can come back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.session.curve_editor import Points

SLOTS = ("A", "B")
MAX_UNDO = 500


@dataclass(frozen=True)
class Setting:
    """A choice of the user.

    Attributes
    ----------
    octaves : float, position of the slider
    points : of the curve, perhaps none
    shows_curve : bool, whether the lane of the curve is open; only then the curve counts
    mix : Mix
    model : Path or None, None for the built-in pattern
    """

    octaves: float = 0.0
    points: Points = ()
    shows_curve: bool = False
    mix: Mix = NO_MIX
    model: Path | None = None

    @property
    def target(self) -> RenderTarget:
        """What is heard and saved: the curve while it is shown and has points, else the position of the slider."""
        if self.shows_curve and self.points:
            return RenderTarget(curve=GrainCurve(self.points), mix=self.mix)
        return RenderTarget(self.octaves, mix=self.mix)


class SettingHistory:
    """Settings that were, and those that were undone.

    Attributes
    ----------
    current : Setting
    """

    def __init__(self, setting: Setting):
        self.current = setting
        self._undo: list[Setting] = []
        self._redo: list[Setting] = []

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier setting."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether a setting was undone."""
        return bool(self._redo)

    def record(self, setting: Setting) -> None:
        """Keep a setting that the user has chosen, unless it is the last one. Opening the lane alone is no step."""
        if replace(setting, shows_curve=self.current.shows_curve) == self.current:
            self.current = setting
        elif setting != self.current:
            self._undo = [*self._undo[-MAX_UNDO + 1 :], self.current]
            self._redo.clear()
            self.current = setting

    def undo(self) -> Setting:
        """Go back to the setting before; to the current one if there is none."""
        return self._go(self._undo, self._redo)

    def redo(self) -> Setting:
        """Go to the setting that was undone last; to the current one if there is none."""
        return self._go(self._redo, self._undo)

    def _go(self, source: list[Setting], target: list[Setting]) -> Setting:
        if source:
            target.append(self.current)
            self.current = source.pop()
        return self.current


class Slots:
    """Two settings, A and B, one of which is in use.

    Attributes
    ----------
    current : str, name of the one in use
    """

    def __init__(self) -> None:
        self.current = SLOTS[0]
        self._other: Setting | None = None

    def switch(self, setting: Setting) -> Setting:
        """Put the setting in use away and return that of the other slot, at first the same."""
        self.current = SLOTS[1 - SLOTS.index(self.current)]
        other, self._other = self._other or setting, setting
        return other
