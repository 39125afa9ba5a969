"""Settings of one sound: two slots, undo and redo, presets, and a new sound."""

from __future__ import annotations

import pytest

from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.mix import Mix
from neural_grain.session.preferences import Preset, read_preferences
from neural_grain.session.setting import Setting, SettingHistory, Slots
from neural_grain.window.slider import SLIDER

pytest_plugins = ["driving"]
CURVE = GrainCurve.of([(0, -1), (2, 1)])


def test_the_other_slot_begins_with_the_same_setting_and_then_keeps_its_own():
    slots = Slots()
    assert slots.switch(Setting(1.0)) == Setting(1.0)
    assert slots.current == "B"
    assert slots.switch(Setting(-2.0)) == Setting(1.0)
    assert slots.switch(Setting(1.5)) == Setting(-2.0)


def test_history_goes_back_and_forth_and_a_new_setting_ends_what_was_undone():
    history = SettingHistory(Setting())
    for octaves in (1.0, 1.0, 2.0):
        history.record(Setting(octaves))
    assert [history.undo().octaves for _ in range(3)] == [1.0, 0.0, 0.0]
    assert not history.can_undo
    assert history.redo().octaves == 1.0
    history.record(Setting(-1.0))
    assert not history.can_redo
    assert history.undo().octaves == 1.0


def test_opening_the_lane_alone_is_no_step_of_the_history():
    history = SettingHistory(Setting(1.0))
    history.record(Setting(1.0, shows_curve=True))
    assert not history.can_undo
    history.record(Setting(1.0, CURVE.points, shows_curve=True))
    assert history.undo() == Setting(1.0, shows_curve=True)


@pytest.mark.parametrize("setting", [Setting(0.5, CURVE.points), Setting(0.5, (), True)])
def test_a_curve_counts_only_while_it_is_shown_and_has_points(setting):
    assert setting.target == RenderTarget(0.5)
    assert Setting(0.5, CURVE.points, shows_curve=True).target == RenderTarget(curve=CURVE)


def test_the_button_and_the_key_switch_between_two_positions(start, sound):
    d = start(sound)
    d.drag_slider(-1.5)
    d.settle()
    first = d.octaves
    assert d.layout.slot_button["text"] == "A"
    d.click(d.layout.slot_button)
    d.settle()
    assert (d.octaves, d.layout.slot_button["text"]) == (first, "B")
    d.drag_slider(1.0)
    d.settle()
    second = d.octaves
    d.root.focus_force()
    d.xdotool("key", "a")
    d.settle()
    assert (d.octaves, d.layout.slot_button["text"]) == (first, "A")
    assert d.session.rendering.requested_octaves == first
    d.xdotool("key", "a")
    d.settle()
    assert d.octaves == second


def test_a_slot_may_hold_a_curve(start, sound):
    d = start(sound)
    d.drag_slider(1.0)
    d.settle()
    position = d.octaves
    d.window.settings.switch_slot()
    d.window.settings.toggle_curve()
    d.window.lane.edit(lambda: d.lane.editor.replace(CURVE.points))
    d.settle()
    d.window.settings.switch_slot()
    d.settle()
    assert d.window.target == RenderTarget(position)
    assert not d.lane.canvas.winfo_ismapped()
    d.window.settings.switch_slot()
    d.settle()
    assert d.window.target.curve == CURVE
    assert d.lane.canvas.winfo_ismapped()


def test_a_new_sound_begins_with_empty_slots(start, sound):
    d = start(sound)
    d.drag_slider(-1.0)
    d.settle()
    d.window.settings.switch_slot()
    d.answers["should_save"] = False
    d.window.open(sound)
    d.wait_until(lambda: d.session.n_tasks == 0 and d.octaves == 0)
    d.settle()
    assert d.layout.slot_button["text"] == "A"
    d.window.settings.switch_slot()
    d.settle()
    assert d.octaves == 0


def test_keys_undo_and_redo_moves_of_the_slider_and_edits_of_the_curve(start, sound):
    d = start(sound)
    d.root.focus_force()
    d.drag_slider(-1.0)
    d.settle()
    d.drag_slider(1.5)
    d.settle()
    first, second = -1.0, d.octaves
    d.xdotool("key", "ctrl+z")
    d.settle()
    assert d.octaves == first
    assert d.session.rendering.requested_octaves == first
    d.xdotool("key", "ctrl+y")
    d.settle()
    assert d.octaves == second
    d.xdotool("key", "c")
    d.settle()
    d.window.lane.edit(lambda: d.lane.editor.replace(CURVE.points))
    d.settle()
    d.xdotool("key", "ctrl+z")
    d.settle()
    assert d.lane.editor.points == ()
    assert d.window.target == RenderTarget(second)
    d.xdotool("key", "ctrl+shift+z")
    d.settle()
    assert d.window.target.curve == CURVE


def test_a_drag_that_rests_on_its_way_is_one_step_for_undo(start, sound):
    d = start(sound)
    slider = d.layout.octave_slider.slider
    y = d.slider.winfo_rooty() + round(SLIDER.trough_y * d.layout.scale)
    x = [d.slider.winfo_rootx() + round(slider.x_of(octaves)) for octaves in (0, -1, -2)]
    d.xdotool("mousemove", x[0], y, "mousedown", 1, "mousemove", x[1], y)
    d.settle()  # it is measured there
    assert d.session.rendering.requested_octaves == d.octaves != 0
    d.xdotool("mousemove", x[2], y, "mouseup", 1)
    d.settle()
    assert d.octaves == pytest.approx(-2, abs=0.11)
    d.window.settings.undo()
    d.settle()
    assert d.octaves == 0


def test_undo_works_before_the_last_move_was_measured(start, sound):
    d = start(sound)
    d.window.settings.move_to(-1.0)
    d.window.settings.undo()
    d.settle()
    assert d.octaves == 0


def test_a_preset_keeps_slider_and_curve_across_sessions(start, sound):
    d = start(sound)
    d.window.settings.move_to(-1.25)
    d.window.settings.toggle_curve()
    d.window.lane.edit(lambda: d.lane.editor.replace(CURVE.points))
    d.settle()
    d.answers["text"] = "swell"
    d.window.settings.ask_preset_name()
    preferences = read_preferences(d.window._preferences_file)
    assert [preset.name for preset in preferences.presets] == ["swell"]
    d.window.settings.undo()
    d.settle()
    assert d.window.target.curve is None
    d.choose_from("Presets", "swell")
    d.settle()
    assert d.window.target.curve == CURVE
    assert d.octaves == -1.25
    d.choose_from("Presets", "Remove swell")
    assert read_preferences(d.window._preferences_file).presets == []


def test_a_preset_is_one_step_for_undo_and_redo(start, sound):
    d = start(sound)
    settings = d.window.settings
    d.drag_slider(-1.0)
    d.settle()
    first = settings.current
    d.window.preferences.add_preset(Preset("swell", 1.5, CURVE.points, True, 0.5, -3.0))
    d.choose_from("Presets", "swell")
    d.settle()
    second = settings.current
    assert second == Setting(1.5, CURVE.points, True, Mix(0.5, -3.0))
    settings.undo()
    d.settle()
    assert settings.current == first
    settings.redo()
    d.settle()
    assert settings.current == second


def test_a_failure_does_not_make_the_window_forget_the_model_that_was_chosen_after_it(start, project, sound):
    d = start(sound)
    d.answers["save"] = str(sound.with_name("x.xyz"))
    d.window.settings.move_to(-1.0)
    d.window.files.ask_save()
    d.window.settings.use_model(project.model)
    d.settle()
    assert d.session.model_path == d.window.settings.model == project.model
    assert d.window.settings.history.current.model == project.model


def test_two_slots_compare_two_models_at_the_same_measured_grain(start, project, sound):
    d = start(sound, model=project.model)
    d.window.settings.move_to(-1.5)
    d.settle()
    of_model = d.session.rendering
    d.window.settings.switch_slot()
    d.window.settings.use_model(None)
    d.settle()
    of_pattern = d.session.rendering
    assert d.session.processor.loaded is None
    assert of_pattern.grain_after == pytest.approx(of_model.grain_after, rel=0.03)
    d.window.settings.switch_slot()
    d.settle()
    assert d.session.model_path == project.model
    assert d.session.rendering.grain_after == pytest.approx(of_model.grain_after, rel=1e-6)
    d.window.settings.undo()
    d.settle()
    assert d.session.model_path is None
