"""Opens the window, and lets files be dropped on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neural_grain.base.errors import PipelineError
from neural_grain.window.window import GrainWindow

if TYPE_CHECKING:
    import tkinter as tk


def open_window(model_path: Path | None, device: str, source: Path | None) -> int:
    """Show the window until it is closed.

    Returns
    -------
    int, exit status 0

    Raises
    ------
    PipelineError
        If there is no tkinter or no display.
    KeyboardInterrupt
        After Ctrl-C in the terminal, also inside a callback of Tk.
    """
    hint = "render without one: python neural_audio_processor.py INPUT --grain -2"
    try:
        import tkinter as tk
    except ImportError as err:
        raise PipelineError(
            f"no window: Python here is without tkinter (on Debian: apt-get install python3-tk); {hint}"
        ) from err
    try:
        root = tk.Tk(className="Neural Grain Processor")
    except tk.TclError as err:
        raise PipelineError(f"no window: no display to show it on; {hint}") from err
    report_to_terminal, interrupts = root.report_callback_exception, []

    def report(kind: type, err: BaseException, at: object) -> None:
        if kind is KeyboardInterrupt:  # Tk would print it and continue
            interrupts.append(err)
            root.quit()
        else:
            report_to_terminal(kind, err, at)

    root.report_callback_exception = report
    accept_drops(GrainWindow(root, model_path, device, source))
    root.mainloop()
    if interrupts:
        raise KeyboardInterrupt
    return 0


def accept_drops(window: GrainWindow) -> bool:
    """Open files that are dropped on the window; returns False where tkinterdnd2 is missing or does not work."""
    root = window.root
    try:
        from tkinterdnd2 import DND_FILES, TkinterDnD

        TkinterDnD._require(root)  # TkinterDnD.Tk would do the same, but then the window would need the package
    except (ImportError, RuntimeError):
        return False

    def drop(event: tk.Event) -> str:
        # The program that the files come from waits until the drop is over, so no question may be asked in it.
        if paths := list(map(Path, root.tk.splitlist(event.data))):
            root.after_idle(window.files.open_all, paths)
        return event.action

    outer = window.layout.outer
    outer.drop_target_register(DND_FILES)
    outer.dnd_bind("<<Drop>>", drop)
    return True
