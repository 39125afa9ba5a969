"""Learning in the window: what the menu, the learn window and the end of a learning do.

`LearnCommands` holds the folders that were chosen and the `Learning` that goes on, and derives a `LearnState` from
both. The learn window is made when it is opened first. Closing it does not stop the learning: a line in the main
window says how far it is.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from neural_grain.base.errors import PipelineError, printable, short_repr
from neural_grain.learn.settings import MAX_EPOCHS, TrainOptions
from neural_grain.session.learn_state import ENDS, FolderCounts, LearnState, Phase, StageLines
from neural_grain.session.learning import (
    FolderCounted,
    Learned,
    Learning,
    LearningFailed,
    LearningStopped,
    LittleToLearn,
    count_in_background,
)
from neural_grain.session.messages import Message
from neural_grain.session.models import NamedModel, begin_model, list_models

if TYPE_CHECKING:
    import tkinter as tk
    from tkinter import ttk

    from neural_grain.window.dialogs import Dialogs
    from neural_grain.window.learn_view import LearnLine, LearnView
    from neural_grain.window.theme import Palette

MAX_NAME_IN_LINE = 24  # characters of the name of a model in the line of the main window
QUIT_LEARNING = "A model is being learned. Quit and stop it? What is done is kept, and it can be continued."


class LearnCommands:
    """Commands of the menu and of the learn window.

    Parameters
    ----------
    root : tk.Misc, the main window
    folder : Path or None, of all models
    device : str, to train on
    dialogs : returns the `Dialogs` to ask with
    use : called with the path of a model to hear
    palette : returns the palette in use

    Attributes
    ----------
    learning : Learning or None, what goes on or went on last
    view : LearnView or None, while the learn window exists
    line : LearnLine or None, in the main window
    """

    def __init__(
        self,
        root: tk.Misc,
        folder: Path | None,
        device: str,
        *,
        dialogs: Callable[[], Dialogs],
        use: Callable[[Path], None],
        palette: Callable[[], Palette],
    ):
        self.folder, self.learning = folder, None
        self.view: LearnView | None = None
        self.line: LearnLine | None = None
        self._root, self._device, self._dialogs, self._use = root, device, dialogs, use
        self._palette = palette
        self._counts, self._counted = FolderCounts(), queue.Queue()
        self._phase, self._name, self._fault, self._reasons = Phase.CHOOSING, "", "", ()
        self._stages = StageLines()
        self._unfinished: tuple[NamedModel, ...] = ()
        self._is_seen = True  # whether the user has seen how the last learning ended

    def add_line(self, parent: ttk.Frame, scale: float, last: tk.Misc) -> None:
        """Make the line of the main window, which is packed above its last row when there is something to say."""
        from neural_grain.window.learn_view import LearnLine

        self.line = LearnLine(parent, scale, self.open, side="bottom", fill="x", after=last)

    def models(self) -> list[NamedModel]:
        """The models that can be used, by name."""
        return [model for model in list_models(self.folder, Path.cwd()) if model.is_trained]

    @property
    def is_learning(self) -> bool:
        """Whether a model is being learned."""
        return self.learning is not None and self._phase not in (Phase.CHOOSING, *ENDS)

    def state(self) -> LearnState:
        """What the learn window shows."""
        if self._phase is Phase.CHOOSING:
            fault = self._fault or self._counts.fault()
            folders = self._counts.lines()
            return LearnState(
                name=self._name or (folders[0].folder.name if folders else ""),
                folders=folders,
                hint=self._counts.hint(),
                can_start=bool(folders) and not self._counts.is_counting and not self._counts.fault(),
                unfinished=self._unfinished,
                fault=fault,
            )
        model, is_done = self.learning.model, self._phase is Phase.DONE
        verdict = model.verdict or "the audit has no verdict"
        return LearnState(
            phase=self._phase,
            name=model.name,
            stages=tuple(self._stages.rows),
            line=self._stages.line,
            fault=self._fault,
            reasons=self._reasons,
            n_remarks=len(self._stages.warnings),
            verdict=tuple(verdict.split("; ")) if is_done else (),
            picture=model.audit_picture if is_done else None,
        )

    def describe(self) -> str:
        """Line for the main window; empty if there is nothing to say or the learn window says it."""
        if self._phase is Phase.CHOOSING or (self.view is not None and self.view.is_shown):
            return ""
        name = printable(self.learning.model.name)
        if len(name) > MAX_NAME_IN_LINE:
            name = f"{name[:MAX_NAME_IN_LINE]} ..."
        if self._phase in ENDS:
            return "" if self._is_seen else f"{name} {ENDS[self._phase]}"
        if self._phase is Phase.ASKING:
            return f"learning {name} waits for an answer"
        return f"learning {name}: {self._stages.describe()}"

    def open(self) -> None:
        """Show the learn window."""
        from neural_grain.window.learn_pages import LearnCallbacks
        from neural_grain.window.learn_view import LearnView

        if self.view is None:
            callbacks = LearnCallbacks(
                add_folder=self.ask_folder,
                remove_folder=self.remove_folder,
                start=self.start,
                resume=self.resume,
                cancel=self.cancel,
                go_on=self.go_on,
                use=self.use,
                resume_last=self.resume_last,
                choose=self.choose,
                show_remarks=self.show_remarks,
                close=self.hide,
            )
            self.view = LearnView(self._root, callbacks, self._palette)
        if self._phase is Phase.CHOOSING:
            self._find_unfinished()
        self._is_seen = True
        self.view.open()
        self._refresh()

    def hide(self) -> None:
        """Close the learn window; a learning goes on."""
        self.view.hide()
        if self._phase in ENDS:
            self.choose()
        self._refresh()

    def poll(self) -> None:
        """Handle all messages; the window calls this again and again."""
        queues = [self._counted] + ([self.learning.messages] if self.learning is not None else [])
        has_changed = False
        for messages in queues:
            try:
                while True:
                    self._handle(messages.get_nowait())
                    has_changed = True
            except queue.Empty:
                pass
        if has_changed:
            self._refresh()

    def close(self) -> None:
        """Stop the learning and wait until its process has ended."""
        if self.view is not None:
            self.view.hide()
        if self.is_learning:
            self._root.update_idletasks()  # both windows vanish at once, however long the process takes
            self.learning.close()

    def ask_folder(self) -> None:
        """Ask for a folder and add it."""
        if name := self._dialogs().folder_name("Learn from the sounds in"):
            self.add_folders([Path(name)])

    def add_folders(self, folders: list[Path]) -> None:
        """Add folders and count their files; while something is learned, nothing can be added."""
        if self._phase is not Phase.CHOOSING:
            return
        for folder in folders:
            if self._counts.add(folder.absolute()):
                count_in_background(folder.absolute(), self._counted)
        self._fault = ""
        self._refresh()

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder."""
        self._counts.remove(folder)
        self._fault = ""
        self._refresh()

    def start(self, name: str, epochs: str) -> None:
        """Begin to learn from the chosen folders."""
        try:
            self._begin(begin_model(self.folder, name, self._counts.folders, parse_epochs(epochs)))
        except PipelineError as err:
            self._fault = printable(str(err))
        self._refresh()

    def resume(self, model: NamedModel) -> None:
        """Continue with a model that is unfinished."""
        self._begin(model)
        self._refresh()

    def _begin(self, model: NamedModel) -> None:
        self._stages, self._fault, self._reasons = StageLines(), "", ()
        self._phase, self._is_seen = Phase.RUNNING, False
        self.learning = Learning(model, self._device)

    def cancel(self) -> None:
        """Stop the learning; what is done is kept."""
        self._phase = Phase.STOPPING
        self.learning.cancel()
        self._refresh()

    def go_on(self) -> None:
        """Learn although there is little to learn."""
        self._phase, self._reasons = Phase.RUNNING, ()
        self.learning.go_on()
        self._refresh()

    def resume_last(self) -> None:
        """Continue what was stopped or has failed."""
        self.resume(self.learning.model)

    def choose(self) -> None:
        """Choose folders: for another model, or if the last learning did not succeed, again for the same one."""
        model, is_done = self.learning.model, self._phase is Phase.DONE
        self._phase, self._fault = Phase.CHOOSING, ""
        self._find_unfinished()
        self._counts, self._name = FolderCounts(), "" if is_done else model.name
        self.add_folders([] if is_done else list(model.record.folders))

    def use(self) -> None:
        """Load the model that was learned."""
        path = self.learning.model.path
        self.hide()
        self._use(path)

    def show_remarks(self) -> None:
        """Show all warnings of the stages."""
        self._dialogs().show_text("Warnings while learning", "\n".join(self._stages.warnings))

    def _find_unfinished(self) -> None:
        self._unfinished = tuple(model for model in list_models(self.folder) if model.is_unfinished)

    def _handle(self, message: Message) -> None:
        self._stages.handle(message)
        match message:
            case FolderCounted():
                self._counts.handle(message)
            case LittleToLearn(reasons):
                if self._phase is Phase.RUNNING:
                    self._phase, self._reasons = Phase.ASKING, reasons
            case Learned(model):
                self.learning.model = model
                self._stages.finish(len(self._stages.rows))
                self._end(Phase.DONE)
            case LearningStopped():
                self._end(Phase.STOPPED)
            case LearningFailed(reason):
                self._end(Phase.FAILED, reason)

    def _end(self, phase: Phase, fault: str = "") -> None:
        self._phase, self._fault, self._reasons = phase, fault, ()
        self._stages.end()
        self._is_seen = self.view is not None and self.view.is_shown

    def _refresh(self) -> None:
        if self.view is not None:
            self.view.show(self.state())
        if self.line is not None:
            self.line.show(self.describe())


def parse_epochs(text: str) -> int:
    """Number of epochs that the user typed."""
    words = text.strip()
    epochs = int(words) if words.isdecimal() and len(words) <= len(str(MAX_EPOCHS)) else 0
    if not 1 <= epochs <= MAX_EPOCHS:
        raise PipelineError(
            f"epochs: {short_repr(words) if words else 'nothing'} is not a whole number from 1 to {MAX_EPOCHS}; "
            f"{TrainOptions.epochs} is a good choice"
        )
    return epochs
