"""Several sounds at once: dropped, chosen or made by the demo, stepped through, and rendered."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.data import demo
from neural_grain.window import file_commands
from neural_grain.window.desktop import accept_drops
from neural_grain.window.file_list import short_names

pytest_plugins = ["driving"]


@pytest.fixture
def takes(tmp_path) -> list[Path]:
    """Three short sounds in two folders."""
    paths = [tmp_path / "takes" / name for name in ("a.wav", "b.wav", "sub/c.wav")]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, drone(-40, 1.0, seed=seed), SR)
    return paths


def listed(d) -> list[str]:
    """Texts of the list; those in a folder have its name before them."""
    tree = d.layout.file_list.tree
    texts = []
    for item in tree.get_children():
        text, inside = tree.item(item, "text"), tree.get_children(item)
        texts += [f"{text}/{tree.item(each, 'text')}" for each in inside] if inside else [text]
    return texts


def test_names_are_relative_to_the_deepest_folder_that_all_share():
    assert short_names([Path("/x/y/a.wav"), Path("/x/y/z/b.wav")]) == ["a.wav", "z/b.wav"]
    assert short_names([Path("/x/a/a.wav"), Path("/x/b/a.wav")]) == ["a/a.wav", "b/a.wav"]
    assert short_names([Path("/x/a.wav")]) == ["a.wav"]
    assert short_names([]) == []


def test_a_dropped_folder_becomes_a_list_whose_first_sound_is_open(start, takes):
    d = start()
    assert accept_drops(d.window)
    source = subprocess.Popen([sys.executable, Path(__file__).with_name("drop_files.py"), takes[0].parent])
    d.wait_until(lambda: source.poll() is not None)
    assert source.returncode == 0
    d.wait_until(lambda: d.has_open(takes[0]))
    d.settle()
    assert listed(d) == ["a.wav", "b.wav", "sub/c.wav"]
    assert d.layout.file_list.frame.winfo_ismapped()
    assert d.parts_cut_off() == []


def test_a_click_and_the_keys_step_through_the_list(start, takes):
    d = start()
    d.answers["open"] = list(map(str, takes))
    d.root.focus_force()
    d.xdotool("key", "ctrl+o")
    d.wait_until(lambda: d.has_open(takes[0]))
    d.settle()
    tree = d.layout.file_list.tree
    x, y, width, height = tree.bbox("1")
    d.xdotool("mousemove", tree.winfo_rootx() + x + width // 2, tree.winfo_rooty() + y + height // 2, "click", 1)
    d.wait_until(lambda: d.has_open(takes[1]))
    d.settle()
    d.xdotool("key", "ctrl+Down")
    d.wait_until(lambda: d.has_open(takes[2]))
    d.settle()
    assert tree.selection() == ("2",)
    d.xdotool("key", "ctrl+Down")  # does nothing at the end
    d.settle()
    assert d.has_open(takes[2])
    d.xdotool("key", "ctrl+Up")
    d.wait_until(lambda: d.has_open(takes[1]))


def test_a_sound_that_is_not_left_stays_selected(start, takes):
    d = start()
    d.window.files.open_all(takes)
    d.wait_until(lambda: d.has_open(takes[0]))
    d.settle()
    d.window.settings.move_to(-1.0)
    d.settle()
    d.answers["should_save"] = None  # cancel
    d.layout.file_list.tree.selection_set("2")
    d.settle()
    assert d.has_open(takes[0])
    assert d.layout.file_list.tree.selection() == ("0",)


def test_the_list_is_rendered_with_its_tree_and_the_results_can_be_shown(start, takes, tmp_path):
    d = start()
    d.window.files.open_all([takes[0].parent])
    d.wait_until(lambda: d.has_open(takes[0]))
    d.settle()
    d.window.settings.move_to(-1.0)
    d.settle()
    d.answers["folder"] = str(tmp_path / "out")
    d.click(d.layout.file_list.render_button)
    d.wait_for_status("3 files rendered")
    outputs = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.wav"))
    assert outputs == ["a_grain-1.0.wav", "b_grain-1.0.wav", "sub/c_grain-1.0.wav"]
    d.window.files.show_results()
    assert d.folders == [tmp_path / "out"]


def test_closing_the_list_leaves_the_sound_open(start, takes):
    d = start()
    d.window.files.open_all(takes)
    d.wait_until(lambda: d.has_open(takes[0]))
    d.settle()
    d.click(d.layout.file_list.close_button)
    d.settle()
    assert not d.layout.file_list.frame.winfo_ismapped()
    assert d.has_open(takes[0])


def test_a_folder_without_audio_is_one_line(start, tmp_path):
    (tmp_path / "empty").mkdir()
    d = start()
    d.window.files.open_all([tmp_path / "empty"])
    assert d.session.is_error
    assert d.session.status.startswith("no audio files in ")


def test_the_result_is_saved_next_to_the_original_and_never_over_anything(start, takes):
    d = start(takes[0])
    d.window.settings.move_to(-1.0)
    d.settle()
    d.root.focus_force()
    for name in ("a_grain-1.0.wav", "a_grain-1.0 (2).wav"):
        d.xdotool("key", "ctrl+shift+s")
        d.wait_until(takes[0].with_name(name).exists)
        d.settle()
    assert d.window.files.results == takes[0].parent


def test_the_start_page_offers_three_choices_and_the_demo_opens_as_a_list(start, tmp_path, monkeypatch):
    d = start()
    page = d.layout.start_page
    assert page.frame.winfo_ismapped()
    assert not d.layout.workspace.winfo_ismapped()
    assert d.parts_cut_off() == []
    monkeypatch.setattr(file_commands, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setattr(demo, "DEMO", replace(demo.DEMO, files_per_folder=2))
    d.click(page.buttons["files.open_demo"])
    d.wait_until(lambda: d.session.opened is not None, timeout_s=120)
    d.settle()
    assert len(listed(d)) == len(list((tmp_path / "data" / "demo").rglob("*.flac"))) == 6
    assert d.layout.workspace.winfo_ismapped()
    assert not page.frame.winfo_ismapped()
    d.window.files.close_file()
    d.settle()
    assert page.frame.winfo_ismapped()
