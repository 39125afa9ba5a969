"""Draws the lane of the curve: the slider over time, with its points, and what each second of the sound achieved.

A view converts between pixels and seconds and octaves, and draws when something has changed. What mouse and keys do is in
`window/lane`.
"""

from __future__ import annotations

import tkinter as tk
from bisect import bisect_left, bisect_right

import numpy as np

from neural_grain.dsp.curve import SLIDER_RANGE
from neural_grain.dsp.move_curve import MISSED, OUT_OF_REACH, SILENT, GrainContour
from neural_grain.session.curve_editor import CurveEditor
from neural_grain.window.canvas_view import CanvasView
from neural_grain.window.picture import ColourBar, PictureView, time_ticks
from neural_grain.window.theme import BODY_FONT, SMALL_FONT, Palette

HINT = "double-click to add a point, right-click for shapes and files"
MAX_DRAWN = 4000  # points; of more, some are left out
POINT_RADIUS, DENSE_RADIUS = 4, 2  # in pixels of a standard screen
ROOM = 24  # of a point; points with less are drawn smaller


class LaneView(CanvasView):
    """A canvas with the curve, its points, and the contour that was measured.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen

    Attributes
    ----------
    editor : CurveEditor, whose points are shown
    span : tuple of float, first and last second shown
    is_enabled : bool, whether there is a sound that the curve belongs to
    """

    # Margins: those of the pictures, and of their colour bar on the right.
    LEFT, TOP, BOTTOM = PictureView.LEFT, PictureView.TOP, PictureView.BOTTOM
    RIGHT = PictureView.RIGHT + ColourBar.WIDTH
    HEIGHT = 156

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float):
        super().__init__(parent, palette, scale, 300, self.HEIGHT, takefocus=True)
        self.editor = CurveEditor()
        self.span = (0.0, 1.0)
        self.is_enabled = False
        self._contour: GrainContour | None = None
        self._is_current = False  # whether the contour is that of the curve as it is
        self._playhead_s: float | None = None
        self._pointer_s: float | None = None  # time under the mouse
        self._redraw: str | None = None
        for event in ("<Map>", "<Configure>", "<FocusIn>", "<FocusOut>"):
            self.canvas.bind(event, lambda _: self.draw_soon())
        self.canvas.bind("<Motion>", lambda event: self._point_at(self.seconds_at(event.x)))
        self.canvas.bind("<Leave>", lambda _: self._point_at(None))

    @property
    def _box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the axes, in pixels."""
        left, top = self.px(self.LEFT), self.px(self.TOP)
        right = self.canvas.winfo_width() - self.px(self.RIGHT)
        return left, top, max(left + 1, right), max(top + 1, self.canvas.winfo_height() - self.px(self.BOTTOM))

    @property
    def seconds_per_pixel(self) -> float:
        """Time that one pixel column stands for."""
        left, _, right, _ = self._box
        return (self.span[1] - self.span[0]) / (right - left)

    @property
    def octaves_per_pixel(self) -> float:
        """Octaves that one pixel row stands for."""
        _, top, _, bottom = self._box
        return 2 * SLIDER_RANGE / (bottom - top)

    def seconds_at(self, x: float) -> float:
        """Time at a pixel column; beyond the axes it is the nearest end of the span."""
        seconds = self.span[0] + (x - self._box[0]) * self.seconds_per_pixel
        return min(max(seconds, self.span[0]), self.span[1])

    def octaves_at(self, y: float) -> float:
        """Position of the slider at a pixel row, -3 to +3."""
        octaves = SLIDER_RANGE - (y - self._box[1]) * self.octaves_per_pixel
        return min(max(octaves, -SLIDER_RANGE), SLIDER_RANGE)

    def x_at(self, seconds: float | np.ndarray) -> float | np.ndarray:
        """Pixel column of a time."""
        return self._box[0] + (seconds - self.span[0]) / self.seconds_per_pixel

    def y_at(self, octaves: float | np.ndarray) -> float | np.ndarray:
        """Pixel row of a position of the slider; beyond the axes it is that of the nearest end."""
        octaves = np.clip(octaves, -SLIDER_RANGE, SLIDER_RANGE)
        return self._box[1] + (SLIDER_RANGE - octaves) / self.octaves_per_pixel

    @property
    def is_drawn(self) -> bool:
        """Whether what is on the screen is up to date."""
        return self._redraw is None

    def numbers_between(self, start_s: float, stop_s: float) -> tuple[int, int]:
        """Numbers of the first point from a time on, and of the first one after another time."""
        points = self.editor.points
        first = bisect_left(points, start_s, key=lambda point: point[0])
        return first, bisect_right(points, stop_s, key=lambda point: point[0])

    def draw_soon(self) -> None:
        """Draw once all events that wait are handled."""
        if self._redraw is None:
            self._redraw = self.canvas.after_idle(self._draw)

    def cancel_drawing(self) -> None:
        """Forget a drawing that waits, because the window is about to close."""
        if self._redraw is not None:
            self.canvas.after_cancel(self._redraw)
            self._redraw = None

    def show(self, contour: GrainContour | None, *, is_current: bool, is_enabled: bool) -> None:
        """Show what each second achieved.

        Parameters
        ----------
        is_current : bool, whether that was measured for the curve as it is
        is_enabled : bool, whether the curve can be edited
        """
        if contour is self._contour and (is_current, is_enabled) == (self._is_current, self.is_enabled):
            return
        self._contour, self._is_current, self.is_enabled = contour, is_current, is_enabled
        self.draw_soon()

    def follow(self, span: tuple[float, float], playhead_s: float | None) -> None:
        """Show the time that the pictures show, and the playhead."""
        self._playhead_s = playhead_s
        if span != self.span:
            self.span = span
            self.draw_soon()
        self._mark()

    def _point_at(self, seconds: float | None) -> None:
        self._pointer_s = seconds
        if self._redraw is None:
            self.canvas.itemconfigure("readout", text=self._readout_text())

    def _readout_text(self) -> str:
        """What the second under the mouse was asked for and got."""
        if self._contour is None or self._pointer_s is None or not self._is_current:
            return ""
        i = self._second_at(self._pointer_s)
        if self._contour.states[i] == SILENT:
            return f"second {i + 1}: silent"
        asked, got = self._contour.requested_octaves[i], self._contour.achieved_octaves[i]
        state = self._contour.states[i]
        note = f" ({state})" if state in (OUT_OF_REACH, MISSED) else ""
        return f"second {i + 1}: asked {asked:+.2f}, got {got:+.2f}{note}"

    def _second_at(self, seconds: float) -> int:
        """Number of the second of the contour that holds a time; the last may last longer than others."""
        return min(int(seconds), len(self._contour.states) - 1)

    def _draw(self) -> None:
        self._redraw = None
        if not self.canvas.winfo_ismapped():  # the lane is hidden, and drawn once it is shown
            return
        self.clear()
        self._draw_axes()
        if self.is_enabled:
            if self._contour is not None:
                self._draw_contour()
            self._draw_curve()
            self._mark()

    def _draw_axes(self) -> None:
        canvas, palette, px = self.canvas, self.palette, self.px
        left, top, right, bottom = self._box
        canvas.create_text(left, top / 2, text="curve", anchor="w", fill=palette.text, font=BODY_FONT)
        small = {"fill": palette.muted, "font": SMALL_FONT}
        canvas.create_text(right, top / 2, text=self._readout_text(), anchor="e", tags="readout", **small)
        canvas.create_rectangle(left, top, right, bottom, outline=palette.accent if self.has_focus else palette.line)
        if not self.is_enabled:
            return
        for octaves in range(-int(SLIDER_RANGE), int(SLIDER_RANGE) + 1):
            y = self.y_at(octaves)
            if abs(octaves) < SLIDER_RANGE:
                canvas.create_line(left, y, right, y, fill=palette.line if octaves == 0 else palette.surface)
            if octaves in (-SLIDER_RANGE, 0, SLIDER_RANGE):
                canvas.create_line(left - px(4), y, left, y, fill=palette.line)
                canvas.create_text(left - px(6), y, text=f"{octaves:+d}" if octaves else "0", anchor="e", **small)
        canvas.create_text(left + px(6), top + px(4), text="smooth", anchor="nw", **small)
        canvas.create_text(left + px(6), bottom - px(4), text="texture", anchor="sw", **small)
        for seconds in time_ticks(*self.span, (right - left) // px(90)):
            x = self.x_at(seconds)
            canvas.create_line(x, bottom, x, bottom + px(4), fill=palette.line)
            canvas.create_text(x, bottom + px(11), text=f"{seconds:g}", **small)

    def _draw_contour(self) -> None:
        """A step for each second; those that were missed are dashed, silent ones are grey all over."""
        contour, palette, px = self._contour, self.palette, self.px
        left, top, right, bottom = self._box
        first, last = self._second_at(self.span[0]), self._second_at(self.span[1])
        ends_s = np.arange(first, last + 2, dtype=float)
        if last == len(contour.states) - 1:  # the last second ends with the sound
            ends_s[-1] = max(last, self.editor.duration_s)
        x = np.clip(self.x_at(ends_s), left, right)
        start, stop, is_shown = x[:-1], x[1:], x[1:] > x[:-1]
        y, states = self.y_at(contour.achieved_octaves[first : last + 1]), np.array(contour.states)[first : last + 1]
        steps = np.stack((start, y, stop, y), axis=1)
        areas = np.stack((start + 1, np.full(len(y), top + 1), stop, np.full(len(y), bottom)), axis=1)
        # A constant curve moves the whole sound by the same amounts, so single seconds have no request to miss.
        has_requests = not (self.editor.curve and self.editor.curve.is_constant)
        is_silent = is_shown & (states == SILENT)
        is_missed = is_shown & np.isin(states, (OUT_OF_REACH, MISSED)) & has_requests
        is_got = is_shown & ~is_silent & ~is_missed
        got, missed = (palette.achieved, palette.error) if self._is_current else (palette.line, palette.line)
        self.create("rectangle", areas[is_silent], fill=palette.surface, outline="", tags=("contour", "silent"))
        self.create("line", steps[is_got], fill=got, width=px(4), tags=("contour", "moved"))
        dash = px(6), px(6)  # a line of this width closes shorter gaps
        self.create("line", steps[is_missed], fill=missed, width=px(4), dash=dash, tags=("contour", "missed"))
        legend = (("got", got, is_got), ("missed", missed, is_missed), ("silent", palette.line, is_silent))
        self._draw_legend([("asked", palette.accent), *((text, fill) for text, fill, found in legend if found.any())])

    def _draw_legend(self, entries: list[tuple[str, str]]) -> None:
        """Names of what is drawn, right of the axes, in their colours."""
        _, top, right, _ = self._box
        for i, (text, fill) in enumerate(entries):
            self.canvas.create_text(
                right + self.px(8),
                top + self.px(6 + 16 * i),
                text=text,
                anchor="w",
                fill=fill,
                font=SMALL_FONT,
                tags="legend",
            )

    def _draw_curve(self) -> None:
        canvas, palette, px, points = self.canvas, self.palette, self.px, self.editor.points
        left, top, right, bottom = self._box
        if not points:
            canvas.create_text(
                (left + right) / 2, top + (bottom - top) / 4, text=HINT, fill=palette.muted, font=BODY_FONT, tags="hint"
            )
            return
        first, last = self.numbers_between(*self.span)
        stride = max(1, (last - first) // MAX_DRAWN)
        octaves_at = self.editor.curve.octaves_at
        shown = np.array(points[first:last:stride]).reshape(-1, 2)
        seconds = np.concatenate((self.span[:1], shown[:, 0], self.span[1:]))
        octaves = np.concatenate((octaves_at(self.span[:1]), shown[:, 1], octaves_at(self.span[1:])))
        line = np.stack((self.x_at(seconds), self.y_at(octaves)), axis=1)
        canvas.create_line(*line.ravel().tolist(), fill=palette.accent, width=px(2), tags="curve")
        radius = POINT_RADIUS if (right - left) / max(1, last - first) > px(ROOM) else DENSE_RADIUS
        self._draw_points(line[1:-1], radius, palette.background, "point")
        if self.editor.selected_point is not None and first <= self.editor.selected < last:
            seconds, octaves = self.editor.selected_point
            place = np.array([[self.x_at(seconds), self.y_at(octaves)]])
            self._draw_points(place, POINT_RADIUS + 1, palette.accent, ("point", "selected"))
            self._draw_value()

    def _draw_points(self, places: np.ndarray, radius: int, fill: str, tags: str | tuple[str, ...]) -> None:
        """Draw points at some pixels, shape (n, 2)."""
        r = self.px(radius)
        boxes = np.concatenate((places - r, places + r), axis=1)
        self.create("oval", boxes, fill=fill, outline=self.palette.accent, width=self.px(2), tags=tags)

    def _draw_value(self) -> None:
        """Time and position of the selected point, beside it and within the axes."""
        seconds, octaves = self.editor.selected_point
        left, top, right, _ = self._box
        x, y = self.x_at(seconds), self.y_at(octaves)
        is_right, is_low = x < (left + right) / 2, y < top + self.px(28)
        gap = self.px(10)
        text = self.canvas.create_text(
            x + (gap if is_right else -gap),
            y + (gap if is_low else -gap),
            text=f"{seconds:.2f} s  {octaves:+.2f}",
            anchor=("n" if is_low else "s") + ("w" if is_right else "e"),
            fill=self.palette.text,
            font=SMALL_FONT,
            tags="value",
        )
        x0, y0, x1, y1 = self.canvas.bbox(text)
        back = self.canvas.create_rectangle(
            x0 - self.px(3), y0 - 1, x1 + self.px(3), y1 + 1, fill=self.palette.background, outline=self.palette.line
        )
        self.canvas.tag_raise(text, back)

    def _mark(self) -> None:
        """Draw the playhead."""
        if self._redraw is not None:
            return
        playhead_s, canvas = self._playhead_s, self.canvas
        is_visible = self.is_enabled and playhead_s is not None and self.span[0] <= playhead_s <= self.span[1]
        if not is_visible:
            canvas.delete("playhead")
            return
        _, top, _, bottom = self._box
        x = round(self.x_at(playhead_s))
        if canvas.find_withtag("playhead"):
            if canvas.coords("playhead")[0] != x:
                canvas.coords("playhead", x, top, x, bottom)
        else:
            canvas.create_line(x, top, x, bottom, fill=self.palette.text, width=self.px(1), tags="playhead")
