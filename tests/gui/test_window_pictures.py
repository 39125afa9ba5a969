"""The pictures in the window: what they show, the mouse in them, and room for everything."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.settings import DYNAMIC_RANGE_DB
from neural_grain.session.player import Player

pytest_plugins = ["driving"]


def axis_texts(view) -> list[str]:
    """All text on a picture, the title first."""
    canvas = view.canvas
    return [canvas.itemcget(item, "text") for item in canvas.find_all() if canvas.type(item) == "text"]


def test_pictures_have_axes_and_show_what_is_heard(start, sound):
    d = start(sound)
    assert {"before", "Hz", "s", "100", "1k", "10k", "0", "1", "2"} <= set(axis_texts(d.panel.before))
    d.drag_slider(-2.0)
    d.settle()
    opened = d.session.opened
    rendered = np.concatenate(list(opened.solver.field.render(d.session.rendering.amounts)))
    after = analyse(sound_from_array(rendered, SR), opened.analysis.settings)
    before_level = opened.analysis.x.mean(axis=1)
    expected_db = DYNAMIC_RANGE_DB * (after.x.mean(axis=1) - before_level)
    loud = before_level > 0.4
    shown_db = d.panel.shown.gain_db.mean(axis=1)
    difference_db = expected_db[loud] - shown_db[loud]
    # Each analysis is relative to its own loudest band, so the difference has an offset.
    assert np.abs(difference_db - np.median(difference_db)).mean() < 1.0


def test_a_click_seeks_a_drag_loops_and_the_wheel_zooms(start, sound):
    d = start(sound)
    view = d.panel.before
    x, y = view.canvas.winfo_rootx(), d.centre(view.canvas)[1]
    d.xdotool("mousemove", x + round(view.x_at(1.5)), y, "click", 1)
    d.wait_until(lambda: d.playback.position_s > 0)
    assert d.playback.position_s == pytest.approx(1.5, abs=0.05)
    assert "Hz" in d.panel.readout["text"]
    d.xdotool("mousemove", x + round(view.x_at(0.5)), y, "mousedown", 1)
    d.xdotool("mousemove", x + round(view.x_at(0.8)), y)
    d.xdotool("mousemove", x + round(view.x_at(1.0)), y, "mouseup", 1)
    d.wait_until(lambda: d.panel.selection_s is not None and not d.panel.is_dragging)
    assert d.panel.selection_s == pytest.approx((0.5, 1.0), abs=0.05)
    d.xdotool("mousemove", x + round(view.x_at(1.5)), y, "click", 4)
    d.wait_until(lambda: d.panel.span != (0.0, 3.0))
    start_s, stop_s = d.panel.span
    assert stop_s - start_s == pytest.approx(2.4, abs=0.01)
    assert start_s < 1.5 < stop_s


def test_escape_ends_the_loop(start, sound):
    d = start(sound)
    d.window.transport.select((0.5, 1.0))
    d.root.focus_force()
    d.xdotool("key", "Escape")
    d.wait_until(lambda: d.panel.selection_s is None)
    assert len(d.panel.before.canvas.find_withtag("mark")) == 1  # the playhead


def test_both_pictures_share_the_zoom(start, sound):
    d = start(sound)
    before, after = d.panel.before, d.panel.after
    whole = axis_texts(before)[1:]
    for view in (after, before):
        d.xdotool("mousemove", *d.centre(view.canvas), "click", "--repeat", 6, 4)
        d.wait_until(lambda: axis_texts(before)[1:] != whole and d.panel.is_drawn)
        assert before.span == after.span == d.panel.span
        assert axis_texts(before)[1:] == axis_texts(after)[1:]
        d.xdotool("key", "0")
        d.wait_until(lambda: axis_texts(before)[1:] == whole)
        assert axis_texts(after)[1:] == whole


def test_the_readout_describes_the_point_under_the_mouse_and_follows_the_slider(start, tmp_path):
    tone, other = tmp_path / "tone.wav", tmp_path / "other.wav"
    t = np.arange(3 * SR) / SR
    y = 0.5 * np.sin(2 * np.pi * 1000 * t) * (t > 1.5)
    sf.write(tone, y + 1e-4 * np.random.default_rng(0).standard_normal(len(t)), SR, "PCM_24")
    shutil.copy(tone, other)
    d = start(tone)
    view, readout = d.panel.before, d.panel.readout
    canvas, tone_y = view.canvas, round(view.y_at(1000))

    def numbers() -> list[float]:
        """Seconds, Hz, level and gain in dB that the readout shows."""
        return [float(n.replace(",", "")) for n in re.findall(r"[-+]?[\d,.]*\d", readout["text"])]

    def point(seconds: float, y: int) -> list[float]:
        old = readout["text"]
        d.xdotool("mousemove", canvas.winfo_rootx() + round(view.x_at(seconds)), canvas.winfo_rooty() + y)
        d.wait_until(lambda: readout["text"] not in (old, " "))
        return numbers()

    seconds, hz, level_db, gain_db = point(2.0, tone_y)
    assert (seconds, hz) == (pytest.approx(2.0, abs=0.02), pytest.approx(1000, rel=0.05))
    assert level_db > -3
    assert gain_db == 0
    seconds, _, level_db, _ = point(0.5, tone_y)
    assert seconds == pytest.approx(0.5, abs=0.02)
    assert level_db < -50
    before = point(2.0, view.top + 5)
    assert before[1:] == [pytest.approx(14_500, rel=0.05), pytest.approx(-90, abs=10), 0]
    d.window.settings.move_to(-2.0)  # the mouse stays
    d.settle()
    assert numbers()[:3] == before[:3]
    assert numbers()[3] > 0.5
    d.session.saved_target = d.window.target
    d.window.open(other)
    d.wait_until(lambda: d.has_open(other))
    d.settle()
    assert numbers()[3] == 0
    d.xdotool("mousemove", *d.centre(d.layout.file_label))
    d.wait_until(lambda: readout["text"] == " ")


def test_pictures_keep_their_place_while_the_window_measures(start, sound):
    d = start(sound)
    places = set()
    d.panel.before.canvas.bind("<Configure>", lambda event: places.add((event.x, event.y, event.width, event.height)))
    d.drag_slider(-1.0)
    d.wait_until(d.layout.status.progress.winfo_ismapped)
    d.settle()
    assert not d.layout.status.progress.winfo_ismapped()
    assert places == set()


@pytest.mark.parametrize("scale", [1, 2])
def test_nothing_is_cut_off_in_the_smallest_window(scale, start, fine_screen, tmp_path, sound, monkeypatch):
    if scale == 2:
        monkeypatch.setenv("DISPLAY", fine_screen)
    long_name = tmp_path / f"{'a name that says all about the recording, ' * 4}音 звук.wav"
    long_name.write_text("no audio")
    d = start(sound, player=Player(FakeDevice()), wait=False)
    d.root.geometry(f"{900 * scale}x{600 * scale}")
    d.wait_until(lambda: d.session.rendering is not None)
    d.settle()
    assert (d.root.winfo_width(), d.root.winfo_height()) == (900 * scale, 600 * scale)
    assert d.parts_cut_off() == []
    d.xdotool("mousemove", *d.centre(d.panel.before.canvas))
    d.wait_until(lambda: "Hz" in d.panel.readout["text"])
    d.drag_slider(-3.0)
    d.settle()
    assert d.parts_cut_off() == []
    d.click(d.layout.curve_button)
    for points in ((), ((0.0, 3.0), (1.5, -3.0), (3.0, 3.0))):
        d.window.lane.edit(lambda points=points: d.lane.editor.replace(points))
        for selected in range(len(points)):
            d.lane.editor.select(selected)
            d.lane.draw_soon()
            d.settle()
            assert d.parts_cut_off() == []
        d.settle()
        assert d.parts_cut_off() == []
    d.window.open(long_name)
    d.root.update_idletasks()  # the worker's answer is not read yet
    assert d.layout.status.cancel_button.winfo_ismapped()
    assert d.parts_cut_off() == []
    d.wait_until(lambda: d.session.is_error)
    d.settle()
    assert d.parts_cut_off() == []


def test_the_frequency_axis_can_be_logarithmic_and_that_is_remembered(start, sound):
    d = start(sound)
    canvas = d.panel.before.canvas

    def y_of(text: str) -> float:
        texts = (item for item in canvas.find_all() if canvas.type(item) == "text")
        return next(canvas.coords(item)[1] for item in texts if canvas.itemcget(item, "text") == text)

    def steps() -> tuple[float, float]:
        return y_of("100") - y_of("1k"), y_of("1k") - y_of("10k")

    low, high = steps()
    assert high > 1.5 * low  # mel
    d.window.view.toggle_log()
    d.settle()
    low, high = steps()
    assert high == pytest.approx(low, abs=2)
    assert d.window.preferences.is_log


def test_a_sheet_names_the_versions(start):
    d = start()
    d.window.view.show_about()
    title, text = d.sheets[-1]
    assert title == "About"
    assert {"Python", "numpy", "scipy"} <= {line.split()[0] for line in text.splitlines() if line}
