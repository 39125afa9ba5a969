"""TODO"""

from __future__ import annotations

import math

import numpy as np

from neural_grain.data.pictures import TICKS_HZ


class PictureView:
    """A spectrogram on a canvas: axes, playhead, selection; drawn by hand, for matplotlib takes 100 ms.

    Parameters
    ----------
    parent : widget
    title : str
    settings : SpectrogramSettings or None, for the frequency axis
    palette : dict of colours
    scale : float, pixels of the screen for one of an ordinary screen
    """

    LEFT, TOP, RIGHT, BOTTOM = 52, 20, 8, 38  # before scaling

    def __init__(self, parent, title: str, palette: dict[str, str], scale: float):
        import tkinter as tk

        self.canvas = tk.Canvas(parent, highlightthickness=0, width=300, height=200)
        self.title, self.palette, self.scale = title, palette, scale
        self.left, self.top = self.px(self.LEFT), self.px(self.TOP)
        self.span = (0.0, 1.0)  # seconds shown
        self.is_log = False
        self.mark_colour = "#ffffff"  # of playhead and selection
        self.edges_hz: tuple[float, ...] = ()
        self._image = None
        self._looks: tuple | None = None  # what the axes that are there depend on
        self._marks: list[float | None] | None = None  # pixels of playhead and selection
        self._rows: np.ndarray | None = None  # band of each pixel row

    def px(self, n: float) -> int:
        """Pixels of this screen."""
        return round(n * self.scale)

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the picture inside its axes."""
        width, height = self.canvas.winfo_width(), self.canvas.winfo_height()
        return max(1, width - self.left - self.px(self.RIGHT)), max(1, height - self.top - self.px(self.BOTTOM))

    def seconds_at(self, x: int) -> float:
        """Time under a pixel, held inside what is shown."""
        share = (x - self.left) / self.size[0]
        return self.span[0] + min(1.0, max(0.0, share)) * (self.span[1] - self.span[0])

    def x_at(self, seconds: float) -> float:
        """Pixel of a time."""
        return self.left + self.size[0] * (seconds - self.span[0]) / max(1e-9, self.span[1] - self.span[0])

    def hz_at(self, y: int | np.ndarray) -> float | np.ndarray:
        """Frequency under a pixel, or some."""
        share = 1 - np.clip((y - self.top) / self.size[1], 0, 1)
        centres = np.array(self.edges_hz[1:-1])
        if self.is_log:
            return centres[0] * (centres[-1] / centres[0]) ** share
        return np.interp(share * len(centres) - 0.5, np.arange(len(centres)), centres)

    def _share_of(self, hz: float) -> float:
        centres = np.array(self.edges_hz[1:-1])
        if self.is_log:
            return math.log(hz / centres[0]) / math.log(centres[-1] / centres[0])
        return (float(np.interp(hz, centres, np.arange(len(centres)))) + 0.5) / len(centres)

    def band_at(self, y: int | np.ndarray) -> int | np.ndarray:
        """Mel band under a pixel, or some."""
        return np.abs(np.array(self.edges_hz[1:-1]) - np.asarray(self.hz_at(y))[..., None]).argmin(axis=-1)

    def draw(self, levels: np.ndarray | None, colours: np.ndarray) -> None:
        """Show levels (n_mels, columns) in [0, 1] in some colours (256, 3), with axes; nothing if None."""
        from PIL import Image, ImageTk

        width, height = self.size
        looks = (self.size, self.span, self.is_log, self.edges_hz, self.title, self.palette["back"], levels is None)
        if looks != self._looks:
            self._looks, self._marks = looks, None
            self._rows = None if levels is None else self.band_at(self.top + np.arange(height))
            self._draw_axes(is_empty=levels is None)
        if levels is None:
            return
        columns = np.arange(width) * levels.shape[1] // width
        bands = colours[np.clip(levels * 255, 0, 255).astype(np.uint8)[:, columns]]
        picture = Image.fromarray(np.take(bands, self._rows, axis=0))
        if self._image is not None and (self._image.width(), self._image.height()) == self.size:
            self._image.paste(picture)
            return
        self._image = ImageTk.PhotoImage(picture, master=self.canvas)
        self.canvas.itemconfigure("picture", image=self._image)

    def _draw_axes(self, *, is_empty: bool) -> None:
        canvas, palette, px = self.canvas, self.palette, self.px
        canvas.delete("all")
        canvas.configure(background=palette["back"])
        width, height = self.size
        right, bottom = self.left + width, self.top + height
        canvas.create_text(self.left + px(6), self.top / 2, text=self.title, anchor="w", fill=palette["text"])
        if is_empty:
            canvas.create_rectangle(self.left, self.top, right, bottom, outline=palette["line"])
            return
        image = {} if self._image is None else {"image": self._image}
        canvas.create_image(self.left, self.top, anchor="nw", tags="picture", **image)
        for hz in TICKS_HZ:
            if self.edges_hz[1] <= hz <= self.edges_hz[-2]:
                y = bottom - height * self._share_of(hz)
                canvas.create_line(self.left - px(4), y, self.left, y, fill=palette["line"])
                label = f"{hz // 1000}k" if hz >= 1000 else str(hz)
                canvas.create_text(self.left - px(6), y, text=label, anchor="e", fill=palette["text"])
        for seconds in time_ticks(*self.span, width // px(90)):
            x = self.x_at(seconds)
            canvas.create_line(x, bottom, x, bottom + px(4), fill=palette["line"])
            canvas.create_text(x, bottom + px(12), text=f"{seconds:g}", fill=palette["text"])
        canvas.create_text(right, bottom + px(26), text="time (s)", anchor="e", fill=palette["text"])
        canvas.create_text(self.left - px(6), self.top / 2, text="Hz", anchor="e", fill=palette["text"])

    def mark(self, playhead_s: float | None, selection_s: tuple[float, float] | None) -> None:
        """Draw the playhead and the selection."""
        canvas, right, bottom = self.canvas, self.left + self.size[0], self.top + self.size[1]
        marks: list[float | None] = [None, None, None]
        if playhead_s is not None and self.span[0] <= playhead_s <= self.span[1]:
            marks[0] = round(self.x_at(playhead_s))
        if selection_s is not None:
            marks[1:] = (min(max(self.x_at(s), self.left), right) for s in selection_s)
        if marks == self._marks:
            return
        self._marks = marks
        canvas.delete("mark")
        head, start, stop = marks
        if start is not None:
            dash = self.px(4), self.px(3)  # grows with the line, whose ends would close the gaps
            canvas.create_rectangle(
                start, self.top, stop, bottom, outline=self.mark_colour, width=self.px(2), dash=dash, tags="mark"
            )
        if head is not None:
            canvas.create_line(head, self.top, head, bottom, fill=self.mark_colour, width=self.px(1), tags="mark")


def time_ticks(start_s: float, stop_s: float, n: int) -> list[float]:
    """At most ``n`` round times from one to another."""
    span = max(1e-6, stop_s - start_s) / max(1, n)
    step = 10 ** math.floor(math.log10(span))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span)
    first = math.ceil(start_s / step - 1e-9)
    return [round(i * step, 6) for i in range(first, math.floor(stop_s / step + 1e-9) + 1)]
