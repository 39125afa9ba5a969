"""The desktop window: open a sound, move the slider while it plays, compare, save.

`GrainWindow` joins the `Session` (what is open and what the worker does), the `Playback` (what is heard) and the
`Layout` (what is seen). Whatever changes one of them ends with `_refresh`, which derives every label and every enabled
or disabled state. tkinter is imported when a window is made, because some installations of Python lack it.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_grain.app.actions import Action, shortcut_sheet
from neural_grain.app.batch import BatchLog, plan_batch
from neural_grain.app.curve_commands import CurveCommands
from neural_grain.app.instrument import check_presets
from neural_grain.app.learn_commands import QUIT_LEARNING, LearnCommands
from neural_grain.app.messages import (
    BatchDone,
    CurveEstimated,
    FileOpened,
    FileSaved,
    Message,
    ModelLoaded,
    Pictured,
    RenderingDone,
    WorkCancelled,
    WorkFailed,
)
from neural_grain.app.models import models_folder
from neural_grain.app.playback import Playback
from neural_grain.app.player import Player
from neural_grain.app.preferences import preferences_path, read_preferences, write_preferences
from neural_grain.app.session import VARIATIONS, Session, describe_model
from neural_grain.app.slots import Slots
from neural_grain.app.targets import LAYER_NAMES, RenderTarget, output_name
from neural_grain.app.worker import Worker
from neural_grain.base.errors import PipelineError, printable

if TYPE_CHECKING:
    import tkinter as tk

    from neural_grain.app.dialogs import Dialogs
    from neural_grain.app.layout import ViewState


@dataclass(frozen=True)
class WindowSettings:
    """Times of the event loop."""

    settle_ms: int = 120  # the slider has to rest so long before the whole file is rendered
    poll_ms: int = 30  # the playhead and the meter move about as often as a film has frames


WINDOW = WindowSettings()
QUIT_QUESTION = "Files are still being written. Quit and give up those that are not done?"
NAMED_FILES = 5  # in a question


class PendingAction(NamedTuple):
    """What to do as soon as a file is saved."""

    output: Path
    action: Callable[[], None]


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
        from neural_grain.app.dialogs import system_dialogs
        from neural_grain.app.layout import Layout, LayoutCallbacks
        from neural_grain.app.model_menu import ModelMenu
        from neural_grain.app.panels import PanelCallbacks

        self.root, self.dialogs = root, dialogs or system_dialogs(root)
        self._preferences_file = preferences_file or preferences_path()
        self.preferences = read_preferences(self._preferences_file)
        self.playback = Playback(player or Player(), root.after, root.after_cancel, self._refresh)
        self.worker = Worker(model_path or self._chosen_model(), device)
        self.session = Session(self.worker)
        self._after_save: PendingAction | None = None
        self._settle: str | None = None  # the callback that measures when the slider or the curve rests
        self._shows_curve = False
        self._has_chosen_model = False
        self._slots = Slots()
        callbacks = LayoutCallbacks(
            perform=self.perform,
            release=lambda action: attrgetter(action.release)(self)(),
            press_version=self.playback.press,
            release_version=self.playback.release,
            slide=self._on_move,
            edit_curve=self._on_move,
            set_volume=self._set_volume,
            open_recent=self.open,
            cancel=self.worker.cancel,
            panel=PanelCallbacks(
                self.seek,
                self.select,
                lambda frames: self.session.gain_db_of_frames(self.target, frames),
                lambda span, playhead_s: self.lane.view.follow(span, playhead_s),
            ),
        )
        self.layout = Layout(root, self.preferences, callbacks)
        self.panel, self.lane = self.layout.panel, self.layout.lane
        self.curve = CurveCommands(self.lane, self.session, lambda: self.dialogs, self._dialog_folder, self._refresh)
        self.learn = LearnCommands(root, models or models_folder(), device, lambda: self.dialogs, self.use_model)
        self.learn.add_line(self.layout.outer, self.layout.scale, self.layout.grain_label)
        ModelMenu(self.layout.menus["Model"], self.learn.models, lambda: self.worker.model_path, self.use_model)
        self.panel.is_log = self.preferences.is_log
        root.protocol("WM_DELETE_WINDOW", self.close)
        self._refresh()
        if source is not None:
            self.open(source)
        self._poll_id = root.after(WINDOW.poll_ms, self._poll)

    @property
    def octaves(self) -> float:
        """Position of the slider, in steps of 0.1."""
        return self.layout.octave_slider.octaves

    @property
    def target(self) -> RenderTarget:
        """What is heard and saved: the curve while it is shown and has points, else the position of the slider."""
        curve = self.lane.editor.curve if self._shows_curve else None
        return RenderTarget(self.octaves) if curve is None else RenderTarget(curve=curve)

    @property
    def is_idle(self) -> bool:
        """Whether no work is under way or about to start."""
        return self.session.n_tasks == 0 and self._settle is None

    def _view_state(self) -> ViewState:
        from neural_grain.app.layout import ViewState

        session, target = self.session, self.target
        return ViewState(
            file_text=session.file_text,
            grain_text=session.grain_text(target),
            status=session.status,
            is_error=session.is_error,
            is_busy=session.is_busy,
            progress=session.progress,
            has_model=session.processor is not None,
            has_file=session.opened is not None,
            is_playing=self.playback.is_playing,
            listening=self.playback.listening,
            shows_curve=self._shows_curve,
            has_curve=target.curve is not None,
            contour=session.contour,
            is_contour_current=session.is_measured(target),
            zones=session.zones,
            measured_octaves=session.measured_octaves(target),
            slot=self._slots.current,
        )

    def _refresh(self) -> None:
        """Derive everything on the screen from the state."""
        session = self.session
        picture = None if session.visible is None else session.visible.picture
        self.panel.show_sound(picture, is_interactive=session.opened is not None)
        self.layout.show(self._view_state())

    def perform(self, action: Action) -> None:
        """Do what an action of the table says, if it is possible now."""
        if self._view_state().allows(action.needs):
            attrgetter(action.command)(self)(*action.arguments)

    def move_to(self, octaves: float) -> None:
        """Move the slider to a position."""
        self.layout.octave_slider.move_to(octaves)

    def move_by(self, octaves: float) -> None:
        """Move the slider by some octaves."""
        self.move_to(self.octaves + octaves)

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
        self.session.measure(self.target)
        self._refresh()

    def toggle_play(self) -> None:
        """Play or pause."""
        if fault := self.playback.toggle():
            self.session.set_status(fault, is_error=True)
        self._refresh()

    def press_compare(self) -> None:
        """Press the key that switches between before and after."""
        self.playback.press_key()

    def release_compare(self) -> None:
        """Release that key."""
        self.playback.release_key()

    def _set_volume(self, volume: float) -> None:
        self.preferences.volume = volume
        if self.playback.mixer is not None:
            self.playback.mixer.volume = volume

    def seek(self, seconds: float) -> None:
        """Continue from another place in the sound."""
        self.playback.seek(seconds)
        self.panel.mark(self.playback.position_s)

    def select(self, selection_s: tuple[float, float] | None) -> None:
        """Select and loop a part of the sound, or nothing."""
        self.panel.selection_s = selection_s
        self.playback.loop(selection_s)
        self.panel.mark(self.playback.position_s)

    def toggle_view(self) -> None:
        """Show the sound after, or the gain that makes it."""
        self.panel.shows_gain = not self.panel.shows_gain
        self.panel.draw_soon()

    def toggle_log(self) -> None:
        """Change between a mel and a logarithmic frequency axis."""
        self.panel.is_log = self.preferences.is_log = not self.preferences.is_log
        self.panel.draw_soon()

    def toggle_dark(self) -> None:
        """Change between light and dark colours."""
        self.preferences.is_dark = not self.preferences.is_dark
        self.layout.paint()

    def toggle_curve(self) -> None:
        """Show the curve, which takes the place of the slider, or hide it."""
        self._shows_curve = not self._shows_curve
        if self._shows_curve:
            self.session.prepare_curve()
        self._refresh()
        self._on_move()

    def switch_slot(self) -> None:
        """Change between two settings of the slider and the curve, A and B."""
        target = self._slots.switch(self.target)
        if target.curve is not None:
            self.lane.edit(lambda: self.lane.editor.replace(target.curve.points))
        if (target.curve is not None) != self._shows_curve:
            self.toggle_curve()
        if target.curve is None:
            self._refresh()  # the slider can't be moved before it is enabled
            self.move_to(target.octaves)

    def show_all(self) -> None:
        """Show the whole sound."""
        self.panel.show_all()

    def show_help(self) -> None:
        """Show the keys."""
        self.dialogs.show_text("Shortcuts", shortcut_sheet(self.layout.modifier))

    def show_model(self) -> None:
        """Show what the model was trained on, and its audit."""
        self.dialogs.show_text("The model", describe_model(self.session.processor))

    def show_about(self) -> None:
        """Show versions."""
        from neural_grain.app.dialogs import about_text

        self.dialogs.show_text("About", about_text())

    def _dialog_folder(self) -> str:
        return self.preferences.folder if Path(self.preferences.folder).is_dir() else ""

    def ask_open(self) -> None:
        """Ask for a file and open it."""
        if name := self.dialogs.open_name(self._dialog_folder()):
            self.open(Path(name))

    def open(self, path: Path) -> None:
        """Open a file, after asking what to do with unsaved work."""
        self._when_saved(lambda: self._open(path))

    def _open(self, path: Path) -> None:
        self.session.open(path)
        self._refresh()

    def ask_save(self) -> None:
        """Ask for a name and save the result, or the layer of it that the user listens to."""
        listening = self.playback.listening
        self._ask_save(listening if listening in LAYER_NAMES else None)

    def _ask_save(self, layer: str | None) -> Path | None:
        """Ask for a name and render the open file to it; returns the name, or None if none was given."""
        target = replace(self.target, layer=layer)
        suggestion = output_name(self.session.opened.path, target)
        name = self.dialogs.save_name(f"Save the {layer or 'result'}", self._dialog_folder(), suggestion)
        if not name:
            return None
        self.session.save(Path(name), target)
        self._refresh()
        return Path(name)

    def ask_save_variations(self) -> None:
        """Ask for a folder and render the open file to it at all whole octaves."""
        title = f"Save variations from {VARIATIONS[0]} to +{VARIATIONS[-1]} into"
        targets = [RenderTarget(float(octaves)) for octaves in VARIATIONS]
        self._ask_folder(title, [self.session.opened.path], targets)

    def ask_save_instrument(self) -> None:
        """Ask for a folder and save the variations there as an instrument with one knob."""
        targets = [RenderTarget(float(octaves)) for octaves in VARIATIONS]
        self._ask_folder("Save the instrument into", [self.session.opened.path], targets, instrument=True)

    def ask_batch(self) -> None:
        """Ask for files and a folder, and render them with the target."""
        if names := self.dialogs.many_names():
            self._ask_folder("Write the results into", list(map(Path, names)), [self.target])

    def _ask_folder(
        self, title: str, sources: list[Path], targets: list[RenderTarget], *, instrument: bool = False
    ) -> None:
        """Ask for a folder and render files into it. Files of the user that are in the way are replaced on request."""
        folder = self.dialogs.folder_name(title)
        if not folder:
            return
        try:
            plan = replace(plan_batch(sources, targets, f"{folder}/", keep_tree=True), instrument=instrument)
            if instrument:
                check_presets(plan.jobs)
            taken = BatchLog(plan.log_folder, self.worker.model_path, None).taken(plan.jobs)
        except PipelineError as err:
            self.session.set_status(printable(str(err)), is_error=True)
        else:
            if not taken or self.dialogs.confirm(replacing_question(taken)):
                self.session.batch(plan, overwrite=bool(taken))
            if plan.warnings:
                self.dialogs.show_text("Left out", "\n".join(plan.warnings))
        self._refresh()

    def ask_model(self) -> None:
        """Ask for another model and load it; an open file is analysed again with it."""
        if name := self.dialogs.model_name():
            self.use_model(Path(name))

    def use_model(self, path: Path) -> None:
        """Load another model, after asking what to do with unsaved work, and use it also when the window opens next."""
        self._when_saved(lambda: self._load(path))

    def _load(self, path: Path) -> None:
        self._has_chosen_model = True
        self.session.load(path)
        self._refresh()

    def _chosen_model(self) -> Path | None:
        """The model that was chosen in an earlier session, if it is still there."""
        path = Path(self.preferences.model)
        return path if self.preferences.model and path.is_file() else None

    def _when_saved(self, action: Callable[[], None]) -> None:
        """Do something that loses the target, after asking once whether to save.

        The action is done at once if there is nothing to save or it may be lost, after the file is saved if the user
        wants that, and not at all if the user cancels.
        """
        self._after_save = None  # a later wish replaces an earlier one
        if self.session.is_unsaved(self.target):
            should_save = self.dialogs.should_save()
            if should_save:
                if output := self._ask_save(None):
                    self._after_save = PendingAction(output, action)
                return
            if should_save is None:
                return
            self.session.saved_target = self.target
        action()

    def close_file(self) -> None:
        """Close the open file, after asking what to do with unsaved work."""
        self._when_saved(self._close_file)

    def _close_file(self) -> None:
        self.playback.close()
        self.session.close_file()
        self.session.set_status(self.session.idle_status)
        self._refresh()

    def close(self) -> None:
        """Close the window, after asking what to do with work that goes on and with unsaved work."""
        if self.session.is_writing and not self.dialogs.confirm(QUIT_QUESTION):
            return
        if not self.learn.is_learning or self.dialogs.confirm(QUIT_LEARNING):
            self._when_saved(self._close)

    def _close(self) -> None:
        self.playback.close()
        width, height = self.root.winfo_width(), self.root.winfo_height()
        if width > 1:  # else the window was never on the screen
            self.preferences.geometry = f"{width}x{height}"
        write_preferences(self._preferences_file, self.preferences)
        self.root.after_cancel(self._poll_id)
        self._cancel_settling()
        self.playback.cancel_release()
        self.layout.close()
        self.root.withdraw()
        self.learn.close()
        self.worker.close()
        self.root.destroy()

    def _poll(self) -> None:
        """Handle the messages of the worker, and follow the playback."""
        try:
            while True:
                self._handle(self.worker.messages.get_nowait())
        except queue.Empty:
            pass
        self.learn.poll()
        if self.playback.mixer is not None:
            if fault := self.playback.player.check():
                self.session.set_status(fault, is_error=True)
            self.layout.meter["value"] = self.playback.meter_db
            self.panel.mark(self.playback.position_s)
            if self.playback.is_playing != self.layout.state.is_playing:  # the sound or its device has ended
                self._refresh()
        self._poll_id = self.root.after(WINDOW.poll_ms, self._poll)

    def _handle(self, message: Message) -> None:
        self.session.handle(message)
        match message:
            case ModelLoaded() if self._has_chosen_model:
                self.preferences.model = str(self.worker.model_path.absolute())
            case Pictured():
                self.playback.close()
            case FileOpened():
                self._begin_file(message)
            case RenderingDone() | CurveEstimated():
                self._update_sound()
            case FileSaved(saved) if self._after_save is not None and self._after_save.output == saved.output:
                # Later, because it may close the window, which is still to be refreshed. `_when_saved` asks again if
                # the slider has moved since.
                self.root.after_idle(self._when_saved, self._after_save.action)
            case BatchDone(failures=failures, left_behind=left_behind) if failures or left_behind:
                title = "Not rendered" if failures else "Left behind"
                self.dialogs.show_text(title, "\n".join((*failures, *left_behind)))
            case WorkCancelled() | WorkFailed():
                self._after_save = None
        self._refresh()

    def _begin_file(self, opened: FileOpened) -> None:
        self.playback.close()
        self.playback.open(opened.y, opened.analysis.sound.sr, opened.solver, self.preferences.volume)
        self.preferences.add_recent(opened.path)
        self.lane.begin(self.panel.duration_s)
        self._slots = Slots()
        self._refresh()  # the slider can't be moved before it is enabled
        self.layout.octave_slider.end_typing()
        self.move_to(0.0)
        self._measure()
        if self._shows_curve:
            self.session.prepare_curve()


def replacing_question(paths: list[Path]) -> str:
    """Ask whether to replace files."""
    names = [printable(path.name) for path in paths[:NAMED_FILES]]
    more = [f"and {len(paths) - NAMED_FILES} more"] if len(paths) > NAMED_FILES else []
    return "\n".join(("These files exist already. Replace them?", "", *names, *more))
