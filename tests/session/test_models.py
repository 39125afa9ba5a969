"""Models by name: which there are, what is known of them, and which names a new one can have."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import hidden_path
from neural_grain.learn.settings import AUDIT_NAME, AUDIT_VERSION
from neural_grain.session.models import (
    AUDIT_PICTURE,
    LOCAL_NAME,
    MAX_NAME_LENGTH,
    RECORD_NAME,
    NamedModel,
    begin_model,
    check_name,
    list_models,
    models_folder,
    read_model,
    write_record,
)


def finish(model: NamedModel) -> None:
    """Make a model look as if the stages had run."""
    model.output_folder.mkdir()
    model.path.write_bytes(b"weights")
    audit = {"version": AUDIT_VERSION, "summary": {"verdict": "good; very good"}, "rows": []}
    (model.output_folder / AUDIT_NAME).write_text(json.dumps(audit))


def test_models_are_listed_by_name_whatever_their_case(tmp_path):
    for name in ("beta", "Alpha", "gamma ray"):
        begin_model(tmp_path, name, [tmp_path / "sounds"], 7)
    assert [model.name for model in list_models(tmp_path)] == ["Alpha", "beta", "gamma ray"]


def test_a_model_says_what_it_learns_from_and_how_it_did(tmp_path):
    begun = begin_model(tmp_path / "models", "drones", [tmp_path / "a", tmp_path / "b"], 7)
    assert (begun.is_trained, begun.is_unfinished, begun.verdict) == (False, True, "")
    finish(begun)
    (model,) = list_models(tmp_path / "models")
    assert model.record.folders == (tmp_path / "a", tmp_path / "b")
    assert (model.record.epochs, model.is_trained, model.verdict) == (7, True, "good; very good")
    assert model.path == tmp_path / "models/drones/grain_processor_v2_output/final_grain_processor_v2.pt"
    assert model.audit_picture == model.path.with_name(AUDIT_PICTURE)


def test_the_model_of_the_folder_comes_first_and_can_not_be_continued(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    assert list_models(tmp_path / "models", here) == []
    finish(NamedModel("x", here))
    begin_model(tmp_path / "models", "a", [here], 1)
    local, named = list_models(tmp_path / "models", here)
    assert (local.name, local.is_trained, local.is_unfinished, local.record) == (LOCAL_NAME, True, False, None)
    assert named.name == "a"


def test_what_is_no_model_is_left_out_and_what_is_damaged_counts_as_missing(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    model = begin_model(tmp_path, "a", [tmp_path], 1)
    finish(model)
    for content in ("", "[]", '{"version": 99}', '{"version": 1, "learning": {"folders": 3}}'):
        (model.folder / "learning.json").write_text(content)
        (model.output_folder / AUDIT_NAME).write_text(content)
        (found,) = list_models(tmp_path)
        assert (found.record, found.verdict, found.is_trained, found.is_unfinished) == (None, "", True, False)
    assert list_models(tmp_path / "nowhere") == list_models(None) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "give the model a name"),
        ("  ", "give the model a name"),
        ("a/b", "can't have / in it"),
        ("a\\b", "can't have \\ in it"),
        ("what?", "can't have ? in it"),
        ("a:b", "can't have : in it"),
        ("..", "begins or ends with a full stop"),
        (".hidden", "begins or ends with a full stop"),
        ("end.", "begins or ends with a full stop"),
        ("con", "is reserved"),
        ("Lpt1.old", "is reserved"),
        (LOCAL_NAME, "is reserved"),
        ("a\nb", "can't be shown"),
        ("a\0b", "can't be shown"),
        ("\udcff", "can't be shown"),
        ("x" * (MAX_NAME_LENGTH + 1), f"at most {MAX_NAME_LENGTH}"),
    ],
)
def test_a_name_that_no_folder_can_have_everywhere_is_refused_in_one_line(tmp_path, name, message):
    with pytest.raises(PipelineError) as caught:
        begin_model(tmp_path, name, [tmp_path], 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["drones", " Nordic Söunds ", "v1.2", "日本", "x" * MAX_NAME_LENGTH, "𝄞" * MAX_NAME_LENGTH]
)
def test_other_names_are_taken_without_the_spaces_around_them(tmp_path, name):
    assert check_name(name) == name.strip()
    begin_model(tmp_path, name, [tmp_path], 1)
    assert (tmp_path / name.strip()).is_dir()


def test_a_name_is_taken_by_a_finished_model_and_by_any_other_folder(tmp_path):
    model = begin_model(tmp_path, "Drones", [tmp_path], 1)
    write_record(replace(model, record=replace(model.record, is_finished=True)))
    finish(model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/take.wav").write_bytes(b"")
    for name in ("Drones", "drones", "mine"):
        with pytest.raises(PipelineError, match="already a model named"):
            begin_model(tmp_path, name, [tmp_path], 1)
    assert (tmp_path / "mine/take.wav").exists()
    assert read_model("Drones", model.folder).record.is_finished


def test_the_name_of_an_unfinished_model_continues_it_with_other_folders(tmp_path):
    first = begin_model(tmp_path, "Drones", [tmp_path / "a"], 1)
    second = begin_model(tmp_path, "drones", [tmp_path / "b"], 2)
    assert second.folder == first.folder
    assert read_model("Drones", first.folder).record.folders == (tmp_path / "b",)


def test_a_model_that_was_killed_before_it_had_a_record_can_be_begun_again(tmp_path):
    hidden = [hidden_path(tmp_path / "a" / RECORD_NAME, kind) for kind in ("part", "lock")]
    (tmp_path / "a").mkdir()
    for path in hidden:
        path.touch()
    begin_model(tmp_path, "a", [tmp_path / "sounds"], 7)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {RECORD_NAME}


def test_folders_that_can_not_be_made_are_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match="can't make the folder of the model"):
        begin_model(tmp_path / "file/models", "a", [tmp_path], 1)
    with pytest.raises(PipelineError, match="home folder"):
        begin_model(None, "a", [tmp_path], 1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="a read-only folder does not stop root")
def test_a_read_only_folder_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PipelineError, match="Permission denied"):
        begin_model(tmp_path, "a", [tmp_path], 1)


def test_models_live_in_the_data_folder_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_folder().name == "models"
    assert models_folder().parent.name == "neural-grain-processor"
    assert Path(tmp_path) in models_folder().parents or os.name != "posix"
