"""The lane of the curve: points by mouse and keys, undo, files, and what each second achieved."""

from __future__ import annotations

import tkinter as tk

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice, drone, noise

from neural_grain.audio.sound import open_sound
from neural_grain.dsp.contour import Seconds, measure_local_grain
from neural_grain.dsp.curve import GrainCurve, parse_curve
from neural_grain.dsp.flatness import grain_per_frame
from neural_grain.dsp.move_curve import OUT_OF_REACH, SILENT, GrainContour
from neural_grain.dsp.settings import GrainSettings
from neural_grain.session.player import Player
from neural_grain.window.lane_view import LaneView

pytest_plugins = ["driving"]


class Hand:
    """Does with the mouse in the lane what a user does, at seconds and octaves."""

    def __init__(self, driver):
        self.d, self.lane = driver, driver.lane

    @property
    def points(self) -> list[tuple[float, float]]:
        return list(self.lane.editor.points)

    def at(self, seconds: float, octaves: float) -> tuple[int, int]:
        canvas = self.lane.canvas
        x, y = round(self.lane.x_at(seconds)), round(self.lane.y_at(octaves))
        return canvas.winfo_rootx() + x, canvas.winfo_rooty() + y

    def click(self, seconds: float, octaves: float, times: int = 1) -> None:
        self.d.xdotool(
            "mousemove", *self.at(seconds, octaves), "click", "--repeat", times, "--delay", 30, 1, "sleep", 0.6
        )  # a press that follows soon would belong to this click
        self.d.receive_events()

    def double_click(self, seconds: float, octaves: float) -> None:
        self.click(seconds, octaves, 2)

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """Press, move in steps, and hold."""
        self.d.xdotool("mousemove", *self.at(*start), "mousedown", 1)
        for share in (0.3, 0.7, 1.0):
            place = (a + share * (b - a) for a, b in zip(start, stop, strict=True))
            self.d.xdotool("mousemove", *self.at(*place))
        self.d.receive_events()

    def release(self) -> None:
        self.d.xdotool("mouseup", 1, "sleep", 0.6)
        self.d.receive_events()

    def keys(self, *keys: str) -> None:
        self.d.xdotool("key", *keys)
        self.d.receive_events()

    def draw(self, *points: tuple[float, float]) -> None:
        """Take points in place of all, as if they were loaded from a file."""
        self.d.window.lane.edit(lambda: self.lane.editor.replace(GrainCurve.of(points).points))
        self.d.settle()

    def texts(self, tag: str) -> list[str]:
        canvas = self.lane.canvas
        return [canvas.itemcget(item, "text") for item in canvas.find_withtag(tag)]


@pytest.fixture
def hand(start, sound) -> Hand:
    """A hand in a window with an open sound of three seconds, and its lane."""
    return open_lane(start(sound))


def open_lane(driver) -> Hand:
    driver.root.focus_force()
    driver.click(driver.layout.curve_button)
    driver.wait_until(driver.lane.canvas.winfo_viewable)
    driver.settle()
    return Hand(driver)


def near(*points: tuple[float, float]) -> list:
    return [pytest.approx(point, abs=0.06) for point in points]


def grain_octaves(before, after) -> np.ndarray:
    """Octaves by which each second of a file is smoother in another, by the definition of the contour."""
    sounds, settings = [open_sound(path) for path in (before, after)], GrainSettings()
    seconds = Seconds.of(sounds[0], grain_per_frame(sounds[0], settings).active, settings)
    return np.log2(seconds.grain / seconds.mean(measure_local_grain(sounds[1], settings).flatness))


def test_double_clicks_add_and_remove_points_and_a_third_click_does_not(hand):
    assert hand.texts("hint")
    hand.double_click(0.5, -1.0)
    hand.double_click(2.0, 1.5)
    hand.click(1.0, 0.5, times=3)
    assert hand.points == near((0.5, -1.0), (1.0, 0.5), (2.0, 1.5))
    assert not hand.texts("hint")
    hand.double_click(*hand.points[1])
    assert hand.points == near((0.5, -1.0), (2.0, 1.5))


def test_a_drag_moves_a_point_up_to_its_neighbours_and_the_ends_of_the_lane(hand):
    hand.draw((0.5, 0.0), (1.0, 0.0), (2.0, 0.0))
    hand.drag((1.0, 0.0), (1.5, -1.2))
    assert hand.points[1] == pytest.approx((1.5, -1.2), abs=0.06)
    assert hand.texts("value") == ["{:.2f} s  {:+.2f}".format(*hand.points[1])]
    hand.release()
    hand.drag(hand.points[1], (2.6, 2.0))
    hand.release()
    assert 1.99 < hand.points[1][0] < 2.0
    assert hand.points[0] == (0.5, 0.0)
    assert hand.points[2] == (2.0, 0.0)
    x, y = hand.at(*hand.points[0])
    hand.d.xdotool("mousemove", x, y, "mousedown", 1, "mousemove", 1, y - 300)
    hand.release()
    assert hand.points[0] == (0.0, 3.0)


def test_with_shift_a_drag_moves_a_tenth(hand):
    hand.draw((1.0, 0.0), (2.0, 0.0))
    hand.d.xdotool("keydown", "shift")
    hand.drag((1.0, 0.0), (1.5, 2.0))
    hand.d.xdotool("mouseup", 1, "keyup", "shift")
    hand.d.receive_events()
    assert hand.points[0] == pytest.approx((1.05, 0.2), abs=0.02)


def test_keys_move_and_remove_the_selected_point_and_not_the_slider(hand):
    hand.draw((1.0, 0.0), (2.0, 0.0))
    hand.click(1.0, 0.0)
    hand.keys("Right", "Right", "Up", "Up", "shift+Up", "Left", "shift+Left", "Down")
    step_s = 0.015  # a two hundredth of what is shown
    assert hand.points[0] == pytest.approx((1 + 0.9 * step_s, 0.055))
    hand.d.xdotool("mousemove", *hand.at(1.5, 2.0), "click", "--repeat", 4, "--delay", 20, 4)
    hand.d.settle()
    assert hand.lane.span == hand.d.panel.span != (0.0, 3.0)
    before_s = hand.points[0][0]
    hand.keys("Left")
    span_s = hand.lane.span[1] - hand.lane.span[0]
    assert before_s - hand.points[0][0] == pytest.approx(0.005 * span_s, abs=1e-3)
    hand.keys("Delete")
    assert hand.points == [(2.0, 0.0)]
    hand.keys("Delete")  # nothing is selected any more
    assert hand.points == [(2.0, 0.0)]
    assert hand.d.octaves == 0


def test_edits_are_undone_and_done_again_by_keys(hand):
    hand.double_click(1.0, 1.0)
    hand.drag(hand.points[0], (1.5, -1.0))
    hand.release()
    dragged = hand.points
    hand.d.window.curve.shape("sine")
    n_sine = len(hand.points)
    hand.d.window.curve.clear()
    shapes = [hand.points]
    for _ in range(4):
        hand.keys("ctrl+z")
        shapes.append(hand.points)
    assert [len(points) for points in shapes] == [0, n_sine, 1, 1, 0]
    assert shapes[2] == dragged
    assert shapes[3] == near((1.0, 1.0))
    hand.keys("ctrl+z")
    assert hand.points == []
    hand.keys("ctrl+y", "ctrl+shift+z")
    assert hand.points == dragged
    hand.keys("ctrl+y", "ctrl+y", "ctrl+y")
    assert hand.points == []


def test_the_curve_counts_while_it_is_shown_and_has_points(hand):
    d = hand.d
    d.drag_slider(-1.0)
    d.settle()
    slider = d.window.target
    assert slider.octaves == pytest.approx(-1.0, abs=0.2)
    hand.draw((0.5, -1.0), (2.5, 1.0))
    assert d.window.target.curve.points == ((0.5, -1.0), (2.5, 1.0))
    assert not d.layout.octave_slider.slider.is_enabled
    assert d.session.rendering.curve == d.window.target.curve
    assert d.layout.grain_label["text"].startswith("curve: 3 of 3 seconds moved (median error 0.0")
    d.click(d.layout.curve_button)
    d.settle()
    assert not d.lane.canvas.winfo_viewable()
    assert d.window.target == slider
    assert d.layout.octave_slider.slider.is_enabled
    assert d.session.rendering.requested_octaves == slider.octaves
    hand.keys("c")
    d.settle()
    assert d.session.rendering.curve.points == ((0.5, -1.0), (2.5, 1.0))


def test_the_achieved_contour_appears_and_marks_silent_and_missed_seconds(start, tmp_path):
    path = tmp_path / "pause.wav"
    y = drone(-45, 4.0)
    y[round(0.9 * SR) : round(2.1 * SR)] = 0
    y[round(2.1 * SR) :] = noise(1.9)  # which has hardly more texture to get
    sf.write(path, y, SR, "PCM_24")
    hand = open_lane(start(path))
    canvas = hand.lane.canvas
    assert not canvas.find_withtag("contour")
    hand.draw((2.0, -1.0), (2.1, -3.0))
    contour = hand.d.session.contour
    assert contour.states[1] == SILENT
    assert len(canvas.find_withtag("silent")) == 1
    assert contour.states[3] == OUT_OF_REACH
    assert len(canvas.find_withtag("missed")) == contour.states.count(OUT_OF_REACH)
    moved = [canvas.coords(item) for item in canvas.find_withtag("moved")]
    assert moved[0] == pytest.approx(
        [hand.lane.x_at(0), hand.lane.y_at(-1.0), hand.lane.x_at(1), hand.lane.y_at(-1.0)], abs=2
    )
    assert {"asked", "got", "silent"} <= set(hand.texts("legend"))
    hand.d.xdotool("mousemove", *hand.at(0.5, 2.0))
    hand.d.wait_until(
        lambda: hand.texts("readout") == [f"second 1: asked -1.00, got {contour.achieved_octaves[0]:+.2f}"]
    )


def test_a_hidden_lane_is_not_drawn_before_it_is_shown_again(hand):
    hand.draw((1.0, 0.0))
    canvas = hand.lane.canvas
    hand.d.window.settings.toggle_curve()
    hand.draw((1.0, 0.0), (2.0, 1.0))
    assert len(canvas.find_withtag("point")) == 1
    hand.d.window.settings.toggle_curve()
    hand.d.settle()
    assert len(canvas.find_withtag("point")) == 2


def test_every_second_of_a_long_sound_has_a_step_in_its_place(start):
    n, d = 600, start()
    lane = LaneView(tk.Toplevel(d.root), d.layout.palette, d.layout.scale)
    lane.canvas.pack()
    grain, octaves = np.full(n, 0.01), np.sin(np.arange(n))
    is_silent, is_missed = np.arange(n) % 10 == 0, np.arange(n) % 10 == 1
    grain[is_silent] = np.nan
    contour = GrainContour(grain, grain * 2.0**-octaves, octaves + is_missed, is_missed)
    lane.editor.begin(n - 0.5)
    lane.follow((0.0, n - 0.5), None)
    lane.show(contour, is_current=True, is_enabled=True)
    d.wait_until(lambda: lane.canvas.winfo_ismapped() and lane.is_drawn)
    tags = ("silent", "missed", "moved")
    places = {tag: [lane.canvas.coords(item) for item in lane.canvas.find_withtag(tag)] for tag in tags}
    assert [len(places[tag]) for tag in tags] == [60, 60, 480]
    x = [lane.x_at(second) for second in (1, 2, n - 1, n - 0.5)]
    assert places["missed"][0] == pytest.approx([x[0], lane.y_at(octaves[1]), x[1], lane.y_at(octaves[1])])
    assert places["moved"][-1] == pytest.approx([x[2], lane.y_at(octaves[-1]), x[3], lane.y_at(octaves[-1])])


def test_a_drawn_curve_is_heard_while_the_sound_plays_and_saved_as_it_is_heard(start, tmp_path, sound):
    device = FakeDevice()
    hand = open_lane(start(sound, player=Player(device)))
    d, saved = hand.d, tmp_path / "saved.wav"
    hand.double_click(0.5, -1.5)
    hand.double_click(2.5, 1.5)
    d.settle()
    amounts = d.session.rendering.amounts
    d.window.transport.set_volume(1.0)
    d.click(d.layout.play_button)
    d.wait_until(lambda: d.playback.position_s > 2.5)
    assert d.playback.mixer.source.amounts is amounts
    assert d.lane.canvas.coords("playhead")[0] == pytest.approx(d.lane.x_at(2.5), abs=30)
    d.click(d.layout.play_button)
    d.answers["save"] = str(saved)
    d.click(d.layout.save_button)
    d.wait_for_status("saved ")
    assert d.suggestions[-1] == ("Save the result", "a drone_curve.wav")
    np.testing.assert_allclose(grain_octaves(sound, saved), d.session.contour.requested_octaves, atol=0.05)
    z, heard = sf.read(saved)[0], np.concatenate(device.streams[0].heard)
    n_before = np.flatnonzero(np.abs(heard[:, 0]) > 0)[0] - np.flatnonzero(np.abs(z[:, 0]) > 0)[0]
    window = slice(SR // 2, 2 * SR)
    np.testing.assert_allclose(heard[n_before:][window], z[window], atol=1e-3)
    assert not d.session.is_unsaved(d.window.target)


def test_the_menu_of_the_lane_offers_shapes(hand):
    menu = hand.d.layout.menus["Curve"]
    hand.d.xdotool("mousemove", *hand.at(1.0, 1.0), "click", 3)
    hand.d.wait_until(menu.winfo_viewable)
    while menu.index("active") != menu.index("Shape: ramp"):
        hand.keys("Down")
    hand.d.xdotool("key", "Return")
    hand.d.wait_until(lambda: hand.points)
    assert hand.points == [(0.0, -2.0), (3.0, 2.0)]


def test_a_curve_is_saved_and_loaded_as_it_was(hand, tmp_path):
    d, file = hand.d, tmp_path / "my curve.txt"
    d.answers.update(save_curve=str(file), open_curve=str(file))
    d.window.curve.save()
    assert "no points" in d.layout.status.label["text"]
    hand.draw((0.1234, -1.234), (2.0, 2.5))
    d.window.curve.save()
    assert d.session.status.startswith("saved the curve to ")
    assert parse_curve(file.read_text()).points == tuple(hand.points)
    drawn = hand.points
    d.window.curve.clear()
    d.window.curve.load()
    assert hand.points == drawn
    assert d.session.status == "loaded my curve.txt: a curve of 2 points"


def test_a_bad_file_is_one_line_and_the_curve_stays(hand, tmp_path):
    hand.draw((1.0, -1.0), (2.0, 1.0))
    d, drawn = hand.d, hand.points
    for text, line in (("0 1\n1 9\n", "line 2: the position 9 is not within"), ("\xff\xfe", "not a text file")):
        bad = tmp_path / "bad.txt"
        bad.write_bytes(text.encode("latin-1"))
        d.answers["open_curve"] = str(bad)
        d.window.curve.load()
        d.settle()
        assert line in d.layout.status.label["text"]
        assert "\n" not in d.layout.status.label["text"]
        assert d.session.is_error
        assert hand.points == drawn


def test_saving_a_curve_replaces_neither_the_sound_nor_unasked_what_is_no_curve(hand, sound, tmp_path):
    hand.draw((1.0, -1.0), (2.0, 1.0))
    d, other = hand.d, tmp_path / "notes.txt"
    before = sound.read_bytes()
    d.answers["save_curve"] = str(sound)
    d.window.curve.save()
    assert "is the input itself" in d.session.status
    assert sound.read_bytes() == before
    other.write_text("shopping list")
    d.answers.update(save_curve=str(other), confirm=False)
    d.window.curve.save()
    assert other.read_text() == "shopping list"
    assert "notes.txt" in d.questions[-1]
    d.answers["confirm"] = True
    d.window.curve.save()
    d.window.curve.save()
    assert len(d.questions) == 2  # a curve is in its place now, and the dialog of the system has asked about that
    assert parse_curve(other.read_text()).points == tuple(hand.points)


def test_another_sound_begins_without_a_curve_and_undo_brings_it_back(hand, tmp_path):
    hand.draw((1.0, -1.0), (2.0, 1.0))
    drawn, other = hand.points, tmp_path / "other.wav"
    sf.write(other, drone(-40, 2), SR)
    hand.d.window.open(other)
    hand.d.wait_until(lambda: hand.d.has_open(other))
    hand.d.settle()
    assert hand.points == []
    hand.keys("ctrl+z")
    hand.d.settle()
    assert hand.points == drawn
    assert hand.d.session.rendering.curve.points == tuple(drawn)


def test_points_are_selected_added_and_stretched_without_a_mouse(hand):
    hand.draw((0.5, -1.0), (1.0, 1.0))
    hand.lane.canvas.focus_force()
    hand.d.settle()
    hand.keys("bracketleft", "bracketleft")
    assert hand.d.lane.editor.selected == 0
    hand.keys("bracketright")
    assert hand.d.lane.editor.selected == 1
    hand.keys("Down")
    assert hand.points[1:2] == near((1.0, 0.95))
    hand.d.window.transport.seek(2.0)
    hand.keys("Insert")
    assert hand.points[2:] == near((2.0, 0.95))
    hand.d.window.curve.stretch()
    assert [seconds for seconds, _ in hand.points] == pytest.approx([0.75, 1.5, 3.0], abs=0.05)
    hand.keys("ctrl+z", "ctrl+z")
    assert len(hand.points) == 2
