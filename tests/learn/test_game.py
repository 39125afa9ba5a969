"""The audit game: exact moves, the resemblance critic, and what the referees do and do not judge."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import FRACTIONS, RANGE_DB, SETTINGS, random_pictures
from scipy.stats import multivariate_normal

from neural_grain.dsp.settings import CELL_FRAMES
from neural_grain.learn import noise_law
from neural_grain.learn.auditor import audited_octaves
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import RESEMBLANCE, AuditGame, natural_distance, solve_amount
from neural_grain.learn.model import GrainModel


def test_the_solved_amount_moves_grain_by_the_claim():
    x = 0.3 + 0.7 * random_pictures(4, CELL_FRAMES) ** 4
    pattern = 0.25 * (x - x.mean(1, keepdim=True))

    def octaves(amount: torch.Tensor) -> torch.Tensor:
        return audited_octaves(x, pattern * amount[:, None, None], FRACTIONS, RANGE_DB, 40.0)

    claim = torch.tensor([-0.5, 0.4, 1.0, 2.0])
    torch.testing.assert_close(octaves(solve_amount(octaves, claim)), claim, atol=0.02, rtol=0)


class TestResemblance:
    def test_the_distance_to_one_natural_tile_is_the_mean_square(self):
        moved, natural = random_pictures(3).mean(2), random_pictures(1, seed=1).mean(2)
        expected = (moved - natural).square().mean(1)
        torch.testing.assert_close(natural_distance(moved, natural), expected, atol=1e-6, rtol=1e-3)

    def test_a_moved_tile_is_drawn_towards_the_natural_tile_that_it_resembles(self):
        moved = random_pictures(2)[:, :, 0].requires_grad_()
        natural = torch.cat((moved.detach()[:1] + 0.1, moved.detach()[1:] - 0.1, 1 - moved.detach()))
        natural_distance(moved, natural).sum().backward()
        assert (moved.grad[0] < 0).all()
        assert (moved.grad[1] > 0).all()

    def test_the_distance_is_scipys_kernel_density(self):
        rng = np.random.default_rng(0)
        natural, moved = 0.02 * rng.normal(size=(9, 2)), 0.02 * rng.normal(size=(4, 2))
        kernel = multivariate_normal(cov=RESEMBLANCE.kernel * np.eye(2))
        density = np.stack([kernel.pdf(moved - tile) for tile in natural]).mean(0)
        expected = -RESEMBLANCE.kernel * np.log(density / kernel.pdf(np.zeros(2)))
        distance = natural_distance(*(torch.tensor(values, dtype=torch.float32) for values in (moved, natural)))
        np.testing.assert_allclose(distance, expected, rtol=1e-3)

    def test_it_counts_more_where_the_noise_follows_its_law_less_exactly(self, breath, breath_game, monkeypatch):
        """Each band of each tile is shifted by 10 dB RMS, which no law explains."""
        rng = np.random.default_rng(0)
        shifted = [tile + 0.1 * rng.normal(size=(128, 1)).astype(np.float32) for tile in breath.arrays]
        monkeypatch.setattr(noise_law, "NOISE_LAW", replace(noise_law.NOISE_LAW, steps=200, trial_steps=50))
        torch.manual_seed(0)
        game = AuditGame(SETTINGS, Tiles.of(shifted, SETTINGS), seed=0)
        assert breath_game.resemblance_weight < 0.1  # seen, as in test_noise_law: 0.050 to 0.068
        assert 0.8 < game.resemblance_weight < 3  # seen: 1.22 to 1.25; 0.67 before training


@pytest.mark.parametrize(("resemblance_weight", "share"), [(0.0, 0.6), (0.05, 0.3), (0.1, 0.0), (1.0, 0.0)])
def test_tiles_lose_tones_less_often_the_less_the_noise_critic_can_be_trusted(breath_game, resemblance_weight, share):
    game = copy.copy(breath_game)
    game.resemblance_weight = resemblance_weight
    rng = np.random.default_rng(0)
    is_bare = [bool(game._draw_bare_bands(2, rng).any()) for _ in range(400)]
    assert np.mean(is_bare) == pytest.approx(share, abs=0.08)


def test_only_the_auditor_judges_how_strong_a_pattern_is(breath, breath_game):
    model = GrainModel(SETTINGS)
    full = breath_game.judge_batch(model, breath, 8, np.random.default_rng(0))
    with torch.no_grad():
        model.scale *= 0.1
    weak = breath_game.judge_batch(model, breath, 8, np.random.default_rng(0))
    for direction in ("texture", "smooth"):
        torch.testing.assert_close(weak[direction].natural_distance, full[direction].natural_distance)
        torch.testing.assert_close(weak[direction].noise_distance, full[direction].noise_distance)
        assert weak[direction].violation > full[direction].violation + 0.3
