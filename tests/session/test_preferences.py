"""Preferences survive a round trip, and whatever is wrong in their file takes its default, field by field."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from neural_grain.dsp.curve import MAX_POINTS
from neural_grain.session.preferences import (
    N_RECENT,
    Preferences,
    Preset,
    preferences_path,
    read_preferences,
    write_preferences,
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "folder" / "window.json"


def test_what_is_written_is_read(path):
    recent = ["/x/a.wav", "/x/not UTF-8 \udcff.wav"]
    presets = [Preset("swell", -1.25, ((0.0, -1.0), (2.0, 1.0)), shows_curve=True), Preset("dust", -2.0)]
    preferences = Preferences(
        folder="/x",
        model="/x/a.pt",
        geometry="900x600",
        volume=0.25,
        colours="dark",
        is_log=True,
        recent=recent,
        presets=presets,
        output="Kopfhörer (ALSA)",
    )
    write_preferences(path, preferences)
    assert read_preferences(path) == preferences


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", "[" * 100_000, '{"unknown": 1, "\\udcff": 2}'])
def test_a_missing_or_damaged_file_gives_the_defaults(path, text):
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    assert read_preferences(path) == Preferences()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("folder", 7),
        ("folder", "/x\0"),
        ("geometry", "999999x1"),
        ("geometry", "900x600\n"),
        ("volume", 1e9),
        ("volume", -0.1),
        ("volume", float("nan")),
        ("volume", True),
        ("colours", 7),
        ("is_log", "true"),
        ("recent", "/x/a.wav"),
        ("recent", [1, 2]),
        ("recent", ["/x\0"]),
        ("presets", [{"name": "", "octaves": 0.0}]),
        ("presets", [{"name": "too far", "octaves": 4.0}]),
        ("presets", [{"name": "falling", "octaves": 0.0, "points": [[2.0, 0.0], [1.0, 0.0]]}]),
        ("output", 1),
        ("output", "x" * 1000),
    ],
)
def test_a_field_of_the_wrong_type_or_out_of_range_takes_its_default_and_the_others_are_kept(path, name, value):
    content = vars(
        Preferences(folder="/x", geometry="900x600", volume=0.5, colours="dark", is_log=True, recent=["/x/a.wav"])
    )
    path.parent.mkdir()
    path.write_text(json.dumps(content | {name: value}))
    assert vars(read_preferences(path)) == content | {name: getattr(Preferences(), name)}


def test_a_damaged_item_of_a_list_does_not_take_the_others_with_it(path):
    presets = [{"name": "good", "octaves": 1.0}, {"name": "too far", "octaves": 4.0}, 7]
    path.parent.mkdir()
    path.write_text(json.dumps({"presets": presets, "recent": ["/x/a.wav", 3, *map(str, range(N_RECENT))]}))
    preferences = read_preferences(path)
    assert preferences.presets == [Preset("good", 1.0)]
    assert preferences.recent == ["/x/a.wav", *map(str, range(N_RECENT - 1))]


def test_a_preset_holds_every_curve_that_a_text_file_can_hold(path):
    preset = Preset("dense", 0.0, tuple((i / 1000, 1.0) for i in range(MAX_POINTS)))
    write_preferences(path, Preferences(presets=[preset]))
    assert read_preferences(path).presets == [preset]


def test_the_last_file_is_first_and_the_list_is_short():
    preferences = Preferences()
    for i in range(N_RECENT + 5):
        preferences.add_recent(Path(f"/x/{i}.wav"))
    preferences.add_recent(Path("/y/10.wav"))
    preferences.add_recent(Path("/x/10.wav"))
    assert preferences.folder == str(Path("/x"))
    assert preferences.recent[:3] == [str(Path(name)) for name in ("/x/10.wav", "/y/10.wav", "/x/14.wav")]
    assert len(preferences.recent) == len(set(preferences.recent)) == N_RECENT


def test_a_preset_takes_the_place_of_one_with_its_name_and_they_are_sorted():
    preferences = Preferences()
    for name, octaves in (("b", 1.0), ("A", 2.0), ("b", 3.0)):
        preferences.add_preset(Preset(name, octaves))
    assert [(preset.name, preset.octaves) for preset in preferences.presets] == [("A", 2.0), ("b", 3.0)]


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    write_preferences(tmp_path / "file" / "window.json", Preferences())


@pytest.mark.skipif(sys.platform != "linux", reason="the variable is read on Linux only")
def test_the_file_lies_in_the_configuration_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert preferences_path() == tmp_path / "neural-grain-processor" / "window.json"
