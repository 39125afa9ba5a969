"""The window under a virtual screen, moved by a real mouse and real keys."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tkinter as tk
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, SR, FakeDevice, drone

from measure_audio_grain import measure_file
from neural_grain.app.dialogs import Dialogs, system_dialogs
from neural_grain.app.player import Player
from neural_grain.app.processor import GrainProcessor, RenderTarget
from neural_grain.app.window import GrainWindow, accept_drops
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.settings import DYNAMIC_RANGE_DB, GrainSettings
from neural_grain.learn.checkpoint import LoadedModel


@contextmanager
def virtual_screen(size: str, dpi: int):
    """A virtual screen of its own, so that no test moves the user's mouse."""
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


@pytest.fixture(scope="module")
def display():
    with virtual_screen("1280x900", 96) as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", name)
        yield name


@pytest.fixture(scope="module")
def fine_display():
    """Twice the resolution. Tk never lets go of a screen, so it stays until the last test."""
    with virtual_screen("2560x1800", 192) as name:
        yield name


class Driver:
    """A window, the answers its dialogs get, and a hand on mouse and keyboard."""

    def __init__(self, project, tmp_path, source=None, model=None, player=None):
        self.errors: list[str] = []
        self.answers = {"open": "", "save": "", "model": "", "many": [], "folder": "", "shall_save": False}
        self.shown: list[tuple[str, str]] = []
        self.root = tk.Tk()
        self.root.report_callback_exception = lambda *error: self.errors.append(repr(error[1]))
        answers = self.answers
        self.dialogs = Dialogs(
            lambda folder: answers["open"],
            lambda folder, name: answers["save"],
            lambda: answers["model"],
            lambda: answers["many"],
            lambda title: answers["folder"],
            lambda: answers["shall_save"],
            lambda title, text: self.shown.append((title, text)),
        )
        remember = tmp_path / "remembered" / "window.json"
        self.window = GrainWindow(self.root, model or project.model, "cpu", source, self.dialogs, player, remember)
        self.root.geometry("+0+0")

    def until(self, condition, timeout_s: float = 60) -> None:
        """Run the event loop until something is so."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"still not so: {self.window.note!r}, errors {self.errors}"
            self.root.update()
            time.sleep(0.005)
        assert not self.errors

    def has(self, path: Path) -> bool:
        """Whether a file is open."""
        return self.window.opened is not None and self.window.opened.path == path

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
    errors = []
    while drivers:
        driver = drivers.pop()
        if driver.root.children:
            driver.window.dialogs = driver.dialogs
            driver.answers["shall_save"] = False
            driver.window.close()
        errors += driver.errors
        driver = None
    gc.collect()  # Tk must go on the thread that made it, not when a later worker happens to collect garbage
    assert not errors


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
    assert len(d.window.views[1].canvas.find_withtag("mark")) == 1
    asked = d.window.octaves
    assert -1.8 < asked < -1.2
    assert d.window.rendered.rendering.asked_octaves == asked
    assert d.window.value_entry.get() == f"{asked:+.1f}"
    assert f"asked x{2**-asked:#.3g}" in d.window.grain_label["text"]
    d.click(d.window.save_button)
    d.until(lambda: (tmp_path / "saved.wav").exists())
    d.settle()
    assert d.window.note.startswith("saved ")
    grains = [measure_file(path, GrainSettings()).grain for path in (sound, tmp_path / "saved.wav")]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(asked, abs=0.02)
    assert sf.info(tmp_path / "saved.wav").subtype == "PCM_24"


@pytest.mark.parametrize(("texture_db", "octaves", "within_reach"), [(-75, -1.5, True), (20, -3.0, False)])
def test_saving_needs_no_second_look_and_writes_what_the_command_writes(
    texture_db, octaves, within_reach, drive, project, tmp_path, monkeypatch
):
    source, saved, other = (tmp_path / name for name in ("in.wav", "saved.wav", "other.wav"))
    sf.write(source, 0.3 * drone(texture_db), SR, "PCM_16")
    d = drive(source=source)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.window.slider.set(octaves)
    d.settle()
    assert d.window.rendered.rendering.within_reach is within_reach
    d.answers["save"] = str(saved)
    with monkeypatch.context() as patch:
        patch.setattr("neural_grain.app.processor.analyse", None)
        d.click(d.window.save_button)
        d.until(lambda: d.window.note.startswith("saved "))
    GrainProcessor.load(project.model, "cpu").render_file(source, other, RenderTarget(d.window.octaves))
    assert saved.read_bytes() == other.read_bytes()
    sf.write(source, drone(-40, seed=1), SR, "PCM_16")  # changed: what was seen no longer holds
    d.click(d.window.save_button)
    d.settle()
    d.until(lambda: d.window.note.startswith("saved ") and saved.read_bytes() != other.read_bytes())
    GrainProcessor.load(project.model, "cpu").render_file(source, other, RenderTarget(d.window.octaves), overwrite=True)
    assert saved.read_bytes() == other.read_bytes()


def test_saving_can_be_cancelled(drive, tmp_path):
    long, saved = tmp_path / "long.wav", tmp_path / "saved.wav"
    sf.write(long, np.tile(drone(-40), 60), SR, "PCM_16")
    d = drive(source=long)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.window.slider.set(-1.5)
    d.settle()
    d.answers["save"] = str(saved)
    d.click(d.window.save_button)
    d.until(lambda: bool(d.window.cancel_button.winfo_ismapped()))
    d.click(d.window.cancel_button)
    d.settle()
    assert d.window.note == "cancelled"
    assert [path.name for path in tmp_path.glob("*.wav")] == ["long.wav"]
    assert not list(tmp_path.glob(".*"))


def test_keys_step_the_slider_and_a_double_click_brings_back_zero(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.click(d.window.slider)
    d.hand("key", "Prior", "Right", "Right")
    d.settle()
    assert d.window.octaves == pytest.approx(1.2)
    assert d.window.rendered.rendering.got_octaves == pytest.approx(1.2, abs=0.02)
    d.hand("mousemove", *d.middle(d.window.slider), "click", "--repeat", 2, "--delay", 50, 1)
    d.settle()
    assert d.window.octaves == 0
    assert d.window.rendered.rendering.got_octaves == 0


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


def test_pictures_have_axes_and_show_what_is_heard(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    canvas = d.window.views[0].canvas
    texts = [canvas.itemcget(item, "text") for item in canvas.find_all() if canvas.type(item) == "text"]
    for text in ("before", "Hz", "time (s)", "100", "1k", "10k", "0", "1", "2"):
        assert text in texts, (text, texts)
    d.drag_slider(-2.0)
    d.settle()
    _, gain_db = d.window._shown
    amounts = d.window.rendered.rendering.amounts
    rendered = np.concatenate(list(d.window.opened.solver.render(amounts)))
    after = analyse(sound_from_array(rendered, SR), d.window.opened.analysis.settings)
    expected_db = DYNAMIC_RANGE_DB * (after.x.mean(axis=1) - d.window.opened.analysis.x.mean(axis=1))
    loud = d.window.opened.analysis.x.mean(axis=1) > 0.4
    shown = gain_db.mean(axis=1)
    shift = np.median(expected_db[loud] - shown[loud])  # each picture counts from its own loudest band
    assert np.abs(expected_db[loud] - shown[loud] - shift).mean() < 1.0


def test_a_click_seeks_a_drag_loops_and_the_wheel_zooms(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    view = d.window.views[0]
    x, y = view.canvas.winfo_rootx(), d.middle(view.canvas)[1]
    d.hand("mousemove", x + round(view.x_at(1.5)), y, "click", 1)
    d.until(lambda: d.window.mixer.position > 0)
    assert d.window.mixer.position / SR == pytest.approx(1.5, abs=0.05)
    assert "Hz" in d.window.readout["text"]
    d.hand("mousemove", x + round(view.x_at(0.5)), y, "mousedown", 1)
    d.hand("mousemove", x + round(view.x_at(0.8)), y)
    d.hand("mousemove", x + round(view.x_at(1.0)), y, "mouseup", 1)
    d.until(lambda: d.window.selection_s is not None and d.window._drag_from is None)
    assert d.window.selection_s == pytest.approx((0.5, 1.0), abs=0.05)
    d.hand("mousemove", x + round(view.x_at(1.5)), y, "click", 4)
    d.until(lambda: d.window.span != (0.0, 3.0))
    assert d.window.span[1] - d.window.span[0] == pytest.approx(2.4, abs=0.01)
    assert d.window.span[0] < 1.5 < d.window.span[1]


def test_home_goes_to_the_start(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.window.seek(1.5)
    playhead = d.window.views[1].canvas.coords("mark")[0]
    assert playhead > d.window.views[1].x_at(1.4)
    d.root.focus_force()
    d.hand("key", "Home")
    d.until(lambda: d.window.mixer.position == 0)
    assert d.window.views[1].canvas.coords("mark")[0] == d.window.views[1].left


def test_zoom_is_shared_by_both_pictures(drive, sound):
    def axis(view) -> list[str]:
        canvas = view.canvas
        return [canvas.itemcget(item, "text") for item in canvas.find_all() if canvas.type(item) == "text"][1:]

    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    before, after = d.window.views
    whole = axis(before)
    for view in (after, before):
        d.hand("mousemove", *d.middle(view.canvas), "click", "--repeat", 6, 4)
        d.until(lambda: axis(before) != whole and d.window._redraw is None)
        assert before.span == after.span == d.window.span
        assert axis(before) == axis(after)
        d.hand("key", "0")
        d.until(lambda: axis(before) == whole)
        assert axis(after) == whole


def test_the_readout_tells_time_frequency_and_level_and_follows_what_is_shown(drive, tmp_path):
    tone, other = tmp_path / "tone.wav", tmp_path / "other.wav"
    t = np.arange(3 * SR) / SR
    y = 0.5 * np.sin(2 * np.pi * 1000 * t) * (t > 1.5)
    sf.write(tone, y + 1e-4 * np.random.default_rng(0).standard_normal(len(t)), SR, "PCM_24")
    shutil.copy(tone, other)
    d = drive(source=tone)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    view = d.window.views[0]
    canvas, y = view.canvas, round(view.top + view.size[1] * (1 - view._share_of(1000)))

    def read(seconds: float, y: int) -> list[float]:
        """Seconds, Hz, level and gain in dB."""
        shown = d.window.readout["text"]
        d.hand("mousemove", canvas.winfo_rootx() + round(view.x_at(seconds)), canvas.winfo_rooty() + y)
        d.until(lambda: d.window.readout["text"] not in (shown, " "))
        return numbers()

    def numbers() -> list[float]:
        return [float(n.replace(",", "")) for n in re.findall(r"[-+]?[\d,.]*\d", d.window.readout["text"])]

    seconds, hz, level_db, gain_db = read(2.0, y)
    assert (seconds, hz) == (pytest.approx(2.0, abs=0.02), pytest.approx(1000, rel=0.05))
    assert level_db > -3
    assert gain_db == 0
    seconds, _, level_db, _ = read(0.5, y)
    assert seconds == pytest.approx(0.5, abs=0.02)
    assert level_db < -50
    before = read(2.0, view.top + 5)
    assert before[1:] == [pytest.approx(14_500, rel=0.05), pytest.approx(-90, abs=10), 0]
    d.window.slider.set(-2.0)  # the pointer rests
    d.settle()
    assert numbers()[:3] == before[:3]
    assert numbers()[3] > 0.5
    d.window.saved_at = d.window.octaves
    d.window.open(other)
    d.until(lambda: d.has(other))
    d.settle()
    assert numbers()[3] == 0
    d.hand("mousemove", *d.middle(d.window.file_label))
    d.until(lambda: d.window.readout["text"] == " ")


def test_values_are_typed_and_nonsense_is_forgotten(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    entry = d.window.value_entry
    for typed, expected in (("-1.3", -1.3), ("9", 3.0), ("much", 3.0), ("0,5", 0.5)):
        d.click(entry)
        d.hand("key", "ctrl+a")
        d.hand("type", "--", typed)
        d.hand("key", "Return")
        d.settle()
        assert d.window.octaves == pytest.approx(expected)


def test_variations_and_a_batch_from_the_window(drive, sound, tmp_path):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    (tmp_path / "bad.wav").write_text("no audio")
    d.answers.update(folder=str(tmp_path / "out"), many=[str(sound), str(tmp_path / "bad.wav")])
    d.window.ask_save_variations()
    d.settle()
    assert len(list((tmp_path / "out").glob("*.wav"))) == 7
    d.drag_slider(1.0)
    d.settle()
    d.window.ask_batch()
    d.settle()
    assert "1 files rendered, 1 failed: bad.wav: not readable" in d.window.note
    assert d.shown[-1][0] == "Not rendered"


def test_what_was_set_is_remembered_and_a_damaged_memory_is_no_fault(drive, sound, tmp_path):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.window.toggle_dark()
    d.settle()
    d.window.close()
    path = tmp_path / "remembered" / "window.json"
    content = json.loads(path.read_text())
    assert content["is_dark"] is True
    assert content["recent"] == [str(sound)]
    path.write_text('{"is_dark": 7, "recent": [1, 2], "geometry": "999999x1", "volume": 1e9}')
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    assert d.window.remembered.is_dark is False


def test_unsaved_work_is_asked_about_once(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.drag_slider(-1.0)
    d.settle()
    d.answers["shall_save"] = None
    d.window.close()
    assert d.window.opened is not None
    d.answers["shall_save"] = False
    d.window.close()
    assert not d.window.worker._thread.is_alive()


def test_opening_can_be_cancelled(drive, tmp_path, project):
    long = tmp_path / "long.wav"
    sf.write(long, np.tile(drone(-40), 60), SR, "PCM_16")
    d = drive()
    d.until(lambda: d.window.has_model)
    d.settle()
    d.window.open(long)
    d.until(lambda: bool(d.window.cancel_button.winfo_ismapped()))
    d.click(d.window.cancel_button)
    d.settle()
    assert d.window.note == "cancelled"
    assert d.window.opened is None


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_picture_is_shown_while_the_pattern_is_looked_for(is_cancelled, drive, sound, tmp_path, monkeypatch):
    other, may_go_on = tmp_path / "other.wav", threading.Event()
    sf.write(other, drone(-40, 2), SR)
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.drag_slider(-1.0)
    d.settle()
    d.window.saved_at = d.window.octaves
    pattern_db = LoadedModel.pattern_db
    monkeypatch.setattr(LoadedModel, "pattern_db", lambda *args: may_go_on.wait(60) and pattern_db(*args))
    d.window.open(other)
    d.until(lambda: "other.wav" in d.window.file_label["text"])
    before, after = d.window.views
    assert before._image is not None
    assert before.span == after.span == (0.0, 2.0)
    assert "disabled" in d.window.play_button.state()
    if is_cancelled:
        d.click(d.window.cancel_button)
        d.until(lambda: d.window.worker._stop.is_set())
    may_go_on.set()
    d.settle()
    if is_cancelled:
        assert d.window.note == "cancelled"
        assert (d.window.opened, d.window.file_label["text"]) == (None, " ")
        assert not before.canvas.find_withtag("picture")
    else:
        assert (d.window.opened.path, d.window.octaves) == (other, 0)


def test_play_slide_and_switch_by_keys_with_a_real_stream(drive, sound, tmp_path, monkeypatch):
    """ALSA's null device keeps no time, but everything else is real: PortAudio, the stream, its callbacks."""
    config = tmp_path / "asound.conf"
    config.write_text("pcm.!default { type null }\nctl.!default { type null }\n")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(config))
    sounddevice = pytest.importorskip("sounddevice") if sys.platform != "linux" else __import__("sounddevice")
    sounddevice._terminate()
    sounddevice._initialize()
    d = drive(source=sound, player=Player())
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.window.select((0.0, 2.9))
    d.root.focus_force()
    d.hand("mousemove", *d.middle(d.window.views[0].canvas))
    d.hand("key", "space")
    d.until(lambda: d.window.mixer.is_playing)
    assert d.window.player._stream.active
    d.until(lambda: d.window.mixer.position > 0)
    d.hand("key", "b")
    d.until(lambda: d.window.listening == "before")
    d.hand("key", "space")
    d.until(lambda: not d.window.mixer.is_playing)
    assert d.window.play_button["text"] == "Play" or d.until(lambda: d.window.play_button["text"] == "Play") is None
    stream = d.window.player._stream
    d.window.close()
    assert stream.closed


def test_before_and_after_are_held_or_tapped(drive, sound):
    d = drive(source=sound, player=Player(FakeDevice()))
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.root.focus_force()
    d.window.toggle_play()
    d.hand("mousemove", *d.middle(d.window.views[0].canvas))
    for press, let_go, held in (
        (("keydown", "b"), ("keyup", "b"), "before"),
        (("mousemove", *d.middle(d.window.difference_button), "mousedown", 1), ("mouseup", 1), "difference"),
    ):
        d.hand(*press)
        d.until(lambda held=held: d.window.mixer._heard is not None and d.window.mixer._heard.listen == held)
        end = time.monotonic() + 1.2  # X repeats a key that is held
        d.until(lambda end=end, held=held: time.monotonic() > end or d.window.listening != held)
        assert d.window.listening == held
        d.hand(*let_go)
        d.until(lambda: d.window.listening == "after")
    d.hand("mousemove", *d.middle(d.window.before_button), "click", 1)
    d.until(lambda: d.window._held is None and d.window.listening == "before")
    d.hand("key", "b")
    d.until(lambda: d.window._held is None and d.window.listening == "after")


def test_the_level_meter_moves_while_it_plays(drive, tmp_path):
    path = tmp_path / "loud, then quiet.wav"
    sf.write(path, drone(-40, 4) * np.repeat([1.0, 0.05], 2 * SR), SR)
    d = drive(source=path, player=Player(FakeDevice()))
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.root.focus_force()
    assert d.window.meter["value"] == 0
    d.hand("key", "space")
    d.until(lambda: d.window.mixer.position > SR)
    loud = d.window.meter["value"]
    peak_db = 20 * math.log10(np.abs(d.window.opened.y[:SR]).max())
    assert loud == pytest.approx(60 + peak_db, abs=3)
    d.until(lambda: d.window.mixer.position > 3 * SR)
    assert loud - d.window.meter["value"] == pytest.approx(26, abs=3)
    d.hand("key", "space")
    d.until(lambda: d.window.meter["value"] == 0)


def test_six_channels_are_opened_played_and_saved(drive, tmp_path):
    path, saved = tmp_path / "six.wav", tmp_path / "saved.wav"
    levels = 1 / np.arange(1, 7)
    sf.write(path, levels * drone(-45)[:, None], SR, "PCM_24")
    device = FakeDevice()
    d = drive(source=path, player=Player(device))
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    assert "6 channels" in d.window.file_label["text"]
    d.drag_slider(-1.5)
    d.settle()
    d.click(d.window.play_button)
    d.until(lambda: d.window.mixer.position > SR)
    heard = np.concatenate(device.streams[0].heard[-20:])
    left, right = np.sqrt((heard**2).mean(axis=0))
    assert left / right == pytest.approx(levels[::2].sum() / levels[1::2].sum(), rel=0.01)
    d.answers["save"] = str(saved)
    d.click(d.window.save_button)
    d.until(lambda: d.window.note.startswith("saved "))
    y, sr = sf.read(saved)
    assert (y.shape, sr) == ((3 * SR, 6), SR)
    assert np.sqrt((y**2).mean(axis=0)) / np.sqrt((y[:, 0] ** 2).mean()) == pytest.approx(levels, rel=1e-3)
    grains = [measure_file(each, GrainSettings()).grain for each in (path, saved)]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(d.window.octaves, abs=0.02)


def test_f1_opens_the_help_sheet_and_escape_closes_it(drive):
    d = drive()
    d.window.dialogs = system_dialogs(d.root)
    d.until(lambda: d.window.has_model)
    d.settle()
    d.root.focus_force()
    for close in ("Escape", "F1"):
        d.hand("key", "F1")
        d.until(lambda: "sheet" in d.root.children and d.root.children["sheet"].winfo_ismapped())
        sheet = d.root.children["sheet"]
        assert "play, pause" in sheet.winfo_children()[0].get("1.0", "end")
        assert cut(sheet) == []
        d.settle()
        d.hand("key", close)
        d.until(lambda: "sheet" not in d.root.children)
        d.root.focus_force()


def test_the_window_goes_on_behind_a_question_of_the_system(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.window.dialogs = system_dialogs(d.root)
    d.drag_slider(-1.0)
    d.hand("key", "ctrl+q", "sleep", 1.5, "key", "Escape")  # asked before it is measured
    d.settle()
    assert d.window.opened is not None
    assert d.window.rendered.rendering.asked_octaves == d.window.octaves != 0


def test_pictures_keep_their_place_while_it_measures(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    places = set()
    d.window.views[0].canvas.bind(
        "<Configure>", lambda event: places.add((event.x, event.y, event.width, event.height))
    )
    d.drag_slider(-1.0)
    d.until(lambda: bool(d.window.progress.winfo_ismapped()))
    d.settle()
    assert not d.window.progress.winfo_ismapped()
    assert places == set()


def cut(widget) -> list[str]:
    """What does not fit into its place: widgets smaller than they ask for, text beyond the edge of a canvas."""
    found = []
    for child in widget.winfo_children():
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
        found += cut(child)
    return found


@pytest.mark.parametrize("scale", [1, 2])
def test_nothing_is_cut_in_the_smallest_window(scale, drive, fine_display, tmp_path, sound, monkeypatch):
    if scale == 2:
        monkeypatch.setenv("DISPLAY", fine_display)
    long = tmp_path / f"{'a name that says all about the recording, ' * 4}音 звук.wav"
    long.write_text("no audio")
    d = drive(source=sound, player=Player(FakeDevice()))
    d.root.geometry(f"{900 * scale}x{600 * scale}")
    d.settle()
    assert (d.root.winfo_width(), d.root.winfo_height()) == (900 * scale, 600 * scale)
    assert cut(d.root) == []
    d.hand("mousemove", *d.middle(d.window.views[0].canvas))
    d.until(lambda: "Hz" in d.window.readout["text"])
    d.drag_slider(-3.0)
    d.settle()
    assert cut(d.root) == []
    d.window.open(long)
    d.root.update_idletasks()  # before the worker answers
    assert d.window.cancel_button.winfo_ismapped()
    assert cut(d.root) == []
    d.until(lambda: d.window.is_error)
    d.settle()
    assert cut(d.root) == []


def test_a_device_that_vanishes_is_said_and_takes_nothing_down(drive, sound):
    device = FakeDevice()
    d = drive(source=sound, player=Player(device))
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.window.toggle_play()
    d.until(lambda: d.window.mixer.position > 0)
    device.streams[-1].vanish()
    d.until(lambda: "no sound: the device stopped" in d.window.note_label["text"])
    assert d.window.play_button["text"] == "Play"
    d.window.toggle_play()  # it is there again
    d.until(lambda: d.window.mixer.is_playing)


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


def test_measuring_does_not_wipe_an_error(drive, sound, tmp_path):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.answers["save"] = str(tmp_path / "x.xyz")
    d.click(d.window.slider)
    d.hand("key", "Right", "ctrl+s")  # refused before the slider's hand rests
    d.until(lambda: d.window.is_error)
    d.settle()
    assert d.window.rendered.rendering.asked_octaves == d.window.octaves != 0
    assert "can't write .xyz" in d.window.note_label["text"]
    d.hand("key", "Right")
    d.settle()
    assert d.window.note_label["text"] == ""


def test_a_file_that_is_dropped_is_opened(drive, sound, tmp_path):
    d = drive(source=sound)
    assert accept_drops(d.window)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    dropped = tmp_path / "a {name} with a ] and звук.wav"
    shutil.copy(sound, dropped)
    source = subprocess.Popen([sys.executable, Path(__file__).with_name("drop_files.py"), dropped])
    d.until(lambda: source.poll() is not None)
    assert source.returncode == 0
    d.until(lambda: d.has(dropped))


def test_unsaved_work_is_asked_about_before_another_file_comes(drive, sound, tmp_path):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.drag_slider(-1.0)
    d.settle()
    other = tmp_path / "other.wav"
    shutil.copy(sound, other)
    d.answers.update(open=str(other), shall_save=None)
    d.click(d.window.open_button)
    d.settle()
    assert (d.window.opened.path, d.window.octaves) == (sound, pytest.approx(-1.0, abs=0.2))
    d.answers.update(shall_save=True, save="")
    d.click(d.window.open_button)
    d.settle()
    assert d.window.opened.path == sound  # no name was given
    d.answers["save"] = str(tmp_path / "kept.wav")
    d.click(d.window.open_button)
    d.until(lambda: d.has(other))
    assert sf.info(tmp_path / "kept.wav").frames == sf.info(sound).frames


def test_quit_saves_first_and_stays_if_that_fails(drive, sound, tmp_path):
    d = drive(source=sound)
    d.until(lambda: d.window.rendered is not None)
    d.drag_slider(-1.0)
    d.settle()
    kept = tmp_path / "kept.wav"
    kept.mkdir()
    d.answers.update(shall_save=True, save=str(kept))
    d.hand("key", "ctrl+q")
    d.until(lambda: "kept.wav: is a folder" in d.window.note_label["text"])
    kept.rmdir()
    d.click(d.window.save_button)
    d.until(lambda: d.window.note.startswith("saved "))
    d.settle()
    assert d.window.opened is not None  # the wish to quit ended with the error
    d.drag_slider(-2.0)
    d.settle()
    asked = d.window.octaves
    d.hand("key", "ctrl+q")
    d.until(lambda: not d.root.children)
    assert not d.window.worker._thread.is_alive()
    grains = [measure_file(path, GrainSettings()).grain for path in (sound, kept)]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(asked, abs=0.02)


def test_a_damaged_model_is_said_in_the_window(drive, sound, tmp_path):
    (tmp_path / "cut.pt").write_bytes(b"PK")
    d = drive(source=sound, model=tmp_path / "cut.pt")
    d.until(lambda: d.window.is_error)
    d.settle()
    assert "cut.pt" in d.window.note_label["text"]
    assert "disabled" in d.window.open_button.state()


def test_closing_while_working_ends_everything(drive, sound):
    d = drive(source=sound)
    d.until(lambda: d.window.busy > 0)
    d.window.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "grain worker"]


def test_without_sound_the_play_button_says_why(drive, sound):
    player = Player()
    player._device, player.why_not = None, "no sound: PortAudio library not found"
    d = drive(source=sound, player=player)
    d.until(lambda: d.window.rendered is not None)
    d.settle()
    d.click(d.window.play_button)
    d.until(lambda: d.window.note.startswith("no sound: "))


def run_code(code: str, project, tmp_path) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, with a window's memory of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_collecting_garbage_does_not_go_through_the_libraries(display, project, tmp_path):
    """Through the 200,000 objects of torch it takes 0.2 s, with the window frozen."""
    code = (
        "import gc, time, tkinter; from pathlib import Path; from neural_grain.app.window import GrainWindow\n"
        f"window = GrainWindow(tkinter.Tk(), Path({str(project.model)!r}), 'cpu')\n"
        "while window.busy:\n"
        "    window.root.update(), time.sleep(0.01)\n"
        "print(window.has_model, gc.isenabled(), len(gc.get_objects()))\n"
        "window.close()"
    )
    ran = run_code(code, project, tmp_path)
    assert ran.stderr == ""
    has_model, is_enabled, n_objects = ran.stdout.split()
    assert (has_model, is_enabled) == ("True", "True")
    assert int(n_objects) < 50_000


def test_ctrl_c_ends_the_window_even_inside_a_callback(display, project, tmp_path):
    code = (
        "import signal, neural_audio_processor as stage4; from neural_grain.app.window import GrainWindow\n"
        "GrainWindow._poll = lambda window: signal.raise_signal(signal.SIGINT)\n"
        "stage4.exit_process(stage4.main([]))"
    )
    ran = run_code(code, project, tmp_path)
    assert (ran.returncode, ran.stderr) == (130, "\ninterrupted; run the same command again\n")
