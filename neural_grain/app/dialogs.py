"""TODO"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neural_grain.audio.sound import AUDIO_EXTENSIONS

SHEET_LINES = 24  # of a text that the window shows; a longer one is scrolled


@dataclass(frozen=True)
class Dialogs:
    """How the window asks; a test puts its own answers here."""

    open_name: Callable[[str], str]
    save_name: Callable[[str, str], str]
    model_name: Callable[[], str]
    many_names: Callable[[], list[str]]
    folder_name: Callable[[str], str]
    shall_save: Callable[[], bool | None]  # None: don't close
    show_text: Callable[[str, str], None]


def system_dialogs(root) -> Dialogs:
    """The system's dialogs."""
    from tkinter import filedialog, messagebox

    audio = [("Audio", " ".join(f"*{extension}" for extension in sorted(AUDIO_EXTENSIONS))), ("All files", "*")]
    return Dialogs(
        lambda folder: filedialog.askopenfilename(title="Open audio", filetypes=audio, initialdir=folder or None),
        lambda folder, name: filedialog.asksaveasfilename(
            title="Save the result",
            initialdir=folder or None,
            initialfile=name,
            defaultextension=".wav",
            filetypes=[(name, f"*{name}") for name in (".wav", ".flac", ".aiff", ".ogg", ".mp3", ".caf")],
        ),
        lambda: filedialog.askopenfilename(title="Choose a model", filetypes=[("Model", "*.pt"), ("All files", "*")]),
        lambda: list(filedialog.askopenfilenames(title="Render many files", filetypes=audio)),
        lambda title: filedialog.askdirectory(title=title),
        lambda: messagebox.askyesnocancel("Neural Grain Processor", "Save the result first?", parent=root),
        lambda title, text: show_sheet(root, title, text),
    )


def show_sheet(root, title: str, text: str) -> None:
    """Show text in place of the sheet before, tabs as columns; Tk's message box would break its lines at 3 inches."""
    import tkinter as tk
    from tkinter import font, ttk

    if "sheet" in root.children:
        root.children["sheet"].destroy()
    sheet = tk.Toplevel(root, name="sheet")
    sheet.title(title)
    sheet.transient(root)
    sheet.geometry(f"+{root.winfo_rootx() + root.winfo_width() // 8}+{root.winfo_rooty() + root.winfo_height() // 8}")
    lines, letters, style = text.split("\n"), font.nametofont("TkDefaultFont"), ttk.Style(root)
    em = letters.measure("m")
    column = max((letters.measure(line.split("\t")[0]) for line in lines if "\t" in line), default=0) + 2 * em
    words = tk.Text(sheet, width=60, height=min(len(lines) + 1, SHEET_LINES), wrap="word", font=letters, tabs=column)
    words.configure(background=style.lookup(".", "background"), foreground=style.lookup(".", "foreground"))
    edge = style.lookup(".", "bordercolor")
    words.configure(
        relief="flat", highlightbackground=edge, highlightcolor=edge, padx=2 * em, pady=em, spacing3=em // 4
    )
    words.insert("1.0", text)
    words.configure(state="disabled")
    words.pack(side="left", fill="both", expand=True)
    if len(lines) > SHEET_LINES:
        bar = ttk.Scrollbar(sheet, command=words.yview)
        bar.pack(side="right", fill="y")
        words.configure(yscrollcommand=bar.set)
    for key in ("<Escape>", "<Return>", "<F1>"):
        sheet.bind(key, lambda _: sheet.destroy())
    words.focus_set()
