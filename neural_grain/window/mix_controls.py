"""Two small sliders for what happens after the move: how much of it is mixed with the input, and the output gain."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from functools import partial
from tkinter import ttk

from neural_grain.dsp.mix import MAX_GAIN_DB, NO_MIX, Mix
from neural_grain.window.theme import SPACE, pixels

LENGTH = 90  # pixels of a standard screen
WET_STEP, GAIN_STEP_DB = 0.01, 0.5


class MixControls:
    """The sliders with their values; a double-click takes one back to where it does nothing.

    Parameters
    ----------
    parent : tk.Misc
    scale : float, pixels of this screen for one of a standard screen
    on_change : called with the mix after every move by hand

    Attributes
    ----------
    frame : ttk.Frame
    wet, gain : ttk.Scale
    mix : Mix
    """

    def __init__(self, parent: tk.Misc, scale: float, on_change: Callable[[Mix], None]):
        px = partial(pixels, scale)
        self._on_change = on_change
        self.mix = NO_MIX
        self.frame = ttk.Frame(parent)
        self._labels: list[ttk.Label] = []

        def add(name: str, low: float, high: float, value: float) -> ttk.Scale:
            row = len(self._labels)
            label = ttk.Label(self.frame, text=name, style="Small.TLabel")
            label.grid(row=row, column=0, sticky="e", padx=(px(SPACE.group), px(4)))
            slider = ttk.Scale(self.frame, from_=low, to=high, value=value, length=px(LENGTH))
            slider.configure(command=lambda _: self._moved())
            slider.bind("<Double-Button-1>", lambda _: slider.set(value) or "break")
            slider.grid(row=row, column=1)
            self._labels.append(ttk.Label(self.frame, style="Small.TLabel", width=8))
            self._labels[-1].grid(row=row, column=2, padx=(px(4), 0))
            return slider

        self.wet = add("mix", 0.0, 1.0, NO_MIX.wet)
        self.gain = add("gain", -MAX_GAIN_DB, MAX_GAIN_DB, NO_MIX.gain_db)
        self._show_values()

    def set(self, mix: Mix) -> None:
        """Show another mix, without telling the window."""
        if mix != self.mix:
            self.mix = mix
            for slider, value in ((self.wet, mix.wet), (self.gain, mix.gain_db)):
                slider.configure(value=value)
            self._show_values()

    def _moved(self) -> None:
        wet = round(float(self.wet.get()) / WET_STEP) * WET_STEP
        gain_db = round(float(self.gain.get()) / GAIN_STEP_DB) * GAIN_STEP_DB + 0.0
        mix = Mix(min(1.0, round(wet, 2)), gain_db)
        if mix != self.mix:
            self.mix = mix
            self._show_values()
            self._on_change(mix)

    def _show_values(self) -> None:
        texts = f"{self.mix.percent:.0f} %", f"{self.mix.gain_db:+.1f} dB" if self.mix.gain_db else "0 dB"
        for label, text in zip(self._labels, texts, strict=True):
            label.configure(text=text)
