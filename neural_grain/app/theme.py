"""TODO"""

from __future__ import annotations

ACCENT = "#c2571a"
LIGHT = {
    "back": "#f4f2ee",
    "text": "#22201d",
    "line": "#a8a29a",
    "trough": "#e2ded6",
    "button": "#e9e6df",
    "error": "#b00020",
}
DARK = {
    "back": "#211f1d",
    "text": "#ece8e1",
    "line": "#6b655d",
    "trough": "#35322e",
    "button": "#2d2a27",
    "error": "#ff8a80",
}
