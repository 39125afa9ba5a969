"""The slider, in octaves of grain from -3 (texture) to +3 (smooth), and a field in which the value can be typed.

The trough shows how far the open sound reaches: by its texture alone, with all that moves it, and no farther. A second
mark shows what was measured; it comes to rest at the grip when the sound does what it was asked for.
"""

from __future__ import annotations

import math
import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from tkinter import ttk

from neural_grain.app.report import describe_zones
from neural_grain.dsp.curve import SLIDER_RANGE
from neural_grain.dsp.solver import SliderZones
from neural_grain.window.canvas_view import SHIFT, CanvasView
from neural_grain.window.hint import Hint
from neural_grain.window.theme import SMALL_FONT, SPACE, VALUE_FONT, Palette


@dataclass(frozen=True)
class SliderSettings:
    """How the slider looks and moves. Lengths are in pixels of a standard screen."""

    digits: int = 2  # positions are rounded to hundredths of an octave
    step: float = 0.1  # of a drag and of the wheel, in octaves
    fine_factor: float = 0.1  # of both while Shift is held
    height: int = 54
    margin: int = 14  # left and right of the trough, for the grip
    trough_y: int = 18
    trough: int = 10  # its thickness
    grip: int = 9  # radius
    settle_steps: int = 6  # in which the measured mark goes to its place
    settle_ms: int = 25  # each


SLIDER = SliderSettings()


class GrainSlider(CanvasView):
    """A slider on a canvas.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    on_change : called after every move
    on_release : called when a drag is over

    Attributes
    ----------
    octaves : float, the position
    is_enabled : bool
    """

    def __init__(
        self,
        parent: tk.Misc,
        palette: Palette,
        scale: float,
        on_change: Callable[[], None],
        on_release: Callable[[], None],
    ):
        super().__init__(parent, palette, scale, 200, SLIDER.height, takefocus=True)
        self._on_change, self._on_release = on_change, on_release
        self.octaves = 0.0
        self.is_enabled = True
        self._zones: SliderZones | None = None
        self._measured: float | None = None
        self._shown_measured: float | None = None  # where the mark is on its way there
        self._drag: tuple[int, float] | None = None  # pixel column of the mouse, and the position before rounding
        self._settling: str | None = None
        bind = self.canvas.bind
        bind("<Configure>", lambda _: self.draw())
        bind("<FocusIn>", lambda _: self.draw())
        bind("<FocusOut>", lambda _: self.draw())
        bind("<Button-1>", self._on_press)
        bind("<B1-Motion>", self._on_drag)
        bind("<ButtonRelease-1>", lambda _: self._end_drag())
        self.bind_wheel(self._on_wheel)
        self._hint = ""
        Hint(self.canvas, self._hint_text, lambda: self.palette, scale)

    def set_hint(self, text: str) -> None:
        """Set what the hint says before it describes the zones."""
        self._hint = text

    def _hint_text(self) -> str:
        return self._hint if self._zones is None else f"{self._hint}\n{describe_zones(self._zones)}"

    def x_of(self, octaves: float) -> float:
        """Pixel column of a position."""
        margin = self.px(SLIDER.margin)
        width = max(1, self.canvas.winfo_width() - 2 * margin)
        return margin + width * (octaves + SLIDER_RANGE) / (2 * SLIDER_RANGE)

    def _octaves_at(self, x: float) -> float:
        return (x - self.x_of(0)) / self._octave_px

    @property
    def _octave_px(self) -> float:
        return self.x_of(1) - self.x_of(0)

    def move_to(self, octaves: float) -> None:
        """Move to a position, or to the end that is nearest to it. Does nothing while the slider is disabled."""
        octaves = round(max(-SLIDER_RANGE, min(SLIDER_RANGE, octaves)), SLIDER.digits) + 0.0  # turns -0.0 into 0.0
        if self.is_enabled and octaves != self.octaves:
            self.octaves = octaves
            self.draw()
            self._on_change()

    def show(self, zones: SliderZones | None, measured: float | None, *, is_enabled: bool) -> None:
        """Show the zones of a sound, None without one, and the octaves that were measured, None before that."""
        if (zones, measured, is_enabled) == (self._zones, self._measured, self.is_enabled):
            return
        self._zones, self._measured, self.is_enabled = zones, measured, is_enabled
        self._cancel_settling()
        if measured is None:
            self._shown_measured = None
        elif self._shown_measured is None:
            self._settle(0.0, SLIDER.settle_steps)
        else:
            self._settle(self._shown_measured, SLIDER.settle_steps)
        self.draw()

    def _settle(self, start: float, n_left: int) -> None:
        """Move the mark a part of its way to what was measured."""
        share = (1 - n_left / SLIDER.settle_steps) ** 0.5
        self._shown_measured = start + share * (self._measured - start)
        self._settling = self.canvas.after(SLIDER.settle_ms, self._settle, start, n_left - 1) if n_left else None
        self._draw_measured()

    def _cancel_settling(self) -> None:
        if self._settling is not None:
            self.canvas.after_cancel(self._settling)
            self._settling = None

    @property
    def is_drawn(self) -> bool:
        """Whether the mark has come to rest."""
        return self._settling is None

    def cancel_drawing(self) -> None:
        """Forget what waits to be drawn, because the window is about to close."""
        self._cancel_settling()

    def _on_press(self, event: tk.Event) -> None:
        """Take the grip, or bring it to the mouse."""
        self.canvas.focus_set()
        if not self.is_enabled:
            return
        self._drag = event.x, self.octaves
        if abs(event.x - self.x_of(self.octaves)) > self.px(SLIDER.grip):
            self._drag = event.x, self._octaves_at(event.x)
            self.move_to(_stepped(self._drag[1], event))

    def _on_drag(self, event: tk.Event) -> None:
        if self._drag is None:
            return
        x, position = self._drag
        factor = SLIDER.fine_factor if event.state & SHIFT else 1.0
        position += factor * (event.x - x) / self._octave_px
        self._drag = event.x, max(-SLIDER_RANGE, min(SLIDER_RANGE, position))
        self.move_to(_stepped(position, event))

    def _end_drag(self) -> None:
        self._drag = None
        self._on_release()

    @property
    def is_dragged(self) -> bool:
        """Whether the mouse holds the grip."""
        return self._drag is not None

    def _on_wheel(self, event: tk.Event, direction: int) -> None:
        fine = SLIDER.fine_factor if event.state & SHIFT else 1.0
        self.move_to(self.octaves + direction * fine * SLIDER.step)

    def draw(self) -> None:
        """Draw everything."""
        self.clear()
        self._draw_trough()
        self._draw_scale()
        self._draw_grip()
        self._draw_measured()

    def _draw_trough(self) -> None:
        p, y = self.palette, self.px(SLIDER.trough_y)

        def bar(low: float, high: float, colour: str, tag: str) -> None:
            low, high = (min(max(each, -SLIDER_RANGE), SLIDER_RANGE) for each in (low, high))
            if high > low:
                ends = self.x_of(low), y, self.x_of(high), y
                self.canvas.create_line(*ends, fill=colour, width=self.px(SLIDER.trough), tags=("zone", tag))

        round_ends = {"fill": p.surface, "width": self.px(SLIDER.trough), "capstyle": "round"}
        self.canvas.create_line(self.x_of(-SLIDER_RANGE), y, self.x_of(SLIDER_RANGE), y, **round_ends)
        bar(-SLIDER_RANGE, SLIDER_RANGE, p.surface, "range")
        if self._zones is not None:
            bar(-self._zones.whole[0], self._zones.whole[1], p.far_zone, "whole")
            bar(-self._zones.texture[0], self._zones.texture[1], p.zone, "texture")
        if self.is_enabled and self.octaves:
            ends = self.x_of(0), y, self.x_of(self.octaves), y
            self.canvas.create_line(*ends, fill=p.accent, width=self.px(4), tags="moved")

    def _draw_scale(self) -> None:
        canvas, p = self.canvas, self.palette
        top, bottom = (self.px(SLIDER.trough_y + sign * SLIDER.trough / 2) for sign in (-1, 1))
        ends = {-SLIDER_RANGE: "texture", SLIDER_RANGE: "smooth"}
        for octaves in range(-round(SLIDER_RANGE), round(SLIDER_RANGE) + 1):
            x, text = self.x_of(octaves), f"{octaves:+d}" if octaves else "0"
            canvas.create_line(x, bottom + self.px(3), x, bottom + self.px(8), fill=p.text if octaves == 0 else p.line)
            if octaves in ends:
                text = f"{text} {ends[octaves]}" if octaves < 0 else f"{ends[octaves]} {text}"
                anchor, x = ("nw", self.px(2)) if octaves < 0 else ("ne", canvas.winfo_width() - self.px(2))
            else:
                anchor = "n"
            y = bottom + self.px(10)
            canvas.create_text(x, y, text=text, anchor=anchor, font=SMALL_FONT, fill=p.muted, tags="scale")
        x = self.x_of(0)
        canvas.create_line(x, top, x, bottom, fill=p.text, width=self.px(1))

    def _draw_grip(self) -> None:
        p, x, y, r = self.palette, self.x_of(self.octaves), self.px(SLIDER.trough_y), self.px(SLIDER.grip)
        fill = p.button if self.is_enabled else p.surface
        outline = p.text if self.has_focus and self.is_enabled else p.accent if self.is_enabled else p.line
        box = x - r, y - r, x + r, y + r
        self.canvas.create_oval(*box, fill=fill, outline=outline, width=self.px(3), tags="grip")

    def _draw_measured(self) -> None:
        """A small mark above the trough; it lies over the grip once they agree."""
        canvas, p = self.canvas, self.palette
        canvas.delete("measured")
        if self._shown_measured is not None and abs(self._shown_measured) <= SLIDER_RANGE + 0.05:
            x, size = self.x_of(self._shown_measured), self.px(5)
            y = self.px(SLIDER.trough_y - SLIDER.grip) + self.px(1)
            mark = x, y, x - size, y - 1.5 * size, x + size, y - 1.5 * size
            canvas.create_polygon(*mark, fill=p.achieved, outline=p.background, tags="measured")


def _stepped(octaves: float, event: tk.Event) -> float:
    """A position in the steps of a drag, finer with Shift."""
    step = SLIDER.step * (SLIDER.fine_factor if event.state & SHIFT else 1.0)
    return round(octaves / step) * step


def format_octaves(octaves: float) -> str:
    """A position with its sign, with two digits where it needs them."""
    if not octaves:
        return "0"
    text = f"{octaves:+.2f}"
    return text.removesuffix("0")


class OctaveSlider:
    """The slider with its field, which always show the same value.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    select_all_keys : tuple of str, Tk events that select the text of the field
    on_change : called after every move
    on_release : called when a drag is over

    Attributes
    ----------
    frame : ttk.Frame
    slider : GrainSlider
    entry : ttk.Entry
    """

    def __init__(
        self,
        parent: tk.Misc,
        palette: Palette,
        scale: float,
        select_all_keys: tuple[str, ...],
        on_change: Callable[[], None],
        on_release: Callable[[], None],
    ):
        self.frame = frame = ttk.Frame(parent)
        self._gap = round(SPACE.gap * scale)
        self.slider = GrainSlider(frame, palette, scale, on_change, on_release)
        self.slider.canvas.pack(side="left", fill="x", expand=True)
        self.entry = ttk.Entry(frame, width=6, justify="right", font=VALUE_FONT)
        self.entry.pack(side="left", padx=(2 * self._gap, 0), anchor="n")
        for key in ("<Return>", "<KP_Enter>"):
            self.entry.bind(key, lambda _: self.end_typing())
        self.entry.bind("<FocusOut>", lambda _: self._accept_typed())
        for key in select_all_keys:
            self.entry.bind(key, self._select_all)

    @property
    def octaves(self) -> float:
        """The position."""
        return self.slider.octaves

    def move_to(self, octaves: float) -> None:
        """Move to a position, or to the end that is nearest to it. Does nothing while the slider is disabled."""
        self.slider.move_to(octaves)

    @property
    def is_typing(self) -> bool:
        """Whether the field has the focus."""
        # `focus_get` raises KeyError while a dialog of the system has the focus.
        return str(self.entry.tk.call("focus")) == str(self.entry)

    def end_typing(self) -> None:
        """Leave the field, which accepts what was typed; keys are shortcuts again."""
        if self.is_typing:
            self.slider.canvas.focus_set()

    def show_value(self) -> None:
        """Write the position into the field, unless the user is typing there."""
        if self.is_typing:
            return
        text = format_octaves(self.octaves)
        if self.entry.get() != text:
            self.entry.delete(0, "end")
            self.entry.insert(0, text)

    def _accept_typed(self) -> None:
        """Move to the number in the field; other text is replaced by the position."""
        try:
            octaves = float(self.entry.get().replace(",", "."))
        except ValueError:
            octaves = self.octaves
        if math.isfinite(octaves):
            self.move_to(octaves)
        self.show_value()

    def _select_all(self, _event: tk.Event) -> str:
        self.entry.select_range(0, "end")
        return "break"
