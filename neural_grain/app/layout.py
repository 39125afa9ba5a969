"""Widgets, menus and key bindings of the window.

`Layout` makes the widgets, and the menus and bindings from the table of actions. It decides nothing: the window gives
it a `ViewState`, from which `Layout.show` sets every label and every enabled or disabled state.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tkinter import ttk

from neural_grain.app.actions import ACTIONS, Action, Needs
from neural_grain.app.hint import HINTS, Hint
from neural_grain.app.lane import CurveLane, LaneCallbacks
from neural_grain.app.mixer import VERSIONS
from neural_grain.app.panels import PanelCallbacks, PicturePanel
from neural_grain.app.playback import PLAYBACK
from neural_grain.app.preferences import Preferences
from neural_grain.app.slider import OctaveSlider
from neural_grain.app.theme import DARK, LIGHT, Palette, apply_palette, paint_menu, screen_scale
from neural_grain.base.errors import printable
from neural_grain.dsp.move_curve import GrainContour
from neural_grain.dsp.solver import SliderZones

MIN_SIZE = (900, 600)  # of the window, in pixels of a standard screen
KEY_TAG = "GrainKeys"  # for which the keys are bound; every widget has it as its first bind tag


@dataclass(frozen=True)
class ViewState:
    """Everything that the labels and the enabled and disabled states depend on.

    ``progress`` is within 0 to 1, or None if nobody knows how much of the work is done. ``contour`` is what each second
    achieved, and ``is_contour_current`` whether with the curve as it is.
    """

    file_text: str
    grain_text: str
    status: str
    is_error: bool
    is_busy: bool
    progress: float | None
    has_model: bool
    has_file: bool
    is_playing: bool
    listening: str
    shows_curve: bool
    has_curve: bool  # in place of the slider
    contour: GrainContour | None
    is_contour_current: bool
    zones: SliderZones | None
    measured_octaves: float | None  # of the position of the slider
    slot: str  # "A" or "B"

    def allows(self, needs: Needs) -> bool:
        """Whether an action with these needs is possible."""
        return {
            Needs.NOTHING: True,
            Needs.MODEL: self.has_model,
            Needs.FILE: self.has_file,
            Needs.CURVE: self.has_file and self.shows_curve,
        }[needs]


@dataclass(frozen=True)
class LayoutCallbacks:
    """What the widgets ask of the window.

    Attributes
    ----------
    perform : action -> None; the method that the action names
    release : action -> None; the method for the release of its key
    press_version, release_version : for the buttons of the versions, such as "Before" and "Tones"
    slide : the slider was moved
    edit_curve : the points of the curve have changed
    set_volume : volume within 0 to 1 -> None
    open_recent : path -> None
    cancel : stop the work that is under way
    panel : PanelCallbacks
    """

    perform: Callable[[Action], None]
    release: Callable[[Action], None]
    press_version: Callable[[str], None]
    release_version: Callable[[], None]
    slide: Callable[[], None]
    edit_curve: Callable[[], None]
    set_volume: Callable[[float], None]
    open_recent: Callable[[Path], None]
    cancel: Callable[[], None]
    panel: PanelCallbacks


class Layout:
    """All widgets of the window.

    Parameters
    ----------
    root : tk.Tk
    preferences : Preferences, read whenever a menu or the colours need them
    callbacks : LayoutCallbacks
    """

    def __init__(self, root: tk.Tk, preferences: Preferences, callbacks: LayoutCallbacks):
        self.root, self._preferences, self._callbacks = root, preferences, callbacks
        self.modifier = "Command" if root.tk.call("tk", "windowingsystem") == "aqua" else "Control"
        self.scale = screen_scale(root)
        self._options: dict[object, dict[str, object]] = {}  # as `_configure` set them last
        self._is_busy = self._is_turning = False
        self.state: ViewState | None = None  # what `show` showed last
        root.title("Neural Grain Processor")
        screen = root.winfo_screenwidth(), root.winfo_screenheight()
        root.minsize(*(min(self._px(n), most) for n, most in zip(MIN_SIZE, screen, strict=True)))
        root.geometry(preferences.geometry)
        self._style = ttk.Style(root)
        self._style.theme_use("clam")
        self.outer = outer = ttk.Frame(root, padding=self._px(12))
        outer.pack(fill="both", expand=True)
        # Tk squeezes last what is packed first, so everything below the pictures is packed before them.
        self._build_bar()
        self._build_file_row()
        self._build_status()
        keys = {"Control": ("<Control-a>",), "Command": ("<Control-a>", "<Command-a>")}[self.modifier]
        self.octave_slider = OctaveSlider(outer, self._palette, self.scale, keys, callbacks.slide)
        self.slot_button = self.octave_slider.add_button(lambda: self._perform("switch_slot"))
        self.panel = PicturePanel(outer, self._palette, self.scale, callbacks.panel)
        lane = LaneCallbacks(callbacks.edit_curve, self.panel.zoom, lambda x, y: self.menus["Curve"].tk_popup(x, y))
        self.lane = CurveLane(outer, self._palette, self.scale, lane)
        self._build_menus()
        self._bind_keys()
        self._add_hints()
        self.paint()

    def _px(self, n: float) -> int:
        return round(n * self.scale)

    @property
    def _palette(self) -> Palette:
        return DARK if self._preferences.is_dark else LIGHT

    def _build_bar(self) -> None:
        bar = ttk.Frame(self.outer)
        bar.pack(fill="x")

        def button(text: str, command: str) -> ttk.Button:
            return ttk.Button(bar, text=text, command=lambda: self._perform(command))

        self.open_button = button("Open ...", "ask_open")
        self.play_button = button("Play", "toggle_play")
        self.version_buttons = {version: ttk.Button(bar, text=version.capitalize()) for version in VERSIONS}
        for version, each in self.version_buttons.items():
            each.bind("<Button-1>", lambda _, version=version: self._callbacks.press_version(version))
            each.bind("<ButtonRelease-1>", lambda _: self._callbacks.release_version())
        self.curve_button = button("Curve", "toggle_curve")
        self.save_button = button("Save as ...", "ask_save")
        ends_of_groups = (self.play_button, self.version_buttons[VERSIONS[-1]], self.curve_button)
        for child in bar.winfo_children():
            child.pack(side="left", padx=(0, self._px(18 if child in ends_of_groups else 6)))

    def _perform(self, command: str) -> None:
        """Do the action of the table that has this command."""
        self._callbacks.perform(next(action for action in ACTIONS if action.command == command))

    def _build_file_row(self) -> None:
        """What is open, and how loud it is."""
        row = ttk.Frame(self.outer)
        row.pack(fill="x", pady=(self._px(6), 0))
        style = "Accent.Horizontal.TProgressbar"
        self.meter = ttk.Progressbar(row, length=self._px(80), maximum=PLAYBACK.meter_range_db, style=style)
        self.meter.pack(side="right")
        ttk.Label(row, text="level").pack(side="right", padx=self._px(6))
        self.volume = ttk.Scale(
            row,
            from_=0,
            to=1,
            length=self._px(80),
            value=self._preferences.volume,
            command=lambda value: self._callbacks.set_volume(float(value)),
        )
        self.volume.pack(side="right")
        ttk.Label(row, text="volume").pack(side="right", padx=self._px(6))
        self.file_label = ttk.Label(row)
        self.file_label.pack(side="left")

    def _build_status(self) -> None:
        self._status_row = row = ttk.Frame(self.outer)
        row.pack(side="bottom", fill="x", pady=(self._px(4), 0))
        row.columnconfigure(0, weight=1)
        self.status_label = ttk.Label(row)
        self.status_label.grid(row=0, column=0, sticky="w")
        self.progress = ttk.Progressbar(row, length=self._px(160), style="Accent.Horizontal.TProgressbar")
        self.progress.grid(row=0, column=1, padx=self._px(6))
        self.cancel_button = ttk.Button(row, text="Cancel", command=self._callbacks.cancel)
        self.cancel_button.grid(row=0, column=2)
        for widget in (self.progress, self.cancel_button):
            widget.grid_remove()
        row.bind("<Configure>", lambda _: self._wrap_lines())
        self.grain_label = ttk.Label(self.outer, style="Grain.TLabel")
        self.grain_label.pack(side="bottom", anchor="w", pady=(self._px(6), 0))

    def _add_hints(self) -> None:
        widgets = {
            "open": self.open_button,
            "play": self.play_button,
            **self.version_buttons,
            "curve": self.curve_button,
            "save": self.save_button,
            "volume": self.volume,
            "level": self.meter,
            "slider": self.octave_slider.slider,
            "entry": self.octave_slider.entry,
            "slot": self.slot_button,
            "cancel": self.cancel_button,
        }
        for name, widget in widgets.items():
            Hint(widget, HINTS[name], lambda: self._palette, self.scale)

    def _wrap_lines(self) -> None:
        """Break long lines where the window or the progress bar begins."""
        room = self.progress.winfo_reqwidth() + self.cancel_button.winfo_reqwidth() + self._px(24)
        width = self._status_row.winfo_width()
        self._configure(self.status_label, wraplength=max(1, width - (room if self._is_busy else 0)))
        self._configure(self.grain_label, wraplength=max(1, width))

    def _build_menus(self) -> None:
        self._menu_bar = tk.Menu(self.root)
        self.root.configure(menu=self._menu_bar)
        self.menus = {
            name: tk.Menu(self._menu_bar, tearoff=False) for name in ("File", "View", "Curve", "Model", "Help")
        }
        for name, menu in self.menus.items():
            self._menu_bar.add_cascade(label=name, menu=menu)
        self.recent_menu = tk.Menu(self.menus["File"], tearoff=False, postcommand=self._fill_recent)
        for action in ACTIONS:
            if action.menu:
                self.menus[action.menu].add_command(
                    label=action.label,
                    accelerator=action.key_name(self.modifier),
                    command=lambda action=action: self._callbacks.perform(action),
                )
        self.menus["File"].insert_cascade(1, label="Recent", menu=self.recent_menu)

    def _fill_recent(self) -> None:
        self.recent_menu.delete(0, "end")
        for name in self._preferences.recent:
            self.recent_menu.add_command(
                label=printable(name), command=lambda name=name: self._callbacks.open_recent(Path(name))
            )

    def _bind_keys(self) -> None:
        """Bind the keys in all widgets of the window, before what the widgets do with them by themselves.

        Otherwise the space bar would also press the button that has the focus, and an arrow move the volume. Dialogs
        keep the usual keys.
        """
        slider, entry, lane = self.octave_slider.slider, self.octave_slider.entry, self.lane.view.canvas

        def press(action: Action, event: tk.Event) -> str | None:
            if event.widget is entry and not action.works_while_typing:
                return None
            if event.widget is lane and not action.works_in_lane:
                return None
            self._callbacks.perform(action)
            return "break"

        for action in ACTIONS:
            if action.key:
                bind = slider.bind if action.is_on_slider else partial(self.root.bind_class, KEY_TAG)
                for pressed, released in action.events(self.modifier):
                    bind(pressed, lambda event, action=action: press(action, event))
                    if action.release:
                        bind(released, lambda _, action=action: self._callbacks.release(action))

        def click(event: tk.Event) -> None:
            if event.widget is not entry:
                self.octave_slider.end_typing()

        self.root.bind_class(KEY_TAG, "<Button-1>", click)
        widgets: list[tk.Misc] = [self.root, self.outer]
        for widget in widgets:
            widget.bindtags((KEY_TAG, *widget.bindtags()))
            widgets += widget.winfo_children() if widget is not self.root else []

    def paint(self) -> None:
        """Set all colours, light or dark as the preferences say."""
        palette = self._palette
        apply_palette(self._style, palette, self.scale)
        self.root.configure(background=palette.background)
        for menu in (self._menu_bar, *self.menus.values(), self.recent_menu):
            paint_menu(menu, palette)
        for part in (self.panel, self.lane.view):
            part.palette = palette
            part.draw_soon()
        self.octave_slider.strip.palette = palette
        self.octave_slider.strip.draw()

    def show(self, state: ViewState) -> None:
        """Set every label and every enabled or disabled state."""
        self.state = state
        self.octave_slider.show_value()
        self._configure(self.file_label, text=state.file_text)
        self._configure(self.grain_label, text=state.grain_text)
        self._configure(self.status_label, text=state.status, style="Error.TLabel" if state.is_error else "TLabel")
        self._configure(self.play_button, text="Pause" if state.is_playing else "Play")
        for version, button in self.version_buttons.items():
            is_on = state.has_file and version == state.listening
            self._configure(button, style="On.TButton" if is_on else "TButton")
        self._enable(self.open_button, state.allows(Needs.MODEL))
        self._configure(self.curve_button, style="On.TButton" if state.allows(Needs.CURVE) else "TButton")
        self._configure(self.slot_button, text=state.slot)
        buttons = self.play_button, self.save_button, self.curve_button, self.slot_button
        for widget in (*buttons, *self.version_buttons.values()):
            self._enable(widget, state.allows(Needs.FILE))
        for widget in (self.octave_slider.slider, self.octave_slider.entry):
            self._enable(widget, state.allows(Needs.FILE) and not state.has_curve)
        self.octave_slider.strip.show(state.zones, state.measured_octaves)
        self._show_lane(state)
        for action in ACTIONS:
            if action.menu and action.needs is not Needs.NOTHING:
                self._enable((action.menu, action.label), state.allows(action.needs))
        self._show_progress(state.is_busy, state.progress)

    def _show_lane(self, state: ViewState) -> None:
        canvas = self.lane.view.canvas
        if state.shows_curve and not canvas.winfo_manager():
            canvas.pack(side="bottom", fill="x", before=self.panel.readout)
        elif not state.shows_curve and canvas.winfo_manager():
            canvas.pack_forget()
        self.lane.view.show(state.contour, is_current=state.is_contour_current, is_enabled=state.has_file)

    def _show_progress(self, is_busy: bool, progress: float | None) -> None:
        if is_busy != self._is_busy:
            self._is_busy = is_busy
            # The row always has the height of the button; otherwise the pictures would jump whenever work begins.
            self._status_row.rowconfigure(0, minsize=self.cancel_button.winfo_reqheight())
            for widget in (self.progress, self.cancel_button):
                widget.grid() if is_busy else widget.grid_remove()
        self._wrap_lines()
        should_turn = is_busy and progress is None
        if is_busy and progress is not None:
            self.progress.stop()
            self.progress.configure(mode="determinate", value=100 * progress)
        elif should_turn and not self._is_turning:
            self.progress.configure(mode="indeterminate")
            self.progress.start(20)
        elif not should_turn and self._is_turning:
            self.progress.stop()
        self._is_turning = should_turn

    def close(self) -> None:
        """Cancel everything that waits to be drawn."""
        self.progress.stop()
        self.panel.cancel_drawing()
        self.lane.view.cancel_drawing()

    def _enable(self, what: tk.Misc | tuple[str, str], is_enabled: bool) -> None:
        """Enable or disable a widget, or the entry of a menu given by the names of both."""
        shown = self._options.setdefault(what, {})
        if shown.get("is_enabled") == is_enabled:
            return
        shown["is_enabled"] = is_enabled
        if isinstance(what, tuple):
            menu, label = what
            self.menus[menu].entryconfigure(label, state="normal" if is_enabled else "disabled")
        else:
            what.state(["!disabled" if is_enabled else "disabled"])

    def _configure(self, widget: tk.Misc, **options: object) -> None:
        """Set the options of a widget that differ from what was set last.

        Every move of the slider asks for about thirty options, and each call into Tk may have to wait for the
        threads that compute.
        """
        shown = self._options.setdefault(widget, {})
        options = {name: value for name, value in options.items() if name not in shown or shown[name] != value}
        shown.update(options)
        if options:
            widget.configure(**options)
