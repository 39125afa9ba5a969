"""Scores of a training run: how they are compared and written."""

from __future__ import annotations

import csv

import pytest

from neural_grain.learn.history import EpochScores, HeldOutScores, share_nearer, write_history


@pytest.mark.parametrize(("before", "after", "expected"), [(10.0, 5.0, 0.5), (5.0, 5.0, 0.0), (10.0, 20.0, -1.0)])
def test_the_share_nearer_compares_distances(before, after, expected):
    assert share_nearer(HeldOutScores(before, 0.0), HeldOutScores(after, 0.0)) == pytest.approx(expected)


def test_the_csv_has_one_row_for_each_epoch(tmp_path):
    rows = [EpochScores(epoch, *(epoch + i / 10 for i in range(9))) for epoch in (1, 2)]
    write_history(tmp_path / "history.csv", rows)
    with (tmp_path / "history.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [EpochScores(int(row.pop("epoch")), *map(float, row.values())) for row in read] == rows
