"""The desktop window: open a sound, move the slider while it plays, compare, save.

`GrainWindow` joins the `Session` (what is open and what the worker does), the `Playback` (what is heard), the
`FileCommands` (what is read and written) and the `Layout` (what is seen). Whatever changes one of them ends with
`_refresh`, which derives every label and every enabled or disabled state. tkinter is imported when a window is made,
because some installations of Python lack it.
"""

from __future__ import annotations

import os
import queue
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from neural_grain.app.targets import RenderTarget
from neural_grain.session.actions import Action
from neural_grain.session.messages import (
    BatchDone,
    CurveEstimated,
    FileOpened,
    Message,
    ModelLoaded,
    ModelSwitched,
    Pictured,
    RenderingDone,
    WorkCancelled,
    WorkFailed,
)
from neural_grain.session.models import models_folder
from neural_grain.session.playback import Playback
from neural_grain.session.player import Player
from neural_grain.session.preferences import preferences_path, read_preferences, write_preferences
from neural_grain.session.state import Session
from neural_grain.session.worker import Worker
from neural_grain.window.curve_commands import CurveCommands
from neural_grain.window.file_commands import FileCallbacks, FileCommands
from neural_grain.window.learn_commands import QUIT_LEARNING, LearnCommands
from neural_grain.window.setting_commands import SettingCallbacks, SettingCommands
from neural_grain.window.transport import Transport
from neural_grain.window.view_commands import ViewCommands

if TYPE_CHECKING:
    import tkinter as tk

    from neural_grain.session.view_state import ViewState
    from neural_grain.window.dialogs import Dialogs
    from neural_grain.window.menus import DynamicMenu, Entry


@dataclass(frozen=True)
class WindowSettings:
    """Times of the event loop."""

    settle_ms: int = 120  # the slider has to rest so long before the whole file is rendered
    poll_ms: int = 30  # the playhead and the meter move about as often as a film has frames


WINDOW = WindowSettings()
QUIT_QUESTION = "Files are still being written. Quit and give up those that are not done?"


class GrainWindow:
    """The window.

    Parameters
    ----------
    root : tkinter.Tk
    model_path, device : for the worker
    source : Path or None, file to open at the start
    dialogs : Dialogs or None for those of the system
    player : Player or None for the sound card
    preferences_file : Path or None for the place of the platform
    models : Path or None for the place of the platform, folder of the models by name

    Attributes
    ----------
    session : Session
    playback : Playback
    layout : Layout, with the widgets; its picture panel is also ``panel``, and its lane of the curve ``lane``
    curve : CurveCommands
    files : FileCommands
    settings : SettingCommands
    transport : Transport
    view : ViewCommands
    learn : LearnCommands
    preferences : Preferences
    """

    def __init__(
        self,
        root: tk.Tk,
        model_path: Path | None,
        device: str,
        source: Path | None = None,
        dialogs: Dialogs | None = None,
        player: Player | None = None,
        preferences_file: Path | None = None,
        models: Path | None = None,
    ):
        from neural_grain.window.dialogs import system_dialogs

        self.root, self.dialogs = root, dialogs or system_dialogs(root)
        self._preferences_file = preferences_file or preferences_path()
        self.preferences = read_preferences(self._preferences_file)
        self.playback = Playback(player or Player(), root.after, root.after_cancel, self._refresh)
        self.playback.player.output = self.preferences.output
        self._remembered_model = None if model_path else self._chosen_model()
        model_path = model_path or self._remembered_model
        self.worker = Worker(model_path, device)
        self.session = Session(self.worker)
        self._settle: str | None = None  # the callback that measures when the slider or the curve rests
        self.learn = LearnCommands(
            root,
            models or models_folder(),
            device,
            dialogs=lambda: self.dialogs,
            use=lambda path: self.settings.use_model(path),
            palette=lambda: self.layout.palette,
        )
        self._build_layout()
        root.protocol("WM_DELETE_WINDOW", self.close)
        self._refresh()
        self._source = source  # to open once there is a model
        # Once the window is drawn: both would compete for the interpreter.
        self._start_id = root.after(1, root.after_idle, self.worker.start)
        self._poll_id = root.after(WINDOW.poll_ms, self._poll)

    def _build_layout(self) -> None:
        """Make the widgets, and connect them."""
        from neural_grain.window.file_list import FileListCallbacks
        from neural_grain.window.layout import Layout, LayoutCallbacks
        from neural_grain.window.menus import DynamicMenu
        from neural_grain.window.panels import PanelCallbacks
        from neural_grain.window.theme import is_system_dark

        session = self.session
        panel = PanelCallbacks(
            lambda seconds: self.transport.seek(seconds),
            lambda selection_s: self.transport.select(selection_s),
            lambda frames: session.gain_db_of_frames(self.target, frames),
            lambda frames: session.layer_levels(self.target, frames),
            self._on_marked,
        )
        callbacks = LayoutCallbacks(
            perform=self.perform,
            release=lambda action: attrgetter(action.release)(self)(),
            press_version=self.playback.press,
            release_version=self.playback.release,
            slide=self._on_move,
            set_mix=lambda mix: self.settings.set_mix(mix),
            edit_curve=self._on_move,
            edit_done=lambda: self.settings.record(),
            set_volume=lambda volume: self.transport.set_volume(volume),
            playhead_s=lambda: self.playback.position_s,
            cancel=self.worker.cancel,
            panel=panel,
            files=FileListCallbacks(
                lambda path: self.files.choose(path),
                lambda: self.files.render_list(),
                lambda: self.files.close_list(),
            ),
        )
        dynamic: tuple[DynamicMenu, ...] = (
            DynamicMenu("File", "Recent", self._recent_entries, 1),
            DynamicMenu("Edit", "Presets", lambda: self.settings.preset_entries(), 3),
            DynamicMenu("Sound", "Output device", lambda: self.transport.output_entries(), 0),
            DynamicMenu("Model", "Use", lambda: self.settings.model_entries(self.learn.models()), 0),
        )
        self.layout = Layout(self.root, self.preferences, is_system_dark(), callbacks, dynamic)
        self.panel, self.lane = self.layout.panel, self.layout.lane
        self.panel.is_log = self.preferences.is_log
        self.learn.add_line(self.layout.outer, self.layout.scale, self.layout.status.frame)
        self.transport = Transport(self.playback, self.panel, session, self.preferences, self._refresh)
        self.view = ViewCommands(self.layout, session, self.preferences, lambda: self.dialogs, self._refresh)
        callbacks = SettingCallbacks(lambda: self.dialogs, self._on_move, self._refresh, self._write_preferences)
        self.settings = SettingCommands(self.layout, session, self.playback, self.preferences, callbacks)
        files = FileCallbacks(
            dialogs=lambda: self.dialogs,
            target=lambda: self.target,
            listening=lambda: self.playback.listening,
            refresh=self._refresh,
            closed=self._on_closed,
            after_idle=self.root.after_idle,
            show_list=self.layout.show_list,
            use_model=self.settings.use_model,
        )
        self.files = FileCommands(session, self.preferences, self.layout.file_list, files)
        self.curve = CurveCommands(self.lane, session, lambda: self.dialogs, lambda: self.files.folder, self._refresh)

    @property
    def octaves(self) -> float:
        """Position of the slider."""
        return self.layout.octave_slider.octaves

    @property
    def target(self) -> RenderTarget:
        """What is heard and saved."""
        return self.settings.target

    @property
    def is_idle(self) -> bool:
        """Whether no work is under way or about to start."""
        return self.session.n_tasks == 0 and self._settle is None

    def _view_state(self) -> ViewState:
        from neural_grain.session.view_state import ViewState

        session, settings = self.session, self.settings
        target = settings.target
        return ViewState(
            file_text=session.file_text,
            info_text=session.info_text(self.playback.position_s),
            grain_text=session.grain_text(target),
            status=session.status,
            is_error=session.is_error,
            is_busy=session.is_busy,
            progress=session.progress,
            has_model=session.processor is not None,
            has_picture=session.visible is not None,
            has_file=session.opened is not None,
            is_playing=self.playback.is_playing,
            listening=self.playback.listening,
            view=self.panel.view,
            shows_curve=settings.shows_curve,
            has_curve=target.curve is not None,
            contour=session.contour,
            is_contour_current=session.is_measured(target),
            zones=session.zones,
            measured_octaves=session.measured_octaves(target),
            slot=settings.slots.current,
            can_undo=settings.can_undo,
            can_redo=settings.history.can_redo,
            has_list=bool(self.layout.file_list.paths),
            has_results=self.files.results is not None,
            library=session.library_state(target),
            path=session.visible and session.visible.path,
        )

    def _refresh(self) -> None:
        """Derive everything on the screen from the state."""
        visible = self.session.visible
        picture = None if visible is None else visible.picture
        self.panel.show_sound(picture, is_interactive=self.session.opened is not None)
        self.layout.overview.show_sound(None if visible is None else visible.facts.overview, self.panel.duration_s)
        self.layout.show(self._view_state())

    def _on_marked(self, span: tuple[float, float], playhead_s: float | None) -> None:
        self.lane.view.follow(span, playhead_s)
        self.layout.overview.follow(span, self.panel.selection_s, playhead_s)

    def perform(self, action: Action) -> None:
        """Do what an action of the table says, if it is possible now."""
        if self._view_state().allows(action.needs):
            attrgetter(action.command)(self)(*action.arguments)

    def open(self, path: Path) -> None:
        """Open a file, after asking what to do with unsaved work."""
        self.files.open(path)

    def _on_move(self) -> None:
        """Make the solver's estimate heard and seen soon, and measure it when the slider or the curve rests."""
        self._cancel_settling()
        self._settle = self.root.after(WINDOW.settle_ms, self._measure)
        self.worker.abandon_rendering()
        if self.session.is_error:
            self.session.set_status(self.session.idle_status)
        self.session.estimate(self.target)
        self._update_sound()

    def _cancel_settling(self) -> None:
        if self._settle is not None:
            self.root.after_cancel(self._settle)
            self._settle = None

    def _update_sound(self) -> None:
        """Make the amounts of the target heard and seen."""
        if self.playback.mixer is not None:
            self.playback.mixer.set_amounts(self.session.amounts(self.target))
        self.panel.draw_soon()
        self._refresh()

    def _measure(self) -> None:
        self._cancel_settling()
        if not (self.lane.is_dragged or self.layout.octave_slider.slider.is_dragged):  # a drag is one step for undo
            self.settings.record()
        self.session.measure(self.target)
        self._refresh()

    def _chosen_model(self) -> Path | None:
        """The model that was chosen in an earlier session, if it is still there."""
        # Unlike `Path.is_file`, this is False for a file that can't be asked about, such as on a disconnected drive.
        return Path(self.preferences.model) if os.path.isfile(self.preferences.model) else None

    def _recent_entries(self) -> list[Entry]:
        from neural_grain.window.menus import Entry

        return [Entry(name, partial(self.open, Path(name))) for name in self.preferences.recent]

    def _on_closed(self) -> None:
        self.playback.close()
        self._refresh()

    def close(self) -> None:
        """Close the window, after asking what to do with work that goes on and with unsaved work."""
        if self.session.is_writing and not self.dialogs.confirm(QUIT_QUESTION):
            return
        if not self.learn.is_learning or self.dialogs.confirm(QUIT_LEARNING):
            self.files.when_saved(self._close)

    def _write_preferences(self) -> None:
        write_preferences(self._preferences_file, self.preferences)

    def _close(self) -> None:
        self.playback.close()
        width, height = self.root.winfo_width(), self.root.winfo_height()
        if width > 1:  # else the window was never on the screen
            self.preferences.geometry = f"{width}x{height}"
        self._write_preferences()
        self.root.after_cancel(self._poll_id)
        self.root.after_cancel(self._start_id)
        self._cancel_settling()
        self.playback.cancel_release()
        self.layout.close()
        self.root.withdraw()
        self.learn.close()
        self.worker.close()
        self.root.destroy()

    def _poll(self) -> None:
        """Do again and again what the window does by itself. A fault in it is reported, and does not end it."""
        try:
            self._follow_threads()
        finally:
            self._poll_id = self.root.after(WINDOW.poll_ms, self._poll)

    def _follow_threads(self) -> None:
        """Handle the messages of the worker and of the learning, and follow the playback."""
        try:
            while True:
                self._handle(self.worker.messages.get_nowait())
        except queue.Empty:
            pass
        self.learn.poll()
        if self.playback.mixer is not None:
            if fault := self.playback.player.check():
                self.session.set_status(fault, is_error=True)
            self.layout.meter.show(self.playback.peak_db, has_clipped=self.playback.is_clipped)
            self.panel.mark(self.playback.position_s)
            self.layout.show_info(self.session.info_text(self.playback.position_s))
            if self.playback.is_playing != self.layout.state.is_playing:  # the sound or its device has ended
                self._refresh()

    def _handle(self, message: Message) -> None:
        self.session.handle(message)
        self.files.handle(message)
        if isinstance(message, ModelLoaded | ModelSwitched) and self._source is not None:
            self.open(self._source)
            self._source = None
        if isinstance(message, ModelSwitched):
            self.preferences.model = "" if message.path is None else str(message.path.absolute())
            self.settings.record()
        match message:
            case Pictured():
                self.playback.close()
            case FileOpened():
                self._begin_file(message)
            case ModelSwitched(opened=opened, is_reopened=True):
                self._begin_file(opened)
            case ModelSwitched(opened=opened) if opened is not None:
                self._continue_with_model(opened)
            case WorkFailed(reason) if self.session.processor is None and self._remembered_model is not None:
                # Nobody asked for this model today, so the window works without it.
                self._remembered_model = None
                self.settings.use_model(None)
                self.session.set_status(f"{reason}; the built-in pattern is used", is_error=True)
            case WorkFailed() | WorkCancelled() if not self.session.is_switching:
                self.settings.model = self.session.model_path
            case RenderingDone() | CurveEstimated():
                self._update_sound()
            case BatchDone(failures=failures, left_behind=left_behind) if failures or left_behind:
                title = "Not rendered" if failures else "Left behind"
                self.dialogs.show_text(title, "\n".join((*failures, *left_behind)))
        self._refresh()

    def _continue_with_model(self, opened: FileOpened) -> None:
        """Hear and measure the open file with another model."""
        if opened is self.session.opened:
            self.playback.set_solver(opened.solver, self.session.amounts(self.target))
            self.settings.prepare_curve()
            self._on_move()

    def _begin_file(self, opened: FileOpened) -> None:
        self.playback.close()
        self.playback.open(opened.y, opened.analysis.sound.sr, opened.solver, self.preferences.volume)
        self.preferences.add_recent(opened.path)
        self.settings.begin_file(self.panel.duration_s)
        self._measure()
