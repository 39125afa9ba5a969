"""The widgets of the window, and where they stand.

`Layout` makes the widgets, and the bindings from the table of actions. It decides nothing: the window gives it a
`ViewState`, from which `Layout.show` sets every label and every enabled or disabled state.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from tkinter import ttk

from neural_grain.dsp.mix import Mix
from neural_grain.session.actions import ACTIONS, Action, Needs
from neural_grain.session.mixer import VERSIONS
from neural_grain.session.preferences import Preferences
from neural_grain.session.view_state import ViewState
from neural_grain.session.views import VIEWS
from neural_grain.window.file_list import FileListCallbacks, FileListView
from neural_grain.window.hint import HINTS, Hint
from neural_grain.window.lane import CurveLane, LaneCallbacks
from neural_grain.window.library_strip import LibraryStrip
from neural_grain.window.menus import DynamicMenu, MenuBar
from neural_grain.window.meter_view import LevelMeterView
from neural_grain.window.mix_controls import MixControls
from neural_grain.window.overview_strip import OverviewCallbacks, OverviewStrip
from neural_grain.window.panels import PanelCallbacks, PicturePanel
from neural_grain.window.slider import OctaveSlider
from neural_grain.window.start_page import StartPage
from neural_grain.window.status_row import StatusRow
from neural_grain.window.theme import DARK, LIGHT, SPACE, TITLE_FONT, Palette, Theme, screen_scale

MIN_SIZE = (900, 600)  # of the window, in pixels of a standard screen
KEY_TAG = "GrainKeys"  # for which the keys are bound; every widget has it as its first bind tag


@dataclass(frozen=True)
class LayoutCallbacks:
    """What the widgets ask of the window.

    Attributes
    ----------
    perform : action -> None; the method that the action names
    release : action -> None; the method for the release of its key
    press_version, release_version : for the buttons of the versions, such as "Before" and "Tones"
    slide : the slider was moved
    set_mix : mix -> None
    edit_curve : the points of the curve have changed
    edit_done : a drag of the slider or an edit of the curve is over
    set_volume : volume within 0 to 1 -> None
    playhead_s : -> where the sound plays, None without one
    cancel : stop the work that is under way
    panel : PanelCallbacks
    files : FileListCallbacks
    """

    perform: Callable[[Action], None]
    release: Callable[[Action], None]
    press_version: Callable[[str], None]
    release_version: Callable[[], None]
    slide: Callable[[], None]
    set_mix: Callable[[Mix], None]
    edit_curve: Callable[[], None]
    edit_done: Callable[[], None]
    set_volume: Callable[[float], None]
    playhead_s: Callable[[], float | None]
    cancel: Callable[[], None]
    panel: PanelCallbacks
    files: FileListCallbacks


class Layout:
    """All widgets of the window.

    Parameters
    ----------
    root : tk.Tk
    preferences : Preferences, read whenever a menu or the colours need them
    is_system_dark : bool, whether the system has dark colours
    callbacks : LayoutCallbacks
    dynamic : menus that are filled when they are opened
    """

    def __init__(
        self,
        root: tk.Tk,
        preferences: Preferences,
        is_system_dark: bool,
        callbacks: LayoutCallbacks,
        dynamic: tuple[DynamicMenu, ...],
    ):
        self.root, self._preferences, self._callbacks = root, preferences, callbacks
        self._is_system_dark = is_system_dark
        self.modifier = "Command" if root.tk.call("tk", "windowingsystem") == "aqua" else "Control"
        self.scale = screen_scale(root)
        self._options: dict[object, dict[str, object]] = {}  # as `_configure` set them last
        self.state: ViewState | None = None  # what `show` showed last
        root.title("Neural Grain Processor")
        screen = root.winfo_screenwidth(), root.winfo_screenheight()
        root.minsize(*(min(self._px(n), most) for n, most in zip(MIN_SIZE, screen, strict=True)))
        root.geometry(preferences.geometry)
        self.theme = Theme(root, self.scale)
        self.outer = ttk.Frame(root, padding=(self._px(SPACE.margin), self._px(8)))
        self.outer.pack(fill="both", expand=True)
        # Tk squeezes last what is packed first, so everything around the pictures is packed before them.
        self._build_bar()
        self.status = StatusRow(self.outer, self.scale, callbacks.cancel)
        self.start_page = StartPage(self.outer, self.scale, self._perform)
        self.workspace = ttk.Frame(self.outer)  # takes the place of the start page once there is a sound
        self._build_title_row()
        self._build_slider()
        self._build_pictures()
        self.menu_bar = MenuBar(root, self.modifier, callbacks.perform, dynamic)
        self.menus = self.menu_bar.menus
        self._bind_keys()
        self._add_hints()
        self.paint()

    def _px(self, n: float) -> int:
        return round(n * self.scale)

    @property
    def palette(self) -> Palette:
        """The palette that the preferences choose."""
        colours = self._preferences.colours
        return DARK if colours == "dark" or (colours == "system" and self._is_system_dark) else LIGHT

    def _perform(self, command: str, *arguments: object) -> None:
        """Do the action of the table that has this command, and these arguments if there are any."""
        self._callbacks.perform(
            next(each for each in ACTIONS if each.command == command and arguments in ((), each.arguments))
        )

    def _button(
        self, parent: tk.Misc, text: str, command: str, *arguments: object, style: str = "TButton"
    ) -> ttk.Button:
        return ttk.Button(parent, text=text, style=style, command=lambda: self._perform(command, *arguments))

    def _build_bar(self) -> None:
        bar = ttk.Frame(self.outer)
        bar.pack(fill="x")
        self.open_button = self._button(bar, "Open", "files.ask_open")
        self.play_button = self._button(bar, "Play", "transport.toggle_play")
        self.play_button.configure(width=5)
        self.version_buttons = {version: ttk.Button(bar, text=version.capitalize()) for version in VERSIONS}
        for version, each in self.version_buttons.items():
            each.bind("<Button-1>", lambda _, version=version: self._callbacks.press_version(version))
            each.bind("<ButtonRelease-1>", lambda _: self._callbacks.release_version())
        self.curve_button = self._button(bar, "Curve", "settings.toggle_curve")
        self.slot_button = self._button(bar, "A", "settings.switch_slot")
        self.slot_button.configure(width=2)
        self.save_button = self._button(bar, "Save", "files.ask_save")
        ends_of_groups = (self.play_button, self.version_buttons[VERSIONS[-1]], self.slot_button)
        for child in bar.winfo_children():
            is_version = child in self.version_buttons.values()
            gap = SPACE.group if child in ends_of_groups else 2 if is_version else SPACE.gap
            child.pack(side="left", padx=(0, self._px(gap)))
        self.volume = ttk.Scale(
            bar,
            from_=0,
            to=1,
            length=self._px(80),
            value=self._preferences.volume,
            command=lambda value: self._callbacks.set_volume(float(value)),
        )
        self.volume.pack(side="right")
        ttk.Label(bar, text="volume", style="Small.TLabel").pack(side="right", padx=self._px(SPACE.gap))

    def _build_title_row(self) -> None:
        """What is open, and which pictures of it are shown."""
        row = ttk.Frame(self.workspace)
        row.pack(fill="x", pady=(self._px(8), self._px(4)))
        self.view_buttons = {
            view.name: self._button(row, view.label, "view.show", view.name, style="Small.TButton") for view in VIEWS
        }
        for button in reversed(self.view_buttons.values()):
            button.pack(side="right", padx=(self._px(2), 0))
        self.file_label = ttk.Label(row, style="Title.TLabel")
        self.file_label.pack(side="left")
        self.info_label = ttk.Label(row, style="Small.TLabel")
        self.info_label.pack(side="left", padx=self._px(10))

    def _build_slider(self) -> None:
        """The slider and what was measured, and above them where the sound stands."""
        parent, scale = self.workspace, self.scale
        # Two lines always, so that the pictures keep their place when the text grows.
        row = ttk.Frame(parent, height=2 * self.theme.line_height(TITLE_FONT))
        row.pack_propagate(False)
        row.pack(side="bottom", fill="x")
        self.grain_label = ttk.Label(row, style="Title.TLabel")
        self.mix_controls = MixControls(row, scale, self._callbacks.set_mix)
        self.mix_controls.frame.pack(side="right", anchor="n")
        self.grain_label.pack(side="left", anchor="nw")
        keys = {"Control": ("<Control-a>",), "Command": ("<Control-a>", "<Command-a>")}[self.modifier]
        self.octave_slider = OctaveSlider(
            parent, self.palette, scale, keys, self._callbacks.slide, self._callbacks.edit_done
        )
        self.octave_slider.frame.pack(side="bottom", fill="x")
        self.octave_slider.slider.set_hint(HINTS["slider"])
        self.library_strip = LibraryStrip(parent, self.palette, scale)
        self.library_strip.canvas.pack(side="bottom", fill="x", pady=(self._px(SPACE.gap), self._px(SPACE.gap)))
        parent.bind("<Configure>", lambda _: self._wrap_lines())

    def _build_pictures(self) -> None:
        """Overview, pictures, meter and lane, and the list of files."""
        self.file_list = FileListView(self.workspace, self.scale, self._callbacks.files)
        self._body = body = ttk.Frame(self.workspace)
        body.pack(fill="both", expand=True)
        palette, scale = self.palette, self.scale
        self.panel = PicturePanel(body, palette, scale, self._callbacks.panel)
        self.overview = OverviewStrip(
            body, palette, scale, OverviewCallbacks(self._callbacks.panel.seek, lambda start_s: self.panel.pan(start_s))
        )
        lane = LaneCallbacks(
            self._callbacks.edit_curve,
            self._callbacks.edit_done,
            self.panel.zoom,
            lambda x, y: self.menus["Curve"].tk_popup(x, y),
            self._callbacks.playhead_s,
        )
        self.lane = CurveLane(body, palette, scale, lane)
        self.meter = LevelMeterView(body, palette, scale, lambda: self._perform("transport.reset_clip"))
        self.overview.canvas.pack(fill="x")
        self.meter.canvas.pack(side="right", fill="y")
        self.panel.frame.pack(fill="both", expand=True, pady=(self._px(4), 0))

    def _add_hints(self) -> None:
        widgets = {
            "open": self.open_button,
            "play": self.play_button,
            **self.version_buttons,
            "curve": self.curve_button,
            "save": self.save_button,
            "volume": self.volume,
            "level": self.meter.canvas,
            "overview": self.overview.canvas,
            "library": self.library_strip.canvas,
            "entry": self.octave_slider.entry,
            "mix": self.mix_controls.wet,
            "gain": self.mix_controls.gain,
            "slot": self.slot_button,
            "cancel": self.status.cancel_button,
            **{f"view {view}": button for view, button in self.view_buttons.items()},
        }
        for name, widget in widgets.items():
            Hint(widget, HINTS[name], lambda: self.palette, self.scale)

    def _wrap_lines(self) -> None:
        """Break long lines where the window ends."""
        width = self.workspace.winfo_width() - self.mix_controls.frame.winfo_reqwidth()
        self._configure(self.grain_label, wraplength=max(1, width))

    def _bind_keys(self) -> None:
        """Bind the keys in all widgets of the window, before what the widgets do with them by themselves.

        Otherwise the space bar would also press the button that has the focus, and an arrow move the volume. Dialogs
        keep the usual keys.
        """
        slider, entry, lane = self.octave_slider.slider.canvas, self.octave_slider.entry, self.lane.view.canvas

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
        palette = self.palette
        self.theme.use(palette)
        self.root.configure(background=palette.background)
        self.menu_bar.paint(palette)
        for part in (self.panel, self.lane.view):
            part.palette = palette
            part.draw_soon()
        for part in (self.octave_slider.slider, self.overview, self.meter, self.library_strip):
            part.palette = palette
            part.draw()

    def show(self, state: ViewState) -> None:
        """Set every label and every enabled or disabled state."""
        self.state = state
        self._show_page(state)
        self.octave_slider.slider.show(
            state.zones, state.measured_octaves, is_enabled=state.has_file and not state.has_curve
        )
        self.octave_slider.show_value()
        self._configure(self.file_label, text=state.file_text)
        self._configure(self.info_label, text=state.info_text)
        self._configure(self.grain_label, text=state.grain_text)
        self._configure(self.play_button, text="Pause" if state.is_playing else "Play")
        for version, button in self.version_buttons.items():
            self._turn_on(button, "TButton", state.has_file and version == state.listening)
        for view, button in self.view_buttons.items():
            self._turn_on(button, "Small.TButton", view == state.view)
        self._turn_on(self.curve_button, "TButton", state.allows(Needs.CURVE))
        self._configure(self.slot_button, text=state.slot)
        self._enable(self.open_button, state.allows(Needs.MODEL))
        buttons = self.play_button, self.save_button, self.curve_button, self.slot_button
        for widget in (*buttons, *self.version_buttons.values()):
            self._enable(widget, state.allows(Needs.FILE))
        self._enable(self.octave_slider.entry, state.allows(Needs.FILE) and not state.has_curve)
        for command, button in self.start_page.buttons.items():
            self._enable(button, state.has_model or command == "learn.open")
        self.library_strip.show(state.library)
        self.file_list.mark(state.path)
        self.menu_bar.enable(state.allows)
        self.status.show(state.status, state.progress, is_error=state.is_error, is_busy=state.is_busy)

    def show_info(self, text: str) -> None:
        """Set the line beside the name of the file, which changes while the sound plays."""
        self._configure(self.info_label, text=text)

    def show_list(self, is_shown: bool) -> None:
        """Show the list of files, or hide it."""
        if is_shown:
            self.file_list.frame.pack(side="left", fill="y", before=self._body)
        else:
            self.file_list.frame.pack_forget()

    def _show_page(self, state: ViewState) -> None:
        """Show the sound and what can be done with it, or the choices that come first."""
        pages = self.start_page.frame, self.workspace
        shown, hidden = reversed(pages) if state.has_picture else pages
        if not shown.winfo_manager():
            hidden.pack_forget()
            shown.pack(fill="both", expand=True)
        lane, strip = self.lane.view.canvas, self.library_strip.canvas
        if state.shows_curve and not lane.winfo_manager():
            lane.pack(side="bottom", fill="x", before=self.overview.canvas)
            strip.pack_forget()
        elif not state.shows_curve and lane.winfo_manager():
            lane.pack_forget()
            strip.pack(
                side="bottom",
                fill="x",
                pady=(self._px(SPACE.gap), self._px(SPACE.gap)),
                after=self.octave_slider.frame,
            )
        self.lane.view.show(state.contour, is_current=state.is_contour_current, is_enabled=state.has_file)

    def close(self) -> None:
        """Cancel everything that waits to be drawn."""
        self.status.close()
        for part in (self.panel, self.lane.view, self.octave_slider.slider):
            part.cancel_drawing()

    def _turn_on(self, button: ttk.Button, style: str, is_on: bool) -> None:
        self._configure(button, style=f"On.{style}" if is_on else style)

    def _enable(self, widget: ttk.Widget, is_enabled: bool) -> None:
        shown = self._options.setdefault(widget, {})
        if shown.get("is_enabled") != is_enabled:
            shown["is_enabled"] = is_enabled
            widget.state(["!disabled" if is_enabled else "disabled"])

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
