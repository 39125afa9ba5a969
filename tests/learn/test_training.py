"""Training: what a model learns, that it can be interrupted at any moment, and that its length has a limit."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PROJECT_EPOCHS
from learning import BANDS, BREATH_BAND, SETTINGS, breathy_tiles, output_folder, randomised

from neural_grain.base.errors import PipelineError
from neural_grain.dsp.settings import NEPER_PER_DB
from neural_grain.learn import training
from neural_grain.learn.adam import Adam
from neural_grain.learn.dataset import load_library
from neural_grain.learn.game import AuditGame, Judgement
from neural_grain.learn.history import share_nearer
from neural_grain.learn.model import KERNEL, GrainModel
from neural_grain.learn.model_file import read_checkpoint
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import (
    TRAINING,
    gate_temperature_at,
    judge,
    learning_rate_at,
    mean_score,
    n_batches,
    optimise,
    stop_after_step,
    total_loss,
    train,
    train_epoch,
)


def assert_same_weights(a: GrainModel, b: GrainModel) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class TestWhatIsLearned:
    def test_it_is_reported_for_files_that_were_not_learned_from(self, project):
        with (project.folder / "grain_processor_v2_output/training_history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == PROJECT_EPOCHS
        content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
        assert content["summary"]["held_out_violation_octaves"] == pytest.approx(float(rows[-1]["held_out_violation"]))

    def test_a_run_compares_its_model_with_the_untrained_one_on_held_out_tiles(self, short_run):
        library = load_library(short_run.pairs, seed=0)
        torch.manual_seed(0)
        game = AuditGame(SETTINGS)
        before, after = (
            judge(game, model, library.held_out, short_run.options)
            for model in (GrainModel(SETTINGS), short_run.trained.model)  # white noise, and what was learned
        )
        assert vars(after) == pytest.approx(vars(short_run.trained.history[-1].held_out))
        assert short_run.trained.nearer_than_one_gain == pytest.approx(share_nearer(before, after))

    def test_a_judgement_has_the_mean_violation_and_the_rms_distance_of_pairs_that_stay_the_same(self):
        torch.manual_seed(0)
        game, model, tiles = AuditGame(SETTINGS), randomised(), breathy_tiles()
        options = TrainOptions(seed=5, batch_size=4)
        rng = np.random.default_rng([5, 2**31])
        with torch.no_grad():
            rounds = [game.judge(model, game.draw_pairs(tiles, 4, rng)) for _ in range(TRAINING.held_out_batches)]
        violations = [[float(each.violation_texture), float(each.violation_smooth)] for each in rounds]
        scores = judge(game, model.train(), tiles, options)
        assert scores.distance == pytest.approx(np.sqrt(np.mean([float(each.distance) for each in rounds])))
        assert scores.violation == pytest.approx(np.mean(violations))
        assert not model.training

    def test_breath_that_vanished_below_the_floor_is_given_back_where_it_belongs(self):
        """The library's texture is breath in the upper half; white noise would lie in all bands alike."""
        torch.manual_seed(0)
        tiles, options = breathy_tiles(), TrainOptions(epochs=10, batch_size=8)
        model = GrainModel(SETTINGS, tiles.typical_texture(np.full(len(tiles.tones), 13.0), SETTINGS))
        optimizer = Adam(model.parameters())
        game = AuditGame(SETTINGS)
        for epoch in range(1, options.epochs + 1):
            train_epoch(game, model, optimizer, tiles, epoch, options)
        with torch.no_grad():
            pattern = (
                model.pattern(tiles.tones, torch.full_like(tiles.texture, model.floor)).mean((0, 2)) / NEPER_PER_DB
            )
        assert pattern[BREATH_BAND + 4 :].mean() > pattern[: BREATH_BAND - 4].mean() + 20
        assert judge(game, model, tiles, options).distance < judge(game, GrainModel(SETTINGS), tiles, options).distance

    def test_a_tile_of_digital_silence_does_no_harm(self):
        tiles, model = breathy_tiles(), GrainModel(SETTINGS)
        for levels in (tiles.tones, tiles.texture):
            levels[::2] = BANDS.floor
            levels[1::4, :, :4] = BANDS.floor
        optimizer = Adam(model.parameters())
        train_epoch(AuditGame(SETTINGS), model, optimizer, tiles, 1, TrainOptions(epochs=1, batch_size=8))
        assert all(torch.isfinite(weight).all() for weight in model.parameters())


class TestStep:
    @pytest.mark.parametrize(
        ("progress", "share"),
        [
            (0.0, 0.01),  # the rise begins at a hundredth
            (0.049, 0.5 * (0.01 + 0.99 * (1 + math.cos(0.049 * math.pi)) / 2)),
            (0.25, 0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2),
            (0.5, 0.505),
            (1.0, 0.01),
        ],
    )
    def test_the_learning_rate_rises_for_a_tenth_of_the_training_and_falls_as_half_a_cosine(self, progress, share):
        assert learning_rate_at(progress) == pytest.approx(share * TRAINING.learning_rate)

    def test_the_learning_rate_of_a_step_is_that_of_its_place_in_the_training(self, monkeypatch):
        monkeypatch.setattr(training, "TRAINING", replace(TRAINING, min_batches=4, max_batches=4))
        model, options = GrainModel(SETTINGS), TrainOptions(epochs=5, batch_size=4)
        optimizer = Adam(model.parameters())
        train_epoch(AuditGame(SETTINGS), model, optimizer, breathy_tiles(8), 3, options)
        assert optimizer.learning_rate == learning_rate_at((2 + 3 / 4) / 5)

    def test_the_temperature_of_the_gate_grows_by_the_same_factor_in_each_epoch(self):
        first, last = KERNEL.gate_temperatures
        found = [gate_temperature_at(epoch, 5) for epoch in range(1, 6)]
        np.testing.assert_allclose(found, np.geomspace(first, last, 5))
        assert gate_temperature_at(1, 1) == first

    def test_the_loss_weighs_distance_correction_and_violations(self):
        judgement = Judgement(*map(torch.tensor, (10.0, 100.0, 0.2, 0.4)))
        expected = (10 + TRAINING.correction_weight * 100) / TRAINING.distance_unit_db2 + 0.6
        assert total_loss(judgement).item() == pytest.approx(expected)

    @pytest.mark.parametrize(("steepness", "change"), [(0.5, 0.5), (1e4, TRAINING.max_gradient_norm)])
    def test_one_batch_changes_the_weights_by_no_more_than_a_limit(self, steepness, change):
        model = torch.nn.Linear(1, 1, bias=False)
        before = model.weight.item()
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        for _ in range(2):  # the gradient of the step before does not count
            assert optimise(model, optimizer, steepness * model.weight.sum()) is None
        assert before - model.weight.item() == pytest.approx(2 * change)

    @pytest.mark.parametrize(("factor", "fault"), [(math.nan, "loss"), (math.inf, "loss")])
    def test_a_loss_that_is_not_finite_leaves_the_weights(self, factor, fault):
        model = torch.nn.Linear(1, 1, bias=False)
        before = model.weight.item()
        assert optimise(model, torch.optim.SGD(model.parameters(), 1.0), factor * model.weight.sum()) == fault
        assert model.weight.item() == before

    def test_scores_of_an_epoch_are_means_of_octaves_and_roots_of_mean_squares(self):
        assert mean_score("violation_smooth", [0.1, 0.4]) == pytest.approx(0.25)
        assert mean_score("distance", [9.0, 16.0]) == pytest.approx(math.sqrt(12.5))


class TestLengthOfAnEpoch:
    @pytest.mark.parametrize(
        ("n_tiles", "n"), [(1, 8), (117, 8), (257, 9), (320, 10), (512, 16), (10_000, 32), (1_000_000, 32)]
    )
    def test_it_follows_the_number_of_tiles_within_two_limits(self, n_tiles, n):
        assert n_batches(n_tiles, 32) == n

    def test_every_epoch_draws_other_batches_and_the_same_ones_again(self, monkeypatch):
        monkeypatch.setattr(training, "learning_rate_at", lambda progress: 0.0)
        monkeypatch.setattr(training, "KERNEL", replace(KERNEL, gate_temperatures=(2.0, 2.0)))
        monkeypatch.setattr(training, "TRAINING", replace(TRAINING, min_batches=4, max_batches=4))
        game, model, tiles = AuditGame(SETTINGS), GrainModel(SETTINGS), breathy_tiles()
        optimizer = Adam(model.parameters())
        first, second, again = (
            train_epoch(game, model, optimizer, tiles, epoch, TrainOptions()) for epoch in (1, 2, 1)
        )
        assert first == again
        assert first["violation_texture"] != second["violation_texture"]


class TestInterruption:
    @pytest.mark.parametrize("epoch", [1, 2])
    def test_a_run_that_is_stopped_after_any_step_and_resumed_ends_with_the_same_weights(
        self, short_run, tmp_path, monkeypatch, epoch
    ):
        folder = output_folder(tmp_path / "run")
        steps = itertools.count(1)
        stop = contextlib.nullcontext(
            # The sixth step of the epoch is not done. It is asked after each of eight steps, and at the end of an epoch.
            lambda: next(steps) == {1: 5, 2: 14}[epoch]
        )
        with monkeypatch.context() as patch:
            patch.setattr(training, "stop_after_step", lambda: stop)
            with pytest.raises(KeyboardInterrupt):
                train(short_run.pairs, short_run.options, folder)
        content = read_checkpoint(folder / "checkpoints/latest.pt")
        assert (len(content["history"]), content["begun"]["step"]) == (epoch - 1, 5)
        resumed = train(short_run.pairs, short_run.options, folder, resume=True)
        assert len(resumed.history) == 2
        assert_same_weights(resumed.model, short_run.trained.model)

    def test_reports_that_are_missing_after_the_last_checkpoint_are_written_when_the_run_is_resumed(
        self, short_run, tmp_path
    ):
        """A run may be killed between writing a checkpoint and drawing its pictures."""
        folder = shutil.copytree(short_run.folder, tmp_path / "run")
        reports = [path for path in folder.rglob("*.*") if path.name != "latest.pt"]
        before = {path: path.read_bytes() for path in reports}
        names = {path.name for path in reports}
        assert names == {"epoch_0002.pt", "epoch_0002.png", "training_history.csv", "training_history.png"}
        for path in reports:
            path.unlink()
        resumed = train(short_run.pairs, short_run.options, folder, resume=True)
        assert before == {path: path.read_bytes() for path in reports}
        assert_same_weights(resumed.model, short_run.trained.model)

    def test_a_checkpoint_of_other_options_is_refused_before_anything_is_learned(self, short_run, monkeypatch):
        monkeypatch.setattr(training, "AuditGame", lambda *_: pytest.fail("a game was begun"))
        with pytest.raises(PipelineError, match="was made from other tiles or options; leave out --resume"):
            train(short_run.pairs, replace(short_run.options, epochs=3), short_run.folder, resume=True)

    @pytest.mark.parametrize(("fault", "epoch"), [("loss", 1), ("loss", 2), ("gradient", 2)])
    def test_a_loss_or_gradient_that_is_not_finite_stops_the_training(
        self, short_run, monkeypatch, tmp_path, fault, epoch
    ):
        folder = output_folder(tmp_path / "run")
        latest = folder / "checkpoints/latest.pt"
        judge_well = AuditGame.judge

        def judge_badly(game, model, *args):
            judgement = judge_well(game, model, *args)
            if torch.is_grad_enabled() and latest.exists() == (epoch == 2):
                scale = model.scale.sum()
                bad = scale * math.inf if fault == "loss" else (scale - scale.detach()).sqrt()
                judgement = replace(judgement, violation_smooth=judgement.violation_smooth + bad)
            return judgement

        monkeypatch.setattr(AuditGame, "judge", judge_badly)
        monkeypatch.setattr(training, "TRAINING", replace(TRAINING, min_batches=2, max_batches=2))
        with pytest.raises(PipelineError) as caught:
            train(short_run.pairs, replace(short_run.options, epochs=3), folder)
        last_good = f"; the last good checkpoint is {latest}" if epoch == 2 else ""
        assert str(caught.value) == f"epoch {epoch}: the {fault} is not finite{last_good}"
        if epoch == 2:
            assert len(read_checkpoint(latest)["history"]) == 1

    def test_no_checkpoint_is_promised_if_the_first_one_could_not_be_written(self, short_run, monkeypatch, tmp_path):
        monkeypatch.setattr(training, "TRAINING", replace(TRAINING, min_batches=1, max_batches=1))
        with pytest.raises(PipelineError, match=r"latest\.pt: can't write \(No such file or directory\)$"):
            train(short_run.pairs, short_run.options, tmp_path)  # without the folder of the checkpoints

    def test_reports_are_written_after_every_tenth_epoch_and_the_last(self, short_run, tmp_path, monkeypatch):
        monkeypatch.setattr(
            training, "TRAINING", replace(TRAINING, min_batches=1, max_batches=1, report_every_epochs=2)
        )
        folder = output_folder(tmp_path / "run")
        train(short_run.pairs, replace(short_run.options, epochs=3), folder)
        names = sorted(path.stem for path in (folder / "samples").iterdir())
        assert names == ["epoch_0002", "epoch_0003"]
        assert sorted(path.stem for path in (folder / "checkpoints").iterdir()) == [*names, "latest"]
        assert TRAINING.report_every_epochs == 10


def test_a_training_on_another_thread_than_the_main_one_is_not_stopped():
    with ThreadPoolExecutor(1) as pool:

        def ask() -> bool:
            with stop_after_step() as stop_requested:
                return stop_requested()

        assert pool.submit(ask).result() is False
