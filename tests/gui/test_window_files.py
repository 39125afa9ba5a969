"""Opening, saving and closing files from the window, and what it reports when that fails."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

from measure_audio_grain import measure_file
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.settings import GrainSettings
from neural_grain.window.desktop import accept_drops
from neural_grain.window.dialogs import system_dialogs

pytest_plugins = ["driving"]


@pytest.mark.parametrize(("texture_db", "octaves", "within_reach"), [(-75, -1.5, True), (20, -3.0, False)])
def test_saving_needs_no_second_analysis_and_writes_what_the_command_writes(
    texture_db, octaves, within_reach, start, tmp_path, monkeypatch
):
    source, saved, other = (tmp_path / name for name in ("in.wav", "saved.wav", "other.wav"))
    sf.write(source, 0.3 * drone(texture_db), SR, "PCM_16")
    d = start(source)
    d.window.settings.move_to(octaves)
    d.settle()
    assert d.session.rendering.within_reach is within_reach
    d.answers["save"] = str(saved)
    with monkeypatch.context() as patch:
        patch.setattr("neural_grain.app.processor.analyse", None)
        d.click(d.layout.save_button)
        d.wait_for_status("saved ")
    processor = GrainProcessor()
    processor.render_file(source, other, RenderTarget(d.octaves))
    assert saved.read_bytes() == other.read_bytes()
    sf.write(source, drone(-40, seed=1), SR, "PCM_16")  # the analysis of the window is of the old content
    d.click(d.layout.save_button)
    d.settle()
    d.wait_until(lambda: d.session.status.startswith("saved ") and saved.read_bytes() != other.read_bytes())
    processor.render_file(source, other, RenderTarget(d.octaves), overwrite=True)
    assert saved.read_bytes() == other.read_bytes()


def test_saving_can_be_cancelled_and_leaves_no_file(start, sound, tmp_path, monkeypatch):
    may_render, render = threading.Event(), GainField.render
    d = start(sound)
    d.window.settings.move_to(-1.5)
    d.settle()
    monkeypatch.setattr(GainField, "render", lambda *args: may_render.wait(60) and render(*args))
    d.answers["save"] = str(tmp_path / "saved.wav")
    d.click(d.layout.save_button)
    d.wait_until(d.layout.status.cancel_button.winfo_ismapped)
    d.click(d.layout.status.cancel_button)
    d.wait_until(lambda: d.window.worker.is_cancelling)
    may_render.set()
    d.settle()
    assert d.session.status == "cancelled"
    assert [path.name for path in tmp_path.glob("*.wav")] == [sound.name]
    assert not list(tmp_path.glob(".*"))


def test_opening_can_be_cancelled(start, tmp_path):
    long = tmp_path / "long.wav"
    sf.write(long, np.tile(drone(-40), 60), SR, "PCM_16")
    d = start()
    d.window.open(long)
    d.wait_until(d.layout.status.cancel_button.winfo_ismapped)
    d.click(d.layout.status.cancel_button)
    d.settle()
    assert d.session.status == "cancelled"
    assert d.session.opened is None


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_picture_is_shown_while_the_sound_is_split(is_cancelled, start, sound, tmp_path, monkeypatch):
    other, may_continue = tmp_path / "other.wav", threading.Event()
    sf.write(other, drone(-40, 2), SR)
    d = start(sound)
    d.drag_slider(-1.0)
    d.settle()
    d.session.saved_target = d.window.target
    monkeypatch.setattr("neural_grain.app.processor.analyse", lambda *args: may_continue.wait(60) and analyse(*args))
    d.window.open(other)
    d.wait_until(lambda: "other.wav" in d.layout.file_label["text"] and d.panel.is_drawn)
    canvas = d.panel.before.canvas
    assert canvas.itemcget("picture", "image")
    assert d.panel.before.span == d.panel.after.span == (0.0, 2.0)
    assert "disabled" in d.layout.play_button.state()
    if is_cancelled:
        d.click(d.layout.status.cancel_button)
        d.wait_until(lambda: d.window.worker.is_cancelling)
    may_continue.set()
    d.settle()
    if is_cancelled:
        assert d.session.status == "cancelled"
        assert (d.session.opened, d.layout.file_label["text"]) == (None, " ")
        assert d.layout.start_page.frame.winfo_ismapped()
    else:
        assert d.has_open(other)
        assert d.octaves == 0


def test_an_instrument_is_saved_into_a_folder(start, sound, tmp_path):
    d = start(sound)
    d.answers["folder"] = str(tmp_path / "instrument")
    (tmp_path / "instrument").mkdir()
    d.window.files.ask_save_instrument()
    d.wait_for_status("7 files rendered")
    text = (tmp_path / "instrument" / f"{sound.stem}.dspreset").read_text()
    assert text.count("<sample ") == len(list((tmp_path / "instrument").glob("*.wav"))) == 7


def test_variations_and_a_batch_are_rendered_into_a_folder(start, sound, tmp_path):
    d = start(sound)
    (tmp_path / "bad.wav").write_text("no audio")
    d.answers.update(folder=str(tmp_path / "out"), many=[str(sound), str(tmp_path / "bad.wav")])
    d.window.files.ask_save_variations()
    d.settle()
    assert len(list((tmp_path / "out").glob("*.wav"))) == 7
    d.drag_slider(1.0)
    d.settle()
    d.window.files.ask_batch()
    d.settle()
    assert "1 file rendered, 1 failed: bad.wav: not readable" in d.session.status
    assert d.sheets[-1][0] == "Not rendered"


def test_a_batch_keeps_the_tree_and_a_second_one_renders_only_what_changed(start, sound, tmp_path):
    takes = [tmp_path / folder / "take.wav" for folder in ("a", "b/c")]
    for seed, take in enumerate(takes):
        take.parent.mkdir(parents=True)
        sf.write(take, drone(-40, 0.5, seed=seed), SR)
    before = [take.read_bytes() for take in takes]
    d = start(sound)
    d.answers.update(folder=str(tmp_path), many=list(map(str, takes)))
    for status in (
        f"2 files rendered in {tmp_path}",
        f"2 files rendered in {tmp_path}, 2 of them unchanged since an earlier run",
    ):
        d.window.files.ask_batch()
        d.settle()
        assert d.session.status == status
    outputs = [take.with_name("take_grain+0.0.wav") for take in takes]
    assert sorted(tmp_path.rglob("*_grain*.wav")) == sorted(outputs)
    assert [take.read_bytes() for take in takes] == before
    assert d.questions == []
    takes[0].rename(outputs[1])
    d.answers.update(many=[str(outputs[1])])
    d.window.files.ask_batch()
    assert "left out: 1 files that grain_renderings.jsonl lists as outputs" in d.layout.status.label["text"]


def test_a_batch_says_what_it_had_to_leave_behind(start, tmp_path):
    source = tmp_path / "a.aiff"
    sf.write(source, drone(-40, 0.5), SR)
    content = source.read_bytes() + b"APPL" + struct.pack(">I4s4x", 8, b"test")
    source.write_bytes(b"FORM" + struct.pack(">I", len(content) - 8) + content[8:])
    d = start()
    d.answers.update(folder=str(tmp_path / "out"), many=[str(source)])
    d.window.files.ask_batch()
    d.settle()
    assert d.sheets[-1] == ("Left behind", "a.aiff: left behind: application data")


@pytest.mark.parametrize("ask", ["ask_save_variations", "ask_batch"])
def test_files_of_the_user_are_replaced_only_on_request_and_inputs_never(ask, start, sound, tmp_path):
    mine = tmp_path / "out" / "a drone_grain+0.0.wav"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    d = start(sound)
    d.answers.update(folder=str(mine.parent), many=[str(sound)], confirm=False)
    getattr(d.window.files, ask)()
    d.settle()
    assert d.questions == [f"These files exist already. Replace them?\n\n{mine.name}"]
    assert [path.name for path in mine.parent.iterdir()] == [mine.name]
    assert mine.read_bytes() == b"mine"
    d.answers["confirm"] = True
    getattr(d.window.files, ask)()
    d.settle()
    assert sf.info(mine).frames == sf.info(sound).frames
    assert len(list(mine.parent.glob("*.wav"))) == (7 if ask == "ask_save_variations" else 1)
    for path in mine.parent.iterdir():
        path.unlink()
    os.link(sound, mine)
    getattr(d.window.files, ask)()
    assert "a drone_grain+0.0.wav: is the input itself, which is never overwritten" in d.layout.status.label["text"]
    assert sf.info(sound).subtype == "PCM_24"
    assert len(d.questions) == 2


@pytest.mark.parametrize("ask", ["ask_save_variations", "ask_batch", "ask_save"])
def test_quitting_asks_while_files_are_written(ask, start, sound, tmp_path, monkeypatch):
    is_rendering, may_render, render = threading.Event(), threading.Event(), GrainProcessor.render_file

    def slow_render(*args, **options):
        is_rendering.set()
        assert may_render.wait(60)
        return render(*args, **options)

    other = tmp_path / "other.wav"
    shutil.copy(sound, other)
    monkeypatch.setattr(GrainProcessor, "render_file", slow_render)
    d = start(sound)
    d.answers.update(
        folder=str(tmp_path / "out"), many=[str(sound), str(other)], save=str(tmp_path / "out/x.wav"), confirm=False
    )
    getattr(d.window.files, ask)()
    d.wait_until(is_rendering.is_set)
    d.xdotool("key", "ctrl+q")
    d.wait_until(lambda: d.questions)
    assert "still being written" in d.questions[0]
    assert not d.is_closed
    d.answers["confirm"] = True
    threading.Timer(0.3, may_render.set).start()  # while the window waits for the file that is being written
    d.window.close()
    assert d.is_closed
    assert not d.window.worker.is_alive
    assert len(list((tmp_path / "out").glob("*.wav"))) <= 1  # the file that was begun may be complete
    assert not list((tmp_path / "out").glob(".*"))
    assert len(d.questions) == 2


def test_errors_are_one_line_in_the_window(start, sound, tmp_path):
    d = start(sound)
    (tmp_path / "text.wav").write_text("no audio")
    sf.write(tmp_path / "silent.wav", np.zeros((SR, 2)), SR)
    for answer, button, message in (
        ({"open": str(tmp_path / "text.wav")}, d.layout.open_button, "text.wav: not readable as audio"),
        ({"open": str(tmp_path / "silent.wav")}, d.layout.open_button, "silent.wav: silent"),
        ({"save": str(sound)}, d.layout.save_button, "is the input itself, which is never overwritten"),
        ({"save": str(tmp_path / "x.xyz")}, d.layout.save_button, "can't write .xyz"),
    ):
        d.answers.update(answer)
        d.settle()
        d.click(button)
        d.wait_until(lambda message=message: message in d.layout.status.label["text"])
        assert "\n" not in d.layout.status.label["text"]
        assert d.has_open(sound)


def test_a_dropped_file_is_opened(start, sound, tmp_path):
    d = start(sound)
    assert accept_drops(d.window)
    dropped = tmp_path / "a {name} with a ] and звук.wav"
    shutil.copy(sound, dropped)
    source = subprocess.Popen([sys.executable, Path(__file__).with_name("drop_files.py"), dropped])
    d.wait_until(lambda: source.poll() is not None)
    assert source.returncode == 0
    d.wait_until(lambda: d.has_open(dropped))


def test_the_window_asks_once_about_unsaved_work(start, sound):
    d = start(sound)
    d.drag_slider(-1.0)
    d.settle()
    d.answers["should_save"] = None
    d.window.close()
    assert d.has_open(sound)
    d.answers["should_save"] = False
    d.window.close()
    assert not d.window.worker.is_alive


def test_the_window_asks_about_unsaved_work_before_it_opens_another_file(start, sound, tmp_path):
    d = start(sound)
    d.drag_slider(-1.0)
    d.settle()
    other = tmp_path / "other.wav"
    shutil.copy(sound, other)
    d.answers.update(open=str(other), should_save=None)
    d.click(d.layout.open_button)
    d.settle()
    assert d.has_open(sound)
    assert d.octaves == pytest.approx(-1.0, abs=0.2)
    d.answers.update(should_save=True, save="")  # the user wants to save, but then gives no name
    d.click(d.layout.open_button)
    d.settle()
    assert d.has_open(sound)
    d.answers["save"] = str(tmp_path / "kept.wav")
    d.click(d.layout.open_button)
    d.wait_until(lambda: d.has_open(other))
    assert sf.info(tmp_path / "kept.wav").frames == sf.info(sound).frames


def test_what_was_open_before_the_save_dialog_is_saved_whatever_is_opened_meanwhile(start, sound, tmp_path):
    d = start(sound)
    d.window.settings.move_to(-1.0)
    d.settle()
    other, saved = tmp_path / "other.wav", tmp_path / "saved.wav"
    sf.write(other, drone(-40, 2), SR)

    def save_name(*_: str) -> str:
        d.wait_until(lambda: d.has_open(other))
        return str(saved)

    d.window.open(other)
    d.window.dialogs = replace(d.dialogs, save_name=save_name)
    d.window.files.ask_save()
    d.wait_for_status("saved ")
    d.settle()
    grains = [measure_file(path, GrainSettings()).grain for path in (sound, saved)]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(-1.0, abs=0.02)
    assert sf.info(saved).frames == sf.info(sound).frames
    d.window.settings.move_to(-1.0)
    d.settle()
    assert d.has_open(other)
    assert d.session.is_unsaved(d.window.target)


def test_quitting_saves_first_and_is_given_up_if_that_fails(start, sound, tmp_path):
    d = start(sound)
    d.drag_slider(-1.0)
    d.settle()
    kept = tmp_path / "kept.wav"
    kept.mkdir()
    d.answers.update(should_save=True, save=str(kept))
    d.xdotool("key", "ctrl+q")
    d.wait_until(lambda: "kept.wav: is a folder" in d.layout.status.label["text"])
    kept.rmdir()
    d.click(d.layout.save_button)
    d.wait_for_status("saved ")
    d.settle()
    assert d.has_open(sound)
    d.drag_slider(-2.0)
    d.settle()
    octaves = d.octaves
    d.xdotool("key", "ctrl+q")
    d.wait_until(lambda: d.is_closed)
    assert not d.window.worker.is_alive
    grains = [measure_file(path, GrainSettings()).grain for path in (sound, kept)]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(octaves, abs=0.02)


def test_measuring_continues_while_a_dialog_of_the_system_is_open(start, sound):
    d = start(sound)
    d.window.dialogs = system_dialogs(d.root)
    d.drag_slider(-1.0)
    d.xdotool("key", "ctrl+q", "sleep", 1.0, "key", "Escape")  # the question comes before the measurement
    d.settle()
    assert d.has_open(sound)
    assert d.session.rendering.requested_octaves == d.octaves != 0
