"""Two pictures of the sound with one time axis, and what the mouse does in them.

They show one of the `VIEWS`. The panel zooms by itself. Other clicks and drags become times in seconds, which it
reports to the window through `PanelCallbacks`; it knows nothing else of the window. Gains and the levels of the layers
come in through the same callbacks, shape (n_mels, frames), whenever the pictures are drawn.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from tkinter import ttk

import numpy as np

from neural_grain.dsp.analysis import Picture
from neural_grain.dsp.gain_field import LayerLevels
from neural_grain.dsp.settings import DYNAMIC_RANGE_DB
from neural_grain.session.colours import colour_map, level_colours
from neural_grain.session.views import AFTER, GAIN, LAYERS, VIEWS
from neural_grain.window.picture import ColourBar, PictureView
from neural_grain.window.theme import Palette

MARK_COLOUR = "#ffffff"  # on levels, whose floor is dark in both palettes


@dataclass(frozen=True)
class PanelSettings:
    """How the pictures follow the mouse."""

    gain_range_db: float = 24.0  # the colours of the gain picture end here, on both sides of 0
    click_pixels: int = 4  # a press that moves no farther than this is a click, not a drag
    zoom_factor: float = 0.8  # part of the time shown that one notch of the wheel leaves
    min_span_s: float = 0.1  # about nine frames
    floor_percentile: float = 15.0  # of the levels of the sound; the colours begin a little below it
    below_floor_db: float = 8.0
    max_floor: float = 0.6  # of the range of levels, so that a sound of noise alone is not shown as black
    floor_columns: int = 2000  # of the picture, from which the floor is taken


PANEL = PanelSettings()


@dataclass(frozen=True)
class PanelCallbacks:
    """What the picture panel asks of the window.

    Attributes
    ----------
    seek : seconds -> None
    select : (first second, last second) or None -> None
    gain_db_of_frames : frame numbers -> gains, shape (n_mels, frames), dB; None where the sound is not changed
    layer_levels : frame numbers -> `LayerLevels` of the sound after; None before the sound is split
    marked : (first and last second shown, playhead in seconds or None) -> None
    """

    seek: Callable[[float], None]
    select: Callable[[tuple[float, float] | None], None]
    gain_db_of_frames: Callable[[np.ndarray], np.ndarray | None]
    layer_levels: Callable[[np.ndarray], LayerLevels | None]
    marked: Callable[[tuple[float, float], float | None], None]


@dataclass(frozen=True)
class Columns:
    """Frames from ``first`` up to but not including ``last`` in columns; column i starts at frame ``starts[i]``."""

    first: int
    last: int
    starts: np.ndarray

    @property
    def key(self) -> tuple[int, int, int]:
        """Equal for equal columns."""
        return self.first, self.last, len(self.starts)


@dataclass(frozen=True)
class ShownPicture:
    """Levels before, within 0 to 1, and gains in dB that the pictures show, shape (n_mels, columns) each."""

    before: np.ndarray
    gain_db: np.ndarray


@dataclass(frozen=True)
class Press:
    """Where the mouse button went down."""

    x: int
    seconds: float


def picture_columns(picture: Picture, span: tuple[float, float], width: int) -> Columns:
    """Frames that lie in a span of seconds, divided among at most ``width`` columns."""
    grain, sr = picture.settings.grain, picture.sound.sr
    hop_s = grain.hop_for(sr) / sr
    n_frames = picture.x.shape[1]
    centre = grain.n_fft_for(sr) / sr / 2 / hop_s  # a frame stands for the middle of its window
    first, last = (min(max(0, int(s / hop_s + centre)), n_frames) for s in span)
    last = max(last, first + 1)
    starts = np.unique(np.linspace(first, last, min(width, last - first), endpoint=False).astype(int))
    return Columns(first, last, starts)


def picture_floor(x: np.ndarray) -> float:
    """Level a little below most of a picture, shape (n_mels, frames), within 0 to 1; the colours begin there."""
    stride = -(-x.shape[1] // PANEL.floor_columns)
    floor = np.percentile(x[:, ::stride], PANEL.floor_percentile) - PANEL.below_floor_db / DYNAMIC_RANGE_DB
    return float(np.clip(floor, 0.0, PANEL.max_floor))


class PicturePanel:
    """Two pictures with one time axis, a colour bar, and a line that describes the point under the mouse.

    Parameters
    ----------
    parent : tk.Misc
    palette : Palette
    scale : float, pixels of this screen for one of a standard screen
    callbacks : PanelCallbacks

    Attributes
    ----------
    span : tuple of float, first and last second shown
    selection_s : tuple of float or None, first and last second of the selection
    view : str, name of one of the `VIEWS`
    is_log : bool, whether the frequency axis is logarithmic rather than mel
    palette : Palette
    shown : ShownPicture or None
    """

    def __init__(self, parent: tk.Misc, palette: Palette, scale: float, callbacks: PanelCallbacks):
        self._callbacks, self.palette = callbacks, palette
        self.frame = ttk.Frame(parent)
        self.readout = ttk.Label(self.frame, style="Small.TLabel")
        self.readout.pack(side="bottom", anchor="w")
        frame = ttk.Frame(self.frame)
        frame.pack(fill="both", expand=True)
        frame.rowconfigure(0, weight=1)
        self.before, self.after = (PictureView(frame, title, palette, scale) for title in ("before", "after"))
        for column, view in enumerate((self.before, self.after)):
            view.canvas.grid(row=0, column=column, sticky="nsew")
            frame.columnconfigure(column, weight=1, uniform="pictures")
            self._bind_mouse(view)
        self.bar = ColourBar(frame, palette, scale)
        self.bar.canvas.grid(row=0, column=2, sticky="ns")
        self.span = (0.0, 1.0)
        self.selection_s: tuple[float, float] | None = None
        self.view = AFTER
        self.is_log = False
        self._floor = 0.0  # level, within 0 to 1, at which the colours begin
        self.shown: ShownPicture | None = None
        self._picture: Picture | None = None
        self._is_interactive = False
        self._playhead_s: float | None = None
        self._columns: Columns | None = None
        self._drawn_before: tuple | None = None  # everything that the left picture on the canvas depends on
        self._press: Press | None = None
        self._pointer: tuple[PictureView, int, int] | None = None  # picture and pixel under the mouse
        self._redraw: str | None = None

    def _bind_mouse(self, view: PictureView) -> None:
        bind = view.canvas.bind
        bind("<Configure>", lambda _: self.draw_soon())
        bind("<Button-1>", lambda event: self._on_press(view, event))
        bind("<B1-Motion>", lambda event: self._on_drag(view, event))
        bind("<ButtonRelease-1>", lambda event: self._on_release(view, event))
        bind("<Motion>", lambda event: self._on_move((view, event.x, event.y)))
        bind("<Leave>", lambda _: self._on_move(None))
        view.bind_wheel(lambda event, direction: self.zoom(view.seconds_at(event.x), PANEL.zoom_factor**direction))

    @property
    def duration_s(self) -> float:
        """Length of the sound, 0 if there is none."""
        return 0.0 if self._picture is None else self._picture.sound.n_samples / self._picture.sound.sr

    @property
    def is_dragging(self) -> bool:
        """Whether the mouse button is down in a picture."""
        return self._press is not None

    @property
    def is_drawn(self) -> bool:
        """Whether the pictures on the screen are up to date."""
        return self._redraw is None

    def show_sound(self, picture: Picture | None, *, is_interactive: bool) -> None:
        """Show another sound from its start to its end, or none.

        Parameters
        ----------
        is_interactive : bool, whether the mouse may seek, select and zoom
        """
        self._is_interactive = is_interactive
        if picture is not self._picture:
            self._picture, self.shown, self._columns, self._drawn_before = picture, None, None, None
            self.selection_s = self._press = self._playhead_s = None
            self._floor = 0.0 if picture is None else picture_floor(picture.x)
            self.show_all()

    def show_all(self) -> None:
        """Show the whole sound."""
        if self._picture is not None:
            self.span = (0.0, self.duration_s)
        self.draw_soon()

    def zoom(self, around_s: float, factor: float) -> None:
        """Multiply the time shown by ``factor``, with ``around_s`` staying where it is on the screen."""
        if not self._is_interactive:
            return
        length = min(self.duration_s, max(PANEL.min_span_s, (self.span[1] - self.span[0]) * factor))
        share = (around_s - self.span[0]) / (self.span[1] - self.span[0])
        start = min(max(0.0, around_s - share * length), self.duration_s - length)
        self.span = (start, start + length)
        self.draw_soon()

    def pan(self, start_s: float) -> None:
        """Show as much time as now, from another second on."""
        if self._is_interactive:
            length = self.span[1] - self.span[0]
            start_s = min(max(0.0, start_s), max(0.0, self.duration_s - length))
            self.span = (start_s, start_s + length)
            self.draw_soon()

    def draw_soon(self) -> None:
        """Draw once all events that wait are handled."""
        if self._redraw is None:
            self._redraw = self.readout.after_idle(self._draw)

    def cancel_drawing(self) -> None:
        """Forget a drawing that waits, because the window is about to close."""
        if self._redraw is not None:
            self.readout.after_cancel(self._redraw)
            self._redraw = None

    def mark(self, playhead_s: float | None) -> None:
        """Draw the playhead and the selection."""
        self._playhead_s = playhead_s
        for view in (self.before, self.after):
            view.mark(playhead_s, self.selection_s)
        self._callbacks.marked(self.span, playhead_s)

    def _draw(self) -> None:
        self._redraw = None
        if self._picture is None:
            return
        for part in (self.before, self.after, self.bar):
            part.palette = self.palette
        self._draw_pictures()
        self.mark(self._playhead_s)
        if self.view == GAIN:
            self.bar.draw(colour_map(self.palette.gain_map), PANEL.gain_range_db, -PANEL.gain_range_db, "+.0f")
        else:
            self.bar.draw(level_colours(), 0, -DYNAMIC_RANGE_DB * (1 - self._floor), ".0f")
        self._update_readout()

    def _draw_pictures(self) -> None:
        settings, shown = self._picture.settings, self._compute_picture()
        titles = next(view.titles for view in VIEWS if view.name == self.view)
        for view, title in zip((self.before, self.after), titles, strict=True):
            view.span, view.is_log, view.band_edges_hz, view.title = (
                self.span,
                self.is_log,
                settings.band_edges_hz,
                title,
            )
            view.mark_colour = MARK_COLOUR
        layers = self._callbacks.layer_levels(self._columns.starts) if self.view == LAYERS else None
        if layers is not None:
            self._drawn_before = None
            for view, level_db in zip((self.before, self.after), layers, strict=True):
                view.draw(self._coloured(1 + level_db / settings.dynamic_range_db), level_colours())
        else:
            drawn_before = (id(shown.before), self.before.size, self.is_log, self.palette, titles[0])
            if drawn_before != self._drawn_before:  # a move of the slider changes the right picture only
                self._drawn_before = drawn_before
                self.before.draw(self._coloured(shown.before), level_colours())
            if self.view == GAIN:
                self.after.mark_colour = self.palette.text  # a gain of 0 dB is near the background
                self.after.draw(0.5 + shown.gain_db / (2 * PANEL.gain_range_db), colour_map(self.palette.gain_map))
            else:
                after = shown.before + shown.gain_db / settings.dynamic_range_db
                self.after.draw(self._coloured(after), level_colours())
        self.shown = shown

    def _coloured(self, levels: np.ndarray) -> np.ndarray:
        """Levels on the scale of the colours, which begin at the floor of the sound."""
        return (levels - self._floor) / (1 - self._floor)

    def _compute_picture(self) -> ShownPicture:
        """Levels and gains of the columns; a column of levels has the maximum over its frames."""
        columns = picture_columns(self._picture, self.span, self.before.size[0])
        previous, self._columns = self._columns, columns
        if self.shown is not None and previous is not None and previous.key == columns.key:
            before = self.shown.before
        else:
            frames = self._picture.x[:, columns.first : columns.last]
            before = np.maximum.reduceat(frames, columns.starts - columns.first, axis=1)
        gain_db = self._callbacks.gain_db_of_frames(columns.starts)
        return ShownPicture(before, np.zeros_like(before) if gain_db is None else gain_db)

    def _on_press(self, view: PictureView, event: tk.Event) -> None:
        self._press = Press(event.x, view.seconds_at(event.x)) if self._is_interactive else None

    def _dragged_to(self, view: PictureView, event: tk.Event) -> tuple[float, float] | None:
        """Seconds between the press and the mouse; None if it is a click so far."""
        if abs(event.x - self._press.x) <= PANEL.click_pixels:
            return None
        start, stop = sorted((self._press.seconds, view.seconds_at(event.x)))
        return start, stop

    def _on_drag(self, view: PictureView, event: tk.Event) -> None:
        if self._press is not None and (selection_s := self._dragged_to(view, event)) is not None:
            self.selection_s = selection_s
            self.mark(self._playhead_s)

    def _on_release(self, view: PictureView, event: tk.Event) -> None:
        if self._press is None:
            return
        selection_s, clicked_s = self._dragged_to(view, event), self._press.seconds
        self._press = None
        if selection_s is not None:
            self._callbacks.select(selection_s)
            self._callbacks.seek(selection_s[0])
            return
        if self.selection_s is not None and not self.selection_s[0] <= clicked_s < self.selection_s[1]:
            self._callbacks.select(None)
        self._callbacks.seek(clicked_s)

    def _on_move(self, pointer: tuple[PictureView, int, int] | None) -> None:
        self._pointer = pointer
        self._update_readout()

    def _update_readout(self) -> None:
        text = self._readout_text()
        if self.readout["text"] != text:
            self.readout.configure(text=text)

    def _readout_text(self) -> str:
        """Time, frequency, level and gain under the mouse."""
        if self.shown is None or self._pointer is None:
            return " "
        view, x, y = self._pointer
        before, gain_db = self.shown.before, self.shown.gain_db
        column = min(max(0, x - view.left), view.size[0] - 1) * before.shape[1] // view.size[0]
        band = view.band_at(y)
        level_db = DYNAMIC_RANGE_DB * (before[band, column] - 1)
        return (
            f"{view.seconds_at(x):.2f} s   {view.hz_at(y):,.0f} Hz   "
            f"before {level_db:.0f} dB, gain {gain_db[band, column]:+.1f} dB"
        )
