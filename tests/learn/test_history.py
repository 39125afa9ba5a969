"""Scores of a training run: how they are compared and written."""

from __future__ import annotations

import csv

import pytest

from neural_grain.learn.history import EpochScores, HeldOutScores, share_nearer, write_history


@pytest.mark.parametrize(
    ("one_gain", "trained", "expected"), [((6, 8), (3, 4), 0.5), ((3, 4), (4, 3), 0.0), ((6, 8), (12, 16), -1.0)]
)
def test_the_share_nearer_compares_the_roots_of_the_mean_squares(one_gain, trained, expected):
    before, after = (HeldOutScores(*distances, violation=0.0) for distances in (one_gain, trained))
    assert share_nearer(before, after) == pytest.approx(expected)


def test_the_csv_has_one_row_for_each_epoch(tmp_path):
    rows = [EpochScores(epoch, *(epoch + i / 10 for i in range(10))) for epoch in (1, 2)]
    write_history(tmp_path / "history.csv", rows)
    with (tmp_path / "history.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [EpochScores(int(row.pop("epoch")), *map(float, row.values())) for row in read] == rows
