"""Several sounds that were opened at once: a list beside the pictures, through which the user steps.

`FileListView` shows the list and reports what is chosen; which file is open, the window says.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tkinter import ttk

from neural_grain.base.errors import printable
from neural_grain.session.captions import count_of
from neural_grain.window.theme import SPACE, pixels

WIDTH = 200  # pixels of a standard screen


@dataclass(frozen=True)
class FileListCallbacks:
    """What the list asks of the window.

    Attributes
    ----------
    open : path -> None
    render_all : render every file of the list with the setting of the open one
    close : close the list, not the open file
    """

    open: Callable[[Path], None]
    render_all: Callable[[], None]
    close: Callable[[], None]


class FileListView:
    """A list of files with a button that renders all of them.

    Parameters
    ----------
    parent : tk.Misc
    scale : float, pixels of this screen for one of a standard screen
    callbacks : FileListCallbacks

    Attributes
    ----------
    frame : ttk.Frame
    sources : files and folders as the user chose them
    paths : the audio files among and below them
    """

    def __init__(self, parent: tk.Misc, scale: float, callbacks: FileListCallbacks):
        px = partial(pixels, scale)
        self._callbacks = callbacks
        self.sources: tuple[Path, ...] = ()
        self.paths: tuple[Path, ...] = ()
        self.frame = frame = ttk.Frame(parent, padding=(0, 0, px(SPACE.gap), 0))
        top = ttk.Frame(frame)
        top.pack(fill="x", pady=(0, px(4)))
        self.title = ttk.Label(top, style="Small.TLabel")
        self.title.pack(side="left")
        self.close_button = ttk.Button(top, text="Close", style="Small.TButton", command=callbacks.close)
        self.close_button.pack(side="right")
        self.render_button = ttk.Button(frame, text="Render all ...", command=callbacks.render_all)
        self.render_button.pack(side="bottom", fill="x", pady=(px(4), 0))
        bar = ttk.Scrollbar(frame)
        self.tree = ttk.Treeview(frame, show="tree", selectmode="browse", yscrollcommand=bar.set)
        self.tree.column("#0", width=px(WIDTH), stretch=True)
        bar.configure(command=self.tree.yview)
        bar.pack(side="right", fill="y")
        self.tree.pack(fill="both", expand=True)
        self.tree.bind("<<TreeviewSelect>>", lambda _: self._choose())

    def set_files(self, sources: Sequence[Path], paths: Sequence[Path]) -> None:
        """Show other files, in the folders below the one that all of them are in."""
        self.sources, self.paths = tuple(sources), tuple(paths)
        self.tree.delete(*self.tree.get_children())
        for number, name in enumerate(short_names(self.paths)):
            folder, _, file = name.rpartition("/")
            parent = f"{folder}/" if folder else ""  # no number, so that it can't be taken for a file
            if parent and not self.tree.exists(parent):
                self.tree.insert("", "end", parent, text=printable(folder), open=True)
            self.tree.insert(parent, "end", str(number), text=printable(file))
        self.title.configure(text=count_of(len(self.paths), "sound"))

    def mark(self, path: Path | None) -> None:
        """Select the file that is open."""
        number = str(self.paths.index(path)) if path in self.paths else None
        if number is not None and self.tree.selection() != (number,):
            self.tree.selection_set(number)
            self.tree.see(number)

    def neighbour(self, path: Path | None, step: int) -> Path | None:
        """The file so many places after another one, None beyond the ends."""
        if path not in self.paths:
            return self.paths[0] if self.paths else None
        number = self.paths.index(path) + step
        return self.paths[number] if 0 <= number < len(self.paths) else None

    def _choose(self) -> None:
        selection = self.tree.selection()
        if selection and selection[0].isdigit():  # a folder is not opened
            self._callbacks.open(self.paths[int(selection[0])])


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names of files relative to the deepest folder that all of them are in."""
    if not paths:
        return []
    parents = [path.parent.parts for path in paths]
    n_shared = 0
    while all(len(parts) > n_shared for parts in parents) and len({parts[n_shared] for parts in parents}) == 1:
        n_shared += 1
    return ["/".join(path.parts[n_shared:]) for path in paths]
