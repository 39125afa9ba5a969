"""The last line of the window: what happened, or what is being done, with a progress bar and a button that cancels."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from functools import partial
from tkinter import ttk

from neural_grain.window.theme import SPACE, pixels

TURN_MS = 20  # between two steps of a bar whose end nobody knows


class StatusRow:
    """The line and its bar.

    Parameters
    ----------
    parent : tk.Misc
    scale : float, pixels of this screen for one of a standard screen
    cancel : called by the button

    Attributes
    ----------
    frame : ttk.Frame
    label : ttk.Label
    progress : ttk.Progressbar
    cancel_button : ttk.Button
    """

    def __init__(self, parent: tk.Misc, scale: float, cancel: Callable[[], None]):
        px = partial(pixels, scale)
        self.frame = row = ttk.Frame(parent)
        row.pack(side="bottom", fill="x", pady=(px(4), 0))
        row.columnconfigure(0, weight=1)
        self.label = ttk.Label(row, style="Muted.TLabel")
        self.label.grid(row=0, column=0, sticky="w")
        self.progress = ttk.Progressbar(row, length=px(160))
        self.progress.grid(row=0, column=1, padx=px(SPACE.gap))
        self.cancel_button = ttk.Button(row, text="Cancel", command=cancel)
        self.cancel_button.grid(row=0, column=2)
        self._margin = px(4 * SPACE.gap)
        # The row always has the height of the button; otherwise the pictures would jump whenever work begins.
        row.rowconfigure(0, minsize=self.cancel_button.winfo_reqheight())
        self._is_busy, self._is_turning, self._shown = True, False, ("", "")
        self._show_busy(False)
        row.bind("<Configure>", lambda _: self._wrap())

    def show(self, text: str, progress: float | None, *, is_error: bool, is_busy: bool) -> None:
        """Show a line, and how much of the work is done, within 0 to 1, or None if nobody knows."""
        shown = text, "Error.TLabel" if is_error else "Muted.TLabel"
        if shown != self._shown:
            self._shown = shown
            self.label.configure(text=text, style=shown[1])
        self._show_busy(is_busy)
        should_turn = is_busy and progress is None
        if is_busy and progress is not None:
            self.progress.stop()
            self.progress.configure(mode="determinate", value=100 * progress)
        elif should_turn and not self._is_turning:
            self.progress.configure(mode="indeterminate")
            self.progress.start(TURN_MS)
        elif not should_turn and self._is_turning:
            self.progress.stop()
        self._is_turning = should_turn

    def _show_busy(self, is_busy: bool) -> None:
        if is_busy != self._is_busy:
            self._is_busy = is_busy
            for widget in (self.progress, self.cancel_button):
                widget.grid() if is_busy else widget.grid_remove()
            self._wrap()

    def _wrap(self) -> None:
        """Break a long line where the window or the progress bar begins."""
        room = self.progress.winfo_reqwidth() + self.cancel_button.winfo_reqwidth() + self._margin
        width = self.frame.winfo_width() - (room if self._is_busy else 0)
        self.label.configure(wraplength=max(1, width))

    def close(self) -> None:
        """Stop the bar."""
        self.progress.stop()
