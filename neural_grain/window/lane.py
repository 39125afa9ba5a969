"""The lane of the curve, edited by hand: what mouse and keys do to the points.

They edit the points through a `CurveEditor`. After every edit the lane draws itself and tells the window; it knows
nothing else of the window.
"""

from __future__ import annotations

import math
import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass

from neural_grain.session.curve_editor import Points
from neural_grain.window.canvas_view import SHIFT
from neural_grain.window.lane_view import LaneView
from neural_grain.window.panels import PANEL
from neural_grain.window.theme import Palette


@dataclass(frozen=True)
class LaneSettings:
    """How the lane follows mouse and keys. Lengths are in pixels of a standard screen."""

    hit_radius: int = 8  # around a point, within which the mouse takes it
    fine_factor: float = 0.1  # of all moves while Shift is held
    key_s: float = 0.05  # by which a key moves a point
    key_span_share: float = 0.005  # of the time shown, where that is less
    key_octaves: float = 0.05


@dataclass(frozen=True)
class LaneCallbacks:
    """What the lane asks of the window.

    Attributes
    ----------
    edited : the points have changed
    edit_done : an edit is over, such as a drag, that is undone as a whole
    zoom : (seconds, factor) -> None, as `PicturePanel.zoom`
    show_menu : (x, y) on the screen -> None
    playhead_s : -> where the sound plays, None without one
    """

    edited: Callable[[], None]
    edit_done: Callable[[], None]
    zoom: Callable[[float, float], None]
    show_menu: Callable[[int, int], None]
    playhead_s: Callable[[], float | None]


@dataclass
class Drag:
    """A press on a point: where the mouse was last, and where it has taken the point if nothing stopped it."""

    x: int
    y: int
    seconds: float
    octaves: float


LANE = LaneSettings()


class CurveLane:
    """A `LaneView` that is edited.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    callbacks : LaneCallbacks

    Attributes
    ----------
    view : LaneView, with the canvas
    editor : CurveEditor
    """

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float, callbacks: LaneCallbacks):
        self._callbacks = callbacks
        self.view = LaneView(parent, palette, scale)
        self.editor = self.view.editor
        self._drag: Drag | None = None
        self._bind()

    def _bind(self) -> None:
        view, bind = self.view, self.view.canvas.bind
        bind("<Button-1>", self._on_press)
        bind("<Double-Button-1>", self._on_double_click)
        bind("<Triple-Button-1>", self._on_press)  # Tk would take the third press for another double-click
        bind("<B1-Motion>", self._on_drag)
        bind("<ButtonRelease-1>", lambda _: self._on_release())
        for button in ("<Button-2>", "<Button-3>"):  # the right one is the second on macOS
            bind(button, lambda event: self._callbacks.show_menu(event.x_root, event.y_root))
        view.bind_wheel(
            lambda event, direction: self._callbacks.zoom(view.seconds_at(event.x), PANEL.zoom_factor**direction)
        )
        for key, seconds, octaves in (("Left", -1, 0), ("Right", 1, 0), ("Up", 0, 1), ("Down", 0, -1)):
            bind(f"<{key}>", lambda event, seconds=seconds, octaves=octaves: self._nudge(event, seconds, octaves))
        for key, step in (("bracketleft", -1), ("bracketright", 1)):
            bind(f"<{key}>", lambda _, step=step: self.select_next(step))
        bind("<Insert>", lambda _: self.add_at_playhead())
        for key in ("<Delete>", "<BackSpace>"):
            bind(key, lambda _: self.remove_selected())

    def begin(self, duration_s: float) -> None:
        """Begin with a sound of some length, without points."""
        self._end_drag()
        self.editor.begin(duration_s)
        self.view.draw_soon()

    def _on_press(self, event: tk.Event) -> None:
        """Select the point under the mouse, which a drag may move, or none."""
        self.view.canvas.focus_set()
        self._drag = None
        if self.view.is_enabled:
            self.editor.select(self._point_near(event.x, event.y))
            self._begin_drag(event)
            self.view.draw_soon()

    def _on_double_click(self, event: tk.Event) -> None:
        """Remove the point under the mouse, or add one, which a drag may move."""
        if not self.view.is_enabled:
            return
        if (number := self._point_near(event.x, event.y)) is not None:
            self.editor.select(number)
            self.remove_selected()
        elif self.editor.add(self.view.seconds_at(event.x), self.view.octaves_at(event.y)):
            self._begin_drag(event)
            self._edited()

    def _point_near(self, x: float, y: float) -> int | None:
        """Number of the point that is nearest to a pixel, within reach of the mouse."""
        view = self.view
        radius = view.px(LANE.hit_radius)
        first, last = view.numbers_between(*(view.seconds_at(x + side * radius) for side in (-1, 1)))
        distances = {
            i: math.hypot(view.x_at(seconds) - x, view.y_at(octaves) - y)
            for i, (seconds, octaves) in enumerate(self.editor.points[first:last], first)
        }
        nearest = min(distances, key=distances.get, default=None)
        return nearest if nearest is not None and distances[nearest] <= radius else None

    def _begin_drag(self, event: tk.Event) -> None:
        if self.editor.selected_point is not None:
            self._drag = Drag(event.x, event.y, *self.editor.selected_point)

    def _on_drag(self, event: tk.Event) -> None:
        drag = self._drag
        if drag is None or self.editor.selected is None:
            return
        factor = LANE.fine_factor if event.state & SHIFT else 1.0
        drag.seconds += factor * (event.x - drag.x) * self.view.seconds_per_pixel
        drag.octaves -= factor * (event.y - drag.y) * self.view.octaves_per_pixel
        drag.x, drag.y = event.x, event.y
        self._move(drag.seconds, drag.octaves)

    @property
    def is_dragged(self) -> bool:
        """Whether the mouse holds a point."""
        return self._drag is not None

    def _end_drag(self) -> None:
        self._drag = None

    def _on_release(self) -> None:
        self._end_drag()
        self._callbacks.edit_done()

    def _nudge(self, event: tk.Event, seconds: int, octaves: int) -> str:
        """Move the selected point by a key."""
        if self.view.is_enabled and self.editor.selected is not None and self._drag is None:
            factor, span = LANE.fine_factor if event.state & SHIFT else 1.0, self.view.span
            step_s = min(LANE.key_s, LANE.key_span_share * (span[1] - span[0]))
            at_s, at_octaves = self.editor.selected_point
            self._move(at_s + factor * step_s * seconds, at_octaves + factor * LANE.key_octaves * octaves)
        return "break"

    def _move(self, seconds: float, octaves: float) -> None:
        points = self.editor.points
        self.editor.move(seconds, octaves)
        if self.editor.points is not points:
            self._edited()

    def select_next(self, step: int) -> None:
        """Select the next point, or with a step of -1 the one before; without a selection the first or the last."""
        n, selected = len(self.editor.points), self.editor.selected
        if self.view.is_enabled and n:
            first = 0 if step > 0 else n - 1
            self.editor.select(first if selected is None else min(max(selected + step, 0), n - 1))
            self.view.draw_soon()

    def add_at_playhead(self) -> None:
        """Add a point on the curve where the sound plays, at 0 if there is no curve yet."""
        seconds = self._callbacks.playhead_s()
        if self.view.is_enabled and seconds is not None:
            curve = self.editor.curve
            octaves = 0.0 if curve is None else float(curve.octaves_at((seconds,))[0])
            if self.editor.add(seconds, octaves):
                self._edited()
                self._callbacks.edit_done()

    def remove_selected(self) -> None:
        """Remove the selected point, if there is one."""
        if self.view.is_enabled and self.editor.selected is not None:
            self._end_drag()
            self.editor.remove()
            self._edited()
            self._callbacks.edit_done()

    def edit(self, edit: Callable[[], object]) -> None:
        """Do something with the editor, and show it."""
        self._end_drag()
        edit()
        self._edited()
        self._callbacks.edit_done()

    def show_points(self, points: Points) -> None:
        """Take other points in place of all, as a part of a larger change that the window keeps as one edit."""
        self._end_drag()
        self.editor.replace(points)
        self._edited()

    def _edited(self) -> None:
        self.view.draw_soon()
        self._callbacks.edited()
