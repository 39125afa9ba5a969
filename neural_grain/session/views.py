"""What the two pictures of the window can show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """A choice of two pictures.

    Attributes
    ----------
    name : str
    titles : tuple of str, of the left and the right picture
    label : str, of its button
    description : str, for the menu and the sheet of shortcuts
    key : str, that chooses it
    """

    name: str
    titles: tuple[str, str]
    label: str
    description: str
    key: str


AFTER, LAYERS, GAIN = "after", "layers", "gain"
VIEWS = (
    View(AFTER, ("before", "after"), "Before / after", "before and after", "1"),
    View(LAYERS, ("tones after", "texture after"), "Tones / texture", "tones and texture", "2"),
    View(GAIN, ("before", "gain (dB)"), "Gain", "before and gain", "3"),
)
