"""The range of the slider for the open sound: how far texture alone reaches, how far the rest, and what was measured."""

from __future__ import annotations

import tkinter as tk
from tkinter import ttk

from neural_grain.app.hint import Hint
from neural_grain.app.report import describe_zones
from neural_grain.app.theme import ACCENT, Palette
from neural_grain.dsp.curve import SLIDER_RANGE
from neural_grain.dsp.solver import SliderZones

HEIGHT, BAR, TICK = 18, 5, 4  # pixels of a standard screen: of the strip, its bar, and its ticks


class RangeStrip:
    """A strip below the slider with its ticks, the zones of the open sound, and a mark at the measured value.

    Parameters
    ----------
    parent : tk.Misc
    slider : ttk.Scale, above it and as wide
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen

    Attributes
    ----------
    palette : Palette
    """

    def __init__(self, parent: tk.Misc, slider: ttk.Scale, palette: Palette, scale: float):
        self.palette, self._slider, self._scale = palette, slider, scale
        self._zones: SliderZones | None = None
        self._measured: float | None = None
        self.canvas = tk.Canvas(parent, highlightthickness=0, width=100, height=self._px(HEIGHT))
        self.canvas.bind("<Configure>", lambda _: self.draw())
        Hint(
            self.canvas, lambda: "" if self._zones is None else describe_zones(self._zones), lambda: self.palette, scale
        )

    def _px(self, n: float) -> int:
        return round(n * self._scale)

    def show(self, zones: SliderZones | None, measured: float | None) -> None:
        """Show the zones of a sound, None without one, and the octaves that were measured, None before that."""
        if (zones, measured) != (self._zones, self._measured):
            self._zones, self._measured = zones, measured
            self.draw()

    def draw(self) -> None:
        """Draw everything."""
        canvas, palette = self.canvas, self.palette
        canvas.delete("all")
        canvas.configure(background=palette.background)
        top, bottom = self._px(6), self._px(6 + BAR)

        def bar(low: float, high: float, colour: str) -> None:
            low, high = (min(max(each, -SLIDER_RANGE), SLIDER_RANGE) for each in (low, high))
            if high > low:
                canvas.create_rectangle(self._x(low), top, self._x(high), bottom, fill=colour, outline="", tags="zone")

        bar(-SLIDER_RANGE, SLIDER_RANGE, palette.trough)
        if self._zones is not None:
            faint = mixed(canvas, ACCENT, palette.background, 0.4)
            bar(-self._zones.whole[0], self._zones.whole[1], faint)
            bar(-self._zones.texture[0], self._zones.texture[1], ACCENT)
        for octaves in range(-round(SLIDER_RANGE), round(SLIDER_RANGE) + 1):
            x, length = self._x(octaves), self._px(TICK if octaves else 2 * TICK)
            canvas.create_line(x, bottom, x, bottom + length, fill=palette.text if octaves == 0 else palette.line)
        if self._measured is not None and abs(self._measured) <= SLIDER_RANGE:
            x, size = self._x(self._measured), self._px(5)
            mark = (x, bottom, x - size, bottom + 1.5 * size, x + size, bottom + 1.5 * size)
            canvas.create_polygon(*mark, fill=palette.achieved, outline=palette.background, tags="measured")

    def _x(self, octaves: float) -> float:
        """Pixel column of a position: the middle of the slider's grip there."""
        return float(self._slider.coords(octaves)[0])


def mixed(widget: tk.Misc, colour: str, background: str, share: float) -> str:
    """A colour that lies between two others."""
    pairs = zip(widget.winfo_rgb(colour), widget.winfo_rgb(background), strict=True)
    return "#" + "".join(f"{round((share * a + (1 - share) * b) / 257):02x}" for a, b in pairs)
