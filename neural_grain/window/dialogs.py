"""Questions to the user, and sheets of text.

The window asks through a `Dialogs` object, so that a test can give the answers. `system_dialogs` makes the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tkinter import filedialog, font, messagebox, simpledialog, ttk

from neural_grain.audio.audio_files import AUDIO_EXTENSIONS

TITLE = "Neural Grain Processor"
OUTPUT_EXTENSIONS = (".wav", ".flac", ".aiff", ".ogg", ".mp3", ".caf")
MAX_SHEET_LINES = 24  # a longer sheet gets a scroll bar
SHEET_WIDTH = 60  # characters
PACKAGES = ("torch", "numpy", "scipy", "soundfile")  # whose versions a report of a fault should name


@dataclass(frozen=True)
class Dialogs:
    """How the window asks. An empty answer means that the user cancelled.

    Attributes
    ----------
    open_names : folder -> files to open
    save_name : (title, folder, suggested name) -> file to write
    model_name : -> model file
    many_names : -> files to render
    folder_name : title -> folder to write into
    open_curve : folder -> text file of a curve
    save_curve : (folder, suggested name) -> text file to write
    should_save : -> whether to save first; None to stay in the window
    confirm : question -> whether to do it
    text : (title, question) -> what the user typed
    show_folder : folder -> why it can't be shown in the file manager, or an empty string
    show_text : (title, text) -> None
    """

    open_names: Callable[[str], list[str]]
    save_name: Callable[[str, str, str], str]
    model_name: Callable[[], str]
    many_names: Callable[[], list[str]]
    folder_name: Callable[[str], str]
    open_curve: Callable[[str], str]
    save_curve: Callable[[str, str], str]
    should_save: Callable[[], bool | None]
    confirm: Callable[[str], bool]
    text: Callable[[str, str], str]
    show_folder: Callable[[Path], str]
    show_text: Callable[[str, str], None]


def system_dialogs(root: tk.Misc) -> Dialogs:
    """Dialogs of the operating system."""
    audio = [("Audio", " ".join(f"*{extension}" for extension in sorted(AUDIO_EXTENSIONS))), ("All files", "*")]
    curves = [("Curve", "*.txt *.brk"), ("All files", "*")]
    return Dialogs(
        open_names=lambda folder: list(
            filedialog.askopenfilenames(title="Open audio", filetypes=audio, initialdir=folder or None)
        ),
        save_name=lambda title, folder, name: filedialog.asksaveasfilename(
            title=title,
            initialdir=folder or None,
            initialfile=name,
            defaultextension=".wav",
            filetypes=[(extension, f"*{extension}") for extension in OUTPUT_EXTENSIONS],
        ),
        model_name=lambda: filedialog.askopenfilename(
            title="Choose a model", filetypes=[("Model", "*.pt"), ("All files", "*")]
        ),
        many_names=lambda: list(filedialog.askopenfilenames(title="Render many files", filetypes=audio)),
        folder_name=lambda title: filedialog.askdirectory(title=title),
        open_curve=lambda folder: filedialog.askopenfilename(
            title="Load a curve", filetypes=curves, initialdir=folder or None
        ),
        save_curve=lambda folder, name: filedialog.asksaveasfilename(
            title="Save the curve",
            initialdir=folder or None,
            initialfile=name,
            defaultextension=".txt",
            filetypes=curves,
        ),
        should_save=lambda: messagebox.askyesnocancel(TITLE, "Save the result first?", parent=root),
        confirm=lambda question: messagebox.askokcancel(TITLE, question, parent=root, default="cancel"),
        text=lambda title, question: simpledialog.askstring(title, question, parent=root) or "",
        show_folder=show_folder,
        show_text=lambda title, text: show_sheet(root, title, text),
    )


def show_folder(folder: Path) -> str:
    """Open a folder in the file manager; returns why that is not possible, or an empty string."""
    try:
        if sys.platform == "win32":
            os.startfile(folder)
        else:
            command = ["open"] if sys.platform == "darwin" else ["xdg-open"]
            subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as err:
        return f"no file manager to show {folder} ({err.strerror})"
    return ""


def about_text() -> str:
    """Name of the program and versions of what it runs on."""
    from importlib.metadata import version

    lines = [f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in PACKAGES)]
    return f"{TITLE}\n\n" + "\n".join(lines)


def show_sheet(root: tk.Misc, title: str, text: str) -> None:
    """Show text in a window of its own, in place of an earlier sheet; tab characters separate two columns.

    The message box of Tk is no alternative, because it breaks lines at three inches.
    """
    if "sheet" in root.children:
        root.children["sheet"].destroy()
    sheet = tk.Toplevel(root, name="sheet")
    sheet.title(title)
    sheet.transient(root)
    sheet.geometry(f"+{root.winfo_rootx() + root.winfo_width() // 8}+{root.winfo_rooty() + root.winfo_height() // 8}")
    words = _text_widget(sheet, text)
    words.pack(side="left", fill="both", expand=True)
    if text.count("\n") >= MAX_SHEET_LINES:
        bar = ttk.Scrollbar(sheet, command=words.yview)
        bar.pack(side="right", fill="y")
        words.configure(yscrollcommand=bar.set)
    for key in ("<Escape>", "<Return>", "<F1>"):
        sheet.bind(key, lambda _: sheet.destroy())
    words.focus_set()


def _text_widget(sheet: tk.Toplevel, text: str) -> tk.Text:
    """Read-only text in the colours of the window, whose first column is as wide as its longest entry."""
    lines, text_font, style = text.split("\n"), font.nametofont("TkDefaultFont", root=sheet), ttk.Style(sheet)
    em = text_font.measure("m")
    first_column = [text_font.measure(line.split("\t")[0]) for line in lines if "\t" in line]
    line_colour = style.lookup(".", "bordercolor")
    words = tk.Text(
        sheet,
        width=SHEET_WIDTH,
        height=min(len(lines) + 1, MAX_SHEET_LINES),
        wrap="word",
        font=text_font,
        tabs=max(first_column, default=0) + 2 * em,
        background=style.lookup(".", "background"),
        foreground=style.lookup(".", "foreground"),
        relief="flat",
        highlightbackground=line_colour,
        highlightcolor=line_colour,
        padx=2 * em,
        pady=em,
        spacing3=em // 4,
    )
    words.insert("1.0", text)
    if any(first_column):  # a long line goes on in its column
        words.tag_add("columns", "1.0", "end")
        words.tag_configure("columns", lmargin2=max(first_column) + 2 * em)
    words.configure(state="disabled")
    return words
