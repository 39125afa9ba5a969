"""Every shortcut works whatever has the focus, except while a value is typed."""

from __future__ import annotations

import tkinter as tk
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from tkinter import ttk

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice, drone

from neural_grain.session.actions import ACTIONS
from neural_grain.session.player import Player

pytest_plugins = ["driving"]


def widgets_of(widget: tk.Misc) -> list[tk.Misc]:
    """A widget and everything in it."""
    return [widget, *(each for child in widget.winfo_children() for each in widgets_of(child))]


def method_of(window: object, command: str) -> tuple[object, str]:
    """The part of the window that a command belongs to, and the name of its method."""
    *part, name = command.rsplit(".", 1)
    return (attrgetter(*part)(window) if part else window), name


@contextmanager
def counted_calls(d) -> Iterator[dict[str, int]]:
    """Count how often an action calls each method of the window, instead of calling it."""
    counts: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in {name for action in ACTIONS for name in (action.command, action.release) if name}:
            patch.setattr(
                *method_of(d.window, name), lambda *_, name=name: counts.update({name: counts.get(name, 0) + 1})
            )
        yield counts


def test_the_arrow_and_page_keys_work_after_a_file_is_opened_without_a_click(start, sound):
    d = start()
    d.root.focus_force()
    d.answers["open"] = str(sound)
    d.xdotool("key", "ctrl+o")
    d.wait_until(lambda: d.session.rendering is not None)
    d.xdotool("key", "Prior", "Right", "Right", "Left", "Prior", "Next")
    d.settle()
    assert d.octaves == pytest.approx(1.1)
    assert d.session.rendering.achieved_octaves == pytest.approx(1.1, abs=0.02)


def test_the_tab_key_accepts_a_typed_value_and_goes_on_to_the_next_widget(start, sound):
    d = start(sound)
    d.click(d.entry)
    d.xdotool("key", "ctrl+a")
    d.xdotool("type", "1.5")
    d.xdotool("key", "Tab")
    d.settle()
    assert d.octaves == 1.5
    assert d.root.focus_get() not in (d.entry, d.slider)


def test_every_key_does_its_action_once_whatever_has_the_focus(start, sound):
    d = start(sound)
    for octaves in (1.0, 2.0):
        d.window.settings.move_to(octaves)
        d.settle()
    d.window.settings.undo()  # so that both undo and redo are possible
    d.settle()
    d.layout.file_list.set_files([sound], [sound])
    d.click(d.layout.curve_button)
    d.wait_until(d.lane.canvas.winfo_viewable)
    d.settle()
    actions = [action for action in ACTIONS if action.key and not action.is_on_slider]
    keys = [action.key.replace("Mod-", "ctrl+").replace("Shift-", "shift+") for action in actions]

    def expected(widget: tk.Misc) -> Counter:
        works = (action for action in actions if action.works_in_lane or widget is not d.lane.canvas)
        return Counter(name for action in works for name in (action.command, action.release) if name)

    d.xdotool("mousemove", 1, 1)
    widgets = [each for each in (d.root, *widgets_of(d.layout.outer)) if each.winfo_viewable()]
    kinds = {widget.winfo_class() for widget in widgets}
    assert kinds >= {"TButton", "TScale", "Canvas", "TEntry", "TLabel", "TFrame"}
    # Widgets of a class and a style have the same bindings, so that one of them stands for all. Canvases differ.
    alike = {(each.winfo_class(), each if each.winfo_class() == "Canvas" else each.cget("style")): each
             for each in widgets if each not in (d.root, d.entry)}  # fmt: skip
    position, volume = d.octaves, d.window.preferences.volume
    with counted_calls(d) as counts:
        for widget in (d.root, *alike.values()):
            widget.focus_force()
            d.wait_until(lambda widget=widget: d.root.focus_get() is widget)
            counts.clear()
            d.xdotool("key", *keys)
            d.receive_events()
            assert counts == expected(widget), widget
    assert d.octaves == position  # the slider of ttk does nothing by itself
    assert d.window.preferences.volume == volume


def test_space_plays_once_while_the_play_button_has_the_focus(start, sound):
    d = start(sound, player=Player(FakeDevice()))
    for button in (d.layout.play_button, d.layout.save_button, d.layout.open_button):
        button.focus_force()
        d.xdotool("key", "space")
        d.wait_until(lambda: d.playback.is_playing)
        d.xdotool("key", "space")
        d.wait_until(lambda: not d.playback.is_playing)
        d.settle()
        assert not d.playback.is_playing


def test_in_the_field_letters_digits_arrows_and_space_are_text(start, sound):
    d = start(sound)
    d.click(d.entry)
    with counted_calls(d) as counts:
        d.xdotool("key", "ctrl+a", "1", "2", "Left", "0", "Home", "minus", "End", *"bgl", "space", "Right", "Prior")
        d.receive_events()
        assert d.entry.get() == "-102bgl "
        assert counts.keys() <= {
            "transport.release_compare"
        }  # which does nothing unless the key was pressed as a shortcut
        d.xdotool("key", "ctrl+s", "F1")
        d.receive_events()
        assert (counts["files.ask_save"], counts["view.show_help"]) == (1, 1)


@pytest.mark.parametrize("leave", ["click", "open", "return"])
def test_keys_are_shortcuts_again_when_typing_is_over(start, sound, tmp_path, leave):
    d = start(sound)
    other = tmp_path / "other.wav"
    sf.write(other, np.tile(drone(-30, 1.0), 2), SR)
    d.click(d.entry)
    d.xdotool("key", "ctrl+a")
    d.xdotool("type", "--", "1.5")
    if leave == "click":
        d.click(d.panel.readout)
    elif leave == "return":
        d.xdotool("key", "Return")
    else:
        d.answers["open"] = str(other)
        d.xdotool("key", "ctrl+o")
        d.wait_until(lambda: d.has_open(other))
    d.settle()
    position = d.octaves
    assert position == (0 if leave == "open" else 1.5)
    d.xdotool("key", "Left", "g")
    d.settle()
    assert d.octaves == pytest.approx(position - 0.1)
    assert d.panel.view == "layers"
    assert d.entry.get() == f"{position - 0.1:+.1f}"


def test_letters_are_shortcuts_with_caps_lock_too(start, sound):
    d = start(sound)
    d.root.focus_force()
    with counted_calls(d) as counts:
        d.xdotool("key", "Caps_Lock", "b", "g", "ctrl+s", "Caps_Lock")
        d.receive_events()
        assert counts == {
            "transport.press_compare": 1,
            "transport.release_compare": 1,
            "view.show_next": 1,
            "files.ask_save": 1,
        }


def test_the_buttons_of_a_dialog_keep_their_keys(start, sound):
    d = start(sound)
    dialog, pressed = tk.Toplevel(d.root), []
    button = ttk.Button(dialog, text="Cancel", command=lambda: pressed.append(1))
    button.pack()
    d.wait_until(button.winfo_viewable)
    button.focus_force()
    d.xdotool("mousemove", *d.centre(button))
    d.xdotool("key", "space", "g", "Right")
    d.wait_until(lambda: pressed)
    d.receive_events()
    assert pressed == [1]
    assert d.panel.view == "after"
    assert d.octaves == 0
    dialog.destroy()
