"""A level meter with a scale in dB, a mark that stays at the last peak for a while, and a clip light."""

from __future__ import annotations

import math
import tkinter as tk
from collections.abc import Callable

from neural_grain.window.canvas_view import CanvasView
from neural_grain.window.picture import PictureView
from neural_grain.window.theme import SMALL_FONT, Palette

RANGE_DB = 60.0
TICKS_DB = (0, -6, -12, -24, -36, -48, -60)
HOLD_FRAMES = 40  # that the mark stays at a peak, at some 30 frames a second
WIDTH, MIN_HEIGHT, BAR, LIGHT, TICK_ROOM = 44, 60, 8, 10, 14  # pixels of a standard screen


class LevelMeterView(CanvasView):
    """A canvas with the meter.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    reset : called when the clip light is clicked

    Attributes
    ----------
    level_db : float, what is shown, from -60 to 0
    has_clipped : bool, whether the light is on
    """

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float, reset: Callable[[], None]):
        super().__init__(parent, palette, scale, WIDTH, MIN_HEIGHT)
        self.level_db = self._hold_db = -RANGE_DB
        self.has_clipped = False
        self._n_held = 0
        self.canvas.bind("<Configure>", lambda _: self.draw())
        self.canvas.tag_bind("light", "<Button-1>", lambda _: reset())

    def show(self, level_db: float, *, has_clipped: bool) -> None:
        """Show a peak level in dB of full scale."""
        level_db = max(-RANGE_DB, min(0.0, level_db))
        self._n_held += 1
        hold_db = self._hold_db
        if level_db >= hold_db or self._n_held > HOLD_FRAMES:
            hold_db, self._n_held = level_db, 0
        if (level_db, hold_db, has_clipped) != (self.level_db, self._hold_db, self.has_clipped):
            self.level_db, self._hold_db, self.has_clipped = level_db, hold_db, has_clipped
            self._draw_level()

    def _y_at(self, level_db: float) -> float:
        top, bottom = self.px(PictureView.TOP), self.canvas.winfo_height() - self.px(PictureView.BOTTOM)
        return top + (bottom - top) * -level_db / RANGE_DB

    def draw(self) -> None:
        """Draw everything."""
        canvas, p, px = self.canvas, self.palette, self.px
        self.clear()
        canvas.create_rectangle(px(4), self._y_at(0), px(4 + BAR), self._y_at(-RANGE_DB), fill=p.surface, outline="")
        last_y = -math.inf
        for level_db in TICKS_DB:
            y, text = self._y_at(level_db), str(level_db)
            if y - last_y < px(TICK_ROOM):
                continue
            last_y = y
            anchor = {TICKS_DB[0]: "nw", TICKS_DB[-1]: "sw"}.get(level_db, "w")
            canvas.create_text(px(8 + BAR), y, text=text, anchor=anchor, font=SMALL_FONT, fill=p.muted)
        self._draw_level()

    def _draw_level(self) -> None:
        canvas, p, px = self.canvas, self.palette, self.px
        canvas.delete("level", "light")
        left, right, bottom = px(4), px(4 + BAR), self._y_at(-RANGE_DB)
        if self.level_db > -RANGE_DB:
            box = left, self._y_at(self.level_db), right, bottom
            canvas.create_rectangle(*box, fill=p.achieved, outline="", tags="level")
        if self._hold_db > -RANGE_DB:
            y = self._y_at(self._hold_db)
            canvas.create_line(left, y, right, y, fill=p.text, width=px(2), tags="level")
        light = p.error if self.has_clipped else p.surface
        canvas.create_rectangle(left, px(4), right, px(4 + LIGHT), fill=light, outline="", tags="light")
        if self.has_clipped:
            text = {"text": "clip", "anchor": "w", "font": SMALL_FONT, "fill": p.error}
            canvas.create_text(px(8 + BAR), px(4 + LIGHT / 2), **text, tags="light")
