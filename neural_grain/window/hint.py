"""Hints: a line of text beside the pointer when it rests on a widget."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable

from neural_grain.window.theme import Palette

REST_MS = 600  # that the pointer rests before a hint appears
OFFSET = 16  # pixels of a standard screen, from the pointer

HINTS = {
    "open": "Open a sound, or several as a list",
    "play": "Play or pause (space)",
    "before": "Listen to the sound as it is; hold the button to listen only while it is down",
    "after": "Listen to the result",
    "difference": "Listen to what the slider adds and takes away",
    "tones": "Listen to the tones of the result, which the slider leaves as they are",
    "texture": "Listen to the texture of the result, noise and transients, which the slider moves",
    "curve": "Draw the slider over time (C)",
    "save": "Save the result, or the part of it that you listen to",
    "volume": "How loud it is played; what is saved keeps its level",
    "level": "Peak level of what is played; click the red light to turn it off",
    "slider": "Left for more texture, right for a smoother sound; Shift for fine steps, double-click for 0",
    "entry": "Type a position from -3 to +3: each step of 1 doubles or halves the measured grain",
    "mix": "How much of the moved sound is mixed with the sound as it is; double-click for 100 %",
    "gain": "Output gain, heard and saved; peaks are limited; double-click for 0 dB",
    "slot": "Two settings of this sound with a model each, A and B: switch between them to compare (A)",
    "overview": "The whole sound; drag to move what the pictures show, click to go there",
    "library": "Grain of this sound before and after, among the sounds that the model learned from",
    "view after": "Pictures of the sound before and after (1)",
    "view layers": "Pictures of the tones and of the texture after (2)",
    "view gain": "Pictures of the sound before and of the gain that is applied (3)",
    "cancel": "Stop what is being done",
}


class Hint:
    """Shows a text while the pointer rests on a widget.

    Parameters
    ----------
    widget : tk.Misc
    text : what to show, or a function that gives it; nothing is shown if it is empty
    palette : function that gives the palette in use
    scale : float, pixels of this screen for one of a standard screen
    """

    def __init__(self, widget: tk.Misc, text: str | Callable[[], str], palette: Callable[[], Palette], scale: float):
        self._widget, self._palette, self._offset = widget, palette, round(OFFSET * scale)
        self._text = text if callable(text) else lambda: text
        self._waiting: str | None = None
        self._window: tk.Toplevel | None = None
        self._is_used = False  # since the pointer came: a hint would cover what the user looks at then
        for event in ("<Enter>", "<Motion>"):
            widget.bind(event, self._wait, add=True)
        # Tk calls only the most specific binding of a widget, and some bind the first button themselves.
        for event in ("<ButtonPress-1>", "<ButtonPress>", "<KeyPress>"):
            widget.bind(event, self._use, add=True)
        widget.bind("<Leave>", self._leave, add=True)
        widget.bind("<Destroy>", self._hide, add=True)

    def _wait(self, _event: tk.Event) -> None:
        self._hide()
        if not self._is_used:
            self._waiting = self._widget.after(REST_MS, self._show)

    def _use(self, _event: tk.Event) -> None:
        self._is_used = True
        self._hide()

    def _leave(self, _event: tk.Event) -> None:
        self._is_used = False
        self._hide()

    def _show(self) -> None:
        self._waiting = None
        if not (text := self._text()):
            return
        palette = self._palette()
        self._window = window = tk.Toplevel(self._widget)
        window.withdraw()
        window.wm_overrideredirect(True)  # without the frame of a window
        colours = {"background": palette.button, "foreground": palette.text, "highlightbackground": palette.line}
        label = tk.Label(window, text=text, padx=8, pady=4, justify="left", highlightthickness=1, **colours)
        label.pack()
        window.update_idletasks()
        x = min(self._widget.winfo_pointerx(), window.winfo_screenwidth() - label.winfo_reqwidth())
        y = self._widget.winfo_pointery() + self._offset
        if y + label.winfo_reqheight() > window.winfo_screenheight():
            y -= label.winfo_reqheight() + 2 * self._offset
        window.wm_geometry(f"+{max(0, x)}+{max(0, y)}")
        window.deiconify()

    def _hide(self, _event: tk.Event | None = None) -> None:
        if self._waiting is not None:
            self._widget.after_cancel(self._waiting)
            self._waiting = None
        if self._window is not None:
            self._window.destroy()
            self._window = None
