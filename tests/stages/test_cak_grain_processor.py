"""Stage 3 as a user runs it: its reports, its errors, and how it is interrupted and resumed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import PROJECT_EPOCHS, ROOT, SR, call, noise

import cak_grain_processor
from neural_grain.data.tiles import read_pairs
from neural_grain.learn import dataset, training
from neural_grain.learn.model_file import read_checkpoint
from neural_grain.learn.settings import TrainOptions


def start(*args: object, cwd: Path) -> subprocess.Popen:
    """Start stage 3."""
    return subprocess.Popen(
        [sys.executable, ROOT / "cak_grain_processor.py", "--device", "cpu", *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)


class TestReports:
    def test_model_audit_pictures_and_history_are_written_and_the_next_command_is_named(self, project):
        ran = project.ran[2]
        assert ran.status == 0, ran.err
        output = project.folder / "grain_processor_v2_output"
        last = f"epoch_{PROJECT_EPOCHS:04d}"
        for name in ("final_grain_processor_v2.pt", "audit.json", "audit.png", "training_history.csv", "training_history.png",
                     "checkpoints/latest.pt", f"checkpoints/{last}.pt", f"samples/{last}.png"):  # fmt: skip
            assert (output / name).stat().st_size > 400, name
        assert "audit: the slider is accurate to 0.05 octaves on 3 of 3 files" in ran.out
        assert "next: python neural_audio_processor.py\n" in ran.out
        n_tiles = len(read_pairs(project.folder / "training_pairs.json").tiles)
        assert f"training on {n_tiles} tiles of 12 files, device cpu" in ran.err

    @pytest.mark.parametrize("name", cak_grain_processor.REPORT_NAMES)
    def test_a_report_of_the_user_is_not_replaced(self, copied_tiles, name):
        (copied_tiles.folder / name).write_text("mine")
        ran = call(
            "cak_grain_processor.py", "--output-dir", ".", "--epochs", 1, "--device", "cpu", cwd=copied_tiles.folder
        )
        assert ran.status == 2
        assert f"{name}: exists already, in a folder without a model" in ran.err
        assert (copied_tiles.folder / name).read_text() == "mine"

    def test_it_says_when_only_a_part_of_the_tiles_is_used(self, project, monkeypatch, capsys):
        monkeypatch.setattr(training, "train", lambda *args, **options: None)
        monkeypatch.setattr(dataset, "DATASET", replace(dataset.DATASET, max_train_tiles=5, max_held_out_tiles=2))
        pairs = read_pairs(project.folder / "training_pairs.json")
        args = argparse.Namespace(device="cpu", output_dir=Path("unused"), resume=False, progress="bar")
        cak_grain_processor.train_model(args, pairs, TrainOptions())
        expected = (
            f"training on 7 of {len(pairs.tiles)} tiles, drawn evenly over their grain, of 12 files, device cpu\n"
        )
        assert capsys.readouterr().err == expected

    def test_without_the_recordings_it_learns_and_says_that_none_could_be_audited(self, few_tiles, monkeypatch, capsys):
        for path in few_tiles.folder.rglob("*.wav"):
            path.unlink()
        monkeypatch.chdir(few_tiles.folder)
        assert cak_grain_processor.main(["--epochs", "1", "--batch-size", "8", "--device", "cpu"]) == 1
        out, err = capsys.readouterr()
        assert err.count("warning: not audited") == 1
        assert "audit: no held-out file could be audited" in out

    def test_help_and_errors_of_usage_do_not_wait_for_torch(self, tmp_path):
        code = (
            "import sys, cak_grain_processor\n"
            "assert cak_grain_processor.main([]) == 2\n"  # there is no training_pairs.json here
            "try:\n    cak_grain_processor.main(['--help'])\n"
            "except SystemExit:\n    print('torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "False"


class TestInterruption:
    def test_killed_and_resumed_it_ends_with_the_weights_of_an_undisturbed_run(self, project, short_run, tmp_path):
        options = short_run.options
        args = ["--pairs", project.folder / "training_pairs.json", "--output-dir", tmp_path / "broken",
                "--epochs", options.epochs, "--batch-size", options.batch_size]  # fmt: skip
        latest = tmp_path / "broken/checkpoints/latest.pt"
        running = start(*args, cwd=tmp_path)
        wait_for(latest)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert len(read_checkpoint(latest)["history"]) == 1
        assert cak_grain_processor.main([*map(str, args), "--device", "cpu", "--resume"]) == 0
        resumed = read_checkpoint(latest)["weights"]
        undisturbed = short_run.trained.model.state_dict()
        assert all(np.array_equal(resumed[name], undisturbed[name]) for name in undisturbed)

    def test_ctrl_c_finishes_the_step_and_saves_it(self, project, tmp_path):
        latest = tmp_path / "grain_processor_v2_output/checkpoints/latest.pt"
        running = start("--pairs", project.folder / "training_pairs.json", "--batch-size", 8, cwd=tmp_path)
        wait_for(latest)
        time.sleep(0.1)  # the next epoch begins at once, and has eight steps
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert "interrupted; continue with --resume" in err
        content = read_checkpoint(latest)
        assert len(content["history"]) >= 1
        assert content["begun"] is None or 1 <= content["begun"]["step"] <= 8

    def test_interrupted_before_its_first_step_it_does_not_offer_the_checkpoint_of_an_earlier_run(self, copied):
        running = subprocess.Popen(
            [sys.executable, ROOT / "cak_grain_processor.py", "--device", "cpu"],
            cwd=copied.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in running.stderr:
            if line.startswith("training on"):
                break
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert "interrupted before the first step ended; start again" in err
        latest = copied.folder / "grain_processor_v2_output/checkpoints/latest.pt"
        assert len(read_checkpoint(latest)["history"]) == PROJECT_EPOCHS


class TestErrors:
    def test_the_pairs_are_never_the_output(self, copied, monkeypatch, capsys):
        monkeypatch.chdir(copied.folder)
        (copied.folder / "training_pairs.json").rename("audit.json")
        before = (copied.folder / "audit.json").read_bytes()
        assert cak_grain_processor.main(["--pairs", "audit.json", "--output-dir", "."]) == 2
        assert "audit.json: is the input itself, which is never overwritten" in capsys.readouterr().err
        assert (copied.folder / "audit.json").read_bytes() == before

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("missing pairs", "training_pairs.json: no such file; make it with: python convert_to_spectrograms.py"),
            ("damaged pairs", "training_pairs.json: not readable as JSON"),
            ("pairs of another depth", "tiles are 80 dB deep, this version learns from 100: make them again with"),
            ("missing array", "not readable as a tile"),
            ("truncated array", "not readable as a tile"),
            ("pickled array", "not readable as a tile"),
            ("array of another shape", "is no tile of 128 x 256 float32"),
            ("array with NaN", "holds values outside 0 to 1"),
            ("nothing to resume", "no model there"),
        ],
    )
    def test_they_are_one_line_before_any_training(self, copied, monkeypatch, capsys, damage, message):
        pairs = copied.folder / "training_pairs.json"
        array = sorted((copied.folder / "spectrograms/arrays").glob("*.npy"))[0]
        args = []
        if damage == "missing pairs":
            pairs.unlink()
        elif damage == "damaged pairs":
            pairs.write_text(pairs.read_text()[:500])
        elif damage == "pairs of another depth":
            pairs.write_text(pairs.read_text().replace('"dynamic_range_db": 100.0', '"dynamic_range_db": 80.0'))
        elif damage == "missing array":
            array.unlink()
        elif damage == "truncated array":
            os.truncate(array, 1000)
        elif damage == "pickled array":
            np.save(array, np.array([{}], dtype=object), allow_pickle=True)
        elif damage == "array of another shape":
            np.save(array, np.zeros((64, 256), np.float32))
        elif damage == "array with NaN":
            np.save(array, np.full((128, 256), np.nan, np.float32))
        elif damage == "nothing to resume":
            (copied.folder / "grain_processor_v2_output/checkpoints/latest.pt").unlink()
            args = ["--resume"]
        output = copied.folder / "grain_processor_v2_output"
        before = {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()}
        monkeypatch.chdir(copied.folder)
        monkeypatch.setattr(training, "AuditGame", lambda *_: pytest.fail("a game was begun"))
        assert cak_grain_processor.main(args) == 2
        out, err = capsys.readouterr()
        errors = [line for line in err.splitlines() if not line.startswith("training on")]
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        assert message in errors[0]
        assert out == ""
        assert {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()} == before

    @pytest.mark.parametrize(
        ("seeds", "message"),
        [
            ((0, 1, 2), "only 3 recordings: a model needs at least 4"),
            ((0, 0, 0, 0, 0), "only 1 recording and 4 copies: a model needs at least 4"),
            ((0, 1, 2, 3, 4), "all tiles have the same grain"),
        ],
    )
    def test_a_library_with_nothing_to_learn_from_is_refused(self, tmp_path, seeds, message):
        folder = tmp_path / "Drone/Static"
        folder.mkdir(parents=True)
        for i, seed in enumerate(seeds):
            sf.write(folder / f"{i}.wav", noise(0.5, seed=seed), SR)
        call("measure_audio_grain.py", cwd=tmp_path)
        call("convert_to_spectrograms.py", "--no-images", cwd=tmp_path)
        ran = call("cak_grain_processor.py", cwd=tmp_path)
        assert ran.status == 2
        assert message in ran.err
