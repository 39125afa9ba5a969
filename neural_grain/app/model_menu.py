"""The models by name as radio entries at the end of a menu, which are looked up whenever it opens."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from pathlib import Path

from neural_grain.app.models import NamedModel
from neural_grain.base.errors import printable


class ModelMenu:
    """Fills a menu with models.

    Parameters
    ----------
    menu : tk.Menu, with entries of its own, which stay
    models : returns the models that can be used
    current : returns the path of the model in use, or None for the built-in pattern
    use : path of a model that the user chose -> None
    """

    def __init__(
        self,
        menu: tk.Menu,
        models: Callable[[], list[NamedModel]],
        current: Callable[[], Path | None],
        use: Callable[[Path], None],
    ):
        self._menu, self._models, self._current, self._use = menu, models, current, use
        self._n_own = menu.index("end") + 1
        self._choice = tk.StringVar(menu)
        menu.configure(postcommand=self.fill)

    def fill(self) -> None:
        """Look up the models; one that was chosen from elsewhere is named by its file."""
        self._menu.delete(self._n_own, "end")
        current = self._current()
        entries = {model.path.absolute(): printable(model.name) for model in self._models()}
        if current is not None:
            entries.setdefault(current.absolute(), printable(current))
        if entries:
            self._menu.add_separator()
        for path, name in entries.items():
            self._menu.add_radiobutton(
                label=name,
                variable=self._choice,
                value=str(path),
                command=lambda path=path: self._choose(path),
            )
        self._choice.set("" if current is None else str(current.absolute()))

    def _choose(self, path: Path) -> None:
        if (current := self._current()) is None or path != current.absolute():
            self._use(path)
