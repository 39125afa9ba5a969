"""The table of everything that the user can do with a key, a menu or the mouse.

The menus with their accelerators, the key bindings and the help sheet are all made from `ACTIONS`, so that they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neural_grain.app.curve_editor import SHAPES

KEY_NAMES = {
    "space": "Space",
    "Prior": "Page Up",
    "Next": "Page Down",
    "Escape": "Esc",
    "Double-Button-1": "double-click",
}


class Needs(Enum):
    """What has to be there before an action is possible."""

    NOTHING = 0
    MODEL = 1
    FILE = 2
    CURVE = 3  # a file whose curve is shown


@dataclass(frozen=True)
class Action:
    """Something that the user can do.

    Attributes
    ----------
    help : str, line of the help sheet; empty if the menu entry says enough
    command : str, name of a method of the window or of a part of it; empty if the mouse does it
    arguments : tuple, for the command
    key : str, in Tk's words; "Mod-" stands for Control, and for Command on macOS
    gesture : str, of the mouse, for the help sheet
    release : str, name of the method for the release of the key
    menu, label : str, menu and entry
    needs : Needs
    is_on_slider : bool, whether ``key`` is a gesture of the mouse on the slider
    works_while_typing : bool, whether the key works while the field has the focus
    works_in_lane : bool, whether the key works while the lane of the curve has the focus
    """

    help: str = ""
    command: str = ""
    arguments: tuple = ()
    key: str = ""
    gesture: str = ""
    release: str = ""
    menu: str = ""
    label: str = ""
    needs: Needs = Needs.NOTHING
    is_on_slider: bool = False
    works_while_typing: bool = False
    works_in_lane: bool = True

    def events(self, modifier: str) -> list[tuple[str, str]]:
        """Tk events for the press and for the release of the key, also with Caps Lock."""
        key = self.key.replace("Mod", modifier)
        keys = [key, key[:-1] + key[-1].upper()] if key[-1].islower() and (len(key) == 1 or key[-2] == "-") else [key]
        return [(f"<{each}>" if len(each) > 1 else each, f"<KeyRelease-{each}>") for each in keys]

    def key_name(self, modifier: str) -> str:
        """The key as the user knows it."""
        name = KEY_NAMES.get(self.key, self.key)
        if name.startswith("Mod-"):
            *modifiers, letter = name.replace("Mod", "Cmd" if modifier == "Command" else "Ctrl").split("-")
            return "+".join((*modifiers, letter.upper()))
        return name.upper() if len(name) == 1 else name


ACTIONS = (
    Action("play, pause", "toggle_play", key="space", needs=Needs.FILE),
    Action(
        "switch before and after (held: back on release)",
        "press_compare",
        key="b",
        release="release_compare",
        needs=Needs.FILE,
    ),
    Action(
        "switch between two settings, A and B",
        "switch_slot",
        key="a",
        menu="View",
        label="Switch A / B",
        needs=Needs.FILE,
    ),
    Action("slider by 0.1 towards texture", "move_by", (-0.1,), "Left", needs=Needs.FILE, works_in_lane=False),
    Action("slider by 0.1 towards smooth", "move_by", (0.1,), "Right", needs=Needs.FILE, works_in_lane=False),
    Action("slider by 1 towards smooth", "move_by", (1.0,), "Prior", needs=Needs.FILE),
    Action("slider by 1 towards texture", "move_by", (-1.0,), "Next", needs=Needs.FILE),
    Action("slider to 0", "move_to", (0.0,), "Double-Button-1", needs=Needs.FILE, is_on_slider=True),
    Action("go to the start of the sound", "seek", (0.0,), "Home", needs=Needs.FILE),
    Action("go there", gesture="click in a picture"),
    Action("loop that part", gesture="drag in a picture"),
    Action("stop looping", "select", (None,), "Escape"),
    Action("zoom in time", gesture="wheel"),
    Action("show the sound after, or the gain applied", "toggle_view", key="g", menu="View", label="After / gain"),
    Action("mel or log frequency", "toggle_log", key="l", menu="View", label="Mel / log frequency"),
    Action("show the whole sound", "show_all", key="0", menu="View", label="Whole sound"),
    Action(command="toggle_dark", menu="View", label="Light / dark"),
    Action(
        "show the curve, which moves the slider over time",
        "toggle_curve",
        key="c",
        menu="Curve",
        label="Show / hide",
        needs=Needs.FILE,
    ),
    Action("undo an edit of the curve", "curve.undo", key="Mod-z", menu="Curve", label="Undo", needs=Needs.CURVE),
    Action("redo it", "curve.redo", key="Mod-y", menu="Curve", label="Redo", needs=Needs.CURVE),
    Action("redo it", "curve.redo", key="Mod-Shift-z", needs=Needs.CURVE),
    *(
        Action(
            command="curve.shape",
            arguments=(shape,),
            menu="Curve",
            label=f"Shape: {shape}",
            needs=Needs.CURVE,
        )
        for shape in SHAPES
    ),
    Action(command="curve.load", menu="Curve", label="Load ...", needs=Needs.CURVE),
    Action(command="curve.save", menu="Curve", label="Save as ...", needs=Needs.CURVE),
    Action(command="curve.clear", menu="Curve", label="Clear", needs=Needs.CURVE),
    Action("add a point, or remove it", gesture="double-click in the curve"),
    Action("move a point; with Shift finely", gesture="drag in the curve"),
    Action("move the selected point; with Shift finely", gesture="arrows in the curve"),
    Action("remove the selected point", gesture="Delete in the curve"),
    Action(
        "open a file",
        "ask_open",
        (),
        "Mod-o",
        menu="File",
        label="Open ...",
        needs=Needs.MODEL,
        works_while_typing=True,
    ),
    Action(
        "save the result",
        "ask_save",
        key="Mod-s",
        menu="File",
        label="Save as ...",
        needs=Needs.FILE,
        works_while_typing=True,
    ),
    Action(command="ask_save_variations", menu="File", label="Save variations ...", needs=Needs.FILE),
    Action(command="ask_save_instrument", menu="File", label="Save an instrument ...", needs=Needs.FILE),
    Action(command="ask_batch", menu="File", label="Render many files ...", needs=Needs.MODEL),
    Action(
        "close the file",
        "close_file",
        key="Mod-w",
        menu="File",
        label="Close the file",
        needs=Needs.FILE,
        works_while_typing=True,
    ),
    Action("quit", "close", key="Mod-q", menu="File", label="Quit", works_while_typing=True),
    Action(command="learn.open", menu="Model", label="Learn from my sounds ..."),
    Action(command="ask_model", menu="Model", label="Choose a model file ..."),
    Action(command="show_model", menu="Model", label="About this model"),
    Action("this sheet; Esc closes it", "show_help", key="F1", menu="Help", label="Shortcuts", works_while_typing=True),
    Action(command="show_about", menu="Help", label="About"),
)


def shortcut_sheet(modifier: str) -> str:
    """Help sheet: a line for each key and gesture, with a tab character after it."""
    named = ((action.gesture or action.key_name(modifier), action.help) for action in ACTIONS if action.help)
    return "\n".join(f"{name}\t{help_text}" for name, help_text in named)
