"""Progress as lines, which the program that runs a command can tell from everything else on stderr."""

from __future__ import annotations

import pytest

from neural_grain.base import progress
from neural_grain.base.progress import LoopProgress, progress_lines, read_progress


def printed(capsys) -> list[LoopProgress]:
    return [read_progress(line) for line in capsys.readouterr().err.splitlines()]


def test_the_first_and_the_last_step_are_printed_and_all_items_pass(capsys):
    assert list(progress_lines("measuring")("abc", 3)) == ["a", "b", "c"]
    first, *_, last = printed(capsys)
    assert first == LoopProgress("measuring", 0, 3, None)
    assert last == LoopProgress("measuring", 3, 3, 0.0)


def test_a_step_is_printed_only_after_its_work_is_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    for n, _ in enumerate(progress_lines("training")(range(5), 5)):
        assert printed(capsys)[-1].done == n


def test_steps_that_follow_each_other_fast_share_a_line(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_S", 1e9)
    list(progress_lines("measuring")(range(10_000), 10_000))
    assert [each.done for each in printed(capsys)] == [0, 10_000]


def test_an_empty_loop_prints_nothing(capsys):
    assert list(progress_lines("measuring")([], 0)) == []
    assert printed(capsys) == []


def test_the_time_left_is_that_of_the_steps_before(capsys, monkeypatch):
    clock = iter([10.0, 12.0, 14.0])  # at the start and after each step
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    loop = progress_lines("auditing")(range(4), 4)
    for _ in range(3):
        next(loop)
    assert [each.left_s for each in printed(capsys)] == [None, 6.0, 4.0]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "warning: x.wav: silent",
        "progress: half",
        "progress: []",
        'progress: {"doing": "measuring"}',
        'progress: {"doing": "measuring", "done": "all", "total": 3, "left_s": null}',
        "progress: " + "[" * 100_000,
    ],
)
def test_other_lines_are_no_progress(line):
    assert read_progress(line) is None


@pytest.mark.parametrize(("done", "total", "share"), [(0, 4, 0.0), (1, 4, 0.25), (4, 4, 1.0), (9, 4, 1.0), (0, 0, 1.0)])
def test_the_share_is_within_0_and_1(done, total, share):
    assert LoopProgress("measuring", done, total, None).share == share
