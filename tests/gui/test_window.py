"""The window under a virtual screen, moved by a real mouse and real keys."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
import tkinter as tk

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

from measure_audio_grain import GrainSettings, measure_file
from neural_audio_processor import Dialogs, GrainWindow


@pytest.fixture(scope="module")
def display():
    """A virtual screen of its own, so that no test moves the user's mouse."""
    if sys.platform != "linux":
        pytest.skip("events are sent with xdotool, which needs X11")
    assert shutil.which("Xvfb"), "Xvfb is missing: sh tests/run.sh says how to install it"
    assert shutil.which("xdotool"), "xdotool is missing: sh tests/run.sh says how to install it"
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24"], pass_fds=(write,), stderr=subprocess.DEVNULL
    )
    os.close(write)
    with os.fdopen(read) as answer:
        number = answer.readline().strip()
    before = os.environ.get("DISPLAY")
    os.environ["DISPLAY"] = f":{number}"
    yield f":{number}"
    if before is None:
        del os.environ["DISPLAY"]
    else:
        os.environ["DISPLAY"] = before
    server.terminate()
    server.wait()


class Driver:
    """A window, the answers its dialogs get, and a hand on mouse and keyboard."""

    def __init__(self, project, tmp_path, source=None, model=None):
        self.errors: list[str] = []
        self.answers = {"open": "", "save": ""}
        self.root = tk.Tk()
        self.root.report_callback_exception = lambda *error: self.errors.append(repr(error[1]))
        dialogs = Dialogs(lambda: self.answers["open"], lambda name: self.answers["save"])
        self.window = GrainWindow(self.root, model or project.model, "cpu", source, dialogs)
        self.root.geometry("+0+0")

    def until(self, condition, timeout_s: float = 60) -> None:
        """Run the event loop until something is so."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"still not so: {self.window.note!r}, errors {self.errors}"
            self.root.update()
            time.sleep(0.005)
        assert not self.errors

    def idle(self) -> bool:
        return self.window.busy == 0 and self.window._settle is None

    def settle(self) -> None:
        """Until nothing is under way any more."""
        self.until(self.idle)
        end = time.monotonic() + 0.3
        self.until(lambda: time.monotonic() > end)
        self.until(self.idle)

    def hand(self, *args: object) -> None:
        """xdotool, while the event loop goes on."""
        done = subprocess.Popen(["xdotool", *map(str, args)])
        self.until(lambda: done.poll() is not None)
        assert done.returncode == 0

    def middle(self, widget) -> tuple[int, int]:
        return widget.winfo_rootx() + widget.winfo_width() // 2, widget.winfo_rooty() + widget.winfo_height() // 2

    def click(self, widget) -> None:
        self.hand("mousemove", *self.middle(widget), "click", 1)

    def drag_slider(self, octaves: float) -> None:
        """Press on the knob, move there in steps, let go."""
        slider = self.window.slider
        y = self.middle(slider)[1]

        def x(value: float) -> int:
            return slider.winfo_rootx() + int(slider.coords(value)[0])

        self.hand("mousemove", x(slider.get()), y, "mousedown", 1)
        for share in (0.25, 0.5, 0.75, 1.0):
            self.hand("mousemove", int(x(0) + share * (x(octaves) - x(0))), y)
        self.hand("mouseup", 1)


@pytest.fixture
def drive(display, project, tmp_path):
    drivers = []

    def start(**kwargs) -> Driver:
        drivers.append(Driver(project, tmp_path, **kwargs))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.root.children:
            driver.window.close()
        assert not driver.errors


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "a drone.wav"
    sf.write(path, np.stack([drone(-45), drone(-40, seed=1)], axis=1), SR, "PCM_24")
    return path


def test_open_slide_and_save_end_in_a_file_that_obeys_the_law(drive, sound, tmp_path):
    d = drive()
    d.until(lambda: d.window.has_model)
    d.settle()
    assert "disabled" in d.window.save_button.state()
    d.answers.update(open=str(sound), save=str(tmp_path / "saved.wav"))
    d.click(d.window.open_button)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    assert d.window.grain_label["text"].startswith("grain ")
    d.drag_slider(-1.5)
    d.settle()
    asked = d.window.octaves
    assert -1.8 < asked < -1.2
    assert d.window.rendered.rendering.asked_octaves == asked
    assert d.window.value_label["text"] == f"{asked:+.1f}"
    assert f"asked x{2**-asked:#.3g}" in d.window.grain_label["text"]
    d.click(d.window.save_button)
    d.until(lambda: (tmp_path / "saved.wav").exists())
    d.settle()
    assert d.window.note.startswith("saved ")
    grains = [measure_file(path, GrainSettings()).grain for path in (sound, tmp_path / "saved.wav")]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(asked, abs=0.02)
    assert sf.info(tmp_path / "saved.wav").subtype == "PCM_24"


def test_keys_step_the_slider_and_home_brings_back_zero(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.click(d.window.slider)
    d.hand("key", "Prior", "Right", "Right")
    d.settle()
    assert d.window.octaves == pytest.approx(1.2)
    assert d.window.rendered.rendering.got_octaves == pytest.approx(1.2, abs=0.02)
    d.hand("key", "Home")
    d.settle()
    assert d.window.octaves == 0
    assert d.window.rendered.rendering.sound is d.window.opened.analysis.sound


def test_the_window_answers_while_it_works(drive, tmp_path):
    long = tmp_path / "long.wav"
    sf.write(long, np.tile(drone(-40), 20), SR, "PCM_16")  # one minute
    d = drive(source=long)
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        d.root.after(10, beat)

    d.until(lambda: d.window.opened is not None, 120)
    beat()
    d.window.slider.focus_force()
    d.hand("mousemove", *d.middle(d.window.slider), "click", 1)
    d.hand("key", "Next", "Next")
    d.until(lambda: d.window.rendered is not None and d.window.rendered.rendering.asked_octaves == -2, 120)
    assert len(beats) > 20  # a frozen window has none


def test_pictures_share_one_scale_and_have_axes(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    assert len({image.get_clim() for image in d.window.images}) == 1
    assert d.window.axes[0].get_ylabel() == "frequency (Hz)"
    assert [axes.get_xlabel() for axes in d.window.axes] == ["time (s)", "time (s)"]
    assert [label.get_text() for label in d.window.axes[0].get_yticklabels()][-1] == "15,000"


def test_faults_are_one_line_in_the_window(drive, sound, tmp_path):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    (tmp_path / "text.wav").write_text("no audio")
    for answer, button, message in (
        ({"open": str(tmp_path / "text.wav")}, "open_button", "text.wav: not readable as audio"),
        ({"save": str(sound)}, "save_button", "is the input itself, which is never overwritten"),
        ({"save": str(tmp_path / "x.xyz")}, "save_button", "can't write .xyz"),
    ):
        d.answers.update(answer)
        d.settle()
        d.click(getattr(d.window, button))
        d.until(lambda message=message: message in d.window.note_label["text"])
        assert "\n" not in d.window.note_label["text"]
        assert d.window.opened.path == sound


def test_a_damaged_model_is_said_in_the_window(drive, sound, tmp_path):
    (tmp_path / "cut.pt").write_bytes(b"PK")
    d = drive(source=sound, model=tmp_path / "cut.pt")
    d.until(lambda: d.window.is_error)
    d.settle()
    assert "cut.pt" in d.window.note_label["text"]
    assert "disabled" in d.window.open_button.state()


def test_closing_while_working_ends_everything(drive, sound):
    import threading

    d = drive(source=sound)
    d.until(lambda: d.window.busy > 0)
    d.window.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "grain worker"]


def test_without_sound_the_play_button_says_why(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.click(d.window.after_button)
    d.until(lambda: d.window.note.startswith("no sound: "))
