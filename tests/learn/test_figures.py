"""The pictures of stage 3: what they are drawn from, and that they are drawn."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from learning import SETTINGS, randomised
from PIL import Image

from neural_grain.learn.audit import AuditReport, AuditRow, summarise_audit
from neural_grain.learn.figures import (
    HISTORY_PANELS,
    SAMPLE_CONTROLS,
    draw_audit,
    draw_history,
    draw_sample,
    make_sample,
)
from neural_grain.learn.history import EpochScores, HeldOutScores


@pytest.fixture(scope="module")
def tile(breath) -> torch.Tensor:
    return torch.from_numpy(breath.arrays[0])


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_a_sample_shows_the_tile_unchanged_at_0_and_one_pattern_for_each_direction(tile):
    model = randomised()
    sample = make_sample(model, tile, SETTINGS)
    np.testing.assert_allclose(sample.moved[SAMPLE_CONTROLS.index(0)], tile, atol=1e-6)
    controls = torch.tensor([-1.0, 1.0])
    with torch.no_grad():
        patterns = SETTINGS.dynamic_range_db * model.pattern(tile.expand(2, -1, -1), controls).numpy()
    np.testing.assert_allclose(sample.texture_db, -patterns[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sample.smooth_db, patterns[1], rtol=1e-3, atol=1e-3)


def test_the_history_draws_columns_that_exist(tmp_path):
    columns = {field.name for field in fields(EpochScores)}
    assert all(name in columns for names in HISTORY_PANELS.values() for name in names)
    history = [EpochScores(epoch, *(epoch + i / 10 for i in range(12))) for epoch in (1, 2)]
    draw_history(tmp_path / "history.png", history, HeldOutScores(3.0, 4.0, 0.1))
    assert size(tmp_path / "history.png") == (1100, 700)


def test_a_sample_and_an_audit_are_drawn(tile, tmp_path):
    draw_sample(tmp_path / "sample.png", randomised(), tile, SETTINGS)
    assert size(tmp_path / "sample.png") == (1900, 650)
    rows = [AuditRow("a.wav", octaves, 0.9 * octaves, octaves < 3, 0.0) for octaves in (-3.0, 0.0, 3.0)]
    summary = summarise_audit(rows, held_out_violation=0.1, nearer_than_expander=0.1, n_files=60, spread_octaves=3.0)
    draw_audit(tmp_path / "audit.png", AuditReport(rows, summary, []))
    assert size(tmp_path / "audit.png") == (800, 700)
