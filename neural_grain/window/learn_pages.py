"""The two pages of the learn window.

`ChoosePage` takes folders, a name and the number of epochs, and `RunPage` shows the three stages and how they ended.
Both only show a `LearnState`; what the user does goes to `LearnCallbacks`.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tkinter import ttk

from PIL import Image, ImageTk

from neural_grain.base.errors import printable
from neural_grain.learn.settings import TrainOptions
from neural_grain.session.captions import count_of
from neural_grain.session.learn_state import ENDS, FolderLine, LearnState, Phase, short_path
from neural_grain.session.models import NamedModel
from neural_grain.window.page import TEXT_WIDTH, add_frame, add_label, as_sentence, set_text

BAR_WIDTH = 130  # in pixels of a standard screen
PICTURE_SHARE = 0.5  # of the height of the screen that the picture of the audit may take
MAX_ROWS = 6  # of folders and of models that are shown
TITLE = "Learn from my sounds"
INTRODUCTION = (
    "Choose folders of recordings. The program measures their grain, splits them into tones and texture, and learns "
    "what their texture is like. The recordings are only read."
)
LEARN_HINTS = {
    "add": "Choose a folder; the folders inside it are searched, too",
    "name": "The model is kept under this name, and chosen by it in the menu Model",
    "epochs": "How often the training goes over the sounds",
    "start": "Begin; you can go on working with the main window meanwhile",
    "warnings": "Files that were left out, and other remarks",
    "cancel": "Stop; what is done is kept, and can be continued at any time",
    "hide": "Close this window; the main window says how far it is",
    "go on": "Learn from these sounds as they are",
    "stop": "Stop here, for example to add sounds",
    "resume": "Continue where it stopped",
    "choose": "Change the folders; what is done of those that stay is kept",
    "another": "Learn another model; this one is kept",
    "use": "Hear the open sound with this model",
}


@dataclass(frozen=True)
class LearnCallbacks:
    """What the learn window asks for.

    Attributes
    ----------
    add_folder : ask for a folder
    remove_folder : folder -> None
    start : (name, epochs as they were typed) -> None
    resume : unfinished model -> None
    resume_last : continue what was stopped or has failed
    cancel, go_on : answers while it learns
    use : load the model
    choose : go back to the choice of folders
    show_remarks : show the warnings
    close : close the window
    """

    add_folder: Callable[[], None]
    remove_folder: Callable[[Path], None]
    start: Callable[[str, str], None]
    resume: Callable[[NamedModel], None]
    resume_last: Callable[[], None]
    cancel: Callable[[], None]
    go_on: Callable[[], None]
    use: Callable[[], None]
    choose: Callable[[], None]
    show_remarks: Callable[[], None]
    close: Callable[[], None]


class ChoosePage:
    """Folders, a name and the number of epochs, and the models that are unfinished."""

    def __init__(self, parent: ttk.Frame, scale: float, callbacks: LearnCallbacks):
        self.frame, self._scale, self._callbacks = ttk.Frame(parent), scale, callbacks
        self._suggestion = ""
        self._shown: LearnState | None = None
        self.title = add_label(self.frame, scale, TITLE, style="Title.TLabel")
        add_label(self.frame, scale, INTRODUCTION, style="Muted.TLabel")
        self.folder_rows = add_frame(self.frame, scale, 4)
        bar = add_frame(self.frame, scale)
        self.add_button = ttk.Button(bar, text="Add a folder ...", command=callbacks.add_folder)
        self.add_button.pack(side="left")
        self.hint = ttk.Label(bar, style="Muted.TLabel")
        self.hint.pack(side="left", padx=round(12 * scale))
        form = add_frame(self.frame, scale)
        form.columnconfigure(1, weight=0)
        form.columnconfigure(2, weight=1)
        self.name_entry = ttk.Entry(form, width=30)
        self.epochs_entry = ttk.Entry(form, width=8)
        self.epochs_entry.insert(0, str(TrainOptions.epochs))
        for row, (text, entry) in enumerate((("Name", self.name_entry), ("Epochs", self.epochs_entry))):
            ttk.Label(form, text=text).grid(row=row, column=0, sticky="w")
            span, gap = 2 - row, round(12 * scale)
            entry.grid(row=row, column=1, columnspan=span, sticky="w", padx=gap, pady=round(3 * scale))
        about_epochs = f"{TrainOptions.epochs} suit most libraries; more take longer"
        ttk.Label(form, text=about_epochs, style="Muted.TLabel").grid(row=1, column=2, sticky="w")
        self.fault = add_label(self.frame, scale, style="Error.TLabel")
        self.unfinished_title = add_label(self.frame, scale, "Not finished yet:")
        self.model_rows = add_frame(self.frame, scale)
        buttons = add_frame(self.frame, scale, 0)
        self.start_button = ttk.Button(buttons, text="Start", style="On.TButton", command=self._start)
        self.start_button.pack(side="right")
        self.close_button = ttk.Button(buttons, text="Close", command=callbacks.close)
        self.close_button.pack(side="right", padx=round(8 * scale))

    @property
    def default_button(self) -> ttk.Button:
        """What the Return key presses."""
        return self.start_button

    @property
    def first_widget(self) -> ttk.Widget:
        """What gets the keyboard."""
        return self.add_button

    def hinted(self) -> dict[str, tk.Misc]:
        """What has a hint, by its name in LEARN_HINTS."""
        return {
            "add": self.add_button,
            "name": self.name_entry,
            "epochs": self.epochs_entry,
            "start": self.start_button,
        }

    def _start(self) -> None:
        self._callbacks.start(self.name_entry.get(), self.epochs_entry.get())

    def show(self, state: LearnState) -> None:
        """Show the choice."""
        shown, self._shown = self._shown, state
        self.hint.configure(text=state.hint)
        set_text(self.fault, state.fault)
        self.start_button.state(["!disabled" if state.can_start else "disabled"])
        self.start_button.configure(style="On.TButton" if state.can_start else "TButton")
        if self.name_entry.get() in ("", self._suggestion):
            self.name_entry.delete(0, "end")
            self.name_entry.insert(0, state.name)
        self._suggestion = state.name
        if shown is None or shown.folders != state.folders:
            self._fill(self.folder_rows, state.folders, self._add_folder)
        if shown is None or shown.unfinished != state.unfinished:
            set_text(self.unfinished_title, "Not finished yet:" if state.unfinished else "")
            self._fill(self.model_rows, state.unfinished, self._add_model)

    def _fill(self, rows: ttk.Frame, items: tuple, add: Callable) -> None:
        """Make one row for each item; the focus stays in the list, so that the keyboard can remove several."""
        had_focus = str(rows.focus_get()).startswith(f"{rows}.")
        for child in rows.winfo_children():
            child.destroy()
        for i, item in enumerate(items[:MAX_ROWS]):
            add(rows, i, item)
        if len(items) > MAX_ROWS:
            ttk.Label(rows, text=f"and {len(items) - MAX_ROWS} more").grid(row=MAX_ROWS, column=0, sticky="w")
        if items:
            rows.grid()
        else:
            rows.grid_remove()
        if had_focus:
            buttons = [child for child in rows.winfo_children() if isinstance(child, ttk.Button)]
            (buttons[0] if buttons else self.add_button).focus_set()

    def _add_folder(self, rows: ttk.Frame, i: int, line: FolderLine) -> None:
        style = "Error.TLabel" if line.is_fault else "TLabel"
        command = lambda: self._callbacks.remove_folder(line.folder)  # noqa: E731
        self._add_row(rows, i, (short_path(line.folder), line.text), style, "Remove", command)

    def _add_model(self, rows: ttk.Frame, i: int, model: NamedModel) -> None:
        folders = model.record.folders
        words = (printable(model.name), count_of(len(folders), "folder"))
        self._add_row(rows, i, words, "TLabel", "Continue", lambda: self._callbacks.resume(model))

    def _add_row(
        self, rows: ttk.Frame, i: int, words: tuple[str, str], style: str, action: str, command: Callable[[], None]
    ) -> None:
        gap = round(12 * self._scale)
        ttk.Label(rows, text=words[0]).grid(row=i, column=0, sticky="w")
        ttk.Label(rows, text=words[1], style=style).grid(row=i, column=1, sticky="e", padx=gap)
        ttk.Button(rows, text=action, command=command).grid(row=i, column=2, pady=round(2 * self._scale))


class RunPage:
    """The three stages, and how they ended."""

    def __init__(self, parent: ttk.Frame, scale: float, callbacks: LearnCallbacks):
        self.frame, self._scale = ttk.Frame(parent), scale
        self._image: ImageTk.PhotoImage | None = None
        self._picture: Path | None = None
        self._phase: Phase | None = None
        self.title = add_label(self.frame, scale, style="Title.TLabel")
        self.stage_rows = add_frame(self.frame, scale)
        self.bars: list[ttk.Progressbar] = []
        self.texts: list[tuple[ttk.Label, ttk.Label]] = []
        self.line = add_label(self.frame, scale, style="Muted.TLabel")
        self.fault = add_label(self.frame, scale, style="Error.TLabel")
        self.reasons = add_label(self.frame, scale)
        self.verdict = add_frame(self.frame, scale)
        self.picture = add_label(self.frame, scale)
        buttons = add_frame(self.frame, scale, 0)

        def button(text: str, command: Callable[[], None], style: str = "TButton") -> ttk.Button:
            return ttk.Button(buttons, text=text, command=command, style=style)

        self.remarks_button = button("Warnings ...", callbacks.show_remarks)
        self.cancel_button = button("Cancel", callbacks.cancel)
        self.hide_button = button("Go on in the background", callbacks.close)
        self.stop_button = button("Stop here", callbacks.cancel)
        self.go_on_button = button("Learn anyway", callbacks.go_on, "On.TButton")
        self.close_button = button("Close", callbacks.close)
        self.choose_button = button("Choose folders ...", callbacks.choose)
        self.resume_button = button("Continue", callbacks.resume_last, "On.TButton")
        self.another_button = button("Learn another ...", callbacks.choose)
        self.use_button = button("Use this model", callbacks.use, "On.TButton")
        stopped = (self.close_button, self.choose_button, self.resume_button)
        self._buttons = {
            Phase.RUNNING: (self.cancel_button, self.hide_button),
            Phase.ASKING: (self.stop_button, self.go_on_button),
            Phase.STOPPING: (self.hide_button,),
            Phase.STOPPED: stopped,
            Phase.FAILED: stopped,
            Phase.DONE: (self.close_button, self.another_button, self.use_button),
        }

    @property
    def default_button(self) -> ttk.Button | None:
        """What the Return key presses: nothing while it learns, where no key should stop it by mistake."""
        return self.use_button if self._phase is Phase.DONE else None

    @property
    def first_widget(self) -> ttk.Widget | None:
        """What gets the keyboard: the button that goes on, but no button while it learns."""
        return self._buttons[self._phase][-1] if self._phase not in (Phase.RUNNING, Phase.STOPPING) else None

    def hinted(self) -> dict[str, tk.Misc]:
        """What has a hint, by its name in LEARN_HINTS."""
        return {
            "warnings": self.remarks_button,
            "cancel": self.cancel_button,
            "hide": self.hide_button,
            "go on": self.go_on_button,
            "stop": self.stop_button,
            "resume": self.resume_button,
            "choose": self.choose_button,
            "another": self.another_button,
            "use": self.use_button,
        }

    def show(self, state: LearnState) -> None:
        """Show how far it is, or how it ended."""
        name = printable(state.name)
        set_text(self.title, f"{name} {ENDS[state.phase]}" if state.phase in ENDS else f"Learning {name}")
        self._show_stages(state)
        lines = {
            Phase.STOPPING: "saving what is done ...",
            Phase.STOPPED: "What is done is kept. It can be continued at any time.",
        }
        set_text(self.line, lines.get(state.phase, state.line if state.phase is Phase.RUNNING else ""))
        set_text(self.fault, state.fault)
        question = (*state.reasons, "Learn all the same?")
        set_text(self.reasons, "\n".join(map(as_sentence, question)) if state.reasons else "")
        self._show_picture(state.picture)
        if state.phase is not self._phase:
            self._phase = state.phase
            self._show_verdict(state.verdict)
            self.resume_button.configure(text="Try again" if state.phase is Phase.FAILED else "Continue")
            for each in {each for group in self._buttons.values() for each in group}:
                each.pack_forget()
            for each in reversed(self._buttons[state.phase]):
                each.pack(side="right", padx=(round(8 * self._scale), 0))
        if state.n_remarks:
            self.remarks_button.configure(text=f"{count_of(state.n_remarks, 'warning')} ...")
            self.remarks_button.pack(side="left")
        else:
            self.remarks_button.pack_forget()

    def _show_stages(self, state: LearnState) -> None:
        if not self.bars:
            for i in range(len(state.stages)):
                self._add_stage(i)
        for line, bar, (title, text) in zip(state.stages, self.bars, self.texts, strict=True):
            bar.configure(value=100 * line.share)
            title.configure(text=line.title)
            text.configure(text=line.text)
        if state.phase is Phase.DONE:
            self.stage_rows.grid_remove()
        else:
            self.stage_rows.grid()

    def _show_verdict(self, clauses: tuple[str, ...]) -> None:
        """One paragraph for each clause."""
        for child in self.verdict.winfo_children():
            child.destroy()
        for clause in clauses:
            add_label(self.verdict, self._scale, as_sentence(clause), gap=4)
        if clauses:
            self.verdict.grid()
        else:
            self.verdict.grid_remove()

    def _add_stage(self, i: int) -> None:
        title, text = ttk.Label(self.stage_rows), ttk.Label(self.stage_rows, width=42)
        title.grid(row=i, column=0, sticky="w", pady=round(4 * self._scale))
        bar = ttk.Progressbar(self.stage_rows, length=round(BAR_WIDTH * self._scale))
        bar.grid(row=i, column=1, padx=round(12 * self._scale))
        text.grid(row=i, column=2, sticky="w")
        self.bars.append(bar)
        self.texts.append((title, text))

    def _show_picture(self, path: Path | None) -> None:
        if path == self._picture:
            return
        self._picture, self._image = path, None
        room = round(TEXT_WIDTH * self._scale), round(PICTURE_SHARE * self.frame.winfo_screenheight())
        if path is not None:
            try:
                with Image.open(path) as picture:
                    picture.thumbnail(room, Image.Resampling.LANCZOS)
                    self._image = ImageTk.PhotoImage(picture, master=self.frame)
            except (OSError, ValueError):  # it is missing or damaged, and the verdict says the same in words
                self._image = None
        self.picture.configure(image=self._image or "")
        set_text(self.picture, " " if self._image else "")
