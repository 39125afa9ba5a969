"""The lane of the curve: the slider over time, drawn by hand, and what each second of the sound achieved.

The lane has the time axis of the pictures. Its points are edited with the mouse and with keys through a `CurveEditor`;
after every edit the lane draws itself and tells the window. It knows nothing else of the window.
"""

from __future__ import annotations

import math
import tkinter as tk
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from neural_grain.app.curve_editor import CurveEditor
from neural_grain.app.panels import PANEL
from neural_grain.app.picture import time_ticks
from neural_grain.app.theme import ACCENT, Palette
from neural_grain.dsp.curve import SLIDER_RANGE
from neural_grain.dsp.move_curve import MISSED, OUT_OF_REACH, SILENT, GrainContour

HINT = "double-click to add a point, right-click for shapes and files"
SHIFT = 1  # the bit of the key in the state of a Tk event


@dataclass(frozen=True)
class LaneSettings:
    """How the lane follows mouse and keys. Lengths are in pixels of a standard screen."""

    hit_radius: int = 8  # around a point, within which the mouse takes it
    point_radius: int = 4
    fine_factor: float = 0.1  # of all moves while Shift is held
    key_s: float = 0.05  # by which a key moves a point
    key_span_share: float = 0.005  # of the time shown, where that is less
    key_octaves: float = 0.05
    max_drawn: int = 4000  # points; of more, some are left out


@dataclass(frozen=True)
class LaneCallbacks:
    """What the lane asks of the window.

    Attributes
    ----------
    edited : the points have changed
    zoom : (seconds, factor) -> None, as `PicturePanel.zoom`
    show_menu : (x, y) on the screen -> None
    """

    edited: Callable[[], None]
    zoom: Callable[[float, float], None]
    show_menu: Callable[[int, int], None]


@dataclass
class Drag:
    """A press on a point: where the mouse was last, and where it has taken the point if nothing stopped it."""

    x: int
    y: int
    seconds: float
    octaves: float
    gesture: object  # of the edits that are undone together


LANE = LaneSettings()


class CurveLane:
    """A canvas with the curve, its points, and the contour that was measured.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    callbacks : LaneCallbacks

    Attributes
    ----------
    editor : CurveEditor
    span : tuple of float, first and last second shown
    is_enabled : bool, whether there is a sound whose curve can be edited
    palette : Palette
    """

    LEFT, TOP, RIGHT, BOTTOM = 52, 20, 72, 22  # margins: those of the pictures, and of their colour bar on the right
    HEIGHT = 156

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float, callbacks: LaneCallbacks):
        self._callbacks, self.palette, self._scale = callbacks, palette, scale
        self.editor = CurveEditor()
        self.span = (0.0, 1.0)
        self.is_enabled = False
        self._contour: GrainContour | None = None
        self._is_current = False  # whether the contour is that of the curve as it is
        self._playhead_s: float | None = None
        self._drag: Drag | None = None
        self._pointer_s: float | None = None  # time under the mouse
        self._redraw: str | None = None
        self.canvas = tk.Canvas(parent, highlightthickness=0, width=300, height=self.px(self.HEIGHT), takefocus=True)
        self._bind()

    def _bind(self) -> None:
        bind, out = self.canvas.bind, 1 / PANEL.zoom_factor
        bind("<Configure>", lambda _: self.draw_soon())
        bind("<Button-1>", self._on_press)
        bind("<Double-Button-1>", self._on_double_click)
        bind("<Triple-Button-1>", self._on_press)  # Tk would take the third press for another double-click
        bind("<B1-Motion>", self._on_drag)
        bind("<ButtonRelease-1>", lambda _: self._end_drag())
        bind("<Motion>", lambda event: self._point_at(self.seconds_at(event.x)))
        bind("<Leave>", lambda _: self._point_at(None))
        for button in ("<Button-2>", "<Button-3>"):  # the right one is the second on macOS
            bind(button, lambda event: self._callbacks.show_menu(event.x_root, event.y_root))
        bind("<Button-4>", lambda event: self._callbacks.zoom(self.seconds_at(event.x), PANEL.zoom_factor))
        bind("<Button-5>", lambda event: self._callbacks.zoom(self.seconds_at(event.x), out))
        bind(
            "<MouseWheel>",
            lambda event: self._callbacks.zoom(self.seconds_at(event.x), PANEL.zoom_factor if event.delta > 0 else out),
        )
        for key, seconds, octaves in (("Left", -1, 0), ("Right", 1, 0), ("Up", 0, 1), ("Down", 0, -1)):
            bind(f"<{key}>", lambda event, seconds=seconds, octaves=octaves: self._nudge(event, seconds, octaves))
        for key in ("<Delete>", "<BackSpace>"):
            bind(key, lambda _: self.remove_selected())

    def px(self, n: float) -> int:
        """Pixels of this screen for ``n`` of a standard screen."""
        return round(n * self._scale)

    @property
    def _box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the axes, in pixels."""
        left, top = self.px(self.LEFT), self.px(self.TOP)
        right = self.canvas.winfo_width() - self.px(self.RIGHT)
        return left, top, max(left + 1, right), max(top + 1, self.canvas.winfo_height() - self.px(self.BOTTOM))

    @property
    def _seconds_per_pixel(self) -> float:
        left, _, right, _ = self._box
        return (self.span[1] - self.span[0]) / (right - left)

    @property
    def _octaves_per_pixel(self) -> float:
        _, top, _, bottom = self._box
        return 2 * SLIDER_RANGE / (bottom - top)

    def seconds_at(self, x: float) -> float:
        """Time at a pixel column; beyond the axes it is the nearest end of the span."""
        seconds = self.span[0] + (x - self._box[0]) * self._seconds_per_pixel
        return min(max(seconds, self.span[0]), self.span[1])

    def octaves_at(self, y: float) -> float:
        """Position of the slider at a pixel row, -3 to +3."""
        octaves = SLIDER_RANGE - (y - self._box[1]) * self._octaves_per_pixel
        return min(max(octaves, -SLIDER_RANGE), SLIDER_RANGE)

    def x_at(self, seconds: float) -> float:
        """Pixel column of a time."""
        return self._box[0] + (seconds - self.span[0]) / self._seconds_per_pixel

    def y_at(self, octaves: float) -> float:
        """Pixel row of a position of the slider; beyond the axes it is that of the nearest end."""
        octaves = min(max(octaves, -SLIDER_RANGE), SLIDER_RANGE)
        return self._box[1] + (SLIDER_RANGE - octaves) / self._octaves_per_pixel

    @property
    def is_drawn(self) -> bool:
        """Whether what is on the screen is up to date."""
        return self._redraw is None

    def begin(self, duration_s: float) -> None:
        """Begin with a sound of some length, without points."""
        self._end_drag()
        self.editor.begin(duration_s)
        self.draw_soon()

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

    def _on_press(self, event: tk.Event) -> None:
        """Select the point under the mouse, which a drag may move, or none."""
        self.canvas.focus_set()
        self._drag = None
        if self.is_enabled:
            self.editor.select(self._point_near(event.x, event.y))
            self._begin_drag(event, object())
            self.draw_soon()

    def _on_double_click(self, event: tk.Event) -> None:
        """Remove the point under the mouse, or add one, which a drag may move."""
        if not self.is_enabled:
            return
        gesture = object()
        if (number := self._point_near(event.x, event.y)) is not None:
            self.editor.select(number)
            self.remove_selected()
        elif self.editor.add(self.seconds_at(event.x), self.octaves_at(event.y), gesture):
            self._begin_drag(event, gesture)
            self._edited()

    def _point_near(self, x: float, y: float) -> int | None:
        """Number of the point that is nearest to a pixel, within reach of the mouse."""
        radius = self.px(LANE.hit_radius)
        first, last = self._numbers_between(*(self.seconds_at(x + side * radius) for side in (-1, 1)))
        distances = {
            i: math.hypot(self.x_at(seconds) - x, self.y_at(octaves) - y)
            for i, (seconds, octaves) in enumerate(self.editor.points[first:last], first)
        }
        nearest = min(distances, key=distances.get, default=None)
        return nearest if nearest is not None and distances[nearest] <= radius else None

    def _numbers_between(self, start_s: float, stop_s: float) -> tuple[int, int]:
        """Numbers of the first point from a time on, and of the first one after another time."""
        points = self.editor.points
        first = bisect_left(points, start_s, key=lambda point: point[0])
        return first, bisect_right(points, stop_s, key=lambda point: point[0])

    def _begin_drag(self, event: tk.Event, gesture: object) -> None:
        if self.editor.selected_point is not None:
            self._drag = Drag(event.x, event.y, *self.editor.selected_point, gesture)

    def _on_drag(self, event: tk.Event) -> None:
        drag = self._drag
        if drag is None or self.editor.selected is None:
            return
        factor = LANE.fine_factor if event.state & SHIFT else 1.0
        drag.seconds += factor * (event.x - drag.x) * self._seconds_per_pixel
        drag.octaves -= factor * (event.y - drag.y) * self._octaves_per_pixel
        drag.x, drag.y = event.x, event.y
        self._move(drag.seconds, drag.octaves, drag.gesture)

    def _end_drag(self) -> None:
        self._drag = None

    def _nudge(self, event: tk.Event, seconds: int, octaves: int) -> str:
        """Move the selected point by a key."""
        if self.is_enabled and self.editor.selected is not None and self._drag is None:
            factor = LANE.fine_factor if event.state & SHIFT else 1.0
            step_s = min(LANE.key_s, LANE.key_span_share * (self.span[1] - self.span[0]))
            at_s, at_octaves = self.editor.selected_point
            self._move(at_s + factor * step_s * seconds, at_octaves + factor * LANE.key_octaves * octaves, "key")
        return "break"

    def _move(self, seconds: float, octaves: float, gesture: object) -> None:
        points = self.editor.points
        self.editor.move(seconds, octaves, gesture)
        if self.editor.points is not points:
            self._edited()

    def remove_selected(self) -> None:
        """Remove the selected point, if there is one."""
        if self.is_enabled and self.editor.selected is not None:
            self._end_drag()
            self.editor.remove()
            self._edited()

    def _edited(self) -> None:
        self.draw_soon()
        self._callbacks.edited()

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
        canvas = self.canvas
        canvas.delete("all")
        canvas.configure(background=self.palette.background)
        self._draw_axes()
        if self.is_enabled:
            if self._contour is not None:
                self._draw_contour()
            self._draw_curve()
            self._mark()

    def _draw_axes(self) -> None:
        canvas, palette, px = self.canvas, self.palette, self.px
        left, top, right, bottom = self._box
        canvas.create_text(left + px(6), top / 2, text="curve", anchor="w", fill=palette.text)
        canvas.create_text(right, top / 2, text=self._readout_text(), anchor="e", fill=palette.text, tags="readout")
        canvas.create_rectangle(left, top, right, bottom, outline=palette.line)
        if not self.is_enabled:
            return
        for octaves in range(-int(SLIDER_RANGE), int(SLIDER_RANGE) + 1):
            y = self.y_at(octaves)
            if abs(octaves) < SLIDER_RANGE:
                canvas.create_line(left, y, right, y, fill=palette.line if octaves == 0 else palette.trough)
            if octaves in (-SLIDER_RANGE, 0, SLIDER_RANGE):
                canvas.create_line(left - px(4), y, left, y, fill=palette.line)
                canvas.create_text(
                    left - px(6), y, text=f"{octaves:+d}" if octaves else "0", anchor="e", fill=palette.text
                )
        canvas.create_text(left + px(6), top + px(4), text="smooth", anchor="nw", fill=palette.line)
        canvas.create_text(left + px(6), bottom - px(4), text="texture", anchor="sw", fill=palette.line)
        for seconds in time_ticks(*self.span, (right - left) // px(90)):
            x = self.x_at(seconds)
            canvas.create_line(x, bottom, x, bottom + px(4), fill=palette.line)
            canvas.create_text(x, bottom + px(12), text=f"{seconds:g}", fill=palette.text)

    def _draw_contour(self) -> None:
        """A step for each second; those that were missed are dashed, silent ones are grey all over."""
        contour, palette, canvas = self._contour, self.palette, self.canvas
        left, top, right, bottom = self._box
        colour = palette.achieved if self._is_current else palette.line
        states, achieved = contour.states, contour.achieved_octaves
        # A constant curve moves the whole sound by the same amounts, so single seconds have no request to miss.
        has_requests = not (self.editor.curve and self.editor.curve.is_constant)
        found = set()
        for i in range(self._second_at(self.span[0]), self._second_at(self.span[1]) + 1):
            end_s = self.editor.duration_s if i == len(states) - 1 else i + 1
            start, stop = (min(max(self.x_at(s), left), right) for s in (i, end_s))
            if stop <= start:
                continue
            is_missed = has_requests and states[i] in (OUT_OF_REACH, MISSED)
            found.add("missed" if is_missed else "silent" if states[i] == SILENT else "got")
            if states[i] == SILENT:
                canvas.create_rectangle(
                    start + 1, top + 1, stop, bottom, fill=palette.trough, outline="", tags=("contour", "silent")
                )
                continue
            y = self.y_at(achieved[i])
            canvas.create_line(
                start,
                y,
                stop,
                y,
                fill=palette.error if is_missed and self._is_current else colour,
                width=self.px(4),
                dash=(self.px(6), self.px(6)) if is_missed else (),  # a line of this width closes shorter gaps
                tags=("contour", "missed" if is_missed else "moved"),
            )
        colours = {"got": colour, "missed": palette.error if self._is_current else colour, "silent": palette.line}
        self._draw_legend([("asked", ACCENT), *((name, colours[name]) for name in colours if name in found)])

    def _draw_legend(self, entries: list[tuple[str, str]]) -> None:
        """Names of what is drawn, right of the axes, in their colours."""
        _, top, right, _ = self._box
        for i, (text, fill) in enumerate(entries):
            self.canvas.create_text(
                right + self.px(8), top + self.px(6 + 18 * i), text=text, anchor="w", fill=fill, tags="legend"
            )

    def _draw_curve(self) -> None:
        canvas, palette, px, points = self.canvas, self.palette, self.px, self.editor.points
        left, top, right, bottom = self._box
        if not points:
            canvas.create_text((left + right) / 2, top + (bottom - top) / 4, text=HINT, fill=palette.text, tags="hint")
            return
        first, last = self._numbers_between(*self.span)
        stride = max(1, (last - first) // LANE.max_drawn)
        octaves_at = self.editor.curve.octaves_at
        line = [
            (self.x_at(seconds), self.y_at(octaves))
            for seconds, octaves in zip(self.span, octaves_at(self.span), strict=True)
        ]
        line[1:1] = [(self.x_at(seconds), self.y_at(octaves)) for seconds, octaves in points[first:last:stride]]
        canvas.create_line(*line, fill=ACCENT, width=px(2), tags="curve")
        for i in range(first, last, stride):
            self._draw_point(i)
        if self.editor.selected_point is not None and first <= self.editor.selected < last:
            self._draw_point(self.editor.selected)
            self._draw_value()

    def _draw_point(self, i: int) -> None:
        seconds, octaves = self.editor.points[i]
        x, y, is_selected = self.x_at(seconds), self.y_at(octaves), i == self.editor.selected
        r = self.px(LANE.point_radius + is_selected)
        self.canvas.create_oval(
            x - r,
            y - r,
            x + r,
            y + r,
            fill=ACCENT if is_selected else self.palette.background,
            outline=ACCENT,
            width=self.px(2),
            tags=("point", "selected") if is_selected else "point",
        )

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
