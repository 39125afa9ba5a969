"""What the File menu does: open, save, render sets and batches, close; and the question about unsaved work.

Nothing here replaces a file of the user unasked, and an input never.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_grain.app.batch_log import BatchLog
from neural_grain.app.instrument import check_presets
from neural_grain.app.plan import plan_batch
from neural_grain.app.targets import LAYER_NAMES, RenderTarget, output_name
from neural_grain.audio.audio_files import find_audio
from neural_grain.base.errors import PipelineError, printable
from neural_grain.session.messages import DemoReady, FileSaved, Message, WorkCancelled, WorkFailed
from neural_grain.session.preferences import Preferences, data_folder
from neural_grain.session.state import VARIATIONS, Session

if TYPE_CHECKING:
    from neural_grain.window.dialogs import Dialogs
    from neural_grain.window.file_list import FileListView

NAMED_FILES = 5  # in a question


class PendingAction(NamedTuple):
    """What to do as soon as a file is saved."""

    output: Path
    action: Callable[[], None]


@dataclass(frozen=True)
class FileCallbacks:
    """What the commands ask of the window.

    Attributes
    ----------
    dialogs : -> the `Dialogs` to ask with
    target : -> what is heard
    listening : -> the version that is heard
    refresh : the state has changed
    closed : the open file was closed
    after_idle : (function, arguments) -> None; calls it later
    show_list : (whether the list is shown) -> None
    use_model : path -> None
    """

    dialogs: Callable[[], Dialogs]
    target: Callable[[], RenderTarget]
    listening: Callable[[], str]
    refresh: Callable[[], None]
    closed: Callable[[], None]
    after_idle: Callable[..., object]
    show_list: Callable[[bool], None]
    use_model: Callable[[Path], None]


class FileCommands:
    """Commands of the menu, as methods.

    Parameters
    ----------
    session : Session
    preferences : Preferences
    file_list : FileListView
    callbacks : FileCallbacks

    Attributes
    ----------
    results : Path or None, folder of what was saved last
    """

    def __init__(self, session: Session, preferences: Preferences, file_list: FileListView, callbacks: FileCallbacks):
        self._session, self._preferences, self._list, self._window = session, preferences, file_list, callbacks
        self._after_save: PendingAction | None = None
        self.results: Path | None = None

    @property
    def folder(self) -> str:
        """Where dialogs begin; empty if that is gone."""
        # Unlike `Path.is_dir`, this is False for a folder that can't be asked about, such as on a disconnected drive.
        return self._preferences.folder if os.path.isdir(self._preferences.folder) else ""

    def ask_open(self) -> None:
        """Ask for files and open them."""
        if names := self._window.dialogs().open_names(self.folder):
            self.open_all(list(map(Path, names)))

    def open(self, path: Path) -> None:
        """Open a file, after asking what to do with unsaved work."""
        self.when_saved(lambda: self._open(path))

    def open_all(self, sources: Sequence[Path]) -> None:
        """Open a file, or several files and folders as a list, of which the first is opened."""
        if len(sources) == 1 and not os.path.isdir(sources[0]):
            return self.open(sources[0])
        try:
            paths = find_audio(sources)
            if not paths:
                raise PipelineError(f"no audio files in {', '.join(map(printable, sources))}")
        except PipelineError as err:
            self._session.set_status(printable(str(err)), is_error=True)
            return self._window.refresh()

        def begin() -> None:
            self._list.set_files(sources, paths)
            self._window.show_list(True)
            self._open(paths[0])

        self.when_saved(begin)

    def close_list(self) -> None:
        """Forget the list; the open file stays open."""
        self._list.set_files((), ())
        self._window.show_list(False)

    def step(self, step: int) -> None:
        """Open the next file of the list, or the one before."""
        opened = self._session.visible
        if (path := self._list.neighbour(opened and opened.path, step)) is not None:
            self.open(path)

    def choose(self, path: Path) -> None:
        """Open a file that was chosen in the list, unless it is the open one."""
        if self._session.visible is None or self._session.visible.path != path:
            self.open(path)
            self._window.refresh()

    def open_demo(self) -> None:
        """Make the demo sounds where the program keeps its data, unless they are there, and open them as a list."""
        folder = data_folder()
        if folder is None:
            self._session.set_status("no place for the demo sounds: this user has no home folder", is_error=True)
        else:
            self._session.make_demo(folder / "demo")
        self._window.refresh()

    def _open(self, path: Path) -> None:
        self._session.open(path)
        self._window.refresh()

    def ask_save(self) -> None:
        """Ask for a name and save the result, or the layer of it that the user listens to."""
        listening = self._window.listening()
        self._ask_save(listening if listening in LAYER_NAMES else None)

    def _ask_save(self, layer: str | None) -> Path | None:
        """Ask for a name and render the open file to it; returns the name, or None if none was given.

        What is rendered is what was open before the question: messages of the worker arrive while it waits.
        """
        opened = self._session.opened
        if opened is None:  # another file has taken its place while the user was asked whether to save
            return None
        target = replace(self._window.target(), layer=layer)
        suggestion = output_name(opened.path, target)
        name = self._window.dialogs().save_name(f"Save the {layer or 'result'}", self.folder, suggestion)
        if not name:
            return None
        self._session.save(opened.path, Path(name), target)
        self._window.refresh()
        return Path(name)

    def save_beside(self) -> None:
        """Save the result next to the original, under a name that nothing has yet."""
        self._session.save_beside(self._window.target())
        self._window.refresh()

    def ask_save_variations(self) -> None:
        """Ask for a folder and render the open file to it at all whole octaves."""
        title = f"Save variations from {VARIATIONS[0]} to +{VARIATIONS[-1]} into"
        self._ask_folder(title, [self._session.opened.path], self._variations())

    def ask_save_instrument(self) -> None:
        """Ask for a folder and save the variations there as an instrument with one knob."""
        self._ask_folder("Save the instrument into", [self._session.opened.path], self._variations(), instrument=True)

    def _variations(self) -> list[RenderTarget]:
        """Whole octaves over the slider, mixed as what is heard."""
        return [RenderTarget(float(octaves), mix=self._window.target().mix) for octaves in VARIATIONS]

    def ask_batch(self) -> None:
        """Ask for files and a folder, and render them with the target."""
        if names := self._window.dialogs().many_names():
            self._ask_folder("Write the results into", list(map(Path, names)), [self._window.target()])

    def render_list(self) -> None:
        """Ask for a folder, and render all files of the list with the target."""
        self._ask_folder("Write the results into", list(self._list.sources), [self._window.target()])

    def _ask_folder(
        self, title: str, sources: list[Path], targets: list[RenderTarget], *, instrument: bool = False
    ) -> None:
        """Ask for a folder and render files into it. Files of the user that are in the way are replaced on request."""
        dialogs, session = self._window.dialogs(), self._session
        folder = dialogs.folder_name(title)
        if not folder:
            return
        try:
            plan = replace(plan_batch(sources, targets, f"{folder}/", keep_tree=True), instrument=instrument)
            if instrument:
                check_presets(plan.jobs)
            taken = BatchLog(plan.log_folder, session.worker.model_path, None).taken(plan.jobs)
        except PipelineError as err:
            session.set_status(printable(str(err)), is_error=True)
        else:
            if not taken or dialogs.confirm(replacing_question(taken)):
                self.results = plan.log_folder
                session.batch(plan, overwrite=bool(taken))
            if plan.warnings:
                dialogs.show_text("Left out", "\n".join(plan.warnings))
        self._window.refresh()

    def show_results(self) -> None:
        """Show the folder of what was saved last in the file manager."""
        if self.results is not None and (fault := self._window.dialogs().show_folder(self.results)):
            self._session.set_status(fault, is_error=True)
            self._window.refresh()

    def ask_model(self) -> None:
        """Ask for another model and use it."""
        if name := self._window.dialogs().model_name():
            self._window.use_model(Path(name))

    def when_saved(self, action: Callable[[], None]) -> None:
        """Do something that loses the target, after asking once whether to save.

        The action is done at once if there is nothing to save or it may be lost, after the file is saved if the user
        wants that, and not at all if the user cancels.
        """
        self._after_save = None  # a later wish replaces an earlier one
        if self._session.is_unsaved(self._window.target()):
            should_save = self._window.dialogs().should_save()
            if should_save:
                if output := self._ask_save(None):
                    self._after_save = PendingAction(output, action)
                return
            if should_save is None:
                self._window.refresh()
                return
            self._session.mark_saved(self._window.target())
        action()

    def close_file(self) -> None:
        """Close the open file, after asking what to do with unsaved work."""
        self.when_saved(self._close_file)

    def _close_file(self) -> None:
        self._session.close_file()
        self._session.set_status(self._session.idle_status)
        self.close_list()
        self._window.closed()

    def handle(self, message: Message) -> None:
        """Go on with what waited for the worker."""
        match message:
            case FileSaved(saved):
                self.results = saved.output.absolute().parent
                if self._after_save is not None and self._after_save.output == saved.output:
                    # Later, because it may close the window, which is still to be refreshed. `when_saved` asks again
                    # if the slider has moved since.
                    self._window.after_idle(self.when_saved, self._after_save.action)
            case DemoReady(paths):
                self._window.after_idle(self.open_all, paths)
            case WorkCancelled() | WorkFailed():
                self._after_save = None


def replacing_question(paths: list[Path]) -> str:
    """Ask whether to replace files."""
    names = [printable(path.name) for path in paths[:NAMED_FILES]]
    more = [f"and {len(paths) - NAMED_FILES} more"] if len(paths) > NAMED_FILES else []
    return "\n".join(("These files exist already. Replace them?", "", *names, *more))
