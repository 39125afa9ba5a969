"""The pictures of stage 3: what they are drawn from, and that they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR
from learning import BREATH_BAND, N_CELLS, SETTINGS, breathy_tiles, randomised
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: saved.append(figure) or save_figure(figure, path))
    return saved


def curves(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of the lines that have a name, by name."""
    lines = (line for line in axes.lines if not line.get_label().startswith("_"))
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in lines}


@pytest.mark.parametrize(("n_epochs", "marker"), [(2, "."), (3, "")])
def test_the_history_draws_the_scores_of_every_epoch_and_those_without_a_model(tmp_path, drawn, n_epochs, marker):
    epochs = range(1, n_epochs + 1)
    history = [EpochScores(epoch, *(epoch + i / 10 for i in range(9))) for epoch in epochs]
    draw_history(tmp_path / "history.png", history, HeldOutScores(3.0, 0.1))
    assert size(tmp_path / "history.png") == (1100, 700)
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert panels.keys() == HISTORY_PANELS.keys()
    for title, columns in HISTORY_PANELS.items():
        found = curves(panels[title])
        expected = {name.replace("_", " "): [(row.epoch, getattr(row, name)) for row in history] for name in columns}
        if "distance" in title:
            expected["held out, without a model"] = [(0, 3.0), (1, 3.0)]
        assert found == expected or len(columns) == 1
        assert list(zip(*panels[title].lines[0].get_data(), strict=True)) == expected[columns[0].replace("_", " ")]
        assert panels[title].lines[0].get_marker() == marker
        assert (panels[title].get_legend() is not None) == (len(columns) > 1)
        assert panels[title].get_ylim()[0] == 0


def test_a_sample_shows_its_levels_in_time_and_bands(tmp_path, drawn):
    model, tiles = randomised(), breathy_tiles(4)
    draw_sample(tmp_path / "sample.png", model, tiles, SETTINGS)
    assert size(tmp_path / "sample.png") == (1900, 650)
    panels = {axes.get_label(): axes for axes in drawn[0].axes}
    sample = make_sample(model, tiles, int(tiles.texture.mean((1, 2)).argsort()[2]))
    names = ["tones", "-3", "-1.5", "+0", "+1.5", "+3"]
    for name, level_db in zip(names, (sample.tones, *sample.texture), strict=True):
        image = panels[name].images[0]
        assert image.get_extent() == pytest.approx([0, N_CELLS * 32 * 512 / SR, 0, 128])
        assert (image.get_clim(), image.origin) == ((-100, 0), "lower")
        np.testing.assert_array_equal(image.get_array(), level_db)
        assert panels[name].get_title() == ("tones, which stay" if name == "tones" else f"texture at {name}")
    bands = np.arange(128) + 0.5
    for name, levels in {
        "levels": (sample.tones, *sample.texture),
        "pattern": (sample.pattern, sample.generated),
    }.items():
        for line, level_db in zip(panels[name].lines, levels, strict=True):
            np.testing.assert_allclose(line.get_data(), (bands, level_db.mean(axis=1)))
    assert list(curves(panels["levels"])) == ["tones", *(f"texture at {name}" for name in names[1:])]


def test_an_audit_is_a_line_for_each_file_with_circles_beyond_its_reach(tmp_path, drawn):
    rows = [
        AuditRow(f"{name}.wav", octaves, share * octaves, octaves < reach, 0.0, True, 0.1)
        for name, share, reach in (("b", 0.5, 3), ("a", 1.0, 5))
        for octaves in (-3.0, 0.0, 3.0)
    ]
    summary = summarise_audit(rows, held_out_violation=0.1, nearer_than_one_gain=0.1, n_files=60, spread_octaves=3.0)
    draw_audit(tmp_path / "audit.png", AuditReport(rows, summary, []))
    assert size(tmp_path / "audit.png") == (800, 700)
    (axes,) = drawn[0].axes
    law, *files = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert law == [(-3, -3), (3, 3)]
    of_a, of_b = [(-3, -3), (0, 0), (3, 3)], [(-3, -1.5), (0, 0), (3, 1.5)]
    assert files == [of_a, [], of_b, of_b[2:], []]
    assert axes.get_title() == "\n".join(summary.verdict.split("; "))
