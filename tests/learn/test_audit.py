"""The audit of a trained model: what is measured, how it is summarised, and what the verdict says."""

from __future__ import annotations

import json
import math

import pytest
import soundfile as sf
from conftest import SR, drone, noise, sine
from learning import SETTINGS

from neural_grain.audio.sound import open_sound, sound_from_array
from neural_grain.data.tiles import Source, TrainingPairs
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.learn import audit
from neural_grain.learn.audit import AuditRow, audit_file, audit_model, describe_library, summarise_audit, tones_moved
from neural_grain.learn.checkpoint import model_of
from neural_grain.learn.model_file import load_model


def test_the_slider_is_accurate_and_monotone_on_files_that_were_not_learned_from(project):
    content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
    assert content["summary"]["files_monotone"] == content["summary"]["files"] == 3
    assert content["summary"]["files_true"] == 3
    assert [row["requested_octaves"] for row in content["rows"]] == [-3, -2, -1, 0, 1, 2, 3] * 3
    for row in content["rows"]:
        if row["requested_octaves"] == 0:
            assert row["achieved_octaves"] == 0
        elif row["within_reach"]:
            assert row["achieved_octaves"] == pytest.approx(row["requested_octaves"], abs=0.02)


def test_what_was_achieved_is_measured_on_the_rendered_sound_with_the_function_of_stage_1(project, monkeypatch):
    loaded, renderings = load_model(project.model), []
    move = audit.move_grain
    monkeypatch.setattr(
        audit, "move_grain", lambda *args, **options: renderings.append(move(*args, **options)) or renderings[-1]
    )
    path = project.folder / "Drone/Static/sound 06.wav"
    rows = audit_file(path, "name", model_of(loaded), loaded.settings)
    before = measure_grain(open_sound(path), loaded.settings.grain)
    for row, rendering in zip(rows, renderings, strict=True):
        after = measure_grain(rendering.sound, loaded.settings.grain)
        assert row.achieved_octaves == pytest.approx(math.log2(before / after), abs=1e-4)


NO_BETTER = "what is generated is no nearer to this library's texture than without a model: add recordings"
ALREADY = "because most of these files are already about as smooth or as grainy as possible"


@pytest.mark.parametrize(
    ("rows", "nearer", "verdict"),
    [
        ([("a", 1, 1.01), ("a", -1, -0.98), ("b", 2, 2.0)], 0.12,
         "the slider is accurate to 0.05 octaves on 2 of 2 files; "
         "where a sound has no texture of its own, what is generated is 12% nearer to this library's texture than without a "
         "model"),
        ([("a", 1, 1.01), ("a", -1, -0.8), ("b", 2, 2.0)], 0.02,
         "the slider is accurate to 0.05 octaves on 1 of 2 files; the largest error is 0.200 octaves, see audit.png; "
         "where a sound has no texture of its own, what is generated is 2% nearer to this library's texture than without a "
         "model"),
        ([("a", 1, 1.0), ("a", 2, None), ("a", 3, None), ("b", 0, 0.0), ("b", 1, None)], -0.01,
         "the slider is accurate to 0.05 octaves on 1 of 1 files; "
         f"only 25% of the positions are within reach, {ALREADY}; "
         "what is generated is no nearer to this library's texture than without a model: add recordings"),
        ([("a", 0, 0.0), ("a", 1, None)], 0.0,
         "no held-out file could be moved to a requested position; "
         f"only 0% of the positions are within reach, {ALREADY}; {NO_BETTER}"),
        ([], 0.0, f"no held-out file could be audited; {NO_BETTER}"),
    ],
)  # fmt: skip
def test_the_verdict_says_whether_the_model_is_good(rows, nearer, verdict):
    rows = [
        AuditRow(name, requested, 0.3 if achieved is None else achieved, achieved is not None, 0.0, True, None)
        for name, requested, achieved in rows
    ]
    summary = summarise_audit(
        rows, held_out_violation=0.02, nearer_than_one_gain=nearer, n_files=100, spread_octaves=6.0
    )
    assert summary.verdict == verdict
    assert (summary.within_reach_share is None) == (summary.level_change_max_db is None) == (not rows)
    has_errors = any(row.within_reach and row.requested_octaves for row in rows)
    assert (summary.error_median_octaves is None) == (summary.error_95th_octaves is None) == (not has_errors)


def test_the_verdict_names_what_is_wrong_with_a_library():
    summary = summarise_audit(
        [AuditRow("a", 1.0, 1.0, True, 0.0, True, 0.2)],
        held_out_violation=0.1,
        nearer_than_one_gain=0.1,
        n_files=12,
        spread_octaves=0.5,
    )
    assert "the library is small (12 files): 50 or more teach a better pattern" in summary.verdict
    assert "hardly differ in grain (0.50 octaves): add smoother and grainier sounds" in summary.verdict
    assert "the tones stay: where texture alone moves, they move against each other by 0.2 dB" in summary.verdict


def test_a_library_of_50_files_is_not_small():
    assert describe_library(50, 6.0) == []
    assert len(describe_library(49, 6.0)) == 1


def test_the_change_of_tones_is_that_of_their_levels_against_each_other():
    y = sum(sine(hz, 2.0, level=0.1) for hz in (440, 1100, 2750, 6900)) + noise(2.0, level=1e-5)
    analysis = analyse(sound_from_array(y, SR), SETTINGS)
    louder_treble = y + sine(6900, 2.0, level=0.1 * (10 ** (6 / 20) - 1))
    assert tones_moved(analysis, sound_from_array(0.5 * y, SR)) == pytest.approx(0, abs=1e-3)
    assert tones_moved(analysis, sound_from_array(louder_treble, SR)) == pytest.approx(6, abs=0.1)
    hiss = noise(2.0)
    assert tones_moved(analyse(sound_from_array(hiss, SR), SETTINGS), sound_from_array(hiss, SR)) is None


def test_files_of_one_name_in_two_folders_are_two_files(project, tmp_path):
    sources = []
    for i, texture_db in enumerate(range(-75, -35, 5)):
        path = tmp_path / f"Drone/{i}/take.wav"
        path.parent.mkdir(parents=True)
        sf.write(path, drone(texture_db, 1.0), SR, "PCM_16")
        sources.append(Source(path, 2.0**-i, 1, 1))
    loaded = load_model(project.model)
    pairs = TrainingPairs(loaded.settings, tuple(sources))
    report = audit_model(
        pairs, model_of(loaded), held_out_violation=0.02, nearer_than_one_gain=0.1, seed=0, folder=tmp_path
    )
    assert report.failures == []
    assert report.summary.files == 2
    assert [row.requested_octaves for row in report.rows] == 2 * [-3, -2, -1, 0, 1, 2, 3]
    assert len({row.file for row in report.rows}) == 2
    assert all((tmp_path / row.file).is_file() for row in report.rows)
