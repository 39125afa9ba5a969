"""A spectrogram and a colour bar on Tk canvases.

A view shows levels, shape (n_mels, columns), for a span of time, with axes for time and frequency. It converts
between pixels and seconds, Hz and mel bands, and draws the playhead and the selection on top. The canvases are drawn
here, because matplotlib takes 100 ms for a picture and the picture has to follow the slider.
"""

from __future__ import annotations

import math
import tkinter as tk

import numpy as np
from PIL import Image, ImageTk

from neural_grain.data.pictures import TICKS_HZ
from neural_grain.window.canvas_view import CanvasView
from neural_grain.window.theme import BODY_FONT, SMALL_FONT, Palette


class PictureView(CanvasView):
    """A spectrogram with axes, playhead and selection.

    Parameters
    ----------
    parent : tk.Misc
    title : str
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen

    Attributes
    ----------
    span : tuple of float, first and last second shown
    is_log : bool, whether the frequency axis is logarithmic rather than mel
    band_edges_hz : tuple of float, n_mels + 2 edges of the mel bands
    mark_colour : str, of the playhead and the selection
    """

    LEFT, TOP, RIGHT, BOTTOM = 40, 20, 10, 18  # margins of the axes, in pixels of a standard screen

    def __init__(self, parent: tk.Misc, title: str, palette: Palette, scale: float):
        super().__init__(parent, palette, scale, 100, 30)
        self.title = title
        self.left, self.top = self.px(self.LEFT), self.px(self.TOP)
        self.span = (0.0, 1.0)
        self.is_log = False
        self.mark_colour = "#ffffff"
        self.band_edges_hz: tuple[float, ...] = ()
        self._image: ImageTk.PhotoImage | None = None
        self._drawn_axes: tuple | None = None  # everything that the axes on the canvas depend on
        self._drawn_marks: list[float | None] | None = None  # pixels of the playhead and of both ends of the selection
        self._band_of_row: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height inside the axes, in pixels."""
        width, height = self.canvas.winfo_width(), self.canvas.winfo_height()
        return max(1, width - self.left - self.px(self.RIGHT)), max(1, height - self.top - self.px(self.BOTTOM))

    @property
    def _centres_hz(self) -> np.ndarray:
        return np.array(self.band_edges_hz[1:-1])

    def seconds_at(self, x: int) -> float:
        """Time at a pixel column; beyond the axes it is the nearest end of the span."""
        share = (x - self.left) / self.size[0]
        return self.span[0] + min(1.0, max(0.0, share)) * (self.span[1] - self.span[0])

    def x_at(self, seconds: float) -> float:
        """Pixel column of a time."""
        return self.left + self.size[0] * (seconds - self.span[0]) / max(1e-9, self.span[1] - self.span[0])

    def hz_at(self, y: int | np.ndarray) -> float | np.ndarray:
        """Frequency at a pixel row; beyond the axes it is that of the nearest end."""
        share, centres = 1 - np.clip((y - self.top) / self.size[1], 0, 1), self._centres_hz
        if self.is_log:
            return centres[0] * (centres[-1] / centres[0]) ** share
        return np.interp(share * len(centres) - 0.5, np.arange(len(centres)), centres)

    def y_at(self, hz: float) -> float:
        """Pixel row of a frequency."""
        centres = self._centres_hz
        if self.is_log:
            share = math.log(hz / centres[0]) / math.log(centres[-1] / centres[0])
        else:
            share = (float(np.interp(hz, centres, np.arange(len(centres)))) + 0.5) / len(centres)
        return self.top + self.size[1] * (1 - share)

    def band_at(self, y: int | np.ndarray) -> int | np.ndarray:
        """Mel band at a pixel row."""
        return np.abs(self._centres_hz - np.asarray(self.hz_at(y))[..., None]).argmin(axis=-1)

    def draw(self, levels: np.ndarray, colours: np.ndarray) -> None:
        """Show a picture with its axes.

        Parameters
        ----------
        levels : np.ndarray, shape (n_mels, columns), within 0 to 1
        colours : np.ndarray, shape (256, 3), uint8
        """
        width, height = self.size
        axes = (self.size, self.span, self.is_log, self.band_edges_hz, self.title, self.palette)
        if axes != self._drawn_axes:
            self._drawn_axes, self._drawn_marks = axes, None
            self._band_of_row = self.band_at(self.top + np.arange(height))
            self._draw_axes()
        columns = np.arange(width) * levels.shape[1] // width
        bands = colours[np.clip(levels * 255, 0, 255).astype(np.uint8)[:, columns]]
        picture = Image.fromarray(np.take(bands, self._band_of_row, axis=0))
        if self._image is not None and (self._image.width(), self._image.height()) == self.size:
            self._image.paste(picture)
            return
        self._image = ImageTk.PhotoImage(picture, master=self.canvas)
        self.canvas.itemconfigure("picture", image=self._image)

    def _draw_axes(self) -> None:
        canvas, palette, px = self.canvas, self.palette, self.px
        canvas.delete("all")
        canvas.configure(background=palette.background)
        width, height = self.size
        right, bottom = self.left + width, self.top + height
        small = {"fill": palette.muted, "font": SMALL_FONT}
        canvas.create_text(self.left, self.top / 2, text=self.title, anchor="w", fill=palette.text, font=BODY_FONT)
        image = {} if self._image is None else {"image": self._image}
        canvas.create_image(self.left, self.top, anchor="nw", tags="picture", **image)
        for hz in TICKS_HZ:
            if self.band_edges_hz[1] <= hz <= self.band_edges_hz[-2]:
                y = self.y_at(hz)
                canvas.create_line(self.left - px(4), y, self.left, y, fill=palette.line)
                label = f"{hz // 1000}k" if hz >= 1000 else str(hz)
                canvas.create_text(self.left - px(6), y, text=label, anchor="e", **small)
        for seconds in time_ticks(*self.span, width // px(90)):
            x = self.x_at(seconds)
            canvas.create_line(x, bottom, x, bottom + px(4), fill=palette.line)
            if x + px(12) < self.left + width - px(14):  # the unit is there
                canvas.create_text(x, bottom + px(11), text=f"{seconds:g}", **small)
        canvas.create_text(right, bottom + px(11), text="s", anchor="e", **small)
        canvas.create_text(self.left - px(6), self.top / 2, text="Hz", anchor="e", **small)

    def mark(self, playhead_s: float | None, selection_s: tuple[float, float] | None) -> None:
        """Draw the playhead and the selection, where they are not None."""
        canvas, right, bottom = self.canvas, self.left + self.size[0], self.top + self.size[1]
        marks: list[float | None] = [None, None, None]
        if playhead_s is not None and self.span[0] <= playhead_s <= self.span[1]:
            marks[0] = round(self.x_at(playhead_s))
        if selection_s is not None:
            marks[1:] = (min(max(self.x_at(s), self.left), right) for s in selection_s)
        if marks == self._drawn_marks:
            return
        self._drawn_marks = marks
        canvas.delete("mark")
        playhead_x, start, stop = marks
        colour = self.mark_colour
        if start is not None:
            # Line ends grow with the line's width and would close the gaps of a dash pattern that does not.
            dash = self.px(4), self.px(3)
            canvas.create_rectangle(
                start, self.top, stop, bottom, outline=colour, width=self.px(2), dash=dash, tags="mark"
            )
        if playhead_x is not None:
            canvas.create_line(playhead_x, self.top, playhead_x, bottom, fill=colour, width=self.px(1), tags="mark")


class ColourBar:
    """The levels in dB that the colours of a picture stand for.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    """

    WIDTH = 52  # in pixels of a standard screen

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float):
        self._view = PictureView(parent, "dB", palette, scale)
        self.canvas = self._view.canvas
        self.canvas.configure(width=self._view.px(self.WIDTH))
        self.palette = palette
        self._image: ImageTk.PhotoImage | None = None
        self._drawn: tuple | None = None

    def draw(self, colours: np.ndarray, top_db: float, bottom_db: float, label_format: str) -> None:
        """Show colours, shape (256, 3), from ``bottom_db`` up to ``top_db``, with labels such as ``"+.0f"``."""
        height, px, top = self._view.size[1], self._view.px, self._view.top
        drawn = height, top_db, bottom_db, self.palette
        if drawn == self._drawn:
            return
        self._drawn = drawn
        canvas, small = self.canvas, {"fill": self.palette.muted, "font": SMALL_FONT}
        canvas.delete("all")
        canvas.configure(background=self.palette.background)
        ramp = np.linspace(255, 0, height).round().astype(int)
        picture = Image.fromarray(np.repeat(colours[ramp][:, None], px(8), axis=1))
        self._image = ImageTk.PhotoImage(picture, master=canvas)
        canvas.create_image(px(4), top, image=self._image, anchor="nw")
        for share in (0, 0.25, 0.5, 0.75, 1):
            anchor = {0: "nw", 1: "sw"}.get(share, "w")  # the outermost labels stay within the length of the bar
            text = format(top_db + share * (bottom_db - top_db), label_format)
            canvas.create_text(px(16), top + share * height, text=text, anchor=anchor, **small)
        canvas.create_text(px(4), top / 2, text=self._view.title, anchor="w", **small)


def time_ticks(start_s: float, stop_s: float, n_most: int) -> list[float]:
    """Round times between two others, at most ``n_most`` of them, in steps of 1, 2 or 5 times a power of ten."""
    span = max(1e-6, stop_s - start_s) / max(1, n_most)
    step = 10 ** math.floor(math.log10(span))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span)
    first = math.ceil(start_s / step - 1e-9)
    return [round(i * step, 6) for i in range(first, math.floor(stop_s / step + 1e-9) + 1)]
