"""Playing from the window: keys and buttons, before and after, the level meter, devices that fail."""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice, drone, noise

from measure_audio_grain import measure_file
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.settings import GrainSettings
from neural_grain.session.player import Player

pytest_plugins = ["driving"]


def test_keys_play_slide_and_switch_with_a_real_stream(start, sound, tmp_path, monkeypatch):
    """The null device of ALSA keeps no time, but everything else is real: PortAudio, the stream, its callbacks."""
    config = tmp_path / "asound.conf"
    config.write_text("pcm.!default { type null }\nctl.!default { type null }\n")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(config))
    sounddevice = pytest.importorskip("sounddevice") if sys.platform != "linux" else __import__("sounddevice")
    sounddevice._terminate()
    sounddevice._initialize()
    player = Player()
    d = start(sound, player=player)
    d.window.transport.select((0.0, 2.9))
    d.root.focus_force()
    d.xdotool("mousemove", *d.centre(d.panel.before.canvas))
    d.xdotool("key", "space")
    d.wait_until(lambda: d.playback.is_playing)
    stream = player._stream
    assert stream.active
    d.wait_until(lambda: d.playback.position_s > 0)
    d.xdotool("key", "b")
    d.wait_until(lambda: d.playback.listening == "before")
    d.xdotool("key", "space")
    d.wait_until(lambda: not d.playback.is_playing and d.layout.play_button["text"] == "Play")
    d.window.close()
    assert stream.closed


def test_a_short_press_on_before_stays_and_a_long_one_ends_on_release(start, sound):
    d = start(sound, player=Player(FakeDevice()))
    d.root.focus_force()
    d.window.transport.toggle_play()
    d.xdotool("mousemove", *d.centre(d.panel.before.canvas))
    difference = d.layout.version_buttons["difference"]
    for press, release, version, hold_s in (
        (("keydown", "b"), ("keyup", "b"), "before", 1.2),  # X repeats a held key after 0.7 s
        (("mousemove", *d.centre(difference), "mousedown", 1), ("mouseup", 1), "difference", 0.5),
    ):
        d.xdotool(*press)
        d.wait_until(lambda version=version: d.playback.mixer.source and d.playback.mixer.source.version == version)
        end = time.monotonic() + hold_s
        d.wait_until(lambda end=end, version=version: time.monotonic() > end or d.playback.listening != version)
        assert d.playback.listening == version
        d.xdotool(*release)
        d.wait_until(lambda: d.playback.listening == "after")
    d.click(d.layout.version_buttons["before"])
    d.wait_until(lambda: not d.playback.is_held and d.playback.listening == "before")
    d.xdotool("key", "b")
    d.wait_until(lambda: not d.playback.is_held and d.playback.listening == "after")


def test_the_layer_that_is_heard_is_the_one_that_is_saved_and_the_result_stays_unsaved(start, sound, tmp_path):
    d = start(sound, player=Player(FakeDevice()))
    d.drag_slider(-1.5)
    d.settle()
    position = f"{d.octaves:+.1f}"
    d.click(d.layout.version_buttons["tones"])
    d.click(d.layout.play_button)
    d.wait_until(lambda: d.playback.mixer.source and d.playback.mixer.source.version == "tones")
    for layer in ("tones", "texture"):
        d.click(d.layout.version_buttons[layer])
        d.answers["save"] = str(tmp_path / f"{layer}.wav")
        d.click(d.layout.save_button)
        d.wait_for_status(f"saved {tmp_path / layer}.wav: the {layer} of: grain ")
        assert d.suggestions[-1] == (f"Save the {layer}", f"a drone_grain{position}_{layer}.wav")
    d.answers.update(should_save=True, save=str(tmp_path / "after.wav"))
    d.window.files.close_file()
    d.settle()
    assert d.suggestions[-1] == ("Save the result", f"a drone_grain{position}.wav")
    tones, texture, after = (sf.read(tmp_path / f"{name}.wav")[0] for name in ("tones", "texture", "after"))
    np.testing.assert_allclose(tones + texture, after, atol=1e-6)


def test_the_level_meter_follows_the_sound(start, tmp_path):
    path = tmp_path / "loud, then quiet.wav"
    sf.write(path, drone(-40, 2) * np.repeat([1.0, 0.05], SR), SR)
    d = start(path, player=Player(FakeDevice()))
    d.root.focus_force()
    meter = d.layout.meter
    assert meter.level_db == -60
    d.xdotool("key", "space")
    d.wait_until(lambda: d.playback.position_s > 0.5)
    loud = meter.level_db
    peak_db = 20 * math.log10(np.abs(d.session.opened.y[: SR // 2]).max())
    assert loud == pytest.approx(peak_db, abs=3)
    d.wait_until(lambda: d.playback.position_s > 1.5)
    assert loud - meter.level_db == pytest.approx(26, abs=3)
    d.xdotool("key", "space")
    d.wait_until(lambda: meter.level_db == -60)


@pytest.mark.parametrize("mix", [NO_MIX, Mix(0.6, 3.0)])
def test_the_window_plays_what_it_saves(start, tmp_path, mix):
    """Strokes of a loud tone: towards texture their peaks pass full scale, and the limiter takes energy away."""
    t = np.arange(2 * SR) % (SR // 2)
    y = np.sin(2 * np.pi * 600 * t / SR) * np.exp(-t / 1_500) * np.minimum(1, t / 20)
    path, saved = tmp_path / "loud.wav", tmp_path / "saved.wav"
    sf.write(path, 0.98 * y / np.abs(y).max() + 1e-5 * noise(2), SR, "PCM_24")
    device = FakeDevice()
    d = start(path, player=Player(device))
    d.root.focus_force()
    d.xdotool("key", "Next", "Next", "Next")
    d.layout.mix_controls.wet.set(mix.wet)
    d.layout.mix_controls.gain.set(mix.gain_db)
    d.settle()
    assert d.session.rendering.limited_db > 3
    assert d.session.rendering.mix == mix
    d.answers["save"] = str(saved)
    d.xdotool("key", "ctrl+s")
    d.wait_for_status("saved ")
    d.window.transport.set_volume(1.0)
    d.xdotool("key", "space")
    d.wait_until(lambda: d.playback.position_s > 1.4)
    z, heard = sf.read(saved)[0], np.concatenate(device.streams[0].heard)[:, 0]
    start_of_sound = np.flatnonzero(np.abs(heard) > 0)[0] - np.flatnonzero(np.abs(z) > 0)[0]
    window = slice(SR // 4, SR)
    heard = heard[max(0, start_of_sound) :][window]
    assert np.abs(heard).max() <= 1
    assert f"-> {measure_file(saved, GrainSettings()).grain:.3g} " in d.session.grain_text(d.window.target)
    assert 20 * math.log10(np.std(heard) / np.std(z[window])) == pytest.approx(0, abs=0.1)
    assert d.playback.mixer.underruns == 0


def test_six_channels_are_opened_played_and_saved(start, tmp_path):
    path, saved = tmp_path / "six.wav", tmp_path / "saved.wav"
    levels = 1 / np.arange(1, 7)
    sf.write(path, levels * drone(-45)[:, None], SR, "PCM_24")
    device = FakeDevice()
    d = start(path, player=Player(device))
    assert "6 channels" in d.layout.info_label["text"]
    d.drag_slider(-1.5)
    d.settle()
    d.click(d.layout.play_button)
    d.wait_until(lambda: d.playback.position_s > 0.5)
    played = np.concatenate(device.streams[0].heard[-20:])
    left, right = np.sqrt((played**2).mean(axis=0))
    assert left / right == pytest.approx(levels[::2].sum() / levels[1::2].sum(), rel=0.01)
    d.answers["save"] = str(saved)
    d.click(d.layout.save_button)
    d.wait_for_status("saved ")
    y, sr = sf.read(saved)
    assert (y.shape, sr) == ((3 * SR, 6), SR)
    assert np.sqrt((y**2).mean(axis=0)) / np.sqrt((y[:, 0] ** 2).mean()) == pytest.approx(levels, rel=1e-3)
    grains = [measure_file(each, GrainSettings()).grain for each in (path, saved)]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(d.octaves, abs=0.02)


def test_home_goes_to_the_start(start, sound):
    d = start(sound)
    view = d.panel.after
    d.window.transport.seek(1.5)
    assert view.canvas.coords("mark")[0] > view.x_at(1.4)
    d.root.focus_force()
    d.xdotool("key", "Home")
    d.wait_until(lambda: d.playback.position_s == 0)
    assert view.canvas.coords("mark")[0] == view.left


def test_another_model_is_heard_while_the_sound_plays_on(start, project, sound):
    device = FakeDevice()
    d = start(sound, player=Player(device), model=project.model)
    d.window.transport.select((0.5, 2.5))
    d.drag_slider(-2.5)
    d.settle()
    octaves, analysis = d.octaves, d.session.opened.analysis
    d.window.transport.toggle_play()
    d.wait_until(lambda: d.playback.position_s > 0.7)
    mixer, before = d.playback.mixer, d.session.opened.solver
    for model in (None, project.model):
        d.answers["model"] = str(model or "")
        d.window.files.ask_model()  # does nothing without a name
        if model is None:
            d.window.settings.use_model(None)
        d.settle()
        solver = d.session.opened.solver
        d.wait_until(lambda solver=solver: mixer.source.after and mixer.source.after.field is solver.field)
        assert (solver is before) == (model is not None)
        assert d.session.opened.analysis is analysis
        assert d.playback.mixer is mixer
        assert d.playback.is_playing
        assert (d.octaves, d.playback.listening) == (octaves, "after")
        assert d.session.rendering.achieved_octaves == pytest.approx(octaves, abs=0.05)
        assert 0.5 <= d.playback.position_s <= 2.5
    assert not d.questions
    assert len(device.streams) == 1
    assert mixer.underruns == 0


def test_a_device_that_vanishes_is_reported_and_playing_works_again(start, sound):
    device = FakeDevice()
    d = start(sound, player=Player(device))
    d.window.transport.toggle_play()
    d.wait_until(lambda: d.playback.position_s > 0)
    device.streams[-1].vanish()
    d.wait_until(lambda: "no sound: the device stopped" in d.layout.status.label["text"])
    assert d.layout.play_button["text"] == "Play"
    d.window.transport.toggle_play()
    d.wait_until(lambda: d.playback.is_playing)


def test_an_output_is_remembered_and_another_can_be_chosen_when_it_disappears(start, sound):
    device = FakeDevice(outputs=("interface", "headphones", "speakers"))
    d = start(sound, player=Player(device))
    assert d.playback.player.outputs[0] == "speakers"
    d.window.transport.toggle_play()
    d.wait_until(lambda: d.playback.position_s > 0.2)
    d.window.transport.choose_output("interface")
    assert d.playback.is_playing
    assert d.playback.position_s > 0.2
    assert device.streams[-1].output["name"] == "interface"
    device.connected = ("headphones", "speakers")
    device.streams[-1].vanish()
    d.wait_until(lambda: "no sound: the output interface stopped" in d.layout.status.label["text"])
    assert d.entries_of("Output device") == ["Default device", "speakers", "headphones"]
    d.choose_from("Output device", "headphones")
    assert d.entries_of("Output device") == ["Default device", "speakers", "✓ headphones"]
    d.window.transport.toggle_play()
    d.wait_until(lambda: d.playback.is_playing)
    assert device.streams[-1].output["name"] == "headphones"
    d.close()
    d = start(sound, player=Player(FakeDevice(outputs=("interface", "speakers"))))
    assert d.window.preferences.output == "headphones"
    d.window.transport.toggle_play()
    assert "the output headphones is not connected; playing on the default one" in d.layout.status.label["text"]
    assert d.playback.is_playing


def test_without_a_sound_card_the_play_button_says_why(start, sound, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # importing it raises ImportError
    d = start(sound, player=Player())
    d.click(d.layout.play_button)
    d.wait_for_status("no sound: ")
