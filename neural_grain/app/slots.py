"""Two slots, A and B, that hold two settings of one sound, so that they can be compared."""

from __future__ import annotations

from neural_grain.app.targets import RenderTarget

SLOTS = ("A", "B")


class Slots:
    """Two settings, one of which is in use.

    Attributes
    ----------
    current : str, name of the one in use
    """

    def __init__(self) -> None:
        self.current = SLOTS[0]
        self._other: RenderTarget | None = None

    def switch(self, target: RenderTarget) -> RenderTarget:
        """Put the setting in use away and return that of the other slot, at first the same."""
        self.current = SLOTS[1 - SLOTS.index(self.current)]
        other, self._other = self._other or target, target
        return other
