"""What surrounds the pictures: the overview, the two layers, the library strip, the clip light and the info line."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice, drone

from neural_grain.dsp.mix import Mix
from neural_grain.session.player import Player
from neural_grain.window.overview_strip import waveform_picture
from neural_grain.window.theme import DARK

pytest_plugins = ["driving"]


def marks(d, tag: str) -> list[float]:
    """Corners of the only item of the overview with a tag; empty without one."""
    canvas = d.layout.overview.canvas
    items = canvas.find_withtag(tag)
    assert len(items) <= 1
    return canvas.coords(items[0]) if items else []


def test_the_waveform_reaches_as_high_as_the_samples():
    shares = np.array([0.25, 1.0, 0.5], np.float32)
    picture = np.asarray(waveform_picture(np.stack([-shares, shares]), (3, 101), DARK))
    background = picture[0, 0]
    heights = (picture != background).any(axis=2).sum(axis=0)
    assert heights / heights[1] == pytest.approx(shares, abs=0.03)


def test_the_overview_shows_what_is_zoomed_looped_and_played(start, sound):
    d = start(sound)
    overview = d.layout.overview
    assert marks(d, "window") == []
    d.panel.zoom(1.0, 1 / 3)
    d.window.transport.select((1.0, 1.5))
    d.window.transport.seek(1.2)
    d.settle()
    start_s, stop_s = d.panel.span
    assert marks(d, "window")[::2] == pytest.approx([overview.x_at(start_s), overview.x_at(stop_s)], abs=1.5)
    assert marks(d, "loop")[::2] == pytest.approx([overview.x_at(1.0), overview.x_at(1.5)], abs=1)
    assert marks(d, "playhead")[0] == pytest.approx(overview.x_at(1.2), abs=1)


def test_a_drag_in_the_overview_moves_what_is_shown_and_a_click_goes_there(start, sound):
    d = start(sound)
    overview = d.layout.overview
    d.panel.zoom(0.5, 1 / 3)
    d.settle()
    before = d.panel.span
    x, y = overview.canvas.winfo_rootx(), d.centre(overview.canvas)[1]
    first = round(overview.x_at(sum(before) / 2))
    second = round(overview.x_at(sum(before) / 2 + 1.0))
    d.xdotool("mousemove", x + first, y, "mousedown", 1, "mousemove", x + second, y, "mouseup", 1)
    d.settle()
    assert d.panel.span == pytest.approx([each + 1.0 for each in before], abs=0.03)
    assert d.playback.position_s == 0
    d.xdotool("mousemove", x + round(overview.x_at(0.2)), y, "click", 1)
    d.settle()
    assert d.playback.position_s == pytest.approx(0.2, abs=0.02)
    assert d.panel.span[0] <= 0.2 <= d.panel.span[1]


def test_the_layers_after_add_up_to_the_sound_after(start, sound):
    d = start(sound)
    d.drag_slider(-2.0)
    d.settle()
    frames = np.arange(0, d.session.opened.picture.x.shape[1], 8)
    levels = d.session.layer_levels(d.window.target, frames)
    gain_db = d.session.gain_db_of_frames(d.window.target, frames)
    before = d.session.layer_levels(d.window.target.__class__(), frames)
    sum_before, sum_after = (
        10 * np.log10(10 ** (each.tones_db / 10) + 10 ** (each.texture_db / 10)) for each in (before, levels)
    )
    assert np.median(np.abs(sum_after - sum_before - gain_db)) < 0.5  # the gain is interpolated between steps
    tones_db = np.median(np.abs(levels.tones_db - before.tones_db))
    assert tones_db < 0.5 < np.median(levels.texture_db - before.texture_db)


def test_the_view_is_chosen_by_buttons_and_keys(start, sound):
    d = start(sound)
    d.click(d.layout.view_buttons["layers"])
    d.settle()
    assert d.panel.view == "layers"
    assert (d.panel.before.title, d.panel.after.title) == ("tones after", "texture after")
    d.root.focus_force()
    d.xdotool("key", "3")
    d.settle()
    assert d.panel.after.title == "gain (dB)"
    d.xdotool("key", "1")
    d.settle()
    assert (d.panel.before.title, d.panel.after.title) == ("before", "after")


def test_the_library_strip_marks_grain_before_and_after(start, sound):
    d = start(sound)
    d.drag_slider(-2.0)
    d.settle()
    strip, canvas = d.layout.library_strip, d.layout.library_strip.canvas
    (before,), (after,) = (
        [item for item in canvas.find_withtag(name) if "mark" in canvas.gettags(item)] for name in ("before", "after")
    )
    rendering = d.session.rendering
    assert canvas.coords(before)[0] == pytest.approx(strip.x_of(rendering.grain_before), abs=1)
    assert canvas.coords(after)[0] == pytest.approx(strip.x_of(rendering.grain_after), abs=1)
    assert canvas.coords(after)[0] < canvas.coords(before)[0]  # texture is on the left, as on the slider


def test_the_info_line_says_length_rate_depth_and_loudness(start, sound):
    d = start(sound)
    assert d.layout.file_label["text"] == sound.name
    line = d.layout.info_label["text"]
    loudness = d.session.opened.facts.loudness_lufs
    assert line == f"0:00.0 / 0:03.0   stereo   44.1 kHz   24 bit   {loudness:.1f} LUFS"


def test_the_clip_light_stays_until_it_is_clicked(start, tmp_path):
    y = drone(-40, 3.0)
    loud = tmp_path / "loud.wav"
    sf.write(loud, 1.5 * y / np.abs(y).max(), SR, "FLOAT")  # a file may exceed full scale, which the card would clip
    d = start(loud, player=Player(FakeDevice()))
    meter = d.layout.meter
    assert not meter.has_clipped
    d.window.transport.toggle_play()
    d.wait_until(lambda: meter.has_clipped)
    d.window.transport.toggle_play()
    d.settle()
    assert meter.has_clipped
    light = [round(each) for each in meter.canvas.bbox("light")]
    x, y = meter.canvas.winfo_rootx() + light[0] + 4, meter.canvas.winfo_rooty() + light[1] + 4
    d.xdotool("mousemove", x, y, "click", 1)
    d.wait_until(lambda: not meter.has_clipped)


def test_mix_and_gain_are_heard_measured_saved_and_undone(start, sound, tmp_path):
    d = start(sound)
    d.drag_slider(-2.0)
    d.settle()
    wet_grain = d.session.rendering.grain_after
    controls = d.layout.mix_controls
    d.xdotool("mousemove", *d.centre(controls.wet), "click", 1)
    controls.wet.set(0.5)
    controls.gain.set(-6.0)
    d.settle()
    assert d.window.target.mix == Mix(0.5, -6.0)
    assert d.playback.mixer is not None
    assert d.playback.mix == Mix(0.5, -6.0)
    assert d.session.rendering.grain_before < d.session.rendering.grain_after < wet_grain
    output = tmp_path / "mixed.wav"
    d.answers["save"] = str(output)
    d.window.files.ask_save()
    d.settle()
    before, after = (sf.read(path)[0] for path in (sound, output))
    level_db = 10 * np.log10(np.square(after).mean() / np.square(before).mean())
    assert level_db == pytest.approx(-6.0, abs=1.0)
    d.window.settings.undo()
    d.settle()
    assert d.window.target.mix != Mix(0.5, -6.0)
    d.xdotool("mousemove", *d.centre(controls.gain), "click", "--repeat", 2, "--delay", 20, 1)
    d.settle()
    assert controls.mix.gain_db == 0
