"""Where a sound stands: its grain before and after, among the sounds that the model learned from.

A strip with a logarithmic axis of grain, from smooth on the right to texture on the left as on the slider, a histogram
of the library, and two marks.
"""

from __future__ import annotations

import math
import tkinter as tk
from itertools import pairwise

import numpy as np

from neural_grain.data.histogram import GrainHistogram
from neural_grain.session.library_state import LibraryState
from neural_grain.window.canvas_view import CanvasView
from neural_grain.window.theme import SMALL_FONT, Palette

HEIGHT, MARGIN, AXIS = 48, 14, 19  # pixels of a standard screen
GRAINS = (0.1, 0.01, 0.001, 0.0001)  # that have a label
RANGE = (0.6, 0.00004)  # grain at both ends: white noise reads 0.56


class LibraryStrip(CanvasView):
    """A canvas with the histogram and the marks.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    """

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float):
        super().__init__(parent, palette, scale, 300, HEIGHT)
        self._state = LibraryState()
        self.canvas.bind("<Configure>", lambda _: self.draw())

    def x_of(self, grain: float) -> float:
        """Pixel column of a grain; beyond the axis it is that of the nearest end."""
        first, last = (math.log2(each) for each in RANGE)
        share = (math.log2(max(grain, 1e-12)) - first) / (last - first)
        margin = self.px(MARGIN)
        return margin + (self.canvas.winfo_width() - 2 * margin) * min(max(share, 0.0), 1.0)

    def show(self, state: LibraryState) -> None:
        """Show another state."""
        if state != self._state:
            self._state = state
            self.draw()

    def draw(self) -> None:
        """Draw everything."""
        canvas, p, px, state = self.canvas, self.palette, self.px, self._state
        self.clear()
        base = px(HEIGHT - AXIS)
        small = {"font": SMALL_FONT, "fill": p.muted}
        canvas.create_line(px(MARGIN), base, canvas.winfo_width() - px(MARGIN), base, fill=p.line)
        for grain in GRAINS:
            x = self.x_of(grain)
            canvas.create_line(x, base, x, base + px(3), fill=p.line)
            canvas.create_text(x, base + px(4), text=f"{grain:g}", anchor="n", **small)
        text = "grain" if state.histogram is None else "grain of the sounds that were learned"
        canvas.create_text(px(MARGIN), px(1), text=text, anchor="nw", tags="title", **small)
        if state.histogram is not None:
            self._draw_histogram(state.histogram, base)
        if state.before is not None:
            self._draw_mark(state.before, "before", p.muted, base, is_low=False)
        if state.after is not None:
            colour = p.achieved if state.is_measured else p.accent
            self._draw_mark(state.after, "after", colour, base, is_low=True)

    def _draw_histogram(self, histogram: GrainHistogram, base: int) -> None:
        largest, room = max(1, *histogram.counts), base - self.px(4)
        for (low, high), count in zip(pairwise(np.exp2(histogram.log2_edges)), histogram.counts, strict=True):
            if count:
                box = self.x_of(high) + 1, base - max(2, room * count / largest), self.x_of(low), base
                self.canvas.create_rectangle(*box, fill=self.palette.line, outline="", tags="histogram")

    def _draw_mark(self, grain: float, name: str, colour: str, base: int, *, is_low: bool) -> None:
        canvas, px, x = self.canvas, self.px, self.x_of(grain)
        canvas.create_line(x, px(4), x, base, fill=colour, width=px(2), tags=("mark", name))
        is_right = x < canvas.winfo_width() - px(90)
        place = x + (px(5) if is_right else -px(5)), px(14 if is_low else 1)
        text = f"{name} {grain:.2g}"
        canvas.create_text(
            *place, text=text, anchor="nw" if is_right else "ne", font=SMALL_FONT, fill=colour, tags=("label", name)
        )
