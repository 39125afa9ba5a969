"""The slider, in octaves of grain from -3 (texture) to +3 (smooth), and a field in which the value can be typed."""

from __future__ import annotations

import math
import tkinter as tk
from collections.abc import Callable
from tkinter import ttk

from neural_grain.app.range_strip import RangeStrip
from neural_grain.app.theme import LARGE_FONT, Palette
from neural_grain.dsp.curve import SLIDER_RANGE


class OctaveSlider:
    """A slider with a field, which always show the same value, and a strip that shows the range of the open sound.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    select_all_keys : tuple of str, Tk events that select the text of the field
    on_change : called after every move
    """

    def __init__(
        self,
        parent: tk.Misc,
        palette: Palette,
        scale: float,
        select_all_keys: tuple[str, ...],
        on_change: Callable[[], None],
    ):
        frame = ttk.Frame(parent)
        frame.pack(side="bottom", fill="x", pady=(round(8 * scale), 0))
        ttk.Label(frame, text=f"texture  -{SLIDER_RANGE:.0f}").pack(side="left")
        middle = ttk.Frame(frame)
        middle.pack(side="left", fill="x", expand=True, padx=round(8 * scale))
        self.slider = ttk.Scale(
            middle, from_=-SLIDER_RANGE, to=SLIDER_RANGE, command=lambda _: on_change(), takefocus=True
        )
        self.slider.pack(fill="x")
        self.strip = RangeStrip(middle, self.slider, palette, scale)
        self.strip.canvas.pack(fill="x")
        ttk.Label(frame, text=f"+{SLIDER_RANGE:.0f}  smooth").pack(side="left")
        self._frame, self._gap = frame, round(8 * scale)
        self.entry = ttk.Entry(frame, width=6, justify="right", font=LARGE_FONT)
        self.entry.pack(side="left", padx=(round(8 * scale), 0))
        self.slider.bind("<Button-1>", lambda _: self.slider.focus_set(), add=True)
        for key in ("<Return>", "<KP_Enter>", "<FocusOut>"):
            self.entry.bind(key, lambda _: self._accept_typed())
        for key in select_all_keys:
            self.entry.bind(key, self._select_all)

    def add_button(self, command: Callable[[], None]) -> ttk.Button:
        """Add a small button after the field."""
        button = ttk.Button(self._frame, width=2, command=command)
        button.pack(side="left", padx=(self._gap, 0))
        return button

    @property
    def octaves(self) -> float:
        """Position in steps of 0.1."""
        return round(float(self.slider.get()), 1) + 0.0  # turns -0.0 into 0.0

    def move_to(self, octaves: float) -> None:
        """Move to a position, or to the end that is nearest to it. Does nothing while the slider is disabled."""
        self.slider.set(max(-SLIDER_RANGE, min(SLIDER_RANGE, octaves)))

    @property
    def is_typing(self) -> bool:
        """Whether the field has the focus."""
        # `focus_get` raises KeyError while a dialog of the system has the focus.
        return str(self.entry.tk.call("focus")) == str(self.entry)

    def end_typing(self) -> None:
        """Leave the field, so that keys are shortcuts again."""
        if self.is_typing:
            self.slider.focus_set()

    def show_value(self) -> None:
        """Write the position into the field, unless the user is typing there."""
        if self.is_typing:
            return
        octaves = self.octaves
        text = f"{octaves:+.1f}" if octaves else "0"
        if self.entry.get() != text:
            self.entry.delete(0, "end")
            self.entry.insert(0, text)

    def _accept_typed(self) -> None:
        """Move to the number in the field; other text is replaced by the position."""
        try:
            octaves = float(self.entry.get().replace(",", "."))
        except ValueError:
            octaves = self.octaves
        self.slider.focus_set()
        if math.isfinite(octaves):
            self.move_to(octaves)
        self.show_value()

    def _select_all(self, _event: tk.Event) -> str:
        self.entry.select_range(0, "end")
        return "break"
