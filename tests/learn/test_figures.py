"""The pictures of stage 3: what they are drawn from, and that they are drawn."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from conftest import SR
from learning import BREATH_BAND, N_CELLS, SETTINGS, breathy_tiles, randomised
from PIL import Image

from neural_grain.data.pictures import save_figure
from neural_grain.dsp.settings import NEPER_PER_DB
from neural_grain.learn import figures
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


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_a_sample_shows_the_texture_unchanged_at_0_and_what_would_be_generated():
    model, tiles = randomised(), breathy_tiles(4)
    sample = make_sample(model, tiles, 2)
    np.testing.assert_allclose(NEPER_PER_DB * sample.tones, tiles.tones[2], rtol=1e-5)
    np.testing.assert_allclose(NEPER_PER_DB * sample.texture[SAMPLE_CONTROLS.index(0)], tiles.texture[2], rtol=1e-5)
    levels = sample.texture.mean(axis=(1, 2))
    assert np.all(np.diff(levels) < 0)  # from more texture to smoother
    np.testing.assert_allclose(
        sample.pattern[BREATH_BAND:], sample.texture[SAMPLE_CONTROLS.index(0), BREATH_BAND:], rtol=1e-4
    )
    assert np.abs(sample.generated - sample.pattern).max() > 1


def test_the_history_draws_columns_that_exist(tmp_path):
    columns = {field.name for field in fields(EpochScores)}
    assert all(name in columns for names in HISTORY_PANELS.values() for name in names)
    history = [EpochScores(epoch, *(epoch + i / 10 for i in range(9))) for epoch in (1, 2)]
    draw_history(tmp_path / "history.png", history, HeldOutScores(3.0, 0.1))
    assert size(tmp_path / "history.png") == (1100, 700)


def test_a_sample_and_an_audit_are_drawn(tmp_path, monkeypatch):
    drawn, model, tiles = [], randomised(), breathy_tiles(4)
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure) or save_figure(figure, path))
    draw_sample(tmp_path / "sample.png", model, tiles, SETTINGS)
    panels = {axes.get_label(): axes for axes in drawn[0].axes}
    sample = make_sample(model, tiles, int(tiles.texture.mean((1, 2)).argsort()[2]))
    for name, level_db in {"tones": sample.tones, "-3": sample.texture[0], "+3": sample.texture[-1]}.items():
        image = panels[name].images[0]
        assert image.get_extent() == pytest.approx([0, N_CELLS * 32 * 512 / SR, 0, 128])
        assert (image.get_clim(), image.origin) == ((-100, 0), "lower")
        np.testing.assert_array_equal(image.get_array(), level_db)
    lines = [line.get_ydata() for line in panels["levels"].lines]
    np.testing.assert_allclose(lines, [each.mean(axis=1) for each in (sample.tones, *sample.texture)])
    assert size(tmp_path / "sample.png") == (1900, 650)
    rows = [AuditRow("a.wav", octaves, 0.9 * octaves, octaves < 3, 0.0, True, 0.1) for octaves in (-3.0, 0.0, 3.0)]
    summary = summarise_audit(rows, held_out_violation=0.1, nearer_than_one_gain=0.1, n_files=60, spread_octaves=3.0)
    draw_audit(tmp_path / "audit.png", AuditReport(rows, summary, []))
    assert size(tmp_path / "audit.png") == (800, 700)
