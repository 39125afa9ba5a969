"""Output that nobody reads: the reader has gone, the disk is full, or the stream is closed. The work goes on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, SR, write_library

from neural_grain.base.streams import guard_streams

STAGES = ("measure_audio_grain.py", "convert_to_spectrograms.py", "cak_grain_processor.py", "neural_audio_processor.py")


def run_unread(how: str, numbers: str, *command: object, cwd: Path) -> tuple[int, str]:
    """Run a command whose streams of these numbers are not read; returns the exit status and what the others got."""
    closing = " ".join(f"{number}>&-" for number in numbers) if how == "closed" else ""
    read, write = os.pipe()
    os.close(read)  # nobody reads this pipe
    with os.fdopen(write, "w") as gone, open("/dev/full", "w") as full:
        unread = {"gone": gone, "full": full, "closed": subprocess.PIPE}[how]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, *map(str, command)],
            cwd=cwd,
            stdout=unread if "1" in numbers else subprocess.PIPE,
            stderr=unread if "2" in numbers else subprocess.PIPE,
            text=True,
            timeout=300,
        )
    return done.returncode, (done.stdout or "") + (done.stderr or "")


@pytest.mark.parametrize("how", ["closed", "full", "gone"])
@pytest.mark.parametrize("script", STAGES)
def test_help_and_wrong_usage_keep_their_exit_status(tmp_path, script, how):
    assert run_unread(how, "1", ROOT / script, "--help", cwd=tmp_path) == (0, "")
    assert run_unread(how, "2", ROOT / script, "--nonsense", cwd=tmp_path) == (2, "")


@pytest.mark.parametrize("how", ["closed", "full", "gone"])
class TestBothStreams:
    def test_of_stages_1_and_2(self, tmp_path, how):
        write_library(tmp_path, 2, 0.5)
        (tmp_path / "Drone/Static/bad.wav").write_text("no audio")
        assert run_unread(how, "12", "-u", ROOT / STAGES[0], cwd=tmp_path)[0] == 1
        assert run_unread(how, "12", "-u", ROOT / STAGES[1], cwd=tmp_path)[0] == 0
        assert len(list((tmp_path / "spectrograms/images").iterdir())) == 2

    def test_of_stage_4(self, project, tmp_path, how):
        write_library(tmp_path, 2, 0.5)
        (tmp_path / "Drone/Static/bad.wav").write_text("no audio")
        command = (ROOT / STAGES[3], ".", "--grain", "1", "-o", "out/", "--model", project.model)
        assert run_unread(how, "12", *command, cwd=tmp_path)[0] == 1
        assert len(list((tmp_path / "out").rglob("*.wav"))) == 2


def test_both_streams_of_stage_3(few_tiles):
    stage = (ROOT / STAGES[2], "--epochs", 1, "--device", "cpu")
    status, _ = run_unread("gone", "12", *stage, cwd=few_tiles.folder)
    assert status == 0
    assert few_tiles.model.exists()


@pytest.mark.parametrize("number", ["1", "2"])
def test_the_other_stream_is_still_complete(tmp_path, number):
    write_library(tmp_path, 2, 0.5)
    (tmp_path / "Drone/Static/bad.wav").write_text("no audio")
    status, said = run_unread("closed", number, ROOT / STAGES[0], cwd=tmp_path)
    assert status == 1
    assert ("bad.wav: not readable" in said) == (number == "1")
    assert ("wrote metadata.json: 2 files" in said) == (number == "2")


def run_code(code: str, cwd: Path, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, **options
    )


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    """Otherwise what a C library prints would be written into it."""
    code = (
        "import os\nfor number in (0, 1, 2): os.close(number)\n"
        "from neural_grain.base.streams import guard_streams; guard_streams()\n"
        "file = open('recording.wav', 'w')\nfor number in (1, 2): os.write(number, b'noise')\n"
        "os._exit(file.fileno())"
    )
    assert run_code(code, tmp_path).returncode > 2
    assert (tmp_path / "recording.wav").read_bytes() == b""


def test_a_progress_bar_goes_on_when_its_terminal_is_closed(tmp_path):
    code = (
        "import os, sys\nmaster, slave = os.openpty()\nos.dup2(slave, 2); os.close(slave)\n"
        "from neural_grain.base import cli\n"
        "def main():\n"
        "    n = 0\n"
        "    for i in cli.progress_bar('counting')(range(400_000), 400_000):\n"
        "        if i == 10: os.close(master)\n"
        "        n += 1\n"
        "    cli.warn('printed for nobody')\n"
        "    print(n)\n"
        "    return 0\n"
        "cli.exit_process(cli.exit_status(main))"
    )
    done = run_code(code, tmp_path, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "400000\n")


def test_a_program_without_streams_can_call_the_main_function(tmp_path):
    write_library(tmp_path, 2, 0.5)
    code = "import sys; sys.stdout = sys.stderr = None; import measure_audio_grain as stage; sys.exit(stage.main([]))"
    assert run_code(code, tmp_path).returncode == 0
    assert (tmp_path / "metadata.json").exists()


def test_what_a_decoder_prints_about_a_damaged_file_stays_away_from_the_terminal(tmp_path):
    y = 0.1 * np.random.default_rng(0).standard_normal(SR)
    sf.write(tmp_path / "a.mp3", y, SR)
    raw = bytearray((tmp_path / "a.mp3").read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 300] = bytes(300)  # mpg123 prints notes about such a gap to stderr
    (tmp_path / "b.mp3").write_bytes(raw)
    done = subprocess.run(
        [sys.executable, ROOT / STAGES[0], "a.mp3", "b.mp3"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines()), done.stderr


def test_a_stderr_that_a_program_has_put_in_its_place_is_kept(monkeypatch):
    replacement = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replacement)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    guard_streams()
    print("a line", file=sys.stderr)
    assert replacement.getvalue() == "a line\n"
