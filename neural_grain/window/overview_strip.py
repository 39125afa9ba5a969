"""The whole waveform of a sound in a narrow strip: what the pictures show of it, the loop, and the playhead.

A drag inside the bright part moves it, and a click elsewhere goes there. The strip knows the window only by
`OverviewCallbacks`.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageTk

from neural_grain.window.canvas_view import CanvasView
from neural_grain.window.picture import PictureView
from neural_grain.window.theme import Palette

HEIGHT = 44  # pixels of a standard screen
CLICK_PIXELS = 4  # a press that moves no farther is a click


@dataclass(frozen=True)
class OverviewCallbacks:
    """What the overview asks of the window.

    Attributes
    ----------
    seek : seconds -> None
    pan : first second to show -> None
    """

    seek: Callable[[float], None]
    pan: Callable[[float], None]


class OverviewStrip(CanvasView):
    """A canvas with the waveform of a whole sound.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    callbacks : OverviewCallbacks
    """

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float, callbacks: OverviewCallbacks):
        super().__init__(parent, palette, scale, 300, HEIGHT)
        self._callbacks = callbacks
        self._peaks: np.ndarray | None = None
        self._duration_s = 0.0
        self._span = (0.0, 1.0)
        self._selection_s: tuple[float, float] | None = None
        self._playhead_s: float | None = None
        self._image: ImageTk.PhotoImage | None = None
        self._press: tuple[int, float] | None = None  # pixel column, and first second shown when it went down
        bind = self.canvas.bind
        bind("<Configure>", lambda _: self.draw())
        bind("<Button-1>", self._on_press)
        bind("<B1-Motion>", self._on_drag)
        bind("<ButtonRelease-1>", self._on_release)

    @property
    def _box(self) -> tuple[int, int]:
        """First pixel column of the waveform, and the one after the last."""
        left = self.px(PictureView.LEFT)
        return left, max(left + 1, self.canvas.winfo_width() - self.px(PictureView.RIGHT))

    def x_at(self, seconds: float) -> float:
        """Pixel column of a time."""
        left, right = self._box
        return left + (right - left) * seconds / max(self._duration_s, 1e-9)

    def seconds_at(self, x: float) -> float:
        """Time at a pixel column; beyond the sound it is the nearest end."""
        left, right = self._box
        return min(max(0.0, (x - left) / (right - left)), 1.0) * self._duration_s

    def show_sound(self, peaks: np.ndarray | None, duration_s: float) -> None:
        """Show another sound.

        Parameters
        ----------
        peaks : np.ndarray, shape (2, n), smallest and largest sample of n equal parts, full scale 1.0; None for no sound
        """
        if peaks is not self._peaks or duration_s != self._duration_s:
            self._peaks, self._duration_s = peaks, duration_s
            self.draw()

    def follow(
        self, span: tuple[float, float], selection_s: tuple[float, float] | None, playhead_s: float | None
    ) -> None:
        """Show which part the pictures show, the loop and the playhead."""
        if (span, selection_s) != (self._span, self._selection_s):
            self._span, self._selection_s = span, selection_s
            self._draw_marks()
        if playhead_s != self._playhead_s:
            self._playhead_s = playhead_s
            self._draw_playhead()

    def draw(self) -> None:
        """Draw everything."""
        canvas = self.canvas
        self.clear()
        if self._peaks is not None:
            left, right = self._box
            picture = waveform_picture(self._peaks, (right - left, self.px(HEIGHT)), self.palette)
            self._image = ImageTk.PhotoImage(picture, master=canvas)
            canvas.create_image(left, 0, image=self._image, anchor="nw", tags="waveform")
        self._draw_marks()

    def _draw_marks(self) -> None:
        """Shade what the pictures do not show, and frame the loop."""
        canvas, p, (left, right) = self.canvas, self.palette, self._box
        bottom = self.px(HEIGHT)
        canvas.delete("mark")
        if self._peaks is None:
            return
        start, stop = (min(max(self.x_at(s), left), right) for s in self._span)
        if stop - start < right - left - 1:
            for a, b in ((left, start), (stop, right)):
                canvas.create_rectangle(
                    a, 0, b, bottom, fill=p.background, outline="", stipple="gray50", tags=("mark", "outside")
                )
            frame = start, 0, stop - 1, bottom - 1
            canvas.create_rectangle(*frame, outline=p.muted, width=self.px(1), tags=("mark", "window"))
        if self._selection_s is not None:
            a, b = (self.x_at(s) for s in self._selection_s)
            y = self.px(2)
            canvas.create_line(a, y, max(b, a + 1), y, fill=p.accent, width=self.px(4), tags=("mark", "loop"))
        self._draw_playhead()

    def _draw_playhead(self) -> None:
        canvas = self.canvas
        canvas.delete("playhead")
        if self._playhead_s is not None and self._peaks is not None:
            x = round(self.x_at(self._playhead_s))
            line = x, 0, x, self.px(HEIGHT)
            canvas.create_line(*line, fill=self.palette.text, width=self.px(1), tags="playhead")

    @property
    def _is_zoomed(self) -> bool:
        return self._span[1] - self._span[0] < self._duration_s * 0.999

    def _on_press(self, event: tk.Event) -> None:
        if self._peaks is not None:
            self._press = event.x, self._span[0]

    def _on_drag(self, event: tk.Event) -> None:
        if self._press is not None and self._is_zoomed and abs(event.x - self._press[0]) > CLICK_PIXELS:
            x, start_s = self._press
            self._callbacks.pan(start_s + self.seconds_at(event.x) - self.seconds_at(x))

    def _on_release(self, event: tk.Event) -> None:
        if self._press is None:
            return
        x, _ = self._press
        self._press = None
        if abs(event.x - x) <= CLICK_PIXELS:
            seconds = self.seconds_at(event.x)
            if self._is_zoomed and not self._span[0] <= seconds <= self._span[1]:
                self._callbacks.pan(seconds - (self._span[1] - self._span[0]) / 2)
            self._callbacks.seek(seconds)


def waveform_picture(peaks: np.ndarray, size: tuple[int, int], palette: Palette) -> Image.Image:
    """Draw smallest and largest samples, shape (2, n), as a waveform of some width and height in pixels."""
    width, height = size
    n = peaks.shape[1]
    starts = np.minimum(np.arange(width) * n // width, n - 1)
    if n >= width:
        low, high = np.minimum.reduceat(peaks[0], starts), np.maximum.reduceat(peaks[1], starts)
    else:
        low, high = peaks[0, starts], peaks[1, starts]
    loudest = max(float(np.abs(peaks).max()), 1e-9)
    middle = (height - 1) / 2
    top, bottom = (middle - 0.92 * middle * each / loudest for each in (high, low))
    rows = np.arange(height)[:, None]
    inside = (rows >= np.floor(top)) & (rows <= np.ceil(bottom))
    pixels = np.where(inside[..., None], ImageColor.getrgb(palette.muted), ImageColor.getrgb(palette.surface))
    return Image.fromarray(pixels.astype(np.uint8))
