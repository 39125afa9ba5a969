"""Two settings of one sound: positions and curves, and a new sound."""

from __future__ import annotations

from neural_grain.app.slots import Slots
from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.curve import GrainCurve

pytest_plugins = ["driving"]
CURVE = GrainCurve.of([(0, -1), (2, 1)])


def test_the_other_slot_begins_with_the_same_setting_and_then_keeps_its_own():
    slots = Slots()
    assert slots.switch(RenderTarget(1.0)) == RenderTarget(1.0)
    assert slots.current == "B"
    assert slots.switch(RenderTarget(-2.0)) == RenderTarget(1.0)
    assert slots.switch(RenderTarget(1.5)) == RenderTarget(-2.0)


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
    d.window.switch_slot()
    d.window.toggle_curve()
    d.window.lane.edit(lambda: d.lane.editor.replace(CURVE.points))
    d.settle()
    d.window.switch_slot()
    d.settle()
    assert d.window.target == RenderTarget(position)
    assert not d.lane.canvas.winfo_ismapped()
    d.window.switch_slot()
    d.settle()
    assert d.window.target.curve == CURVE
    assert d.lane.canvas.winfo_ismapped()


def test_a_new_sound_begins_with_empty_slots(start, sound):
    d = start(sound)
    d.drag_slider(-1.0)
    d.settle()
    d.window.switch_slot()
    d.answers["should_save"] = False
    d.window.open(sound)
    d.wait_until(lambda: d.session.n_tasks == 0 and d.octaves == 0)
    d.settle()
    assert d.layout.slot_button["text"] == "A"
    d.window.switch_slot()
    d.settle()
    assert d.octaves == 0
