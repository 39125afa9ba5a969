"""A window on a virtual screen, moved by a real mouse and real keys, with a test that answers its dialogs."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
import tkinter as tk
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.session.player import Player
from neural_grain.window.dialogs import Dialogs
from neural_grain.window.slider import SLIDER
from neural_grain.window.window import GrainWindow


@contextmanager
def virtual_screen(size: str, dpi: int) -> Iterator[str]:
    """An X server without a monitor, so that no test moves the user's mouse; gives the name of its display."""
    if sys.platform != "linux":
        pytest.skip("events are sent with xdotool, which needs X11")
    assert shutil.which("Xvfb"), "Xvfb is missing: sh tests/run.sh says how to install it"
    assert shutil.which("xdotool"), "xdotool is missing: sh tests/run.sh says how to install it"
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size}x24", "-dpi", str(dpi)],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as answer:
        number = answer.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


# Tk keeps its connection to a display until the process ends, and a server that ends first would end the process.
@pytest.fixture(scope="session")
def standard_screen() -> Iterator[str]:
    with virtual_screen("1280x900", 96) as name:
        yield name


@pytest.fixture(scope="session")
def fine_screen() -> Iterator[str]:
    """A screen of twice the resolution."""
    with virtual_screen("2560x1800", 192) as name:
        yield name


@pytest.fixture
def display(standard_screen, monkeypatch) -> str:
    monkeypatch.setenv("DISPLAY", standard_screen)
    return standard_screen


class Driver:
    """A window, the answers that its dialogs get, and a hand on mouse and keyboard."""

    def __init__(
        self,
        model: Path | None,
        preferences_file: Path,
        source: Path | None = None,
        player: Player | None = None,
    ):
        self.errors: list[str] = []  # exceptions in callbacks of Tk
        self.answers = {
            "open": "",
            "save": "",
            "model": "",
            "many": [],
            "folder": "",
            "open_curve": "",
            "save_curve": "",
            "text": "",
            "should_save": False,
            "confirm": True,
        }
        self.suggestions: list[tuple[str, str]] = []  # title and name that the save dialog offered
        self.questions: list[str] = []  # that were to be confirmed
        self.folders: list[Path] = []  # that were shown in the file manager
        self.sheets: list[tuple[str, str]] = []  # title and text of each that was shown
        self.root = tk.Tk()
        self.root.report_callback_exception = lambda *error: self.errors.append(repr(error[1]))
        answers = self.answers
        self.dialogs = Dialogs(
            open_names=lambda folder: (
                [answers["open"]] if isinstance(answers["open"], str) and answers["open"] else list(answers["open"])
            ),
            save_name=lambda title, folder, name: self.suggestions.append((title, name)) or answers["save"],
            model_name=lambda: answers["model"],
            many_names=lambda: answers["many"],
            folder_name=lambda title: answers["folder"],
            open_curve=lambda folder: answers["open_curve"],
            save_curve=lambda folder, name: self.suggestions.append(("", name)) or answers["save_curve"],
            should_save=lambda: answers["should_save"],
            confirm=lambda question: self.questions.append(question) or answers["confirm"],
            text=lambda title, question: answers["text"],
            show_folder=lambda folder: self.folders.append(folder) or "",
            show_text=lambda title, text: self.sheets.append((title, text)),
        )
        models = preferences_file.parent / "models"
        self.window = GrainWindow(self.root, model, "cpu", source, self.dialogs, player, preferences_file, models)
        self.session, self.playback = self.window.session, self.window.playback
        self.layout, self.panel, self.lane = self.window.layout, self.window.panel, self.window.lane.view
        self.slider, self.entry = self.layout.octave_slider.slider.canvas, self.layout.octave_slider.entry
        self.root.geometry("+0+0")

    @property
    def octaves(self) -> float:
        return self.window.octaves

    @property
    def is_closed(self) -> bool:
        return not self.root.children

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        """Run the event loop until a condition is true."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"still false; status {self.session.status!r}, errors {self.errors}"
            self.root.update()
            time.sleep(0.005)
        assert not self.errors

    def receive_events(self) -> None:
        """Handle all events that the X server has for the window: they arrive before the answer to a question."""
        self.root.winfo_pointerxy()
        self.root.update()

    def settle(self) -> None:
        """Run the event loop until all input is handled and no work is under way or about to start."""
        for _ in range(2):
            self.receive_events()
            self.wait_until(
                lambda: (
                    self.window.is_idle
                    and self.panel.is_drawn
                    and self.lane.is_drawn
                    and self.layout.octave_slider.slider.is_drawn
                )
            )

    def has_open(self, path: Path) -> bool:
        return self.session.opened is not None and self.session.opened.path == path

    def wait_for_status(self, beginning: str) -> None:
        self.wait_until(lambda: self.session.status.startswith(beginning))

    def xdotool(self, *args: object) -> None:
        """Send mouse and key events while the event loop runs."""
        process = subprocess.Popen(["xdotool", *map(str, args)])
        self.wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0

    def centre(self, widget: tk.Misc) -> tuple[int, int]:
        return widget.winfo_rootx() + widget.winfo_width() // 2, widget.winfo_rooty() + widget.winfo_height() // 2

    def click(self, widget: tk.Misc) -> None:
        self.xdotool("mousemove", *self.centre(widget), "click", 1)

    def entries_of(self, menu_name: str) -> list[str]:
        """The entries of a menu that is filled when it opens."""
        menu = self.layout.menu_bar.dynamic_menus[menu_name]
        self.root.tk.call(menu["postcommand"])
        return [menu.entrycget(i, "label") for i in range(menu.index("end") + 1)]

    def choose_from(self, menu: str, label: str) -> None:
        """Choose an entry of a menu that is filled when it opens."""
        opened = self.layout.menu_bar.dynamic_menus[menu]
        self.root.tk.call(*self.root.tk.splitlist(opened["postcommand"]))
        opened.invoke(label)

    def drag_slider(self, octaves: float) -> None:
        """Press on the knob, move it in steps, release."""
        y = self.slider.winfo_rooty() + round(SLIDER.trough_y * self.layout.scale)

        def x(value: float) -> int:
            return self.slider.winfo_rootx() + round(self.layout.octave_slider.slider.x_of(value))

        self.xdotool("mousemove", x(self.octaves), y, "mousedown", 1)
        for share in (0.25, 0.5, 0.75, 1.0):
            self.xdotool("mousemove", int(x(0) + share * (x(octaves) - x(0))), y)
        self.xdotool("mouseup", 1)

    def parts_cut_off(self, widget: tk.Misc | None = None) -> list[str]:
        """What does not fit into its place: widgets smaller than they ask for, and text beyond the edge of a canvas."""
        found = []
        for child in (widget or self.root).winfo_children():
            if not child.winfo_ismapped():
                continue
            if isinstance(child, tk.Canvas):
                for item in child.find_all():
                    left, top, right, bottom = child.bbox(item)
                    inside = left >= 0 and top >= 0 and right <= child.winfo_width() and bottom <= child.winfo_height()
                    if child.type(item) == "text" and not inside:
                        found.append(f"{child.itemcget(item, 'text')} in {child}")
            elif child.winfo_reqwidth() > child.winfo_width() or child.winfo_reqheight() > child.winfo_height():
                found.append(str(child))
            found += self.parts_cut_off(child)
        return found

    def close(self) -> None:
        """Close the window without saving."""
        if not self.is_closed:
            self.window.dialogs = self.dialogs
            self.answers["should_save"] = False
            # Tk 8.6 remembers a widget that had the focus when its window is destroyed, and crashes when another Tk
            # of this process takes the focus by force.
            self.root.focus_force()
            self.receive_events()
            self.window.close()


@pytest.fixture
def start(display, tmp_path):
    """Start windows, without a model unless one is given.

    Unless ``wait`` is False, this waits until the ``source`` is measured, or without one until the window is ready.
    """
    drivers: list[Driver] = []

    def start_window(
        source: Path | None = None, *, model: Path | None = None, player: Player | None = None, wait: bool = True
    ) -> Driver:
        driver = Driver(model, tmp_path / "preferences" / "window.json", source, player)
        drivers.append(driver)
        if wait:
            driver.wait_until(lambda: driver.session.processor if source is None else driver.session.rendering)
            driver.settle()
        return driver

    yield start_window
    errors = []
    while drivers:
        driver = drivers.pop()
        driver.close()
        errors += driver.errors
        del driver
    # Tk objects must be freed on this thread, not by a worker that happens to collect garbage. What stays is exempted
    # from later collections, because going through the 200,000 objects of torch, with which models are trained for the
    # tests, takes 0.3 s.
    gc.collect()
    gc.freeze()
    assert not errors


@pytest.fixture
def sound(tmp_path) -> Path:
    """Three seconds of a drone, stereo."""
    path = tmp_path / "a drone.wav"
    sf.write(path, np.stack([drone(-45), drone(-40, seed=1)], axis=1), SR, "PCM_24")
    return path
