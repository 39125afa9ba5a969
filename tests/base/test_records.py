"""JSON documents and their conversion to checked dataclasses."""

from __future__ import annotations

import ntpath
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cloudpickle
import pytest
from msgspec import Meta

from neural_grain.base.errors import PipelineError
from neural_grain.base.records import json_record, parse_record, read_json, relative_posix, write_json


@dataclass(frozen=True)
class Item:
    """A record with every kind of field that our documents have."""

    path: Path
    share: Annotated[float, Meta(gt=0, le=1)]
    count: Annotated[int, Meta(ge=0)]
    image: Path | None


GOOD = {"path": "a.wav", "share": 0.5, "count": 3, "image": None}


@pytest.mark.parametrize("name", [b"a.wav", b"no UTF-8 \xff\xfe.wav", "ünï 🎵 \n\u2028.wav".encode()])
def test_a_record_with_any_file_name_survives_a_round_trip(tmp_path, name):
    item = Item(tmp_path / os.fsdecode(name), 1.0, 0, tmp_path / "images" / "a.png")
    write_json(tmp_path / "x.json", {"version": 1, "items": [json_record(item, tmp_path)]})
    content = read_json(tmp_path / "x.json", 1, "a command")
    assert content["items"][0]["image"] == "images/a.png"
    assert parse_record(tuple[Item, ...], content["items"], "x.json: items", tmp_path) == (item,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 2}, "[1].share: expected float <= 1.0, got 2"),
        ({"share": 0.0}, "[1].share: expected float > 0.0, got 0.0"),
        ({"share": float("nan")}, "[1].share: expected float > 0.0, got nan"),
        ({"share": "x" * 1000}, "[1].share: expected float, got 'xxx"),
        ({"share": 10**400}, "[1].share: number out of range"),
        ({"count": 1.0}, "[1].count: expected int, got 1.0"),
        ({"count": True}, "[1].count: expected int, got True"),
        ({"count": None}, "[1].count: expected int, got null"),
        ({"path": 3}, "[1].path: expected str, got 3"),
        ({"path": "a\0b"}, "[1].path: expected a path that a file can have, got 'a\\x00b'"),
        ({"image": "\ud800"}, "[1].image: expected a path that a file can have, got '\\ud800'"),
        ({"\ud800": 1}, ": the name of a field is not valid Unicode"),
    ],
)
def test_an_error_names_the_file_the_place_and_the_value(changes, message):
    with pytest.raises(PipelineError) as caught:
        parse_record(tuple[Item, ...], [GOOD, {**GOOD, **changes}], "x.json: items")
    assert str(caught.value).startswith(f"x.json: items{message}")
    assert len(str(caught.value)) < 200


@dataclass(frozen=True)
class Box:
    """A record that holds others."""

    items: tuple[Item, ...]


@pytest.mark.parametrize("items", [[GOOD], [{**GOOD, "count": -1}]])
def test_a_class_can_be_sent_by_value_and_come_back_without_losing_its_required_fields(items):
    with suppress(PipelineError):
        parse_record(Box, {"items": items}, "x.json")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        assert cloudpickle.loads(cloudpickle.dumps(Box(()))) == Box(())  # as a result comes back from a cluster
        assert cloudpickle.loads(cloudpickle.dumps(Item)) is Item
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    with pytest.raises(PipelineError, match=r"x\.json\.items\[0\]: object missing required field share"):
        parse_record(Box, {"items": [{"path": "a.wav"}]}, "x.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, ": object missing required field path"),
        ([GOOD], ": expected object, got array"),
        (None, ": expected object, got null"),
        ({**GOOD, "count": {1, 2}}, ".count: expected int, got set"),
    ],
)
def test_a_value_of_another_shape_is_refused(value, message):
    with pytest.raises(PipelineError) as caught:
        parse_record(Item, value, "x.json: item")
    assert str(caught.value) == f"x.json: item{message}"


def test_an_error_inside_a_set_which_a_checkpoint_may_hold_is_described_too():
    with pytest.raises(PipelineError, match=r"x\.pt: edges\[0\]: expected int, got str"):
        parse_record(tuple[int, ...], {"a"}, "x.pt: edges")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5000])
def test_a_number_that_is_not_finite_or_absurdly_long_is_refused(tmp_path, number):
    (tmp_path / "x.json").write_text(f'{{"version": 1, "x": {number}}}')
    with pytest.raises(PipelineError, match=r"x\.json: not readable as JSON") as caught:
        read_json(tmp_path / "x.json", 1, "a command")
    assert len(str(caught.value)) < 300


def test_a_path_on_another_drive_of_windows_is_stored_as_it_is(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        patch.setattr(os, "sep", ntpath.sep)
        stored = [relative_posix(path, "D:\\models") for path in ("D:\\sounds\\a.wav", "E:\\sounds\\a.wav")]
    assert stored == ["../sounds/a.wav", "E:/sounds/a.wav"]
