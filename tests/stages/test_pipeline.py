"""The four commands one after the other with their defaults: from recordings to audio with the requested grain."""

from __future__ import annotations

import json
import math

import pytest
from benchmarks import law
from conftest import call

from measure_audio_grain import measure_file
from neural_grain.dsp.settings import GrainSettings


def test_the_defaults_lead_from_recordings_to_audio_with_the_requested_grain(project, tmp_path):
    for ran in project.ran:
        assert ran.status == 0, ran.err
    source = project.folder / "Drone/Evolving/sound 04.wav"
    for octaves in (-2, -1, 1):
        output = tmp_path / f"{octaves}.wav"
        args = (source, "--grain", octaves, "-o", output, "--model", project.model)
        ran = call("neural_audio_processor.py", *args, cwd=project.folder)
        assert ran.status == 0, ran.err
        before, after = (measure_file(path, GrainSettings()).grain for path in (source, output))
        assert math.log2(before / after) == pytest.approx(octaves, abs=0.02)


def test_json_files_have_a_version_and_hold_only_relative_paths_and_finite_numbers(project):
    for name, version in (("metadata.json", 1), ("training_pairs.json", 2)):
        text = (project.folder / name).read_text()
        assert str(project.folder) not in text
        assert "NaN" not in text
        assert text.startswith(f'{{\n  "version": {version},\n  "settings"')
        json.loads(text)


def test_only_the_documented_files_are_written(project):
    written = {"metadata.json", "spectrograms", "training_pairs.json", "grain_processor_v2_output"}
    assert {path.name for path in project.folder.iterdir()} == {"Drone", "Harmonic Progression"} | written
    assert not list(project.folder.rglob(".*"))
    assert {path.suffix for path in (project.folder / "Drone").rglob("*.*")} == {".wav"}


def test_the_law_of_the_slider_holds_on_files_of_the_library(project, capsys):
    figures = law.main([str(project.folder / "Drone"), "--model", str(project.model), "--files", "3"])
    assert figures["error 95th percentile"] < 0.025
    monotone = "files strictly monotone over 9 positions until the reach ends"
    assert figures[monotone] == figures["files bit-exact at 0"] == 3
    assert "error median" in capsys.readouterr().out
