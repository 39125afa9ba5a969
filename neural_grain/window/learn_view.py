"""The learn window, and the line of the main window while it is closed."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from tkinter import ttk

from neural_grain.session.learn_state import LearnState, Phase
from neural_grain.window.hint import Hint
from neural_grain.window.learn_pages import LEARN_HINTS, TITLE, ChoosePage, LearnCallbacks, RunPage
from neural_grain.window.theme import SPACE, Palette, screen_scale


class LearnView:
    """The learn window.

    Parameters
    ----------
    root : tk.Misc, the main window
    callbacks : LearnCallbacks
    palette : returns the palette in use, for the hints

    Attributes
    ----------
    window : tk.Toplevel
    choose_page : ChoosePage
    run_page : RunPage
    is_shown : bool, whether it is open
    """

    def __init__(self, root: tk.Misc, callbacks: LearnCallbacks, palette: Callable[[], Palette]):
        scale = screen_scale(root)
        self.window = window = tk.Toplevel(root)
        window.withdraw()
        window.title(TITLE)
        window.resizable(False, False)
        window.protocol("WM_DELETE_WINDOW", callbacks.close)
        window.bind("<Escape>", lambda _: callbacks.close())
        window.bind("<Return>", self._press_return)
        outer = ttk.Frame(window, padding=round(SPACE.margin * scale))
        outer.pack(fill="both", expand=True)
        self.choose_page = ChoosePage(outer, scale, callbacks)
        self.run_page = RunPage(outer, scale, callbacks)
        for page in (self.choose_page, self.run_page):
            for name, widget in page.hinted().items():
                Hint(widget, LEARN_HINTS[name], palette, scale)
        self.is_shown = False
        self._page: ChoosePage | RunPage | None = None
        self._phase: Phase | None = None

    def open(self) -> None:
        """Show the window, in front of the main window."""
        root = self.window.master
        if not self.is_shown:
            x, y = (root.winfo_rootx() + root.winfo_width() // 10, root.winfo_rooty() + root.winfo_height() // 10)
            self.window.geometry(f"+{max(0, x)}+{max(0, y)}")
        self.is_shown = True
        self.window.deiconify()
        self.window.lift()
        self.window.focus_set()

    def hide(self) -> None:
        """Close the window; the keyboard goes back to the main window."""
        self.is_shown = False
        if self._has_focus():
            self.window.master.focus_set()
        self.window.withdraw()

    def show(self, state: LearnState) -> None:
        """Show what there is."""
        page = self.choose_page if state.phase is Phase.CHOOSING else self.run_page
        page.show(state)
        if page is not self._page:
            if self._page is not None:
                self._page.frame.pack_forget()
            page.frame.pack(fill="both", expand=True)
            self._page, self._phase = page, None
        if state.phase is not self._phase:
            self._phase = state.phase
            if self._has_focus():  # else the keyboard would be taken away from the main window
                (page.first_widget or self.window).focus_set()

    def _has_focus(self) -> bool:
        focus = self.window.focus_get()
        return focus is not None and focus.winfo_toplevel() is self.window

    def _press_return(self, _event: tk.Event) -> None:
        """Press the button that has the focus, or else the one that goes on."""
        focus = self.window.focus_get()
        button = focus if isinstance(focus, ttk.Button) and focus.winfo_viewable() else self._page.default_button
        if button is not None:
            button.invoke()


class LearnLine:
    """The line of the main window about a learning whose window is closed; it takes no room while it is empty.

    Parameters
    ----------
    parent : ttk.Frame
    scale : float
    show : called when the user wants to see more
    **place : how it is packed
    """

    def __init__(self, parent: ttk.Frame, scale: float, show: Callable[[], None], **place: object):
        self.frame, self._place = ttk.Frame(parent), place
        self.button = ttk.Button(self.frame, text="Show", style="Small.TButton", command=show)
        self.button.pack(side="left", padx=(0, round(8 * scale)))
        self.label = ttk.Label(self.frame)
        self.label.pack(side="left")

    def show(self, text: str) -> None:
        """Show a text, or nothing if it is empty."""
        self.label.configure(text=text)
        if text and not self.frame.winfo_manager():
            self.frame.pack(**self._place)
        elif not text:
            self.frame.pack_forget()
