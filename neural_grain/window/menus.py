"""The menu bar, made from the table of actions, with menus whose entries depend on what there is now.

A `DynamicMenu` is filled whenever it is opened: recent files, presets, models, output devices.
"""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass

from neural_grain.base.errors import printable
from neural_grain.session.actions import ACTIONS, MENUS, Action, Needs
from neural_grain.window.theme import Palette, paint_menu

NOTHING = "(none)"


@dataclass(frozen=True)
class Entry:
    """An entry of a dynamic menu; one that is on has a mark."""

    label: str
    command: Callable[[], None]
    is_on: bool = False


@dataclass(frozen=True)
class DynamicMenu:
    """A menu inside another one.

    Attributes
    ----------
    menu, label : of the entry that opens it
    entries : -> entries to show now
    position : place in the menu
    """

    menu: str
    label: str
    entries: Callable[[], list[Entry]]
    position: int


class MenuBar:
    """All menus.

    Parameters
    ----------
    root : tk.Tk
    modifier : "Control" or "Command"
    perform : called with the action that was chosen
    dynamic : list of DynamicMenu

    Attributes
    ----------
    menus : dict of str to tk.Menu, by the name in the bar
    dynamic_menus : dict of str to tk.Menu, by label
    """

    def __init__(self, root: tk.Tk, modifier: str, perform: Callable[[Action], None], dynamic: tuple[DynamicMenu, ...]):
        self._bar = tk.Menu(root)
        root.configure(menu=self._bar)
        self.menus = {name: tk.Menu(self._bar, tearoff=False) for name in MENUS}
        for name, menu in self.menus.items():
            self._bar.add_cascade(label=name, menu=menu)
        for action in ACTIONS:
            if action.menu:
                self.menus[action.menu].add_command(
                    label=action.label,
                    accelerator=action.key_name(modifier),
                    command=lambda action=action: perform(action),
                )
        self.dynamic_menus: dict[str, tk.Menu] = {}
        for each in dynamic:
            inner = tk.Menu(self.menus[each.menu], tearoff=False)
            inner.configure(postcommand=lambda inner=inner, each=each: _fill(inner, each.entries()))
            self.menus[each.menu].insert_cascade(each.position, label=each.label, menu=inner)
            self.dynamic_menus[each.label] = inner
        self._enabled: dict[Action, bool] = {}

    def enable(self, allows: Callable[[Needs], bool]) -> None:
        """Enable the entries whose needs are met, and disable the others."""
        for action in ACTIONS:
            if action.menu and action.needs is not Needs.NOTHING:
                is_enabled = allows(action.needs)
                if self._enabled.get(action) != is_enabled:
                    self._enabled[action] = is_enabled
                    state = "normal" if is_enabled else "disabled"
                    self.menus[action.menu].entryconfigure(action.label, state=state)

    def paint(self, palette: Palette) -> None:
        """Set the colours."""
        for menu in (self._bar, *self.menus.values(), *self.dynamic_menus.values()):
            paint_menu(menu, palette)


def _fill(menu: tk.Menu, entries: list[Entry]) -> None:
    menu.delete(0, "end")
    for entry in entries:
        label = f"{'✓ ' if entry.is_on else ''}{printable(entry.label)}"
        menu.add_command(label=label, command=entry.command)
    if not entries:
        menu.add_command(label=NOTHING, state="disabled")
