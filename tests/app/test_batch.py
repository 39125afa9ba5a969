"""Batches: where outputs go, what a second run renders again, and what it never replaces."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile as sf
from conftest import ROOT, SR, Ran, drone, run

from measure_audio_grain import measure_file
from neural_grain.app.batch import BATCH_LOG, BatchLog, Job, plan_batch, sweep_targets
from neural_grain.app.processor import RenderTarget
from neural_grain.base.errors import PipelineError
from neural_grain.dsp.settings import GrainSettings

NAMES = ("a.wav", "x/b.wav", "x/y/c.flac")
OUTPUTS = ("a_grain-1.0.wav", "x/b_grain-1.0.wav", "x/y/c_grain-1.0.wav")


def grain_of(path: Path) -> float:
    return measure_file(path, GrainSettings()).grain


class TestPlan:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def outputs(self, folder: Path, *names: str, inputs: tuple[str, ...] = ("in",), output: str | None = "out/"):
        for name in names:
            path = folder / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        plan = plan_batch([folder / name for name in inputs], [RenderTarget(-1.0)], output)
        return [job.output.as_posix() for job in plan.jobs], plan.log_folder

    def test_a_folder_keeps_its_tree_and_gets_a_log(self, folder):
        outputs, log_folder = self.outputs(folder, *NAMES)
        assert outputs == [f"out/{name}" for name in OUTPUTS]
        assert log_folder == Path("out")

    def test_files_that_differ_only_in_their_extension_keep_it(self, folder):
        outputs, _ = self.outputs(folder, "a.flac", "a.wav", "b.wav")
        assert outputs == ["out/a.flac_grain-1.0.wav", "out/a.wav_grain-1.0.wav", "out/b_grain-1.0.wav"]

    def test_two_files_that_would_go_to_one_output_are_refused(self, folder):
        with pytest.raises(PipelineError, match=r"out/b_grain-1.0.wav: both .*/in/b.wav and .*/x/b.wav would go there"):
            self.outputs(folder, "b.wav", "x/b.wav", inputs=("in/b.wav", "in/x/b.wav"))

    def test_one_output_can_be_named_and_has_no_log(self, folder):
        assert self.outputs(folder, "a.wav", output="x.flac") == (["x.flac"], None)
        with pytest.raises(PipelineError, match=r"-o x.flac: 2 outputs need a folder"):
            self.outputs(folder, "b.wav", output="x.flac")

    def test_without_audio_the_folder_is_named(self, folder):
        (folder / "empty").mkdir()
        with pytest.raises(PipelineError, match=r"0 files found in .*/empty \(looked for \.aif"):
            self.outputs(folder, inputs=("empty",))

    def test_a_sweep_is_symmetric_around_zero(self):
        assert [target.octaves for target in sweep_targets(1.5)] == [-3.0, -1.5, 0.0, 1.5, 3.0]
        assert [target.octaves for target in sweep_targets(2.0)] == [-2.0, 0.0, 2.0]


class TestLog:
    """Without rendering: a rendering is an output file and a line of the log."""

    @pytest.fixture
    def job(self, tmp_path):
        job = Job(tmp_path / "a.wav", tmp_path / "out" / "a.wav", RenderTarget(1.0))
        job.output.parent.mkdir()
        for path in (job.source, job.output, tmp_path / "model.pt"):
            path.write_bytes(b"x")
        return job

    def log(self, job: Job, subtype: str | None = None) -> BatchLog:
        return BatchLog(job.output.parent, job.source.parent / "model.pt", subtype)

    def test_a_job_that_is_done_is_known_to_the_next_run(self, job):
        self.log(job).add(job, is_done=True)
        assert self.log(job).has(job)
        assert not self.log(job, "PCM_24").has(job)
        assert not self.log(job).has(Job(job.source, job.output, RenderTarget(2.0)))
        job.source.write_bytes(b"changed")
        assert not self.log(job).has(job)

    def test_an_output_that_was_begun_or_done_may_be_replaced_until_the_user_changes_it(self, job):
        assert not self.log(job).owns(job)
        self.log(job).add(job, is_done=False)
        assert self.log(job).owns(job)
        self.log(job).add(job, is_done=True)
        assert self.log(job).owns(job)
        job.output.write_bytes(b"edited")
        assert not self.log(job).owns(job)

    def test_a_file_name_that_is_not_utf_8_is_kept(self, job):
        odd = Job(job.source.with_name("\udcff.wav"), job.output.with_name("\udcff.wav"), job.target)
        for path in (odd.source, odd.output):
            path.write_bytes(b"x")
        self.log(odd).add(odd, is_done=True)
        assert self.log(odd).has(odd)

    def test_a_line_that_is_cut_off_or_damaged_counts_for_nothing(self, job):
        self.log(job).add(job, is_done=True)
        path = job.output.parent / BATCH_LOG
        line = path.read_text().strip()
        for damaged in (line[:-9], line.replace("[1.0, null]", '"x"'), line.replace('"stamps"', '"stumps"') + "]"):
            path.write_text(damaged)
            assert not self.log(job).has(job)
            self.log(job).add(job, is_done=True)  # starts on a line of its own
            assert self.log(job).has(job)

    def test_its_fields_are_those_of_earlier_versions_of_the_program(self, job):
        self.log(job).add(job, is_done=True)
        (record,) = (json.loads(line) for line in (job.output.parent / BATCH_LOG).read_text().split("\n") if line)
        assert list(record) == ["output", "input", "asked", "model_and_subtype", "stamps"]
        assert record["output"] == "a.wav"
        assert record["asked"] == [1.0, None]


class TestCommand:
    @pytest.fixture
    def library(self, tmp_path) -> Path:
        for name in NAMES:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            sf.write(tmp_path / "in" / name, drone(-45, 1.0, seed=len(name)), SR)
        return tmp_path

    def render(self, library: Path, project) -> Ran:
        args = ("in", "--grain", "-1", "-o", "out/", "-j", 2, "--model", project.model)
        return run("neural_audio_processor.py", *args, cwd=library)

    def test_a_second_run_renders_only_what_changed(self, library, project):
        assert "3 rendered, 0 unchanged" in self.render(library, project).out
        outputs = [library / "out" / name for name in OUTPUTS]
        sources = [library / "in" / name for name in NAMES]
        for source, output in zip(sources, outputs, strict=True):
            assert math.log2(grain_of(output) / grain_of(source)) == pytest.approx(1, abs=0.02)
        sf.write(sources[0], drone(-35, 1.0), SR)
        outputs[1].unlink()
        before = outputs[2].stat().st_mtime_ns
        ran = self.render(library, project)
        assert ran.status == 0, ran.err
        assert "2 rendered, 1 unchanged since the last run, 0 failed" in ran.out
        assert outputs[2].stat().st_mtime_ns == before

    def test_a_file_of_the_user_is_never_replaced(self, library, project):
        output = library / "out" / OUTPUTS[0]
        output.parent.mkdir()
        output.write_bytes(b"mine")
        for _ in range(2):  # the first run leaves a log, which must not claim the file
            ran = self.render(library, project)
            assert ran.status == 1
            assert f"{OUTPUTS[0]}: exists already" in ran.err
            assert output.read_bytes() == b"mine"

    def test_a_rendering_that_the_user_edited_is_not_replaced(self, library, project):
        self.render(library, project)
        (library / "out" / OUTPUTS[0]).write_bytes(b"edited")
        assert self.render(library, project).status == 1
        assert (library / "out" / OUTPUTS[0]).read_bytes() == b"edited"

    def test_a_batch_that_was_killed_is_continued(self, library, project):
        log = library / "out" / BATCH_LOG
        args = ["in", "--grain", "-1", "-o", "out/", "--model", str(project.model)]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "neural_audio_processor.py"), *args], cwd=library, stderr=subprocess.DEVNULL
        )
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        process.kill()
        process.wait()
        ran = self.render(library, project)
        assert ran.status == 0, ran.err
        found = [path for path in (library / "out").rglob("*.wav") if not path.name.startswith(".")]
        assert {path.relative_to(library / "out").as_posix() for path in found} == set(OUTPUTS)
