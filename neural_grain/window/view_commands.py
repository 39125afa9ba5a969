"""How things are shown, as commands: pictures, axes, colours, and sheets of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from neural_grain.session.actions import shortcut_sheet
from neural_grain.session.captions import describe_model
from neural_grain.session.preferences import Preferences
from neural_grain.session.state import Session
from neural_grain.session.views import VIEWS

if TYPE_CHECKING:
    from neural_grain.window.dialogs import Dialogs
    from neural_grain.window.layout import Layout


class ViewCommands:
    """Commands, as methods.

    Parameters
    ----------
    layout : Layout
    session : Session
    preferences : Preferences
    dialogs : returns the `Dialogs` that show sheets
    refresh : called when the state has changed
    """

    def __init__(
        self,
        layout: Layout,
        session: Session,
        preferences: Preferences,
        dialogs: Callable[[], Dialogs],
        refresh: Callable[[], None],
    ):
        self._layout, self._panel, self._session = layout, layout.panel, session
        self._preferences, self._dialogs, self._refresh = preferences, dialogs, refresh

    def show(self, view: str) -> None:
        """Show other pictures: the name of one of the `VIEWS`."""
        self._panel.view = view
        self._panel.draw_soon()
        self._refresh()

    def show_next(self) -> None:
        """Show the next pictures."""
        views = [view.name for view in VIEWS]
        self.show(views[(views.index(self._panel.view) + 1) % len(views)])

    def show_all(self) -> None:
        """Show the whole sound."""
        self._panel.show_all()

    def toggle_log(self) -> None:
        """Change between a mel and a logarithmic frequency axis."""
        self._panel.is_log = self._preferences.is_log = not self._preferences.is_log
        self._panel.draw_soon()

    def set_colours(self, colours: str) -> None:
        """Choose "light" or "dark" colours, or those of the "system"."""
        self._preferences.colours = colours
        self._layout.paint()

    def show_help(self) -> None:
        """Show the keys."""
        self._dialogs().show_text("Shortcuts", shortcut_sheet(self._layout.modifier))

    def show_model(self) -> None:
        """Show what the model was trained on, and its audit."""
        self._dialogs().show_text("The model", describe_model(self._session.processor))

    def show_about(self) -> None:
        """Show versions."""
        from neural_grain.window.dialogs import about_text

        self._dialogs().show_text("About", about_text())
