"""TODO"""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
import soundfile as sf
from conftest import SR, drone, run

import neural_audio_processor as stage4
from measure_audio_grain import measure_file
from neural_grain.app import batch as app_batch
from neural_grain.dsp.settings import GrainSettings


def grain_of(path) -> float:
    return measure_file(path, GrainSettings()).grain


class TestBatch:
    @pytest.fixture
    def library(self, tmp_path):
        for name in ("a.wav", "x/b.wav", "x/y/c.flac"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            sf.write(tmp_path / "in" / name, drone(-45, 1.0, seed=len(name)), SR)
        return tmp_path

    def render(self, library, project, *more):
        args = ("in", "--grain", "-1", "-o", "out/", "-j", 2, "--model", project.model, *more)
        return run("neural_audio_processor.py", *args, cwd=library)

    def test_keeps_the_tree_and_a_second_run_does_only_what_changed(self, library, project):
        assert "3 rendered, 0 unchanged" in self.render(library, project).out
        outputs = [library / "out" / name for name in ("a_grain-1.0.wav", "x/b_grain-1.0.wav", "x/y/c_grain-1.0.wav")]
        sources = [library / "in" / name for name in ("a.wav", "x/b.wav", "x/y/c.flac")]
        for source, path in zip(sources, outputs, strict=True):
            assert math.log2(grain_of(path) / grain_of(source)) == pytest.approx(1, abs=0.02)
        sf.write(library / "in" / "a.wav", drone(-35, 1.0), SR)  # the input changed
        outputs[1].unlink()  # the output is gone
        before = outputs[2].stat().st_mtime_ns
        ran = self.render(library, project)
        assert ran.status == 0, ran.err
        assert "2 rendered, 1 unchanged since the last run, 0 failed" in ran.out
        assert outputs[2].stat().st_mtime_ns == before

    def test_what_is_not_ours_is_not_replaced(self, library, project):
        (library / "out").mkdir()
        (library / "out" / "a_grain-1.0.wav").write_bytes(b"mine")
        ran = self.render(library, project)
        assert ran.status == 1
        assert "a_grain-1.0.wav: exists already" in ran.err
        assert (library / "out" / "a_grain-1.0.wav").read_bytes() == b"mine"
        self.render(library, project)
        assert (library / "out" / "a_grain-1.0.wav").read_bytes() == b"mine"

    def test_a_rendering_that_was_changed_by_hand_is_not_replaced(self, library, project):
        self.render(library, project)
        (library / "out" / "a_grain-1.0.wav").write_bytes(b"edited")
        assert self.render(library, project).status == 1
        assert (library / "out" / "a_grain-1.0.wav").read_bytes() == b"edited"

    def test_goes_on_after_kill_9(self, library, project):
        log = library / "out" / app_batch.BATCH_LOG
        process = subprocess.Popen(
            [sys.executable, str(stage4.__file__), "in", "--grain", "-1", "-o", "out/", "--model", str(project.model)],
            cwd=library,
            stderr=subprocess.DEVNULL,
        )
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        process.kill()
        process.wait()
        ran = self.render(library, project)
        assert ran.status == 0, ran.err
        assert sorted(path.name for path in (library / "out").rglob("*.wav") if path.name[0] != ".") == [
            "a_grain-1.0.wav",
            "b_grain-1.0.wav",
            "c_grain-1.0.wav",
        ]
