"""Scores of a training run: how they are averaged, compared and written."""

from __future__ import annotations

import csv
import math

import pytest

from neural_grain.learn.history import EpochScores, HeldOutScores, distance_in_db, share_nearer, write_history


@pytest.mark.parametrize(
    ("expander", "trained", "resemblance_weight", "expected"),
    [
        ((6, 8), (3, 4), 1.0, 0.5),
        ((6, 8), (6, 4), 1.0, 1 - 52**0.5 / 10),
        ((6, 8), (12, 8), 0.0, -1.0),
        ((6, math.nan), (3, math.nan), 1.0, 0.5),
        ((math.nan, 8), (math.nan, 2), 1.0, 0.75),
        ((6, 8), (3, math.nan), 1.0, math.nan),
        ((math.nan, math.nan), (math.nan, math.nan), 1.0, math.nan),
    ],
)
def test_the_share_nearer_weights_both_critics_and_leaves_out_a_critic_without_opinion(
    expander, trained, resemblance_weight, expected
):
    before, after = (HeldOutScores(distance=d, noise=n, violation=0.0) for n, d in (expander, trained))
    assert share_nearer(before, after, resemblance_weight) == pytest.approx(expected, nan_ok=True)


def test_a_distance_is_the_root_of_the_mean_square_of_the_known_values_in_db():
    assert distance_in_db([0.01, math.nan, 0.03], 100.0) == pytest.approx(100 * math.sqrt(0.02))
    assert math.isnan(distance_in_db([math.nan], 100.0))


def test_the_csv_has_one_row_for_each_epoch(tmp_path):
    rows = [EpochScores(epoch, *(epoch + i / 10 for i in range(12))) for epoch in (1, 2)]
    write_history(tmp_path / "history.csv", rows)
    with (tmp_path / "history.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [EpochScores(int(row.pop("epoch")), *map(float, row.values())) for row in read] == rows
