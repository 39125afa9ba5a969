"""TODO"""

from __future__ import annotations

import math
import queue
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from neural_grain.app.batch import Job
from neural_grain.app.dialogs import Dialogs, system_dialogs
from neural_grain.app.mixer import Mixer
from neural_grain.app.picture import PictureView
from neural_grain.app.player import Player
from neural_grain.app.preferences import N_RECENT, preferences_path, read_preferences, write_preferences
from neural_grain.app.processor import (
    SLIDER_RANGE,
    FileRendering,
    GrainProcessor,
    RenderTarget,
    describe_rendering,
    output_name,
)
from neural_grain.app.theme import ACCENT, DARK, LIGHT
from neural_grain.app.worker import Message, Opened, Rendered, Worker
from neural_grain.base.errors import PipelineError, printable
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.settings import DYNAMIC_RANGE_DB

MEASURING = "measuring ..."
SETTLE_MS = 120  # the hand rests so long before a new rendering is measured
POLL_MS = 30
HOLD_S = 0.35  # a shorter press is a tap
KEY_REPEAT_MS = 20
DETENT = 0.05  # the slider rests at 0
GAIN_RANGE_DB = 40.0
CLICK_PIXELS = 4
SHORTCUTS = """Space\tplay, pause
B\tbefore and after in turn (held: as long as it is held)
Left, Right\tthe slider by 0.1
Page Up, Page Down\tthe slider by 1
double-click\tthe slider to 0
Home\tto the start of the sound
click in a picture\tgo on there
drag in a picture\tloop that part (Esc: no longer)
wheel\tzoom in time (0: all)
G\tafter, or the gain that is applied
L\tmel or log frequency
Ctrl-O, Ctrl-S\topen, save
Ctrl-W, Ctrl-Q\tclose the file, quit
F1\tthis sheet (Esc: away with it)"""


class GrainWindow:
    """The desktop window: open, slide while it plays, compare, save.

    All state is in a few attributes; `_refresh` derives every label and every enabled or disabled
    control from them.

    Parameters
    ----------
    root : tkinter.Tk
    model_path, device : for the worker
    source : Path or None, opened at the start
    dialogs : Dialogs or None, the system's if None
    player : Player or None, the system's if None
    remember : Path or None, the platform's place if None
    """

    def __init__(
        self,
        root,
        model_path: Path,
        device: str,
        source: Path | None = None,
        dialogs: Dialogs | None = None,
        player: Player | None = None,
        remember: Path | None = None,
    ):
        self.root, self.dialogs = root, dialogs or system_dialogs(root)
        self._remember_at = remember or preferences_path()
        self.remembered = read_preferences(self._remember_at)
        self.player = player or Player()
        self.worker = Worker(model_path, device)
        self.has_model, self.busy, self.note, self.is_error = False, 1, "loading the model ...", False
        self.model_note = ""
        self.share: float | None = None  # how far the work is
        self.looked: tuple[Path, Analysis] | None = None  # a file that is being opened, as soon as it has a picture
        self.opened: Opened | None = None
        self.rendered: Rendered | None = None
        self.mixer: Mixer | None = None
        self.listening = "after"
        self.view = "after"  # what the right picture shows: after or gain
        self.selection_s: tuple[float, float] | None = None
        self.span = (0.0, 1.0)
        self.saved_at: float | None = 0.0  # the position that is on disk, or needs no saving
        self._after_save: tuple[Path, Callable[[], None]] | None = None  # what goes on once this file is saved
        self._settle: str | None = None  # the callback that renders once the hand rests
        self._redraw: str | None = None
        self._drag_from: float | None = None
        self._pointed: tuple[PictureView, int, int] | None = None  # picture and pixel under the pointer
        self._held: tuple[str, float] | None = None  # what was heard before a button or B went down, and when
        self._released: str | None = None  # the callback that ends the hold unless the key only repeats
        self._before: tuple[tuple, np.ndarray] | None = None  # the left picture, and what it is of
        self._looks: tuple | None = None  # what the left picture shows
        self._bar_looks: tuple | None = None
        self._options: dict[object, dict[str, object]] = {}  # of the widgets, as `_show` set them
        self._is_turning = False  # the progress bar, when nobody knows how far the work is
        self._build()
        self._refresh()
        if source is not None:
            self.open(source)
        self._poll_id = root.after(POLL_MS, self._poll)

    # What is on the screen

    def _build(self) -> None:
        from tkinter import ttk

        root = self.root
        root.title("Neural Grain Processor")
        # Fonts are in points and grow with the screen's resolution; what is in pixels must do as well.
        self.scale = max(1.0, float(root.tk.call("tk", "scaling")) * 72 / 96)
        screen = root.winfo_screenwidth(), root.winfo_screenheight()
        root.minsize(*(min(round(self.scale * n), most) for n, most in zip((900, 600), screen, strict=True)))
        root.geometry(self.remembered.geometry)
        self.style = ttk.Style(root)
        self.style.theme_use("clam")
        self.outer = outer = ttk.Frame(root, padding=self._px(12))
        outer.pack(fill="both", expand=True)
        self._build_bar(outer)
        self.file_label = ttk.Label(outer)
        self.file_label.pack(fill="x", pady=(self._px(6), 0))
        self._build_notes(outer)  # packed before the pictures: what is packed last is squeezed first
        self._build_slider(outer)
        self._build_pictures(outer)
        self._build_menus()
        self._bind_keys()
        self._paint()
        root.protocol("WM_DELETE_WINDOW", self.close)

    def _build_bar(self, outer) -> None:
        from tkinter import ttk

        bar = ttk.Frame(outer)
        bar.pack(fill="x")
        self.open_button = ttk.Button(bar, text="Open ...", command=self.ask_open)
        self.play_button = ttk.Button(bar, text="Play", command=self.toggle_play)
        self.before_button = ttk.Button(bar, text="Before")
        self.after_button = ttk.Button(bar, text="After")
        self.difference_button = ttk.Button(bar, text="Difference")
        for which in ("before", "after", "difference"):
            button = getattr(self, f"{which}_button")
            button.bind("<Button-1>", lambda _, which=which: self._hold(which))
            button.bind("<ButtonRelease-1>", lambda _: self._let_go())
        self.save_button = ttk.Button(bar, text="Save as ...", command=self.ask_save)
        for button in bar.winfo_children():
            button.pack(side="left", padx=(0, self._px(6)))
        self.meter = ttk.Progressbar(bar, length=self._px(80), maximum=60, style="Accent.Horizontal.TProgressbar")
        self.meter.pack(side="right")
        self.volume = ttk.Scale(
            bar, from_=0, to=1, length=self._px(80), value=self.remembered.volume, command=self._set_volume
        )
        ttk.Label(bar, text="level").pack(side="right", padx=self._px(6))
        self.volume.pack(side="right")
        ttk.Label(bar, text="volume").pack(side="right", padx=self._px(6))

    def _build_notes(self, outer) -> None:
        from tkinter import ttk

        self.below = below = ttk.Frame(outer)
        below.pack(side="bottom", fill="x", pady=(self._px(4), 0))
        below.columnconfigure(0, weight=1)
        self.note_label = ttk.Label(below)
        self.note_label.grid(row=0, column=0, sticky="w")
        self.progress = ttk.Progressbar(below, length=self._px(160), style="Accent.Horizontal.TProgressbar")
        self.progress.grid(row=0, column=1, padx=self._px(6))
        self.cancel_button = ttk.Button(below, text="Cancel", command=self.worker.cancel)
        self.cancel_button.grid(row=0, column=2)
        below.bind("<Configure>", lambda _: self._wrap())
        self.grain_label = ttk.Label(outer, style="Grain.TLabel")
        self.grain_label.pack(side="bottom", anchor="w", pady=(self._px(6), 0))

    def _wrap(self) -> None:
        """Long notes go on in a second line, and leave room for the progress."""
        room = self.progress.winfo_reqwidth() + self.cancel_button.winfo_reqwidth() + self._px(24)
        width = self.below.winfo_width()
        self._show(self.note_label, wraplength=max(1, width - (room if self.busy else 0)))
        self._show(self.grain_label, wraplength=max(1, width))

    def _build_slider(self, outer) -> None:
        from tkinter import ttk

        sliding = ttk.Frame(outer)
        sliding.pack(side="bottom", fill="x", pady=(self._px(8), 0))
        ttk.Label(sliding, text="texture  -3").pack(side="left")
        self.slider = ttk.Scale(sliding, from_=-SLIDER_RANGE, to=SLIDER_RANGE, command=self._slid, takefocus=True)
        self.slider.pack(side="left", fill="x", expand=True, padx=self._px(8))
        ttk.Label(sliding, text="+3  smooth").pack(side="left")
        self.value_entry = ttk.Entry(sliding, width=6, justify="right", font=("TkDefaultFont", 13))
        self.value_entry.pack(side="left", padx=(self._px(8), 0))
        self.slider.bind("<Button-1>", lambda _: self.slider.focus_set(), add=True)
        for key in ("<Return>", "<KP_Enter>", "<FocusOut>"):
            self.value_entry.bind(key, lambda _: self._typed())
        for key in ("<Control-a>", "<Command-a>") if self._is_mac else ("<Control-a>",):
            self.value_entry.bind(key, self._select_all)
        for key, step in (("<Left>", -0.1), ("<Right>", 0.1), ("<Prior>", 1.0), ("<Next>", -1.0)):
            self.slider.bind(key, lambda _, step=step: self._step(step))
        self.slider.bind("<Double-Button-1>", lambda _: self._move_to(0.0))

    def _build_pictures(self, outer) -> None:
        from tkinter import ttk

        self.readout = ttk.Label(outer)
        self.readout.pack(side="bottom", anchor="w")
        frame = ttk.Frame(outer)
        frame.pack(fill="both", expand=True, pady=(self._px(6), 0))
        frame.rowconfigure(0, weight=1)
        self.views = []
        for i, title in enumerate(("before", "after")):
            view = PictureView(frame, title, {}, self.scale)
            view.canvas.grid(row=0, column=i, sticky="nsew")
            frame.columnconfigure(i, weight=1, uniform="pictures")
            canvas = view.canvas
            canvas.bind("<Configure>", lambda _: self._draw_soon())
            canvas.bind("<Button-1>", lambda event, view=view: self._press(view, event))
            canvas.bind("<B1-Motion>", lambda event, view=view: self._drag(view, event))
            canvas.bind("<ButtonRelease-1>", lambda event, view=view: self._release(view, event))
            canvas.bind("<Motion>", lambda event, view=view: self._point(view, event))
            canvas.bind("<Leave>", lambda _: self._point(None, None))
            for wheel, factor in (("<Button-4>", 0.8), ("<Button-5>", 1.25)):
                canvas.bind(wheel, lambda event, view=view, factor=factor: self._zoom(view.seconds_at(event.x), factor))
            canvas.bind(
                "<MouseWheel>",
                lambda event, view=view: self._zoom(view.seconds_at(event.x), 0.8 if event.delta > 0 else 1.25),
            )
            self.views.append(view)
        self.bar = PictureView(frame, "dB", {}, self.scale)
        self.bar.canvas.configure(width=self.bar.px(64))
        self.bar.canvas.grid(row=0, column=2, sticky="ns")

    def _build_menus(self) -> None:
        import tkinter as tk

        root, self.menu = self.root, tk.Menu(self.root)
        root.configure(menu=self.menu)
        key = "Cmd" if self._is_mac else "Ctrl"
        self.file_menu, self.view_menu, help_menu = (tk.Menu(self.menu, tearoff=False) for _ in range(3))
        self.recent_menu = tk.Menu(self.file_menu, tearoff=False, postcommand=self._fill_recent)
        for label, menu in (("File", self.file_menu), ("View", self.view_menu), ("Help", help_menu)):
            self.menu.add_cascade(label=label, menu=menu)
        add = self.file_menu.add_command
        add(label="Open ...", accelerator=f"{key}+O", command=self.ask_open)
        self.file_menu.add_cascade(label="Recent", menu=self.recent_menu)
        add(label="Save as ...", accelerator=f"{key}+S", command=self.ask_save)
        add(label="Save variations ...", command=self.ask_save_variations)
        add(label="Render many files ...", command=self.ask_batch)
        add(label="Choose a model ...", command=self.ask_model)
        add(label="Close the file", accelerator=f"{key}+W", command=self.close_file)
        add(label="Quit", accelerator=f"{key}+Q", command=self.close)
        add = self.view_menu.add_command
        add(label="After / gain", accelerator="G", command=self.toggle_view)
        add(label="Mel / log frequency", accelerator="L", command=self.toggle_log)
        add(label="Whole sound", accelerator="0", command=self.show_all)
        add(label="Light / dark", command=self.toggle_dark)
        help_menu.add_command(label="Shortcuts", accelerator="F1", command=self.show_help)
        help_menu.add_command(label="The model", command=self.show_model)
        help_menu.add_command(label="About", command=self.show_about)

    def _px(self, n: float) -> int:
        return round(n * self.scale)

    @property
    def _is_mac(self) -> bool:
        return self.root.tk.call("tk", "windowingsystem") == "aqua"

    def _bind_keys(self) -> None:
        root, modifier = self.root, "Command" if self._is_mac else "Control"
        for key, action in (("o", self.ask_open), ("s", self.ask_save), ("w", self.close_file), ("q", self.close)):
            root.bind(f"<{modifier}-{key}>", lambda _, action=action: action())
        root.bind("<F1>", lambda _: self.show_help())
        plain = {
            "<space>": self.toggle_play,
            "b": self._press_bypass,
            "g": self.toggle_view,
            "l": self.toggle_log,
            "0": self.show_all,
            "<Home>": lambda: self.seek(0.0),
            "<Escape>": lambda: self.select(None),
        }
        for key, action in plain.items():
            root.bind(key, lambda event, action=action: None if event.widget is self.value_entry else action())
        root.bind("<KeyRelease-b>", lambda _: self._release_bypass())
        # A button that has the focus must not be pressed by the space bar as well.
        root.unbind_class("TButton", "<space>")
        root.unbind_class("TButton", "<Key-space>")

    def _paint(self) -> None:
        """Colours, light or dark."""
        from matplotlib import colormaps

        self.palette = DARK if self.remembered.is_dark else LIGHT
        back, text, line = (self.palette[name] for name in ("back", "text", "line"))
        style = self.style
        trough, button = self.palette["trough"], self.palette["button"]
        style.configure(".", background=back, foreground=text, bordercolor=line, troughcolor=trough)
        style.configure(".", lightcolor=trough, darkcolor=trough, arrowsize=self._px(14), sliderlength=self._px(30))
        style.configure("TEntry", fieldbackground=trough, foreground=text, insertcolor=text)
        style.configure("TButton", background=button, foreground=text, width=-8)
        style.configure("TButton", lightcolor=button, darkcolor=button, padding=(self._px(8), self._px(4)))
        style.map("TButton", background=[("pressed", ACCENT), ("active", self.palette["trough"])])
        style.map("TButton", foreground=[("disabled", line)])
        style.configure("On.TButton", background=ACCENT, foreground="#ffffff", lightcolor=ACCENT, darkcolor=ACCENT)
        style.map("On.TButton", background=[("active", ACCENT)], foreground=[("disabled", line)])
        style.configure("Grain.TLabel", font=("TkDefaultFont", 13))
        style.configure("Error.TLabel", foreground=self.palette["error"])
        style.configure("Accent.Horizontal.TProgressbar", background=ACCENT)
        style.configure("TScale", background=ACCENT, lightcolor=ACCENT, darkcolor=ACCENT, gripcount=0)
        style.map("TScale", **{name: [("disabled", line)] for name in ("background", "lightcolor", "darkcolor")})
        self.root.configure(background=back)
        for menu in (self.menu, *self.menu.winfo_children(), self.recent_menu):
            menu.configure(background=back, foreground=text, activebackground=ACCENT, activeforeground="#ffffff")
            menu.configure(disabledforeground=line, borderwidth=0)
        for view in (*self.views, self.bar):
            view.palette = self.palette
        self._colours = np.round(255 * colormaps["magma"](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)
        self._gain_colours = np.round(255 * colormaps["RdBu_r"](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)

    def _refresh(self) -> None:
        """Derive every label and every enabled or disabled control from the state."""
        octaves = self.octaves
        # Not `focus_get`: it knows nothing of the system's dialogs, and fails while one has the focus.
        if str(self.root.tk.call("focus")) != str(self.value_entry):
            value = f"{octaves:+.1f}" if octaves else "0"
            if self.value_entry.get() != value:
                self.value_entry.delete(0, "end")
                self.value_entry.insert(0, value)
        self._show(self.file_label, text=self._file_text())
        self._show(self.grain_label, text=self._grain_text())
        self._show(self.note_label, text=self.note, style="Error.TLabel" if self.is_error else "TLabel")
        ready = self.opened is not None
        for widget, is_on in (
            (self.open_button, self.has_model),
            (self.slider, ready),
            (self.value_entry, ready),
            (self.play_button, ready),
            (self.before_button, ready),
            (self.after_button, ready),
            (self.difference_button, ready),
            (self.save_button, ready),
        ):
            self._show(widget, is_on=is_on)
        self._show(self.play_button, text="Pause" if self.mixer is not None and self.mixer.is_playing else "Play")
        for name in ("before", "after", "difference"):
            style = "On.TButton" if ready and self.listening == name else "TButton"
            self._show(getattr(self, f"{name}_button"), style=style)
        for i, is_on in ((0, self.has_model), (2, ready), (3, ready), (4, self.has_model), (6, ready)):
            self._show((self.file_menu, i), is_on=is_on)
        is_busy = self.busy > 0
        if is_busy != bool(self.progress.winfo_manager()):
            # The row keeps its height: the pictures above would jump each time the hand rests.
            self.below.rowconfigure(0, minsize=self.cancel_button.winfo_reqheight())
            for widget in (self.progress, self.cancel_button):
                widget.grid() if is_busy else widget.grid_remove()
        self._wrap()
        if is_busy:
            is_known = self.share is not None
            if is_known:
                self.progress.stop()
                self.progress.configure(mode="determinate", value=100 * self.share)
            elif str(self.progress["mode"]) != "indeterminate" or not self._is_turning:
                self.progress.configure(mode="indeterminate")
                self.progress.start(20)
            self._is_turning = not is_known
        elif self._is_turning:
            self.progress.stop()
            self._is_turning = False

    def _show(self, what, **options: object) -> None:
        """Set options of a widget, or of a menu's entry, that are other than they were: each call into Tk may have
        to wait for the threads that compute, and there are many at every move of the slider."""
        shown = self._options.setdefault(what, {})
        options = {name: value for name, value in options.items() if name not in shown or shown[name] != value}
        shown.update(options)
        if "is_on" in options:
            is_on = options.pop("is_on")
            if isinstance(what, tuple):
                menu, i = what
                menu.entryconfigure(i, state="normal" if is_on else "disabled")
            else:
                what.state(["!disabled" if is_on else "disabled"])
        if options:
            what.configure(**options)

    def _file_text(self) -> str:
        if self._seen is None:
            return " "
        sound, name = self._seen[1].sound, printable(self._seen[0].name)
        short = name if len(name) <= 60 else f"{name[:40]} ... {name[-14:]}"
        channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
        return f"{short}   {sound.n_samples / sound.sr:.1f} s, {channels}, {sound.sr} Hz"

    def _grain_text(self) -> str:
        if self.opened is None:
            return "open a sound to begin" if self.has_model and self.looked is None else " "
        if self.rendered is not None and self.rendered.rendering.asked_octaves == self.octaves:
            return describe_rendering(self.rendered.rendering)
        before, octaves = self.opened.analysis.grain, self.octaves
        return f"grain {before:.3g} -> {before * 2**-octaves:.3g}? (asked x{2**-octaves:#.3g}, to be measured)"

    # Pictures

    def _draw_soon(self) -> None:
        if self._redraw is None:
            self._redraw = self.root.after_idle(self._draw)

    def _draw(self) -> None:
        """Put the pictures of what is shown on the screen, on one scale."""
        self._redraw = None
        if self._seen is None:
            self._looks = None
            for view in self.views:
                view.draw(None, self._colours)
            self._draw_bar()
            self._show(self.readout, text=self._readout_text())
            return
        settings = self._seen[1].settings
        before, gain_db = self._picture(self.views[0].size[0])
        looks = (id(before), self.views[0].size, self.remembered.is_log, self.remembered.is_dark)
        range_db = settings.dynamic_range_db
        after = before + gain_db / range_db
        shown = after if self.view == "after" else 0.5 + gain_db / (2 * GAIN_RANGE_DB)
        for view, levels, is_gain in ((self.views[0], before, False), (self.views[1], shown, self.view == "gain")):
            view.span, view.is_log, view.edges_hz = self.span, self.remembered.is_log, settings.band_edges_hz
            if view is self.views[0] and looks == self._looks:
                continue  # the slider moved: only what comes after is other
            view.mark_colour = LIGHT["text"] if is_gain else "#ffffff"  # no gain is white, in light and dark
            view.title = "gain (dB)" if is_gain else "after" if view is self.views[1] else "before"
            view.draw(levels, self._gain_colours if is_gain else self._colours)
        self._shown, self._looks = (before, gain_db), looks
        self._draw_bar()
        self._mark()
        self._show(self.readout, text=self._readout_text())

    def _picture(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture and gains in dB of what is shown, (n_mels, columns) each: a column has the loudest of its frames."""
        analysis = self._seen[1]
        hop_s = analysis.settings.grain.hop_for(analysis.sound.sr) / analysis.sound.sr
        n_frames = analysis.x.shape[1]
        lead = (
            analysis.settings.grain.n_fft_for(analysis.sound.sr) / analysis.sound.sr / 2 / hop_s
        )  # to a frame's middle
        first, last = (min(max(0, int(s / hop_s + lead)), n_frames) for s in self.span)
        last = max(last, first + 1)
        starts = np.unique(np.linspace(first, last, min(width, last - first), endpoint=False).astype(int))
        key = (id(analysis), first, last, width)
        if self._before is None or self._before[0] != key:
            self._before = key, np.maximum.reduceat(analysis.x[:, first:last], starts - first, axis=1)
        before = self._before[1]
        amounts = self._amounts()
        if amounts is None:
            return before, np.zeros_like(before)
        gain_db = self.opened.solver.gain_of_frames(amounts, starts)
        return before, gain_db

    def _draw_bar(self) -> None:
        """The colour bar."""
        bar, is_gain = self.bar, self.view == "gain" and self._seen is not None
        canvas, height, px = bar.canvas, bar.size[1], bar.px
        looks = height, is_gain, self.remembered.is_dark
        if looks == self._bar_looks:
            return
        self._bar_looks = looks
        from PIL import Image, ImageTk

        canvas.delete("all")
        canvas.configure(background=self.palette["back"])
        ramp = np.linspace(255, 0, height).round().astype(int)
        colours = (self._gain_colours if is_gain else self._colours)[ramp]
        picture = Image.fromarray(np.repeat(colours[:, None], px(12), axis=1))
        bar._image = ImageTk.PhotoImage(picture, master=canvas)
        canvas.create_image(px(4), bar.top, image=bar._image, anchor="nw")
        top, bottom = (GAIN_RANGE_DB, -GAIN_RANGE_DB) if is_gain else (0, -DYNAMIC_RANGE_DB)
        for share in (0, 0.25, 0.5, 0.75, 1):
            text = f"{top + share * (bottom - top):+.0f}" if is_gain else f"{top + share * (bottom - top):.0f}"
            anchor = {0: "nw", 1: "sw"}.get(share, "w")  # at the ends beside the bar, not beyond it
            canvas.create_text(px(20), bar.top + share * height, text=text, anchor=anchor, fill=self.palette["text"])
        canvas.create_text(px(4), bar.top / 2, text="dB", anchor="w", fill=self.palette["text"])

    def _mark(self) -> None:
        playhead = None
        if self.mixer is not None:
            playhead = self.mixer.position / self.mixer.sr
        for view in self.views:
            view.mark(playhead, self.selection_s)

    # What the user does

    @property
    def octaves(self) -> float:
        """Position of the slider in octaves, in steps of 0.1, with a detent at 0."""
        value = round(float(self.slider.get()), 1)
        return 0.0 if abs(value) < DETENT else value

    def _amounts(self) -> Amounts | None:
        """What is heard and shown at the slider's position: what was measured, until then what the solver expects."""
        octaves = self.octaves
        if self.opened is None or octaves == 0:
            return None
        if self.rendered is not None and self.rendered.rendering.asked_octaves == octaves:
            return self.rendered.rendering.amounts
        return self.opened.solver.about(octaves)

    def _dialog_folder(self) -> str:
        return self.remembered.folder if Path(self.remembered.folder).is_dir() else ""

    def ask_open(self) -> None:
        """Ask for a file and open it."""
        if self.has_model and (name := self.dialogs.open_name(self._dialog_folder())):
            self.open(Path(name))

    def open(self, path: Path) -> None:
        """Open a file; the picture comes when the worker has it."""
        self._leave_then(lambda: self._open(path))

    def _open(self, path: Path) -> None:
        self._start(f"reading {printable(path.name)} ...")
        self.worker.open(path)

    def ask_save(self) -> Path | None:
        """Ask for a name and render the file to it; returns the name, if one was given."""
        if self.opened is None:
            return None
        asked = RenderTarget(self.octaves)
        name = self.dialogs.save_name(self._dialog_folder(), output_name(self.opened.path, asked))
        if not name:
            return None
        self._start(f"saving {printable(Path(name).name)} ...")
        self.worker.save([Job(self.opened.path, Path(name), asked)])
        return Path(name)

    def ask_save_variations(self) -> None:
        """Ask for a folder and render all whole positions into it."""
        if self.opened is not None and (name := self.dialogs.folder_name("Save variations from -3 to +3 into")):
            self._start("saving variations ...")
            asked = [RenderTarget(float(octaves)) for octaves in range(-3, 4)]
            source = self.opened.path
            self.worker.save([Job(source, Path(name) / output_name(source, each), each) for each in asked])

    def ask_batch(self) -> None:
        """Ask for files and a folder and render them at the slider's position."""
        names = self.dialogs.many_names() if self.has_model else []
        folder = self.dialogs.folder_name("Write the results into") if names else ""
        if folder:
            asked = RenderTarget(self.octaves)
            self._start(f"rendering {len(names)} files ...")
            sources = [Path(name) for name in names]
            self.worker.batch([Job(source, Path(folder) / output_name(source, asked), asked) for source in sources])

    def ask_model(self) -> None:
        """Ask for another model and read it; an open sound is looked at anew with it."""
        if name := self.dialogs.model_name():
            self._leave_then(lambda: self._load(Path(name)))

    def _load(self, path: Path) -> None:
        self._start(f"loading {printable(path.name)} ...")
        self.worker.load(path)
        if self.opened is not None:
            self._open(self.opened.path)

    def toggle_play(self) -> None:
        """Play or pause."""
        if self.mixer is None:
            return
        if self.mixer.is_playing:
            self.player.pause()
        elif why_not := self.player.play(self.mixer):
            self.note, self.is_error = why_not, True
        self._refresh()

    def listen(self, which: str) -> None:
        """Hear before, after or the difference."""
        self.listening = which
        if self.mixer is not None:
            self.mixer.listen(which)
        self._refresh()

    def _hold(self, which: str) -> None:
        """Hear something else: while it is held, or after a mere tap until something else is tapped."""
        if self.opened is not None:
            self._held = self.listening, time.monotonic()
            self.listen(which)

    def _let_go(self) -> None:
        if self._held is not None and time.monotonic() - self._held[1] > HOLD_S:
            self.listen(self._held[0])
        self._held = None

    def _press_bypass(self) -> None:
        """From after to before and back; a key that is held repeats, which is no other press."""
        if self._released is not None:
            self.root.after_cancel(self._released)
            self._released = None
        elif self._held is None:
            self._hold("after" if self.listening == "before" else "before")

    def _release_bypass(self) -> None:
        def release() -> None:
            self._released = None
            self._let_go()

        if self._held is not None and self._released is None:
            self._released = self.root.after(KEY_REPEAT_MS, release)  # X11 releases before it repeats

    def seek(self, seconds: float) -> None:
        """Go on somewhere else."""
        if self.mixer is not None:
            self.mixer.seek(round(seconds * self.mixer.sr))
            self._mark()

    def select(self, selection_s: tuple[float, float] | None) -> None:
        """Loop a part of the sound, or no longer."""
        self.selection_s = selection_s
        if self.mixer is not None:
            sr = self.mixer.sr
            self.mixer.loop(None if selection_s is None else (round(selection_s[0] * sr), round(selection_s[1] * sr)))
        self._mark()

    def toggle_view(self) -> None:
        """Show the sound after, or the gain that makes it."""
        self.view = "gain" if self.view == "after" else "after"
        self._draw_soon()

    def toggle_log(self) -> None:
        """Mel or logarithmic frequency axis."""
        self.remembered.is_log = not self.remembered.is_log
        self._draw_soon()

    def toggle_dark(self) -> None:
        """Light or dark colours."""
        self.remembered.is_dark = not self.remembered.is_dark
        self._paint()
        self._draw_soon()
        self._refresh()

    def show_all(self) -> None:
        """Show the whole sound."""
        if self.opened is not None:
            self.span = (0.0, self._duration_s)
            self._draw_soon()

    def show_help(self) -> None:
        """Help sheet of shortcuts."""
        self.dialogs.show_text("Shortcuts", SHORTCUTS)

    def show_model(self) -> None:
        """What the model was trained on, and its audit."""
        self.dialogs.show_text("The model", self.model_note or "no model is loaded")

    def show_about(self) -> None:
        """Versions."""
        from importlib.metadata import version

        names = ("torch", "numpy", "scipy", "soundfile")
        lines = [f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in names)]
        self.dialogs.show_text("About", "Neural Grain Processor\n\n" + "\n".join(lines))

    @property
    def _seen(self) -> tuple[Path, Analysis] | None:
        """The file whose picture is shown, and what is known of its sound."""
        return self.looked if self.opened is None else (self.opened.path, self.opened.analysis)

    @property
    def _duration_s(self) -> float:
        sound = self._seen[1].sound
        return sound.n_samples / sound.sr

    def _set_volume(self, _value: str) -> None:
        self.remembered.volume = float(self.volume.get())
        if self.mixer is not None:
            self.mixer.volume = self.remembered.volume

    def _fill_recent(self) -> None:
        self.recent_menu.delete(0, "end")
        for name in self.remembered.recent:
            self.recent_menu.add_command(label=printable(name), command=lambda name=name: self.open(Path(name)))

    def _press(self, view: PictureView, event) -> None:
        self._drag_from = view.seconds_at(event.x) if self.opened is not None else None
        self._drag_x = event.x

    def _drag(self, view: PictureView, event) -> None:
        if self._drag_from is not None and abs(event.x - self._drag_x) > CLICK_PIXELS:
            self.selection_s = tuple(sorted((self._drag_from, view.seconds_at(event.x))))
            self._mark()

    def _release(self, view: PictureView, event) -> None:
        if self._drag_from is None:
            return
        if abs(event.x - self._drag_x) > CLICK_PIXELS:
            self.select(tuple(sorted((self._drag_from, view.seconds_at(event.x)))))
            self.seek(self.selection_s[0])
        else:
            if self.selection_s is not None and not self.selection_s[0] <= self._drag_from < self.selection_s[1]:
                self.select(None)
            self.seek(self._drag_from)
        self._drag_from = None

    def _point(self, view: PictureView | None, event) -> None:
        self._pointed = None if view is None else (view, event.x, event.y)
        self._show(self.readout, text=self._readout_text())

    def _readout_text(self) -> str:
        """Time, frequency and level under the pointer."""
        if self._seen is None or self._pointed is None:
            return " "
        view, x, y = self._pointed
        before, gain_db = self._shown
        column = min(max(0, x - view.left), view.size[0] - 1) * before.shape[1] // view.size[0]
        band = view.band_at(y)
        level_db = DYNAMIC_RANGE_DB * (before[band, column] - 1)
        return (
            f"{view.seconds_at(x):.2f} s   {view.hz_at(y):,.0f} Hz   "
            f"before {level_db:.0f} dB, gain {gain_db[band, column]:+.1f} dB"
        )

    def _zoom(self, around_s: float, factor: float) -> None:
        if self.opened is None:
            return
        length = min(self._duration_s, max(0.1, (self.span[1] - self.span[0]) * factor))
        share = (around_s - self.span[0]) / (self.span[1] - self.span[0])
        start = min(max(0.0, around_s - share * length), self._duration_s - length)
        self.span = (start, start + length)
        self._draw_soon()

    def _step(self, step: float) -> str:
        self._move_to(self.octaves + step)
        return "break"

    def _select_all(self, _event) -> str:
        self.value_entry.select_range(0, "end")
        return "break"

    def _typed(self) -> None:
        try:
            value = float(self.value_entry.get().replace(",", "."))
        except ValueError:
            value = self.octaves
        self.slider.focus_set()
        if math.isfinite(value):
            self._move_to(value)
        self._refresh()

    def _move_to(self, octaves: float) -> str:
        if self.opened is not None:
            self.slider.set(max(-SLIDER_RANGE, min(SLIDER_RANGE, octaves)))
        return "break"

    def _slid(self, _value: str) -> None:
        """The slider moved: heard and shown at once as the solver expects it, measured when the hand rests."""
        if self._settle is not None:
            self.root.after_cancel(self._settle)
        self._settle = self.root.after(SETTLE_MS, self._settled)
        self.worker.forget()
        if self.is_error:
            self.note, self.is_error = "", False
        if self.mixer is not None:
            self.mixer.want(self._amounts())
        self._draw_soon()
        self._refresh()

    def _settled(self) -> None:
        self._settle = None
        if self.opened is not None and not (self.rendered and self.rendered.rendering.asked_octaves == self.octaves):
            self._start(MEASURING)
            self.worker.render(self.opened, self.octaves)

    def close_file(self) -> None:
        """Close the file that is open."""
        if self.opened is not None:
            self._leave_then(self._close_file)

    def _close_file(self) -> None:
        self._leave_file()
        self.note, self.is_error = "", False
        self._refresh()
        self._draw_soon()

    def _leave_then(self, go_on: Callable[[], None]) -> None:
        """Go on once what the slider made is saved, or may be lost, which is asked once; not at all if it is kept."""
        self._after_save = None  # an earlier wish has been overtaken
        if self.opened is None or self.octaves in (0, self.saved_at):
            go_on()
            return
        answer = self.dialogs.shall_save()
        if answer:
            if output := self.ask_save():
                self._after_save = output, go_on
        elif answer is not None:
            self.saved_at = self.octaves
            go_on()

    def _leave_file(self) -> None:
        self.player.close()
        self.looked = self.opened = self.rendered = self.mixer = self.selection_s = None

    def close(self) -> None:
        """End the sound, the worker and the window."""
        self._leave_then(self._close)

    def _close(self) -> None:
        self._leave_file()
        width, height = self.root.winfo_width(), self.root.winfo_height()
        if width > 1:
            self.remembered.geometry = f"{width}x{height}"
        write_preferences(self._remember_at, self.remembered)
        for callback in (self._poll_id, self._settle, self._redraw, self._released):
            if callback is not None:
                self.root.after_cancel(callback)
        self.progress.stop()
        self.root.withdraw()
        self.worker.close()
        self.root.destroy()

    # What the worker says

    def _start(self, note: str) -> None:
        self.busy += 1
        self.share = None
        if note == MEASURING:
            self._say_unless_error(note)
        else:
            self.note, self.is_error = note, False
        self._refresh()

    def _say_unless_error(self, note: str) -> None:
        """What nobody asked for must not wipe an error: that stays until the user does something else."""
        if not self.is_error:
            self.note = note

    def _poll(self) -> None:
        try:
            while True:
                self._take(self.worker.messages.get_nowait())
        except queue.Empty:
            pass
        if self.mixer is not None:
            level = max(self.mixer.peak, 1e-3) if self.mixer.is_playing else 1e-3
            self.meter["value"] = 60 + 20 * math.log10(level)
            self._mark()
            if why_not := self.player.check():
                self.note, self.is_error = why_not, True
            text = "Pause" if self.mixer.is_playing else "Play"
            if self.play_button["text"] != text:
                self._refresh()
        self._poll_id = self.root.after(POLL_MS, self._poll)

    def _take(self, message: Message) -> None:
        if message.kind in ("progress", "looked"):
            getattr(self, f"_take_{message.kind}")(*message.content)
            self._refresh()
            return
        self.busy -= 1
        self.share = None
        if message.kind in ("error", "cancelled"):
            self._after_save = self.looked = None
            self._draw_soon()
        if message.kind == "error":
            self.note, self.is_error = str(message.content), True
        else:
            getattr(self, f"_take_{message.kind}")(message.content)
        self._refresh()

    def _take_progress(self, note: str, share: float) -> None:
        self._say_unless_error(f"{note} ...")
        self.share = share

    def _take_looked(self, path: Path, analysis: Analysis) -> None:
        """A picture at once: the pattern of a long sound takes seconds."""
        self._leave_file()
        self.looked = path, analysis
        self.span, self.share = (0.0, self._duration_s), None
        self._draw()

    def _take_cancelled(self, _kind: str) -> None:
        self.note, self.is_error = "cancelled", False

    def _take_model(self, processor: GrainProcessor) -> None:
        self.has_model = True
        training, audit = processor.loaded.training, processor.loaded.audit
        verdict = audit.get("verdict", "not audited")
        self.note, self.is_error = f"model ready: {verdict}", False
        self.model_note = (
            f"trained on {training.get('files', '?')} files, {training.get('tiles', '?')} tiles, "
            f"{training.get('epochs_done', '?')} epochs\n\naudit: {verdict}"
        )

    def _take_opened(self, opened: Opened) -> None:
        self._leave_file()
        self.opened, self.saved_at = opened, 0.0
        self._say_unless_error("")
        self.mixer = Mixer(opened.y, opened.analysis.sound.sr, opened.solver)
        self.mixer.volume = self.remembered.volume
        self.mixer.listen(self.listening)
        self.span = (0.0, self._duration_s)
        self.remembered.folder = str(opened.path.parent)
        name = str(opened.path.absolute())
        self.remembered.recent = [name, *(other for other in self.remembered.recent if other != name)][:N_RECENT]
        self.slider.state(["!disabled"])
        self.slider.set(0.0)
        self._draw()
        self._settled()

    def _take_rendered(self, rendered: Rendered | None) -> None:
        if self.note == MEASURING:
            self.note = ""
        if rendered is not None and rendered.opened is self.opened:
            self.rendered = rendered
            self.mixer.want(self._amounts())
            self._draw_soon()

    def _take_saved(self, saved: list[FileRendering]) -> None:
        last, self.is_error = saved[-1], False
        if len(saved) == 1:
            self.note = f"saved {last.output}: {describe_rendering(last.rendering)}"
            self.saved_at = last.rendering.asked_octaves if last.rendering else 0.0
            if self._after_save is not None and self._after_save[0] == last.output:
                # Not here: it may end the window, which still has to be refreshed. Asked again if the slider moved on.
                self.root.after_idle(self._leave_then, self._after_save[1])
        else:
            self.note = f"saved {len(saved)} variations in {last.output.parent}"

    def _take_batch(self, result: tuple[int, list[str]]) -> None:
        n_done, failures = result
        self.note, self.is_error = f"{n_done} files rendered", bool(failures)
        if failures:
            self.note += f", {len(failures)} failed: {failures[0]}"
            self.dialogs.show_text("Not rendered", "\n".join(failures))


def open_window(model_path: Path, device: str, source: Path | None) -> int:
    """Show the window until it is closed.

    Raises
    ------
    PipelineError
        If there is no display or no tkinter.
    """
    hint = "render without one: python neural_audio_processor.py INPUT --grain -2"
    try:
        import tkinter as tk
    except ImportError as err:
        raise PipelineError(
            f"no window: Python here is without tkinter (on Debian: apt-get install python3-tk); {hint}"
        ) from err
    try:
        root = tk.Tk(className="Neural Grain Processor")
    except tk.TclError as err:
        raise PipelineError(f"no window: no display to show it on; {hint}") from err
    report, interrupted = root.report_callback_exception, []

    def report_fault(kind: type, err: BaseException, at: object) -> None:
        if kind is not KeyboardInterrupt:
            report(kind, err, at)
            return
        interrupted.append(True)  # Tk would only print it and go on
        root.quit()

    root.report_callback_exception = report_fault
    window = GrainWindow(root, model_path, device, source)
    accept_drops(window)
    root.mainloop()
    if interrupted:
        raise KeyboardInterrupt
    return 0


def accept_drops(window: GrainWindow) -> bool:
    """Open files that are dropped, where tkinterdnd2 is installed and works; returns whether it does."""
    root = window.root
    try:
        from tkinterdnd2 import DND_FILES, TkinterDnD

        TkinterDnD._require(root)  # what TkinterDnD.Tk does; so the window starts without it as well
    except (ImportError, RuntimeError):
        return False

    def dropped(event) -> str:
        for name in root.tk.splitlist(event.data)[:1]:
            root.after_idle(window.open, Path(name))  # the source waits for the end of the drop: no question inside it
        return event.action

    window.outer.drop_target_register(DND_FILES)
    window.outer.dnd_bind("<<Drop>>", dropped)
    return True
