"""The table of everything that the user can do with a key, a menu or the mouse.

The menus with their accelerators, the key bindings and the help sheet are all made from `ACTIONS`, so that they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neural_grain.session.curve_editor import SHAPES
from neural_grain.session.views import VIEWS

COLOUR_LABELS = {"system": "Colours of the system", "light": "Light colours", "dark": "Dark colours"}
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
    UNDO = 4  # an earlier setting of the open file
    REDO = 5  # a setting that was undone
    RESULTS = 6  # something was saved
    LIST = 7  # several sounds


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
        if name != self.key:
            return name
        *modifiers, letter = name.replace("Mod", "Cmd" if modifier == "Command" else "Ctrl").split("-")
        return "+".join((*modifiers, letter.upper() if len(letter) == 1 else letter))


SLIDER_KEY = {"needs": Needs.FILE, "works_in_lane": False}
MENUS = ("File", "Edit", "View", "Curve", "Sound", "Model", "Help")
ACTIONS = (
    Action("play, pause", "transport.toggle_play", key="space", needs=Needs.FILE),
    Action(
        "switch before and after (held: back on release)",
        "transport.press_compare",
        key="b",
        release="transport.release_compare",
        needs=Needs.FILE,
    ),
    Action(
        "switch between two settings, A and B",
        "settings.switch_slot",
        key="a",
        menu="Edit",
        label="Switch A / B",
        needs=Needs.FILE,
    ),
    Action("slider by 0.1 towards texture", "settings.move_by", (-0.1,), "Left", **SLIDER_KEY),
    Action("slider by 0.1 towards smooth", "settings.move_by", (0.1,), "Right", **SLIDER_KEY),
    Action("slider by 0.01 towards texture", "settings.move_by", (-0.01,), "Shift-Left", **SLIDER_KEY),
    Action("slider by 0.01 towards smooth", "settings.move_by", (0.01,), "Shift-Right", **SLIDER_KEY),
    Action("slider by 1 towards smooth", "settings.move_by", (1.0,), "Prior", needs=Needs.FILE),
    Action("slider by 1 towards texture", "settings.move_by", (-1.0,), "Next", needs=Needs.FILE),
    Action("slider to 0", "settings.move_to", (0.0,), "Double-Button-1", needs=Needs.FILE, is_on_slider=True),
    Action("slider finely", gesture="drag with Shift"),
    Action("go to the start of the sound", "transport.seek", (0.0,), "Home", needs=Needs.FILE),
    Action("go there", gesture="click in a picture"),
    Action("loop that part", gesture="drag in a picture"),
    Action("stop looping", "transport.select", (None,), "Escape"),
    Action("zoom in time", gesture="wheel"),
    Action("move what is shown", gesture="drag in the overview"),
    *(
        Action(
            help=f"show {view.description}",
            command="view.show",
            arguments=(view.name,),
            key=view.key,
            menu="View",
            label=f"Show {view.description}",
        )
        for view in VIEWS
    ),
    Action("show the next of these three", "view.show_next", key="g"),
    Action("mel or log frequency", "view.toggle_log", key="l", menu="View", label="Mel / log frequency"),
    Action("show the whole sound", "view.show_all", key="0", menu="View", label="Whole sound"),
    *(
        Action(command="view.set_colours", arguments=(colours,), menu="View", label=label)
        for colours, label in COLOUR_LABELS.items()
    ),
    Action(
        "undo: slider, curve, mix and model", "settings.undo", key="Mod-z", menu="Edit", label="Undo", needs=Needs.UNDO
    ),
    Action("redo", "settings.redo", key="Mod-y", menu="Edit", label="Redo", needs=Needs.REDO),
    Action("redo", "settings.redo", key="Mod-Shift-z", needs=Needs.REDO),
    Action(command="settings.ask_preset_name", menu="Edit", label="Save a preset ...", needs=Needs.FILE),
    Action(
        "show the curve, which moves the slider over time",
        "settings.toggle_curve",
        key="c",
        menu="Curve",
        label="Show / hide",
        needs=Needs.FILE,
    ),
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
    Action(command="curve.stretch", menu="Curve", label="Stretch to the sound", needs=Needs.CURVE),
    Action(command="curve.load", menu="Curve", label="Load ...", needs=Needs.CURVE),
    Action(command="curve.save", menu="Curve", label="Save as ...", needs=Needs.CURVE),
    Action(command="curve.clear", menu="Curve", label="Clear", needs=Needs.CURVE),
    Action("add a point, or remove it", gesture="double-click in the curve"),
    Action("move a point; with Shift finely", gesture="drag in the curve"),
    Action("move the selected point; with Shift finely", gesture="arrows in the curve"),
    Action("select the point before or after", gesture="[ or ] in the curve"),
    Action("add a point at the playhead", gesture="Insert in the curve"),
    Action("remove the selected point", gesture="Delete in the curve"),
    Action(
        "open a file, or several as a list",
        "files.ask_open",
        (),
        "Mod-o",
        menu="File",
        label="Open ...",
        needs=Needs.MODEL,
        works_while_typing=True,
    ),
    Action("open the next sound of the list", "files.step", (1,), "Mod-Down", needs=Needs.LIST),
    Action("open the one before", "files.step", (-1,), "Mod-Up", needs=Needs.LIST),
    Action(command="files.open_demo", menu="File", label="Open the demo sounds", needs=Needs.MODEL),
    Action(
        "save the result",
        "files.ask_save",
        key="Mod-s",
        menu="File",
        label="Save as ...",
        needs=Needs.FILE,
        works_while_typing=True,
    ),
    Action(
        "save it next to the original",
        "files.save_beside",
        key="Mod-Shift-s",
        menu="File",
        label="Save next to the original",
        needs=Needs.FILE,
        works_while_typing=True,
    ),
    Action(command="files.ask_save_variations", menu="File", label="Save a set from -3 to +3 ...", needs=Needs.FILE),
    Action(command="files.ask_save_instrument", menu="File", label="Save an instrument ...", needs=Needs.FILE),
    Action(command="files.ask_batch", menu="File", label="Render many files ...", needs=Needs.MODEL),
    Action(command="files.show_results", menu="File", label="Show the results", needs=Needs.RESULTS),
    Action(
        "close the file",
        "files.close_file",
        key="Mod-w",
        menu="File",
        label="Close the file",
        needs=Needs.FILE,
        works_while_typing=True,
    ),
    Action("quit", "close", key="Mod-q", menu="File", label="Quit", works_while_typing=True),
    Action(command="transport.reset_clip", menu="Sound", label="Reset the clip light", needs=Needs.FILE),
    Action(
        "this sheet; Esc closes it", "view.show_help", key="F1", menu="Help", label="Shortcuts", works_while_typing=True
    ),
    Action(command="learn.open", menu="Model", label="Learn from my sounds ..."),
    Action(command="files.ask_model", menu="Model", label="Choose a model file ..."),
    Action(command="view.show_model", menu="Model", label="About the model"),
    Action(command="view.show_about", menu="Help", label="About"),
)


def shortcut_sheet(modifier: str) -> str:
    """Help sheet: a line for each key and gesture, with a tab character after it."""
    named = ((action.gesture or action.key_name(modifier), action.help) for action in ACTIONS if action.help)
    return "\n".join(f"{name}\t{help_text}" for name, help_text in named)
