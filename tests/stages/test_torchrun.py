"""TODO"""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from neural_grain.data.tiles import read_pairs
from neural_grain.learn import settings as learn_settings
from neural_grain.learn import training as learn_training
from neural_grain.learn.checkpoint import load_model


@pytest.fixture
def machines(project, tmp_path):
    """Two folders with the same tiles, for two processes that share nothing else, and how to start them."""
    for name in ("0", "1"):
        shutil.copytree(
            project.folder, tmp_path / name, ignore=shutil.ignore_patterns("grain_processor_v2_output", "images")
        )

    def start(*args):
        script = [
            "--no-python",
            "sh",
            "-c",
            'cd "$RANK"; exec "$@"',
            "sh",
            sys.executable,
            ROOT / "cak_grain_processor.py",
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             *script, "--device", "cpu", "--epochs", "2", "--batch-size", "8", *args],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return tmp_path, start


class TestSeveralProcesses:
    def test_interrupted_and_resumed_they_come_to_what_one_comes_to(self, project, machines, tmp_path):
        folder, start = machines
        latest = folder / "0/grain_processor_v2_output/checkpoints/latest.pt"
        running = start()
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert err.count("interrupted; go on with --resume") == 1
        assert "error:" not in err
        assert out == ""
        out, err = start("--resume").communicate(timeout=120)
        assert out.count("audit: ") == out.count("next: ") == 1, err
        assert not (folder / "1/grain_processor_v2_output").exists()

        for part in ("checkpoints", "samples"):
            (tmp_path / "alone" / part).mkdir(parents=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as torchrun has it: with more, the critic is rounded otherwise
        try:
            alone, history, _ = learn_training.train(
                read_pairs(project.folder / "training_pairs.json"),
                learn_settings.TrainSettings(2, batch_size=8),
                tmp_path / "alone",
            )
        finally:
            torch.set_num_threads(threads)
        together = load_model(folder / "0/grain_processor_v2_output" / learn_settings.FINAL_NAME).model
        for model in (alone, together):  # these shift all bands alike, which D takes away: their gradient is rounding
            model.detector.mix.bias.data.zero_()
            model.detector.direct.weight.data[:, 2] = 0
            model.scale.data.fill_(1)  # claims are met to within rounding here, and its gradient is which side of them
        for name, weights in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[name], weights, atol=1e-3, rtol=1e-3, msg=name)
        with (folder / "0/grain_processor_v2_output/training_history.csv").open() as file:
            for row, wanted in zip(csv.DictReader(file), history, strict=True):
                for name, value in vars(wanted).items():
                    assert name == "seconds" or float(row[name]) == pytest.approx(
                        value, rel=1e-3, abs=1e-5, nan_ok=True
                    ), name

    def test_a_fault_in_one_is_one_line(self, machines):
        folder, start = machines
        next((folder / "1/spectrograms/arrays").glob("*.npy")).unlink()
        running = start()
        out, err = running.communicate(timeout=120)
        assert running.returncode != 0
        assert out == ""
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, err
        assert "not readable as a tile" in errors[0]
        assert not list((folder / "0/grain_processor_v2_output").rglob("*.pt"))
