"""Colours of the window: palettes, styles of the ttk widgets, and colour maps of the pictures.

A `Palette` names the seven colours that differ between light and dark. `apply_palette` gives them to all ttk styles;
classic Tk widgets (menus and canvases) have no styles and get the palette from whoever makes them.
"""

from __future__ import annotations

import tkinter as tk
from dataclasses import dataclass
from functools import cache
from tkinter import ttk

import numpy as np

from neural_grain.base.caches import provide_cache_folders

ACCENT = "#c2571a"
ON_ACCENT = "#ffffff"
LARGE_FONT = ("TkDefaultFont", 13)
STANDARD_DPI = 96  # pixels that the layout is given in belong to a screen of this resolution
POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Palette:
    """Colours of everything but the pictures."""

    background: str
    text: str
    line: str
    trough: str
    button: str
    error: str
    achieved: str  # what was measured, beside what was asked for in the accent colour


LIGHT = Palette(
    background="#f4f2ee",
    text="#22201d",
    line="#a8a29a",
    trough="#e2ded6",
    button="#e9e6df",
    error="#b00020",
    achieved="#1c6e7a",
)
DARK = Palette(
    background="#211f1d",
    text="#ece8e1",
    line="#6b655d",
    trough="#35322e",
    button="#2d2a27",
    error="#ff8a80",
    achieved="#63c3cf",
)


def screen_scale(root: tk.Misc) -> float:
    """Pixels of this screen for one pixel of a standard screen, at least 1.

    Fonts are in points and grow with the resolution of the screen, so all lengths in pixels have to grow with them.
    """
    return max(1.0, float(root.tk.call("tk", "scaling")) * POINTS_PER_INCH / STANDARD_DPI)


def apply_palette(style: ttk.Style, palette: Palette, scale: float) -> None:
    """Set the colours of all ttk styles that the window uses.

    Parameters
    ----------
    style : ttk.Style, with the theme "clam"
    palette : Palette
    scale : float, from `screen_scale`
    """

    def px(n: float) -> int:
        return round(n * scale)

    line, trough, button = palette.line, palette.trough, palette.button
    style.configure(
        ".",
        background=palette.background,
        foreground=palette.text,
        bordercolor=line,
        troughcolor=trough,
        lightcolor=trough,
        darkcolor=trough,
        arrowsize=px(14),
        sliderlength=px(30),
    )
    style.configure("TEntry", fieldbackground=trough, foreground=palette.text, insertcolor=palette.text)
    style.configure("TButton", background=button, foreground=palette.text, lightcolor=button, darkcolor=button)
    style.configure("TButton", width=-8, padding=(px(8), px(4)))  # a negative width is the least number of characters
    style.map("TButton", background=[("pressed", ACCENT), ("active", trough)], foreground=[("disabled", line)])
    style.configure("On.TButton", background=ACCENT, foreground=ON_ACCENT, lightcolor=ACCENT, darkcolor=ACCENT)
    style.map("On.TButton", background=[("active", ACCENT)], foreground=[("disabled", line)])
    style.configure("Grain.TLabel", font=LARGE_FONT)
    style.configure("Error.TLabel", foreground=palette.error)
    style.configure("Accent.Horizontal.TProgressbar", background=ACCENT)
    style.configure("TScale", background=ACCENT, lightcolor=ACCENT, darkcolor=ACCENT, gripcount=0)
    style.map("TScale", **{name: [("disabled", line)] for name in ("background", "lightcolor", "darkcolor")})


def paint_menu(menu: tk.Menu, palette: Palette) -> None:
    """Set the colours of a menu."""
    menu.configure(
        background=palette.background,
        foreground=palette.text,
        activebackground=ACCENT,
        activeforeground=ON_ACCENT,
        disabledforeground=palette.line,
        borderwidth=0,
    )


@cache
def colour_map(name: str) -> np.ndarray:
    """Colours of a matplotlib colour map, shape (256, 3), uint8."""
    provide_cache_folders()
    from matplotlib import colormaps

    return np.round(255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)
