"""The window as a user meets it: open, slide, type, keys, help, preferences, closing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, SR, drone

from measure_audio_grain import measure_file
from neural_grain.dsp.settings import GrainSettings
from neural_grain.session.actions import ACTIONS, shortcut_sheet
from neural_grain.session.preferences import Preferences, write_preferences
from neural_grain.window.curve_commands import CurveCommands
from neural_grain.window.dialogs import system_dialogs
from neural_grain.window.file_commands import FileCommands
from neural_grain.window.learn_commands import LearnCommands
from neural_grain.window.setting_commands import SettingCommands
from neural_grain.window.transport import Transport
from neural_grain.window.view_commands import ViewCommands
from neural_grain.window.window import GrainWindow

pytest_plugins = ["driving"]
OWNERS = {  # of the commands of actions
    "curve": CurveCommands,
    "files": FileCommands,
    "learn": LearnCommands,
    "settings": SettingCommands,
    "transport": Transport,
    "view": ViewCommands,
}


def test_open_slide_and_save_give_a_file_that_obeys_the_law(start, sound, tmp_path):
    d = start()
    saved = tmp_path / "saved.wav"
    assert "disabled" in d.layout.save_button.state()
    d.answers.update(open=str(sound), save=str(saved))
    d.click(d.layout.open_button)
    d.wait_until(lambda: d.session.rendering is not None)
    d.settle()
    assert d.layout.grain_label["text"].startswith("grain ")
    d.drag_slider(-1.5)
    d.settle()
    assert len(d.panel.after.canvas.find_withtag("mark")) == 1
    octaves = d.octaves
    assert -1.8 < octaves < -1.2
    assert d.session.rendering.requested_octaves == octaves
    assert d.entry.get() == f"{octaves:+.1f}"
    assert f"asked x{2**-octaves:#.3g}" in d.layout.grain_label["text"]
    d.click(d.layout.save_button)
    d.wait_for_status("saved ")
    grains = [measure_file(path, GrainSettings()).grain for path in (sound, saved)]
    assert math.log2(grains[0] / grains[1]) == pytest.approx(octaves, abs=0.02)
    assert sf.info(saved).subtype == "PCM_24"


def test_keys_move_the_slider_and_a_double_click_moves_it_to_zero(start, sound):
    d = start(sound)
    d.click(d.slider)
    d.xdotool("key", "Prior", "Right", "Right")
    d.settle()
    assert d.octaves == pytest.approx(1.2)
    assert d.session.rendering.achieved_octaves == pytest.approx(1.2, abs=0.02)
    d.xdotool("mousemove", *d.centre(d.slider), "click", "--repeat", 2, "--delay", 50, 1)
    d.settle()
    assert d.octaves == 0
    assert d.session.rendering.achieved_octaves == 0


def test_typed_values_move_the_slider_and_other_text_is_replaced(start, sound):
    d = start(sound)
    for typed, octaves in (("-1.3", -1.3), ("9", 3.0), ("much", 3.0), ("0,5", 0.5)):
        d.click(d.entry)
        d.xdotool("key", "ctrl+a")
        d.xdotool("type", "--", typed)
        d.xdotool("key", "Return")
        d.settle()
        assert d.octaves == pytest.approx(octaves)
        assert d.entry.get() == f"{octaves:+.1f}"


def test_plain_keys_are_text_while_a_value_is_typed(start, sound):
    d = start(sound)
    d.click(d.entry)
    d.xdotool("key", "b", "g", "l", "0", "space")
    d.receive_events()
    assert "bgl0 " in d.entry.get()
    assert d.playback.listening == "after"
    assert not any((d.playback.is_playing, d.panel.view != "after", d.panel.is_log))


def test_the_window_answers_while_it_works(start, tmp_path):
    long = tmp_path / "long.wav"
    sf.write(long, np.tile(drone(-40), 20), SR, "PCM_16")  # one minute
    d = start(long, wait=False)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        d.root.after(10, beat)

    d.wait_until(lambda: d.session.opened is not None, 120)
    beat()
    d.slider.focus_force()
    d.xdotool("mousemove", *d.centre(d.slider), "click", 1)
    d.xdotool("key", "Next", "Next")
    d.wait_until(lambda: d.session.rendering is not None and d.session.rendering.requested_octaves == -2, 120)
    assert beats > 20


def test_measuring_does_not_hide_an_error(start, sound, tmp_path):
    d = start(sound)
    d.answers["save"] = str(tmp_path / "x.xyz")
    d.click(d.slider)
    d.xdotool("key", "Right", "ctrl+s")  # fails before the slider has rested long enough to be measured
    d.wait_until(lambda: d.session.is_error)
    d.settle()
    assert d.session.rendering.requested_octaves == d.octaves != 0
    assert "can't write .xyz" in d.layout.status.label["text"]
    d.xdotool("key", "Right")
    d.settle()
    assert not d.session.is_error
    assert "can't write" not in d.layout.status.label["text"]


def test_every_action_of_the_table_has_a_method_and_every_key_a_line_in_the_sheet():
    sheet = shortcut_sheet("Control").split("\n")
    for action in ACTIONS:
        for name in filter(None, (action.command, action.release)):
            *part, method = name.split(".")
            owner = OWNERS[part[0]] if part else GrainWindow
            assert callable(getattr(owner, method))
        if action.key or action.gesture:
            assert f"{action.gesture or action.key_name('Control')}\t{action.help}" in sheet


def test_f1_opens_the_help_sheet_and_a_key_closes_it(start):
    d = start()
    d.window.dialogs = system_dialogs(d.root)
    d.root.focus_force()
    for key in ("Escape", "F1"):
        d.xdotool("key", "F1")
        d.wait_until(lambda: "sheet" in d.root.children and d.root.children["sheet"].winfo_viewable())
        d.settle()
        sheet = d.root.children["sheet"]
        assert "play, pause" in sheet.winfo_children()[0].get("1.0", "end")
        assert d.parts_cut_off(sheet) == []
        d.xdotool("key", key)
        d.wait_until(lambda: "sheet" not in d.root.children)
        d.root.focus_force()


def test_preferences_are_kept_and_a_damaged_file_of_them_is_no_error(start, sound, tmp_path):
    d = start(sound)
    d.window.view.set_colours("dark")
    d.settle()
    d.window.close()
    path = tmp_path / "preferences" / "window.json"
    content = json.loads(path.read_text())
    assert content["colours"] == "dark"
    assert content["recent"] == [str(sound)]
    path.write_text('{"colours": 7, "recent": [1, 2], "geometry": "999999x1", "volume": 1e9}')
    d = start(sound)
    assert d.window.preferences.colours == "system"


def test_without_a_model_the_window_works_and_says_that_nothing_was_learned(start, sound):
    d = start()
    assert d.layout.status.label["text"].startswith("nothing learned yet")
    d.window.view.show_model()
    assert "Learn from my sounds" in d.sheets[-1][1]
    d.window.open(sound)
    d.wait_until(lambda: d.session.rendering is not None)
    d.drag_slider(-1.0)
    d.settle()
    assert d.session.rendering.achieved_octaves == pytest.approx(d.octaves, abs=0.02)
    assert d.layout.status.label["text"].startswith("nothing learned yet")


def test_a_model_can_be_chosen_and_the_open_file_is_then_analysed_with_it(start, project, sound):
    d = start(sound)
    opened, d.answers["model"] = d.session.opened, str(project.model)
    d.window.files.ask_model()
    d.wait_until(lambda: d.session.opened is not opened and d.session.rendering is not None)
    d.settle()
    assert d.session.processor.loaded is not None
    assert "nothing learned" not in d.layout.status.label["text"]
    d.window.view.show_model()
    assert d.sheets[-1][1].startswith("trained on 12 files")
    d.drag_slider(-1.0)
    d.settle()
    assert d.session.rendering.achieved_octaves == pytest.approx(d.octaves, abs=0.05)


def test_a_damaged_model_is_reported_in_the_window(start, sound, tmp_path):
    (tmp_path / "cut.pt").write_bytes(b"PK")
    d = start(sound, model=tmp_path / "cut.pt", wait=False)
    d.wait_until(lambda: d.session.is_error)
    d.settle()
    assert "cut.pt" in d.layout.status.label["text"]
    assert "disabled" in d.layout.open_button.state()


def test_a_remembered_model_that_is_damaged_does_not_keep_the_window_from_working(start, sound, tmp_path):
    (tmp_path / "cut.pt").write_bytes(b"PK")
    write_preferences(tmp_path / "preferences/window.json", Preferences(model=str(tmp_path / "cut.pt")))
    d = start()
    assert d.session.processor.loaded is None
    assert "cut.pt" in d.layout.status.label["text"]
    assert d.layout.status.label["text"].endswith("the built-in pattern is used")
    d.window.open(sound)
    d.wait_until(lambda: d.has_open(sound))


def test_remembered_paths_that_the_system_refuses_to_look_at_do_not_keep_the_window_from_working(start, tmp_path):
    too_long = str(tmp_path / ("x" * 300))
    write_preferences(tmp_path / "preferences/window.json", Preferences(model=too_long, folder=too_long))
    d = start()
    assert d.session.processor.loaded is None
    assert d.window.files.folder == ""


def test_a_fault_while_a_message_is_handled_does_not_stop_the_window(start, sound, monkeypatch):
    d = start()
    with monkeypatch.context() as patch:
        patch.setattr(d.window.files, "handle", lambda message: 1 / 0)
        d.window.open(sound)
        while not d.errors:
            d.root.update()
    assert set(d.errors) == {"ZeroDivisionError('division by zero')"}
    d.errors.clear()
    d.wait_until(lambda: d.window.is_idle)
    d.window.open(sound)
    d.wait_until(lambda: d.has_open(sound) and d.session.rendering is not None)


def test_closing_while_the_worker_is_busy_ends_its_thread(start, sound):
    d = start(sound, wait=False)
    d.wait_until(lambda: d.session.n_tasks > 0)
    d.window.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "grain worker"]


def run_code(code: str, tmp_path) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, with preferences of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_garbage_collector_skips_the_objects_of_the_libraries(display, tmp_path):
    """Going through them takes 0.1 s, during which the window does not answer."""
    code = (
        "import gc, sys, time, tkinter; from pathlib import Path; from neural_grain.window.window import GrainWindow\n"
        "window = GrainWindow(tkinter.Tk(), None, 'cpu')\n"
        "while not window.is_idle:\n"
        "    window.root.update(), time.sleep(0.01)\n"
        "print('scipy.optimize' in sys.modules, gc.isenabled(), len(gc.get_objects()))\n"
        "window.close()"
    )
    done = run_code(code, tmp_path)
    assert done.stderr == ""
    has_scipy, is_enabled, n_objects = done.stdout.split()
    assert (has_scipy, is_enabled) == ("True", "True")
    assert int(n_objects) < 20_000


def test_ctrl_c_closes_the_window_even_inside_a_callback(display, tmp_path):
    code = (
        "import signal, neural_audio_processor as stage4; from neural_grain.window.window import GrainWindow\n"
        "from neural_grain.base.cli import exit_process\n"
        "GrainWindow._poll = lambda window: signal.raise_signal(signal.SIGINT)\n"
        "exit_process(stage4.main([]))"
    )
    done = run_code(code, tmp_path)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted; run the same command again\n")
