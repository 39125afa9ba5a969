"""The slider: the zones of the open sound, the mark of what was measured, fine moves, and hints."""

from __future__ import annotations

import tkinter as tk

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, noise

from neural_grain.app.report import describe_zones
from neural_grain.dsp.solver import SliderZones
from neural_grain.session.mixer import VERSIONS
from neural_grain.window.hint import HINTS

pytest_plugins = ["driving"]


def zone_ends(d) -> list[tuple[float, float]]:
    """Octaves at the ends of each bar, from the pixels: the whole slider, with all means, texture alone."""
    slider = d.layout.octave_slider.slider
    positions = np.linspace(-3, 3, 601)
    columns = [slider.x_of(position) for position in positions]

    def octaves(x: float) -> float:
        return float(np.interp(x, columns, positions))

    ends = [slider.canvas.coords(item) for item in slider.canvas.find_withtag("zone")]
    return [(octaves(left), octaves(right)) for left, _, right, _ in ends]


def hints(d) -> list[str]:
    """Texts of the hints that are shown."""
    windows = [child for child in d.root.winfo_children() if isinstance(child, tk.Toplevel)]
    nested = [w for child in all_children(d.root) for w in child.winfo_children() if isinstance(w, tk.Toplevel)]
    return [label["text"] for window in {*windows, *nested} for label in window.winfo_children()]


def all_children(widget: tk.Misc) -> list[tk.Misc]:
    children = widget.winfo_children()
    return children + [grandchild for child in children for grandchild in all_children(child)]


def test_the_zones_are_those_of_the_solver_and_the_mark_is_what_was_measured(start, sound):
    d = start()
    assert len(zone_ends(d)) == 1  # the empty slider
    d.window.open(sound)
    d.wait_until(lambda: d.has_open(sound))
    d.settle()
    texture, whole = d.session.opened.solver.zones
    whole_bar, reached, by_texture = zone_ends(d)
    assert whole_bar == pytest.approx((-3, 3), abs=0.02)
    assert reached == pytest.approx((max(-3, -whole[0]), min(3, whole[1])), abs=0.03)
    assert by_texture == pytest.approx((max(-3, -texture[0]), min(3, texture[1])), abs=0.03)
    d.drag_slider(-1.5)
    d.settle()
    slider = d.layout.octave_slider.slider
    (mark,) = slider.canvas.find_withtag("measured")
    achieved = d.session.rendering.achieved_octaves
    assert slider.canvas.coords(mark)[0] == pytest.approx(slider.x_of(achieved), abs=1)


def test_white_noise_has_no_zone_towards_smooth(start, tmp_path):
    sf.write(tmp_path / "noise.wav", noise(2.0), SR, "PCM_24")
    d = start(tmp_path / "noise.wav")
    *_, texture = zone_ends(d)
    assert texture[1] < 0.2


def test_a_hint_says_what_the_zones_mean_and_goes_with_the_pointer(start, sound):
    d = start(sound)
    d.wait_until(lambda: len(zone_ends(d)) == 3)
    d.xdotool("mousemove", *d.centre(d.slider), "mousemove_relative", 2, 0)
    d.wait_until(lambda: hints(d))
    assert hints(d) == [f"{HINTS['slider']}\n{describe_zones(d.session.zones)}"]
    d.xdotool("mousemove", 5, 5)
    d.wait_until(lambda: not hints(d))


def test_every_control_has_a_hint(start, sound):
    d = start(sound)
    for widget, text in (
        (d.layout.play_button, "play"),
        (d.layout.version_buttons["tones"], "tones"),
        (d.layout.overview.canvas, "overview"),
    ):
        d.xdotool("mousemove", *d.centre(widget), "mousemove_relative", 2, 0)
        d.wait_until(lambda text=text: hints(d) == [HINTS[text]])
    assert set(VERSIONS) < set(HINTS)


def test_no_hint_covers_the_result_after_the_slider_was_moved(start, sound):
    d = start(sound)
    d.drag_slider(-1.0)
    d.xdotool("mousemove_relative", 1, 0, "sleep", 1.2)
    d.wait_until(lambda: not hints(d))
    d.xdotool("mousemove", 5, 5, "mousemove", *d.centre(d.slider), "mousemove_relative", 2, 0)
    d.wait_until(lambda: hints(d) and hints(d)[0].startswith(HINTS["slider"]))


@pytest.mark.parametrize(
    ("zones", "lines"),
    [
        (SliderZones((3.5, 3.5), (3.5, 3.5)), ["strong shade: only texture moves, from -3.0 to +3.0"]),
        (
            SliderZones((1.0, 0.5), (2.0, 1.5)),
            ["from -1.0 to +0.5", "filled with noise, down to -2.0", "thinned out, up to +1.5", "goes no farther"],
        ),
    ],
)
def test_zones_are_described_in_words(zones, lines):
    text = describe_zones(zones).splitlines()
    assert len(text) == len(lines)
    assert all(line in described for line, described in zip(lines, text, strict=True))


def test_with_shift_the_slider_moves_in_hundredths(start, sound):
    d = start(sound)
    slider = d.layout.octave_slider.slider
    d.root.focus_force()
    d.xdotool("key", "Right", "key", "shift+Right", "key", "shift+Right")
    assert d.octaves == 0.12
    assert d.entry.get() == "+0.12"
    x, y = d.slider.winfo_rootx() + round(slider.x_of(d.octaves)), d.slider.winfo_rooty() + 18
    d.xdotool("mousemove", x, y, "keydown", "shift", "mousedown", 1)
    d.xdotool("mousemove_relative", 1, 0, "mousemove_relative", round(slider.x_of(1) - slider.x_of(0)) - 1, 0)
    d.xdotool("mouseup", 1, "keyup", "shift")
    assert d.octaves == pytest.approx(0.22, abs=0.011)


def test_a_click_in_the_trough_brings_the_grip_there_and_the_wheel_moves_it(start, sound):
    d = start(sound)
    slider = d.layout.octave_slider.slider
    x, y = d.slider.winfo_rootx() + round(slider.x_of(-2)), d.slider.winfo_rooty() + 18
    d.xdotool("mousemove", x, y, "click", 1)
    assert d.octaves == pytest.approx(-2.0, abs=0.051)
    before = d.octaves
    d.xdotool("click", 4)
    assert d.octaves == pytest.approx(before + 0.1, abs=1e-6)
