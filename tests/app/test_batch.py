"""Batches: where outputs go, what a second run renders again, and what it never replaces."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile as sf
from conftest import ROOT, SR, Ran, call, drone

from measure_audio_grain import measure_file
from neural_grain.app.batch_log import BATCH_LOG, BatchLog
from neural_grain.app.plan import plan_batch
from neural_grain.app.targets import Job, RenderTarget, sweep_targets
from neural_grain.base.errors import PipelineError
from neural_grain.dsp.mix import Mix
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

    def test_files_that_are_named_keep_their_tree_if_that_is_wanted(self, folder):
        self.outputs(folder, "a/take.wav", "b/c/take.wav")
        files = [folder / "in/a/take.wav", folder / "in/b/c/take.wav"]
        plan = plan_batch(files, [RenderTarget(-1.0)], "out/", keep_tree=True)
        outputs = [job.output.as_posix() for job in plan.jobs]
        assert outputs == ["out/a/take_grain-1.0.wav", "out/b/c/take_grain-1.0.wav"]

    def test_names_that_differ_only_in_case_are_refused_where_they_are_one_file(self, folder, monkeypatch):
        names = ("Kick.wav", "kick.wav")
        outputs, _ = self.outputs(folder, *names)
        assert len(outputs) == 2  # the file systems of these tests keep them apart
        monkeypatch.setattr("neural_grain.app.plan.ignores_case", lambda folder: True)
        with pytest.raises(PipelineError, match=r"out/kick_grain-1.0.wav: both .*Kick.wav and .*kick.wav would go"):
            self.outputs(folder)

    @pytest.mark.parametrize("inputs", [("one",), ("one/a.wav",), ("one/a.wav", "b.wav")])
    @pytest.mark.parametrize("output", ["out/", None])
    def test_only_one_named_file_without_a_folder_for_it_gets_no_log(self, folder, inputs, output):
        (folder / "one").mkdir()
        for name in ("one/a.wav", "b.wav"):
            (folder / name).touch()
        plan = plan_batch([folder / name for name in inputs], [RenderTarget(-1.0)], output)
        is_single = inputs == ("one/a.wav",) and output is None
        assert plan.log_folder == (None if is_single else Path(output or "."))

    def test_formats_that_cannot_be_read_are_named_once(self, folder):
        names = [f"{i:02d}.M4A" for i in range(12)]
        self.outputs(folder, *names, "x/b.wma", "a.wav")
        plan = plan_batch([folder / "in", folder / "in/x"], [RenderTarget(-1.0)], "out/")
        m4a, wma = plan.warnings
        assert m4a == f".m4a can't be read, left out: {', '.join(names[:10])} and 2 more; convert to WAV or FLAC first"
        assert wma == ".wma can't be read, left out: b.wma; convert to WAV or FLAC first"
        with pytest.raises(PipelineError, match=r"0 files found in .*; \.wma can't be read, left out: b.wma"):
            plan_batch([folder / "in/x"], [RenderTarget(-1.0)], "out/")

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


class TestInputs:
    """No output is an input of the run, and no output of an earlier run is found as input."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("a.wav", "sub/b.wav"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(b"mine")
        return tmp_path

    def plan(
        self, *inputs: str, output: str | None = None, octaves: tuple[float, ...] = (-1.0,), **options
    ) -> list[str]:
        targets = [RenderTarget(value) for value in octaves]
        return [job.output.as_posix() for job in plan_batch(list(map(Path, inputs)), targets, output, **options).jobs]

    @pytest.mark.parametrize("name", ["a_grain-1.0.wav", "A_Grain-1.0.WAV"])
    @pytest.mark.parametrize("inputs", [("a.wav", "NAME"), ("NAME", "a.wav"), (".",)])
    @pytest.mark.parametrize("output", [None, "./", "sub/../", "link/"])
    def test_an_output_with_the_name_of_an_input_is_refused(self, folder, name, inputs, output):
        Path("link").symlink_to(".")
        Path(name).write_bytes(b"mine")
        with pytest.raises(
            PipelineError, match=r"a_grain-1.0.wav: is an input of this run, which is never overwritten"
        ):
            self.plan(*(name if text == "NAME" else text for text in inputs), output=output)

    @pytest.mark.parametrize("link", [os.link, os.symlink])
    def test_an_output_that_is_a_link_to_an_input_is_refused(self, folder, link):
        Path("out/sub").mkdir(parents=True)
        link(folder / "a.wav", "out/sub/b_grain-1.0.wav")
        with pytest.raises(PipelineError, match="is an input of this run"):
            self.plan("a.wav", "sub", "sub/b.wav", output="out/sub")
        with pytest.raises(PipelineError, match="is the input itself"):
            self.plan("a.wav", output="out/sub/b_grain-1.0.wav")

    @pytest.mark.parametrize("link", [os.link, os.symlink])
    def test_an_input_that_is_a_link_to_an_output_is_refused(self, folder, link):
        link(folder / "sub/b.wav", "other.wav")
        with pytest.raises(PipelineError, match=r"sub/b.wav: is the input itself"):
            self.plan("other.wav", output="sub/b.wav")

    def test_a_sweep_and_a_reference_are_checked_as_well(self, folder):
        Path("out").mkdir()
        Path("out/a_grain+2.0.wav").touch()
        for options in ({"also_read": [Path("out/a_grain+2.0.wav")]}, {}):
            others = () if options else ("out/a_grain+2.0.wav",)
            with pytest.raises(PipelineError, match=r"out/a_grain\+2.0.wav: is an input of this run"):
                self.plan("a.wav", *others, output="out/", octaves=(-2.0, 0.0, 2.0), **options)

    def log_outputs(self, folder: str, *jobs: tuple[str, str]) -> None:
        """Leave what an earlier batch would leave: the outputs and their log."""
        Path("model.pt").touch()
        log = BatchLog(Path(folder), Path("model.pt"), None)
        for source, output in jobs:
            Path(folder, output).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, output).touch()
            log.add(Job(Path(source), Path(folder, output), RenderTarget(-1.0)), is_done=True)

    @pytest.mark.parametrize("output", [".", "out/", "sub/", "elsewhere/", None])
    @pytest.mark.parametrize("earlier", [".", "out", "sub"])
    def test_what_an_earlier_run_put_among_the_inputs_is_not_rendered_again(self, folder, output, earlier):
        Path("out").mkdir()
        self.log_outputs(earlier, ("a.wav", "a_grain-1.0.wav"), ("sub/b.wav", "sub/b_grain-1.0.wav"))
        outputs = self.plan(".", output=output)
        start = f"{output.strip('./')}/".lstrip("/") if output else ""
        assert outputs == [f"{start}a_grain-1.0.wav", f"{start}sub/b_grain-1.0.wav"]

    def test_a_log_above_or_behind_a_link_counts_too(self, folder):
        self.log_outputs(".", ("sub/b.wav", "sub/b_grain-1.0.wav"))
        assert self.plan("sub", output="out/") == ["out/b_grain-1.0.wav"]
        Path("link").symlink_to("sub")
        assert self.plan("link", output="out/") == ["out/b_grain-1.0.wav"]

    def test_an_output_that_is_named_is_left_out_only_of_the_folder_it_was_made_for(self, folder):
        self.log_outputs(".", ("a.wav", "a_grain-1.0.wav"))
        assert self.plan("a.wav", "a_grain-1.0.wav", output="./") == ["a_grain-1.0.wav"]
        assert self.plan("a_grain-1.0.wav", output="out/") == ["out/a_grain-1.0_grain-1.0.wav"]
        with pytest.raises(PipelineError, match=r"left out: 1 files that grain_renderings.jsonl lists as outputs"):
            self.plan("a_grain-1.0.wav", output="./")


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
        for other in (RenderTarget(2.0), RenderTarget(1.0, mix=Mix(0.5)), RenderTarget(1.0, mix=Mix(gain_db=1.0))):
            assert not self.log(job).has(replace(job, target=other))
        mixed = replace(job, target=RenderTarget(1.0, mix=Mix(1 / 3, -1.1)))
        self.log(mixed).add(mixed, is_done=True)
        assert self.log(mixed).has(mixed)
        assert not self.log(job).has(job)
        self.log(job).add(job, is_done=True)
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

    def test_that_a_job_was_begun_is_on_the_disk_before_its_output_can_be(self, job, monkeypatch):
        path, flushed = job.output.parent / BATCH_LOG, []
        monkeypatch.setattr(os, "fsync", lambda _: flushed.append(path.read_text()))
        self.log(job).add(job, is_done=False)
        assert set(flushed) == {path.read_text()}

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

    def render(self, library: Path) -> Ran:
        args = ("in", "--grain", "-1", "-o", "out/", "-j", 2)
        return call("neural_audio_processor.py", *args, cwd=library)

    def test_a_second_run_renders_only_what_changed(self, library):
        assert "3 rendered, 0 unchanged" in self.render(library).out
        outputs = [library / "out" / name for name in OUTPUTS]
        sources = [library / "in" / name for name in NAMES]
        for source, output in zip(sources, outputs, strict=True):
            assert math.log2(grain_of(output) / grain_of(source)) == pytest.approx(1, abs=0.02)
        sf.write(sources[0], drone(-35, 1.0), SR)
        outputs[1].unlink()
        before = outputs[2].stat().st_mtime_ns
        ran = self.render(library)
        assert ran.status == 0, ran.err
        assert "2 rendered, 1 unchanged since the last run, 0 failed" in ran.out
        assert outputs[2].stat().st_mtime_ns == before

    @pytest.mark.parametrize("name", [".", "in"])
    def test_a_batch_can_run_again_where_its_inputs_are(self, library, name):
        before = {path: path.read_bytes() for path in library.rglob("*.*")}
        command = ("neural_audio_processor.py", name, "--grain", "-1", "-o", f"{name}/")
        for rendered, unchanged in ((3, 0), (0, 3)):
            ran = call(*command, cwd=library)
            assert ran.status == 0, ran.err
            assert f"{rendered} rendered, {unchanged} unchanged since the last run, 0 failed" in ran.out
        assert "warning: left out: 3 files that grain_renderings.jsonl lists as outputs of earlier runs" in ran.err
        assert len(list(library.rglob("*_grain*.*"))) == 3
        assert before == {path: path.read_bytes() for path in before}

    def test_a_folder_with_one_file_can_be_rendered_again(self, library):
        for said in ("wrote c_grain-1.0.wav", "0 rendered, 1 unchanged since the last run"):
            ran = call("neural_audio_processor.py", "in/x/y", "--grain", "-1", cwd=library)
            assert ran.status == 0, ran.err
            assert said in ran.out

    def test_an_input_is_refused_as_output_before_anything_is_written(self, library):
        sf.write(library / "in/a_grain-1.0.wav", drone(-30, 1.0), SR)
        before = {path: path.read_bytes() for path in library.rglob("*.*") if path.is_file()}
        for output in ("in", "in/"):
            options = ("--grain", "-1", "-o", output, "--overwrite")
            ran = call("neural_audio_processor.py", "in", *options, cwd=library)
            assert ran.status == 2
            assert (
                ran.err
                == "error: in/a_grain-1.0.wav: is an input of this run, which is never overwritten; choose another name\n"
            )
        assert before == {path: path.read_bytes() for path in library.rglob("*.*") if path.is_file()}

    def test_a_file_of_the_user_is_never_replaced(self, library):
        output = library / "out" / OUTPUTS[0]
        output.parent.mkdir()
        output.write_bytes(b"mine")
        for _ in range(2):  # the first run leaves a log, which must not claim the file
            ran = self.render(library)
            assert ran.status == 1
            assert f"{OUTPUTS[0]}: exists already" in ran.err
            assert output.read_bytes() == b"mine"

    def test_a_rendering_that_the_user_edited_is_not_replaced(self, library):
        self.render(library)
        (library / "out" / OUTPUTS[0]).write_bytes(b"edited")
        assert self.render(library).status == 1
        assert (library / "out" / OUTPUTS[0]).read_bytes() == b"edited"

    def test_a_batch_that_was_killed_is_continued(self, library):
        log = library / "out" / BATCH_LOG
        args = ["in", "--grain", "-1", "-o", "out/"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "neural_audio_processor.py"), *args], cwd=library, stderr=subprocess.DEVNULL
        )
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        process.kill()
        process.wait()
        ran = self.render(library)
        assert ran.status == 0, ran.err
        found = [path for path in (library / "out").rglob("*.wav") if not path.name.startswith(".")]
        assert {path.relative_to(library / "out").as_posix() for path in found} == set(OUTPUTS)
