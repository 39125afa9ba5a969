"""What the learn window says about folders, stages and times."""

from __future__ import annotations

from pathlib import Path

import pytest

from neural_grain.base.errors import PipelineError
from neural_grain.base.progress import LoopProgress, describe_time_left
from neural_grain.learn.settings import MAX_EPOCHS
from neural_grain.session.learn_state import (
    MAX_PATH_LENGTH,
    FolderCounts,
    StageLines,
    short_path,
)
from neural_grain.session.learning import STAGES, FolderCounted, Remark, StageProgress, StageStarted
from neural_grain.window.learn_commands import parse_epochs

A, B, INSIDE_A = Path("/sounds/a"), Path("/sounds/b"), Path("/sounds/a/inside")


def counted(**n_files: int) -> FolderCounts:
    """Chosen folders with so many files each."""
    counts = FolderCounts()
    for name, n in n_files.items():
        counts.add(Path("/sounds") / name)
        counts.handle(FolderCounted(Path("/sounds") / name, n))
    return counts


@pytest.mark.parametrize(
    ("n_files", "fault", "hint"),
    [
        (0, "no audio files", ""),
        (3, "only 3 files: a model needs at least 4", ""),
        (4, "", "Only 4 files"),
        (9, "", "Only 9 files"),
        (10, "", "10 files are enough to begin with"),
        (49, "", "49 files are enough to begin with"),
        (50, "", "50 files"),
    ],
)
def test_a_number_of_files_is_refused_warned_of_or_good(n_files, fault, hint):
    counts = counted(a=n_files)
    assert (fault in counts.fault()) if fault else not counts.fault()
    assert counts.hint().startswith(hint) if hint else not counts.hint()


def test_nothing_is_said_before_all_folders_are_counted():
    counts = counted(a=0)
    counts.add(B)
    assert counts.fault() == ""
    assert counts.hint() == "counting the files ..."
    assert [line.text for line in counts.lines()] == ["no audio files", "counting ..."]
    counts.handle(FolderCounted(B, 5))
    assert counts.hint().startswith("Only 5 files")


def test_a_folder_counts_once_and_so_do_the_files_of_one_inside_another():
    counts = counted(a=20)
    assert not counts.add(A)
    counts.add(INSIDE_A)
    counts.handle(FolderCounted(INSIDE_A, 8))
    assert counts.n_files == 20
    counts.remove(A)
    assert counts.n_files == 8


def test_a_folder_that_can_not_be_read_is_named():
    counts = counted(a=20)
    counts.add(B)
    counts.handle(FolderCounted(B, 0, f"{B}: no such file or folder"))
    assert counts.fault() == f"{B}: no such file or folder"
    assert [line.is_fault for line in counts.lines()] == [False, True]


def test_the_rows_follow_the_stages():
    lines = StageLines()
    lines.handle(StageStarted(0))
    assert [row.text for row in lines.rows] == ["starting ...", "", ""]
    lines.handle(StageProgress(0, LoopProgress("measuring", 3, 12, 45.0), 0.25))
    assert (lines.rows[0].text, lines.rows[0].share) == ("measuring: 3 of 12 files, about 40 s left", 0.25)
    lines.handle(Remark("x.wav: silent", is_warning=True))
    lines.handle(StageStarted(1))
    lines.handle(StageStarted(2))
    lines.handle(StageProgress(2, LoopProgress("training", 5, 100, 600.0), 0.03))
    assert [row.text for row in lines.rows] == ["done", "done", "training: 5 of 100 epochs, about 10 min left"]
    assert [row.share for row in lines.rows] == [1.0, 1.0, 0.03]
    assert lines.warnings == ["x.wav: silent"]
    assert lines.describe() == "learn and audit, training: 5 of 100 epochs, about 10 min left"
    lines.end()
    assert lines.rows[2].text == "training: 5 of 100 epochs"


def test_the_loops_of_each_stage_fill_its_bar():
    for stage in STAGES:
        starts, stops = [start for _, start, _ in stage.loops], [stop for _, _, stop in stage.loops]
        assert [0.0, *stops] == [*starts, 1.0]
        for doing, start, stop in stage.loops:
            assert stage.share_of(LoopProgress(doing, 1, 2, None)) == pytest.approx((start + stop) / 2)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "a few seconds left"),
        (9.9, "a few seconds left"),
        (14.0, "about 10 s left"),
        (89.0, "about 90 s left"),
        (90.0, "about 2 min left"),
        (3600.0, "about 60 min left"),
        (3 * 3600.0, "about 3 h 0 min left"),
        (100 * 60 + 59, "about 1 h 40 min left"),
    ],
)
def test_a_time_is_as_exact_as_an_estimate_can_be(seconds, words):
    assert describe_time_left(seconds) == words


def test_paths_are_shown_from_the_home_folder_and_without_their_middle(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert short_path(Path("/home/me/takes")) == str(Path("~/takes"))
    long = short_path(Path("/volumes") / ("x" * 100) / "takes")
    assert len(long) <= MAX_PATH_LENGTH + 1
    assert long.startswith("/volumes")
    assert long.endswith("takes")


@pytest.mark.parametrize("text", ["1", " 100 ", str(MAX_EPOCHS)])
def test_a_number_of_epochs_is_read(text):
    assert parse_epochs(text) == int(text)


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "many", str(MAX_EPOCHS + 1), "9" * 5000, "²"])
def test_other_epochs_are_refused_in_one_short_line(text):
    with pytest.raises(PipelineError, match="is not a whole number from 1") as caught:
        parse_epochs(text)
    assert len(str(caught.value)) < 200
