"""Training: what a model learns, that it can be interrupted at any moment, and that its length has a limit."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PROJECT_EPOCHS
from learning import SETTINGS, output_folder

from neural_grain.base.errors import PipelineError
from neural_grain.learn import game as learn_game
from neural_grain.learn import model as learn_model
from neural_grain.learn import training
from neural_grain.learn.checkpoint import read_checkpoint
from neural_grain.learn.dataset import Tiles, load_library
from neural_grain.learn.game import AuditGame
from neural_grain.learn.history import share_nearer
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import TRAINING, judge, n_batches, train, train_epoch


def assert_same_weights(a: GrainModel, b: GrainModel) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class TestWhatIsLearned:
    """The bounds are far from what was measured with two seeds on AVX2 kernels and one on the default kernels.

    Share nearer: 0.53 to 0.66, bound 0.2. Remaining distance: 0.06 to 0.18, bound 0.5.
    """

    def test_it_holds_for_files_that_were_not_learned_from(self, project):
        with (project.folder / "grain_processor_v2_output/training_history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == PROJECT_EPOCHS
        assert float(rows[-1]["held_out_violation"]) < 0.1
        content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
        assert content["summary"]["nearer_than_expander_share"] > 0.2

    @pytest.mark.usefixtures("short_critic")
    def test_a_run_compares_its_model_with_the_untrained_one_on_held_out_tiles(self, short_run):
        library = load_library(short_run.pairs, seed=0)
        torch.manual_seed(0)
        untrained = GrainModel(SETTINGS)
        game = AuditGame(SETTINGS, library.train, seed=0)
        untrained.detector.full_fluctuation.copy_(game.critic.full_fluctuation)
        before, after = (
            judge(game, model, library.held_out, short_run.options) for model in (untrained, short_run.trained.model)
        )
        assert vars(after) == pytest.approx(vars(short_run.trained.history[-1].held_out), nan_ok=True)
        nearer = share_nearer(before, after, game.resemblance_weight)
        assert short_run.trained.nearer_than_expander == pytest.approx(nearer)

    @pytest.mark.parametrize("critics", ["both", "noise alone"])
    def test_moved_tiles_come_nearer_to_the_sound_with_more_or_less_noise(
        self, breath, breath_game, critics, monkeypatch
    ):
        """The expander that the model starts from does not know that noise rises above 4 kHz only."""
        if critics == "noise alone":  # the resemblance critic would teach much the same here
            monkeypatch.setattr(AuditGame, "_natural_distances", lambda *_: {})
        torch.manual_seed(0)
        model, options = GrainModel(SETTINGS), TrainOptions(epochs=2, batch_size=8)

        def distance() -> float:
            rng = np.random.default_rng(7)
            with torch.no_grad():
                judgements = [breath_game.judge_batch(model, breath, 32, rng) for _ in range(4)]
            return sum(judgement.noise_distance.item() for both in judgements for judgement in both.values())

        before = distance()
        optimizer = torch.optim.Adam(model.parameters(), TRAINING.learning_rate, betas=TRAINING.adam_betas)
        for epoch in range(1, options.epochs + 1):
            train_epoch(breath_game, model, optimizer, breath, epoch, options)
        assert distance() < 0.5 * before

    def test_held_out_tiles_are_judged_with_all_their_tones(self, breath, breath_game, monkeypatch):
        """If they all have the same grain, the resemblance critic has no opinion."""
        same = Tiles.of([breath.arrays[3]] * 4, SETTINGS)
        torch.manual_seed(0)
        model, scores = GrainModel(SETTINGS), []
        for bare_share in (0.0, 10.0):
            monkeypatch.setattr(learn_game, "GAME", replace(learn_game.GAME, bare_share=bare_share))
            scores.append(judge(breath_game, model, same, TrainOptions()))
        assert vars(scores[0]) == pytest.approx(vars(scores[1]), nan_ok=True)
        assert math.isnan(scores[0].distance)
        assert math.isfinite(scores[0].noise)
        assert math.isfinite(scores[0].violation)

    def test_digital_silence_inside_a_tile_does_no_harm(self, breath, breath_game):
        """In silence the pattern is exactly 0 at first, and the root of 0 has no finite gradient."""
        arrays = [np.array(x) for x in breath.arrays]
        for x in arrays[::2]:
            x[:, : x.shape[1] // 2] = 0
        torch.manual_seed(0)
        model = GrainModel(SETTINGS)
        optimizer = torch.optim.Adam(model.parameters(), TRAINING.learning_rate)
        train_epoch(breath_game, model, optimizer, Tiles.of(arrays, SETTINGS), 1, TrainOptions(epochs=1, batch_size=8))
        assert all(torch.isfinite(weight).all() for weight in model.parameters())


class TestLengthOfAnEpoch:
    @pytest.mark.parametrize(
        ("n_tiles", "n"), [(1, 16), (117, 16), (513, 17), (1000, 32), (2048, 64), (10_000, 64), (1_000_000, 64)]
    )
    def test_it_follows_the_number_of_tiles_within_two_limits(self, n_tiles, n):
        assert n_batches(n_tiles, 32) == n

    def test_every_epoch_draws_other_batches_and_the_same_ones_again(self, breath, breath_game, monkeypatch):
        monkeypatch.setattr(training, "learning_rate_at", lambda progress: 0.0)
        monkeypatch.setattr(learn_model, "KERNEL", replace(learn_model.KERNEL, gate_temperatures=(2.0, 2.0)))
        monkeypatch.setattr(training, "KERNEL", learn_model.KERNEL)
        monkeypatch.setattr(training, "TRAINING", replace(TRAINING, min_batches=4, max_batches=4))
        torch.manual_seed(0)
        model = GrainModel(SETTINGS)
        optimizer = torch.optim.Adam(model.parameters())
        first, second, again = (
            train_epoch(breath_game, model, optimizer, breath, epoch, TrainOptions()) for epoch in (1, 2, 1)
        )
        assert first == again
        assert first["violation_texture"] != second["violation_texture"]


@pytest.mark.usefixtures("short_critic")
class TestInterruption:
    def test_a_run_that_is_stopped_after_any_step_and_resumed_ends_with_the_same_weights(
        self, short_run, tmp_path, monkeypatch
    ):
        folder = output_folder(tmp_path / "run")
        steps = itertools.count(1)
        stop = contextlib.nullcontext(lambda: next(steps) == 22)  # the sixth step of the second epoch is not done
        with monkeypatch.context() as patch:
            patch.setattr(training, "stop_after_step", lambda: stop)
            with pytest.raises(KeyboardInterrupt):
                train(short_run.pairs, short_run.options, folder)
        content = read_checkpoint(folder / "checkpoints/latest.pt")
        assert (len(content["history"]), content["begun"]["step"]) == (1, 5)
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
        monkeypatch.setattr(training, "AuditGame", lambda *_: pytest.fail("the noise critic was trained"))
        with pytest.raises(PipelineError, match="was made from other tiles or options; leave out --resume"):
            train(short_run.pairs, replace(short_run.options, epochs=3), short_run.folder, resume=True)

    @pytest.mark.parametrize(("fault", "epoch"), [("loss", 1), ("loss", 2), ("gradient", 2)])
    def test_a_loss_or_gradient_that_is_not_finite_stops_the_training(
        self, short_run, monkeypatch, tmp_path, fault, epoch
    ):
        folder = output_folder(tmp_path / "run")
        latest = folder / "checkpoints/latest.pt"
        judge_batch = AuditGame.judge_batch

        def judge_badly(game, model, *args, **options):
            judgements = judge_batch(game, model, *args, **options)
            if torch.is_grad_enabled() and latest.exists() == (epoch == 2):
                bad = model.scale * math.inf if fault == "loss" else (model.scale - model.scale.detach()).sqrt()
                smooth = judgements["smooth"]
                judgements["smooth"] = replace(smooth, violation=smooth.violation + bad)
            return judgements

        monkeypatch.setattr(AuditGame, "judge_batch", judge_badly)
        monkeypatch.setattr(training, "TRAINING", replace(TRAINING, min_batches=2, max_batches=2))
        with pytest.raises(PipelineError) as caught:
            train(short_run.pairs, replace(short_run.options, epochs=3), folder)
        last_good = latest if epoch == 2 else "none"
        assert str(caught.value) == f"epoch {epoch}: the {fault} is not finite; the last good checkpoint is {last_good}"
        if epoch == 2:
            assert len(read_checkpoint(latest)["history"]) == 1

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
