"""The four commands in a row, with no arguments, in the users' layout: from recordings to audio with the grain asked for."""

from __future__ import annotations

import json
import math

import pytest
from conftest import run

from measure_audio_grain import measure_file
from neural_grain.dsp.settings import GrainSettings


def test_the_defaults_chain_and_end_in_audio_of_the_grain_asked_for(project, tmp_path):
    for ran in project.ran:
        assert ran.status == 0, ran.err
    source = project.folder / "Drone/Evolving/sound 04.wav"
    for octaves in (-2, -1, 1):
        ran = run(
            "neural_audio_processor.py",
            source,
            "--grain",
            octaves,
            "-o",
            tmp_path / f"{octaves}.wav",
            "--model",
            project.model,
            cwd=project.folder,
        )
        assert ran.status == 0, ran.err
        before, after = (measure_file(path, GrainSettings()).grain for path in (source, tmp_path / f"{octaves}.wav"))
        assert math.log2(before / after) == pytest.approx(octaves, abs=0.02)


def test_the_stages_meet_only_in_files_of_relative_posix_paths(project):
    for name in ("metadata.json", "training_pairs.json"):
        text = (project.folder / name).read_text()
        assert str(project.folder) not in text
        assert "NaN" not in text
        assert text.startswith('{\n  "version": 1,\n  "settings"')
        json.loads(text)


def test_nothing_but_what_is_documented_is_written(project):
    top = {path.name for path in project.folder.iterdir()}
    assert top == {
        "Drone",
        "Harmonic Progression",
        "metadata.json",
        "spectrograms",
        "training_pairs.json",
        "grain_processor_v2_output",
    }
    assert not [path for path in project.folder.rglob(".*")]
    assert {path.suffix for path in (project.folder / "Drone").rglob("*.*")} == {".wav"}


def test_the_law_benchmark_in_its_light_form(project, capsys):
    from benchmarks import law

    figures = law.main([str(project.folder / "Drone"), "--model", str(project.model), "--files", "3"])
    assert figures["error 95th percentile"] < 0.025
    monotone = "files strictly monotone over 9 positions until the reach ends"
    assert figures[monotone] == figures["files bit-exact at 0"] == 3
    assert "error median" in capsys.readouterr().out
