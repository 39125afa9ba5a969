"""What the window shows before a sound is open: three large choices, each with a sentence that explains it."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from tkinter import ttk

from neural_grain.window.theme import SPACE, pixels


@dataclass(frozen=True)
class Choice:
    """A large button and its sentence; ``command`` is that of an action of the table."""

    label: str
    sentence: str
    command: str


CHOICES = (
    Choice("Open a sound", "Any WAV, AIFF, FLAC, OGG, Opus or MP3 file. You can also drop it here.", "files.ask_open"),
    Choice("Try the demo sounds", "Make a small library of synthesised sounds and play with them.", "files.open_demo"),
    Choice(
        "Learn from my sounds", "Choose folders of your own sounds and learn what texture is in them.", "learn.open"
    ),
)
WRAP = 210  # pixels of a standard screen, at which a sentence breaks


class StartPage:
    """A frame with the choices.

    Parameters
    ----------
    parent : tk.Misc
    scale : float, pixels of this screen for one of a standard screen
    perform : called with the command of a choice

    Attributes
    ----------
    frame : ttk.Frame
    buttons : dict of str to ttk.Button, by command
    """

    def __init__(self, parent: tk.Misc, scale: float, perform: Callable[[str], None]):
        px = partial(pixels, scale)
        self.frame = ttk.Frame(parent)
        self.buttons: dict[str, ttk.Button] = {}
        cards = ttk.Frame(self.frame)
        cards.place(relx=0.5, rely=0.45, anchor="center")
        for column, choice in enumerate(CHOICES):
            card = ttk.Frame(cards, style="Card.TFrame", padding=px(20))
            card.grid(row=0, column=column, padx=px(SPACE.gap), sticky="nsew")
            button = ttk.Button(
                card, text=choice.label, style="Big.TButton", command=lambda choice=choice: perform(choice.command)
            )
            button.pack(fill="x")
            sentence = ttk.Label(
                card, text=choice.sentence, style="CardMuted.TLabel", wraplength=px(WRAP), justify="left"
            )
            sentence.pack(fill="x", pady=(px(SPACE.group), 0))
            self.buttons[choice.command] = button
