"""A page of a window: paragraphs of text and rows, one below the other, that take no room while they are empty."""

from __future__ import annotations

from tkinter import ttk

from neural_grain.base.errors import printable

TEXT_WIDTH = 600  # at which a paragraph breaks, in pixels of a standard screen


def place_below(widget: ttk.Widget, scale: float, gap: float = 8) -> None:
    """Place a widget below what its page holds already."""
    row = len(widget.master.winfo_children())
    widget.grid(row=row, column=0, sticky="ew", pady=(0, round(gap * scale)))


def add_label(parent: ttk.Frame, scale: float, text: str = "", style: str = "TLabel", gap: float = 8) -> ttk.Label:
    """A line or paragraph of text in a page."""
    label = ttk.Label(parent, style=style, wraplength=round(TEXT_WIDTH * scale), justify="left")
    place_below(label, scale, gap)
    set_text(label, text)
    return label


def set_text(label: ttk.Label, text: str) -> None:
    """Set the text of a label, which takes no room while it has none."""
    label.configure(text=text)
    if text:
        label.grid()
    else:
        label.grid_remove()


def add_frame(parent: ttk.Frame, scale: float, gap: float = 8) -> ttk.Frame:
    """A part of a page; in one with rows, the second column grows."""
    frame = ttk.Frame(parent)
    frame.columnconfigure(1, weight=1)
    place_below(frame, scale, gap)
    return frame


def as_sentence(text: str) -> str:
    """A clause as a sentence of its own."""
    text = printable(text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")
