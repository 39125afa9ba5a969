"""A canvas that draws itself in the colours of a palette, for the resolution of the screen."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable

import numpy as np

from neural_grain.window.theme import Palette, pixels

SHIFT = 1  # the bit of the key in the state of a Tk event


# A Tcl procedure: one item of a kind with the same options at each of some places.
CREATE = "{canvas kind options places} {foreach place $places {$canvas create $kind {*}$place {*}$options}}"


class CanvasView:
    """What all drawn parts of the window have in common.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    width, height : int, that the canvas asks for, in pixels of a standard screen
    takefocus : bool, whether the keyboard can have its focus here

    Attributes
    ----------
    canvas : tk.Canvas
    palette : Palette, to be changed before the next drawing
    """

    def __init__(
        self, parent: tk.Misc, palette: Palette, scale: float, width: int, height: int, *, takefocus: bool = False
    ):
        self.palette, self._scale = palette, scale
        self.canvas = tk.Canvas(
            parent, highlightthickness=0, width=self.px(width), height=self.px(height), takefocus=takefocus
        )

    def px(self, n: float) -> int:
        """Pixels of this screen for ``n`` of a standard screen."""
        return pixels(self._scale, n)

    @property
    def has_focus(self) -> bool:
        """Whether the keyboard has its focus here, which is to be seen."""
        # `focus_get` raises KeyError while a dialog of the system has the focus.
        return str(self.canvas.tk.call("focus")) == str(self.canvas)

    def bind_wheel(self, turn: Callable[[tk.Event, int], None]) -> None:
        """Call a function for every notch of the wheel, with the event and 1 for upwards or -1 for downwards."""
        # X11 reports the wheel as buttons 4 and 5, Windows and macOS as an event of its own.
        self.canvas.bind("<Button-4>", lambda event: turn(event, 1))
        self.canvas.bind("<Button-5>", lambda event: turn(event, -1))
        self.canvas.bind("<MouseWheel>", lambda event: turn(event, 1 if event.delta > 0 else -1))

    def clear(self) -> None:
        """Remove everything, and paint the ground."""
        self.canvas.delete("all")
        self.canvas.configure(background=self.palette.background)

    def create(self, kind: str, places: np.ndarray, **options: object) -> None:
        """Create an item of a kind, such as "line", at each of many places, all with the same options.

        This is one call into Tk. Each call may have to wait for the threads that compute, so that 600 calls can take
        0.2 s.

        Parameters
        ----------
        places : np.ndarray, shape (n, coordinates of an item), in pixels
        """
        words = [word for name, value in options.items() for word in (f"-{name}", value)]
        self.canvas.tk.call("apply", CREATE, str(self.canvas), kind, words, places.tolist())
