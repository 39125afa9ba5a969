"""TODO"""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile as sf
from conftest import run

from neural_grain.data import demo as data_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("measure_audio_grain.py", "--demo", cwd=folder)


class TestDemo:
    def test_is_small_and_spreads_its_grain_evenly(self, demo):
        folder, ran = demo
        assert ran.status == 0, ran.err
        files = json.loads((folder / "metadata.json").read_text())["files"]
        assert len(files) == 60
        assert sum(item["size_bytes"] for item in files) < 40e6
        for place in ("Drone/Static", "Drone/Evolving", "Harmonic Progression"):
            octaves = np.log2([item["grain"] for item in files if item["path"].startswith(place)])
            np.testing.assert_allclose(octaves, np.linspace(np.log2(1e-5), np.log2(0.06), 20), atol=0.15)

    def test_is_deterministic(self, demo):
        folder, _ = demo
        y, _ = sf.read(folder / "Drone/Static/demo_static_06.flac", dtype="int16", always_2d=True)
        again = data_demo.demo_sound("Drone/Static", 5, float(np.geomspace(1e-5, 0.06, 20)[5]))
        assert np.abs(y - np.round(again * 32767)).max() <= 1

    def test_leaves_its_files_alone_the_second_time(self, demo):
        folder, _ = demo
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}
        assert "0 measured, 60 unchanged" in run("measure_audio_grain.py", "--demo", cwd=folder).out
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}

    def test_refuses_folders_that_hold_anything_else(self, tmp_path):
        (tmp_path / "Drone").mkdir()
        (tmp_path / "Drone" / "mine.wav").write_bytes(b"precious")
        ran = run("measure_audio_grain.py", "--demo", cwd=tmp_path)
        assert ran.status == 2
        assert "holds mine.wav, not only the demo" in ran.err
        assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.wav"]
