"""TODO"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import ROOT, run, write_library
from learning import (
    SETTINGS,
    brief_critic,  # noqa: F401
)

from neural_grain.base.errors import PipelineError
from neural_grain.data.tiles import read_pairs
from neural_grain.learn import audit as learn_audit
from neural_grain.learn import dataset as learn_dataset
from neural_grain.learn import device as learn_device
from neural_grain.learn import game as learn_game
from neural_grain.learn import history as learn_history
from neural_grain.learn import model as learn_model
from neural_grain.learn import settings as learn_settings
from neural_grain.learn import training as learn_training
from neural_grain.learn.checkpoint import load_model, read_checkpoint
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import AuditGame
from neural_grain.learn.model import GrainModel


class TestTraining:
    def test_reports_pictures_and_contract(self, project):
        ran = project.ran[2]
        assert ran.status == 0, ran.err
        output = project.folder / "grain_processor_v2_output"
        for name in ("final_grain_processor_v2.pt", "audit.json", "audit.png", "training_history.csv", "training_history.png",
                     "checkpoints/latest.pt", "checkpoints/epoch_0010.pt", "samples/epoch_0010.png"):  # fmt: skip
            assert (output / name).stat().st_size > 500, name
        assert "audit: the slider keeps its word within 0.05 octaves on 3 of 3 files" in ran.out
        assert "next: python neural_audio_processor.py" in ran.out

    def test_what_it_learned_holds_for_what_it_did_not_learn_from(self, project):
        with (project.folder / "grain_processor_v2_output/training_history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 10
        assert float(rows[-1]["held_out_violation"]) < 0.1
        pairs = read_pairs(project.folder / "training_pairs.json")
        train_on, judge_on = (
            learn_dataset.load_tiles(pairs, part, "cpu") for part in learn_dataset.split_files(pairs, 0)
        )
        torch.manual_seed(0)
        untrained = GrainModel(pairs.settings)
        game = AuditGame(pairs.settings, train_on, seed=0)
        before = learn_training.judge(game, untrained, judge_on, learn_settings.TrainSettings())
        assert float(rows[-1]["held_out_noise"]) < 0.8 * before["held_out_noise"]
        nearer = learn_history.share_nearer(before, {name: float(rows[-1][name]) for name in before}, game.doubt)
        assert nearer > 0.2
        content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
        assert content["summary"]["nearer_than_expander_share"] == pytest.approx(nearer, abs=0.01)

    @pytest.mark.parametrize("critics", ["both", "noise alone"])
    def test_it_learns_where_a_library_gets_noisier(self, breath, breath_game, critics, monkeypatch):
        """A model of the breathy library moves tiles nearer to what they would be than the expander that it began as."""
        if critics == "noise alone":  # the other would teach much the same here
            monkeypatch.setattr(AuditGame, "_natural_distances", lambda *_: {})
        torch.manual_seed(0)
        model = GrainModel(SETTINGS)

        def distance() -> float:
            rng = np.random.default_rng(7)
            with torch.no_grad():
                moves = [breath_game.play(model, breath, 32, rng) for _ in range(4)]
            return sum(move.noise_distance.item() for both in moves for move in both.values())

        before = distance()
        optimizer = torch.optim.Adam(model.parameters(), learn_training.LEARNING_RATE, betas=(0.9, 0.99))
        for epoch in range(1, 9):
            learn_training.train_epoch(
                breath_game, model, optimizer, breath, epoch, learn_settings.TrainSettings(epochs=8)
            )
        assert distance() < 0.5 * before

    @pytest.mark.parametrize(
        ("expander", "trained", "doubt", "nearer"),
        [
            ((6, 8), (3, 4), 1.0, 0.5),
            ((6, 8), (6, 4), 1.0, 1 - 52**0.5 / 10),
            ((6, 8), (12, 8), 0.0, -1.0),
            ((6, math.nan), (3, math.nan), 1.0, 0.5),
            ((math.nan, 8), (math.nan, 2), 1.0, 0.75),
            ((6, 8), (3, math.nan), 1.0, math.nan),
            ((math.nan, math.nan), (math.nan, math.nan), 1.0, math.nan),
        ],
    )
    def test_how_much_nearer_a_model_comes(self, expander, trained, doubt, nearer):
        names = ("held_out_noise", "held_out_distance")
        scores = (dict(zip(names, values, strict=True)) for values in (expander, trained))
        assert learn_history.share_nearer(*scores, doubt) == pytest.approx(nearer, nan_ok=True)

    def test_held_out_tiles_are_judged_as_they_are(self, breath, breath_game, monkeypatch):
        """Not without their tones, and of one grain nothing can be said of the distance to others."""
        same = Tiles.of([breath.arrays[3]] * 4, SETTINGS)
        monkeypatch.setattr(learn_game, "BARE_STEPS", 0.0)
        scores = learn_training.judge(breath_game, GrainModel(SETTINGS), same, learn_settings.TrainSettings())
        monkeypatch.setattr(learn_game, "BARE_STEPS", 10.0)
        assert learn_training.judge(
            breath_game, GrainModel(SETTINGS), same, learn_settings.TrainSettings()
        ) == pytest.approx(scores, nan_ok=True)
        assert math.isfinite(scores["held_out_noise"])
        assert math.isfinite(scores["held_out_violation"])

    def test_the_audit_reports_what_stage_1_measures(self, project):
        content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
        assert content["summary"]["files_monotone"] == content["summary"]["files"] == 3
        for row in content["rows"]:
            if row["asked_octaves"] == 0:
                assert row["got_octaves"] == 0
            elif row["within_reach"]:
                assert row["got_octaves"] == pytest.approx(row["asked_octaves"], abs=0.02)

    @pytest.mark.parametrize(
        ("rows", "nearer", "verdict"),
        [
            ([("a", 1, 1.01), ("a", -1, -0.98), ("b", 2, 2.0)], 0.12,
             "the slider keeps its word within 0.05 octaves on 2 of 2 files; "
             "the learned pattern is 12% nearer than a plain expander's to what its referees expect here"),
            ([("a", 1, 1.01), ("a", -1, -0.8), ("b", 2, 2.0)], math.nan,
             "the slider keeps its word within 0.05 octaves on 1 of 2 files; the largest error is 0.200 octaves, "
             "see audit.png"),
            ([("a", 1, 1.0), ("a", 2, None), ("a", 3, None), ("b", 0, 0.0), ("b", 1, None)], -0.01,
             "the slider keeps its word within 0.05 octaves on 1 of 1 files; "
             "only 25% of positions are within reach: most of these files are as smooth or as grainy as can be; "
             "the learned pattern is no better than a plain expander's: train longer, or add recordings"),
            ([("a", 0, 0.0), ("a", 1, None)], math.nan,
             "no held-out file can be moved to where it was asked; "
             "only 0% of positions are within reach: most of these files are as smooth or as grainy as can be"),
            ([], math.nan, "no held-out file could be audited"),
        ],
    )  # fmt: skip
    def test_the_verdict_says_whether_the_model_is_good(self, rows, nearer, verdict):
        rows = [
            learn_audit.AuditRow(name, asked, 0.3 if got is None else got, got is not None, 0.0)
            for name, asked, got in rows
        ]
        summary = learn_audit.summarise_audit(rows, 0.02, nearer, n_files=100, spread_octaves=6.0)
        assert summary["verdict"] == verdict
        assert (summary["within_reach_share"] is None) == (summary["loudness_change_max_db"] is None) == (not rows)
        has_errors = any(row.within_reach and row.asked_octaves for row in rows)
        assert (summary["error_median_octaves"] is None) == (summary["error_95th_octaves"] is None) == (not has_errors)
        assert (summary["nearer_than_expander_share"] is None) == math.isnan(nearer)

    def test_files_of_one_name_in_two_folders_are_two_files(self, project, tmp_path):
        for i, path in enumerate(sorted(write_library(tmp_path, 8, 1.0).rglob("*.wav"))):
            (tmp_path / f"Drone/{i}").mkdir()
            path.rename(tmp_path / f"Drone/{i}/take.wav")
        for script, *args in (["measure_audio_grain.py"], ["convert_to_spectrograms.py", "--no-images"]):
            run(script, *args, cwd=tmp_path)
        pairs, model = read_pairs(tmp_path / "training_pairs.json"), load_model(project.model).model
        rows, summary, failures = learn_audit.audit_model(pairs, model, 0.02, 0.1, 0, tmp_path)
        assert failures == []
        assert summary["files"] == 2
        assert len(rows) == 14
        assert len({row.file for row in rows}) == 2
        assert all((tmp_path / row.file).is_file() for row in rows)

    def test_without_the_recordings_it_learns_and_says_that_none_could_be_audited(self, copied):
        for path in copied.folder.rglob("*.wav"):
            path.unlink()
        ran = run("cak_grain_processor.py", "--epochs", "1", "--device", "cpu", cwd=copied.folder)
        assert ran.status == 1
        assert ran.err.count("warning: not audited") == 3
        assert "audit: no held-out file could be audited" in ran.out

    def test_the_model_is_small_safe_and_says_where_it_comes_from(self, project):
        assert project.model.stat().st_size < 1e6
        content = torch.load(project.model, weights_only=True)
        assert "optimizer" not in content
        assert content["training"]["files"] == 12
        assert content["training"]["seed"] == 0
        assert "the slider keeps its word" in content["audit"]["verdict"]
        loaded = load_model(project.model)
        assert loaded.settings == SETTINGS

    def test_same_seed_same_weights_and_resume_ends_with_the_same(self, project, tmp_path):
        pairs = project.folder / "training_pairs.json"

        def weights(folder):
            return torch.load(folder / "checkpoints/latest.pt", weights_only=True)["weights"]

        args = ("--pairs", pairs, "--epochs", 4, "--device", "cpu")
        assert run("cak_grain_processor.py", *args, "--output-dir", "whole", cwd=tmp_path).status == 0
        killed = subprocess.Popen(
            [sys.executable, ROOT / "cak_grain_processor.py", *map(str, args), "--output-dir", "broken"],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        latest = tmp_path / "broken/checkpoints/latest.pt"
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        done = len(torch.load(latest, weights_only=True)["history"])
        assert 1 <= done < 4
        assert run("cak_grain_processor.py", *args, "--output-dir", "broken", "--resume", cwd=tmp_path).status == 0
        whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
        assert all(torch.equal(whole[name], broken[name]) for name in whole)

    def test_what_can_not_be_gone_on_with_is_refused_before_anything_is_learned(self, project, monkeypatch):
        monkeypatch.setattr(learn_game, "AuditGame", lambda *_: pytest.fail("it learned"))
        pairs, output_dir = read_pairs(project.folder / "training_pairs.json"), project.model.parent
        with pytest.raises(PipelineError, match="was made from other tiles or options; leave out --resume"):
            learn_training.train(pairs, learn_settings.TrainSettings(epochs=11), output_dir, resume=True)

    def test_ctrl_c_ends_the_step_and_writes_what_it_did(self, project, tmp_path):
        latest = tmp_path / "grain_processor_v2_output/checkpoints/latest.pt"
        running = subprocess.Popen(
            [sys.executable, ROOT / "cak_grain_processor.py", "--pairs", project.folder / "training_pairs.json", "--device", "cpu"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)  # the next epoch begins at once, and has sixteen steps
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert "interrupted; go on with --resume" in err
        content = read_checkpoint(latest)
        assert len(content["history"]) >= 1
        assert content["begun"] is None or 1 <= content["begun"]["step"] <= 16

    def test_interrupted_before_its_first_step_it_does_not_offer_an_earlier_runs_checkpoint(self, copied):
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
        assert len(read_checkpoint(copied.folder / "grain_processor_v2_output/checkpoints/latest.pt")["history"]) == 10

    @pytest.mark.usefixtures("brief_critic")
    def test_stopped_after_any_step_it_goes_on_to_the_same_weights(self, project, tmp_path, monkeypatch):
        pairs = read_pairs(project.folder / "training_pairs.json")
        settings = learn_settings.TrainSettings(epochs=2)
        for name in ("whole", "broken"):
            for part in ("checkpoints", "samples"):
                (tmp_path / name / part).mkdir(parents=True)
        whole, *_ = learn_training.train(pairs, settings, tmp_path / "whole")
        steps = itertools.count(1)
        stop = contextlib.nullcontext(lambda: next(steps) == 22)  # the fifth step of the second epoch
        with monkeypatch.context() as patch:
            patch.setattr(learn_training, "stop_after_step", lambda: stop)
            with pytest.raises(KeyboardInterrupt):
                learn_training.train(pairs, settings, tmp_path / "broken")
        content = read_checkpoint(tmp_path / "broken/checkpoints/latest.pt")
        assert (len(content["history"]), content["begun"]["step"]) == (1, 5)
        resumed, history, _ = learn_training.train(pairs, settings, tmp_path / "broken", resume=True)
        assert len(history) == 2
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))

    def test_killed_between_its_last_checkpoint_and_the_pictures_it_draws_them_when_it_goes_on(self, copied):
        output_dir = copied.folder / "grain_processor_v2_output"
        drawn = [
            *output_dir.glob("checkpoints/epoch_*.pt"),
            *output_dir.glob("samples/*"),
            *output_dir.glob("*history*"),
        ]
        before = {path: path.read_bytes() for path in drawn}
        assert len(before) == 4
        for path in drawn:
            path.unlink()
        pairs = read_pairs(copied.folder / "training_pairs.json")
        learn_training.train(pairs, learn_settings.TrainSettings(epochs=10), output_dir, resume=True)
        assert before == {path: path.read_bytes() for path in drawn}

    def test_tiles_that_are_mapped_from_disk_train_the_same(self, project, tmp_path, monkeypatch):
        pairs = read_pairs(project.folder / "training_pairs.json")
        in_memory = learn_dataset.load_tiles(pairs, range(len(pairs.sources)), "cpu")
        monkeypatch.setattr(learn_dataset, "TILES_BYTES", 0)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/dev/fd"))) + 6
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))  # fewer than there are tiles
        try:
            mapped = learn_dataset.load_tiles(pairs, range(len(pairs.sources)), "cpu")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(mapped.arrays) > 6
        assert isinstance(mapped.arrays[0], np.memmap)
        for a, b in zip(
            in_memory.crops(8, np.random.default_rng(0)), mapped.crops(8, np.random.default_rng(0)), strict=True
        ):
            assert torch.equal(a, b)
        mapped.arrays.paths[0] = tmp_path / "gone.npy"
        with pytest.raises(PipelineError, match="no longer there"):
            mapped.arrays[0]

    @pytest.mark.usefixtures("brief_critic")
    def test_silence_inside_a_tile_is_no_hindrance(self, tmp_path):
        """A crop of digital silence has a pattern of exactly 0 at first, and a root of 0 no gradient."""
        for i, path in enumerate(sorted(write_library(tmp_path).rglob("*.wav"))):
            if i % 2:
                y, sr = sf.read(path)
                y[: sr * 3 // 2] = 0
                sf.write(path, y, sr, "PCM_16")
        for script, *args in (["measure_audio_grain.py"], ["convert_to_spectrograms.py", "--no-images"]):
            run(script, *args, cwd=tmp_path)
        for name in ("checkpoints", "samples"):
            (tmp_path / name).mkdir()
        model, *_ = learn_training.train(
            read_pairs(tmp_path / "training_pairs.json"), learn_settings.TrainSettings(epochs=1), tmp_path
        )
        assert all(torch.isfinite(weight).all() for weight in model.parameters())

    @pytest.mark.usefixtures("brief_critic")
    def test_every_epoch_draws_other_pairs(self, project, monkeypatch):
        pairs = read_pairs(project.folder / "training_pairs.json")
        movers = learn_dataset.load_tiles(pairs, range(len(pairs.sources)), "cpu")
        monkeypatch.setattr(learn_training, "learning_rate_at", lambda progress: 0.0)
        monkeypatch.setattr(learn_model, "GATE_TEMPERATURES", (2.0, 2.0))
        model, game = GrainModel(SETTINGS), learn_game.AuditGame(pairs.settings, movers, seed=0)
        optimizer = torch.optim.Adam(model.parameters())
        first, second, again = (
            learn_training.train_epoch(game, model, optimizer, movers, epoch, learn_settings.TrainSettings())
            for epoch in (1, 2, 1)
        )
        assert first == again
        assert first["violation_texture"] != second["violation_texture"]

    @pytest.mark.usefixtures("brief_critic")
    @pytest.mark.parametrize(("what", "epoch"), [("loss", 1), ("loss", 2), ("gradient", 2)])
    def test_what_is_not_finite_stops_the_training(self, project, monkeypatch, tmp_path, what, epoch):
        for name in ("checkpoints", "samples"):
            (tmp_path / name).mkdir()
        latest = tmp_path / "checkpoints/latest.pt"
        game_of = AuditGame.play

        def play(game, model, *args, **options):
            moves = game_of(game, model, *args, **options)
            if torch.is_grad_enabled() and latest.exists() == (epoch == 2):
                bad = model.scale * math.inf if what == "loss" else (model.scale - model.scale.detach()).sqrt()
                move = moves["smooth"]
                moves["smooth"] = learn_game.Moves(
                    move.distance, move.noise_distance, move.noise_told, move.violation + bad
                )
            return moves

        monkeypatch.setattr(AuditGame, "play", play)
        good = latest if epoch == 2 else "none"
        with pytest.raises(PipelineError) as caught:
            learn_training.train(
                read_pairs(project.folder / "training_pairs.json"), learn_settings.TrainSettings(epochs=3), tmp_path
            )
        assert str(caught.value) == f"epoch {epoch}: the {what} is not finite; the last good checkpoint is {good}"
        if epoch == 2:
            assert len(read_checkpoint(latest)["history"]) == 1

    def test_a_gradient_that_a_device_computes_wrong_is_named(self, breath):
        torch.manual_seed(0)
        good = learn_device.gradients_on("cpu", GrainModel(SETTINGS), *breath.crops(4, np.random.default_rng(0)))
        assert all(gradient.norm() > 0 for name, gradient in good.items() if name != "detector.mix.bias"), good
        rounded = {name: gradient * (1 + 1e-4 * torch.randn_like(gradient)) for name, gradient in good.items()}
        assert learn_device.wrong_gradients(good, rounded) == []
        for name in ("detector.layers.0.weight", "detector.direct.weight", "detector.layers.2.bias"):
            for wrong in (torch.zeros_like(good[name]), -good[name], good[name] * math.nan):
                assert learn_device.wrong_gradients(good, {**good, name: wrong}) == [name]
