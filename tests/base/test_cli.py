"""What the four commands share: their version, numbers on the command line, errors and Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run, write_library

import cak_grain_processor
import neural_audio_processor
from neural_grain import __version__
from neural_grain.base.cli import add_parallel_arguments, number, run_stage, whole_number_within
from neural_grain.base.errors import PipelineError
from neural_grain.base.progress import read_progress

SCRIPTS = (
    "measure_audio_grain.py",
    "convert_to_spectrograms.py",
    "cak_grain_processor.py",
    "neural_audio_processor.py",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_prints_its_name_and_version(tmp_path, script):
    ran = run(script, "--version", cwd=tmp_path)
    assert (ran.status, ran.out, ran.err) == (0, f"{script} {__version__}\n", "")


class TestWholeNumber:
    @pytest.mark.parametrize(("text", "value"), [("1", 1), ("12", 12), (" 9 ", 9)])
    def test_is_read_within_its_bounds(self, text, value):
        assert whole_number_within(1, 12)(text) == value

    @pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "100000", "9" * 5000])
    def test_everything_else_is_refused_in_plain_words(self, capsys, text):
        parser = argparse.ArgumentParser(prog="x")
        add_parallel_arguments(parser, 1)
        with pytest.raises(SystemExit) as exit_:
            parser.parse_args([f"--jobs={text}"])
        assert exit_.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"x: error: argument -j/--jobs: {text} is not a whole number from 1 to 1024"


@pytest.mark.parametrize("text", ["-1", str(2**63), "1.5", "x"])
def test_a_seed_that_is_none_is_refused_by_stages_3_and_4_alike(capsys, text):
    for build_parser in (cak_grain_processor.build_parser, neural_audio_processor.build_parser):
        with pytest.raises(SystemExit):
            build_parser().parse_args([f"--seed={text}"])
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"argument --seed: {text} is not a whole number from 0 to" in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1,5", "1,5 is not a number; write 1.5"),
        ("-,5", "-,5 is not a number; write -.5"),
        ("a,b", "a,b is not a number"),
        ("1,000,000", "1,000,000 is not a number"),
    ],
)
def test_a_number_with_a_comma_is_refused_with_the_number_that_is_meant(text, reason):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        number(text)
    assert str(caught.value) == reason


class TestRunStage:
    @pytest.mark.parametrize("status", [0, 1, 2])
    def test_returns_the_exit_status_of_the_stage(self, status):
        assert run_stage(lambda: status) == status

    def test_prints_an_error_of_the_user_as_one_line(self, capsys):
        def body():
            raise PipelineError("a\nb.wav: not there")

        assert run_stage(body) == 2
        assert capsys.readouterr().err == "error: a\\x0ab.wav: not there\n"

    def test_prints_an_error_of_the_system_with_its_path_as_one_line(self, capsys):
        assert run_stage(lambda: Path("x" * 300).exists()) == 2
        assert capsys.readouterr().err == f"error: {'x' * 300}: File name too long\n"

    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            (MemoryError(), "error: out of memory; "),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: out of memory; "),
            (OSError(errno.EMFILE, "Too many open files"), "error: too many open files; "),
        ],
    )
    def test_prints_a_fault_of_the_system_as_one_line_wherever_it_happens(self, capsys, fault, line):
        def body():
            try:
                raise fault
            except type(fault) as err:
                raise ImportError("the package is broken") from err

        assert run_stage(body) == 2
        err = capsys.readouterr().err
        assert err.startswith(line)
        assert len(err.splitlines()) == 1

    def test_says_that_the_current_folder_is_gone(self, capsys, tmp_path, monkeypatch):
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert run_stage(lambda: len(os.getcwd())) == 2
        assert "the folder that this command was started in is gone" in capsys.readouterr().err

    def test_does_not_hide_an_error_of_the_program(self):
        with pytest.raises(ZeroDivisionError):
            run_stage(lambda: 1 // 0)
        with pytest.raises(ImportError):
            run_stage(lambda: importlib.import_module("neural_grain.base.not_there"))

    def test_names_a_package_that_is_missing(self, capsys):
        assert run_stage(lambda: importlib.import_module("a_package_that_is_missing")) == 2
        assert "a package can't be loaded (No module named 'a_package_that_is_missing')" in capsys.readouterr().err

    def test_prints_one_line_after_ctrl_c_and_restores_the_handler(self, capsys):
        handler_before = signal.getsignal(signal.SIGINT)
        assert run_stage(lambda: signal.raise_signal(signal.SIGINT) or 0, lambda: "stopped") == 130
        assert capsys.readouterr().err == "\nstopped\n"
        assert signal.getsignal(signal.SIGINT) is handler_before

    def test_an_interrupt_that_c_code_turns_into_another_exception_is_still_one(self, capsys):
        def body() -> int:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise ValueError("Invalid bounding box") from None  # as matplotlib did
            return 0

        assert run_stage(body, lambda: "stopped") == 130
        assert capsys.readouterr().err == "\nstopped\n"


class TestForProgramsThatRunAStage:
    #: A stage that works until it is interrupted; with "deaf" it takes no notice.
    STAGE = """
import sys, time
from neural_grain.base import cli
cli.END_WITHIN_S = 0.3
def body():
    said = False
    while True:
        try:
            said = said or print("begun", flush=True) is None
            time.sleep(60)
        except KeyboardInterrupt:
            if "deaf" not in sys.argv:
                raise
cli.exit_process(cli.run_stage(body, end_with_stdin=True))
"""

    @pytest.mark.parametrize("words", [[], ["deaf"]])
    def test_a_stage_ends_when_its_stdin_ends(self, words):
        stage = subprocess.Popen(
            [sys.executable, "-c", self.STAGE, *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert stage.stdout.readline() == "begun\n"
        assert stage.poll() is None
        _, err = stage.communicate(timeout=60)  # closes stdin
        assert stage.returncode == 130
        assert err == ("" if words else "\ninterrupted; run the same command again\n")

    def test_progress_comes_in_lines_and_nothing_else_changes(self, tmp_path):
        write_library(tmp_path, 3, 0.5)
        as_bar = run("measure_audio_grain.py", cwd=tmp_path)
        (tmp_path / "metadata.json").unlink()
        as_lines = run("measure_audio_grain.py", "--progress", "lines", cwd=tmp_path)
        assert (as_lines.status, as_lines.out) == (as_bar.status, as_bar.out)
        progress = [each for each in map(read_progress, as_lines.err.splitlines()) if each]
        assert [(each.doing, each.total) for each in progress] == [("measuring", 3)] * len(progress)
        assert (progress[0].done, progress[-1].done) == (0, 3)
        others = [line for line in as_lines.err.splitlines() if not read_progress(line)]
        assert others == [line for line in as_bar.err.splitlines() if line.startswith("warning: ")]
