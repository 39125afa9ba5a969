"""The audit game: the pairs that it makes, and what the referees say of models whose work is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import BREATH_BAND, SETTINGS, breathy_tiles, random_levels, randomised

from neural_grain.dsp.settings import NEPER_PER_DB
from neural_grain.learn import game as game_module
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import GAME, AuditGame, Pair
from neural_grain.learn.model import GrainModel, move_texture
from neural_grain.learn.settings import CLAIM_OCTAVES
from neural_grain.learn.training import total_loss


@pytest.fixture(scope="module")
def pair():
    return AuditGame(SETTINGS).draw_pairs(breathy_tiles(), 64, np.random.default_rng(0))


def test_the_tiles_of_a_pair_have_the_same_tones_and_different_grain(pair):
    game = AuditGame(SETTINGS)
    octaves = game.log2_grain(pair.tones, pair.more) - game.log2_grain(pair.tones, pair.less)
    torch.testing.assert_close(octaves, pair.octaves)
    assert pair.octaves.min() > CLAIM_OCTAVES
    assert pair.octaves.max() < GAME.max_octaves
    assert torch.all(pair.less <= pair.more + 1e-4)


def test_texture_vanishes_from_some_pairs_and_from_others_not(pair):
    is_bare = (pair.less[:, BREATH_BAND:] == pair.less.min()).float().mean((1, 2)) > 0.9
    assert 0.1 < is_bare.float().mean() < 0.9


def test_the_same_seed_draws_the_same_pairs():
    game, tiles = AuditGame(SETTINGS), breathy_tiles()
    first, again, other = (game.draw_pairs(tiles, 16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.more, again.more)
    assert first.more.shape != other.more.shape or not torch.equal(first.more, other.more)


def test_tiles_that_are_all_noise_make_a_pair_none_the_less():
    texture = torch.zeros(4, 128, 8)
    pair = AuditGame(SETTINGS).draw_pairs(Tiles(texture - 23, texture), 8, np.random.default_rng(0))
    assert len(pair.tones) >= 1


def test_the_solved_amount_gives_a_tile_the_wanted_grain():
    tones, texture = random_levels(4, low_db=-40.0), random_levels(4, seed=1, low_db=-20.0) - 12
    game, pattern = AuditGame(SETTINGS), texture + random_levels(4, seed=2, low_db=-9.0)
    wanted = game.log2_grain(tones, texture) + torch.tensor([0.0, 0.4, 1.0, 2.0])
    moved = move_texture(texture, pattern, game.solve_amount(tones, texture, pattern, wanted))
    torch.testing.assert_close(game.log2_grain(tones, moved), wanted, atol=0.05, rtol=0)


def test_the_gradient_of_the_solved_amount_is_that_of_solving_again(monkeypatch):
    """Checked by raising some bands of a pattern by a decibel, with amounts solved to a millionth."""
    monkeypatch.setattr(game_module, "GAME", replace(GAME, bisections=24, slope_step_db=0.01))
    tones, texture = random_levels(4, low_db=-40.0), random_levels(4, seed=1, low_db=-20.0) - 12
    game, pattern = AuditGame(SETTINGS), (texture + random_levels(4, seed=2, low_db=-9.0)).requires_grad_()
    wanted = game.log2_grain(tones, texture) + 0.8
    (gradient,) = torch.autograd.grad(game.amount_for(tones, texture, pattern, wanted).sum(), pattern)
    change = torch.zeros_like(pattern)
    change[:, 90:] = 0.5 * NEPER_PER_DB
    below, above = (game.solve_amount(tones, texture, pattern.detach() + sign * change, wanted) for sign in (-1, 1))
    expected = (above - below) / 2
    torch.testing.assert_close((gradient * change).sum((1, 2)), expected, atol=2e-3, rtol=0.1)
    assert expected.abs().min() > 0.02


def test_pairs_and_the_judgement_of_a_fixed_model_are_those_of_earlier_versions(pair):
    """Figures as in tests/golden: a change that is meant to change them puts new ones here and says why."""
    judgement = AuditGame(SETTINGS).judge(randomised(), pair)
    figures = [*(score.item() for score in vars(judgement).values()), *(float(levels.mean()) for levels in pair)]
    expected = [0.1202, 1.950, 0.3306, 0.2891, -21.73, -21.24, -19.99, 2.434]
    assert figures == pytest.approx(expected, rel=0.02)
    assert len(pair.octaves) in (18, 19, 20)  # one more or less may be at a limit


def test_a_tile_that_can_not_be_moved_by_the_claim_is_not_compared():
    """One gain does not whiten a coloured noise."""
    coloured = random_levels(4, low_db=-40.0)
    white, tones = torch.zeros_like(coloured), torch.full_like(coloured, -60.0)
    judgement = AuditGame(SETTINGS).judge(GrainModel(SETTINGS), Pair(tones, coloured, white, torch.ones(4)))
    assert judgement.distance == 0


def test_one_gain_gives_back_exactly_what_one_gain_took_away():
    tiles, game = breathy_tiles(8), AuditGame(SETTINGS)
    more = tiles.texture.clamp(min=-45 * NEPER_PER_DB)  # every band has texture of its own
    less = more - 6 * NEPER_PER_DB
    octaves = game.log2_grain(tiles.tones, more) - game.log2_grain(tiles.tones, less)
    judgement = game.judge(GrainModel(SETTINGS), Pair(tiles.tones, less, more, octaves))
    assert judgement.distance.sqrt() < 0.1


def test_the_critic_does_not_hear_what_lies_too_deep(pair):
    game = AuditGame(SETTINGS)
    deep = torch.full_like(pair.less[:1], -200 * NEPER_PER_DB)
    tones = pair.tones[:1]
    assert game._distances(tones, deep, deep - 5) == 0
    assert game._distances(tones, tones, tones - 1) > 0


def test_a_judgement_has_gradients_for_the_model(pair):
    model = randomised()
    total_loss(AuditGame(SETTINGS).judge(model, pair)).backward()
    assert all(weight.grad.norm() > 0 for weight in model.parameters())


def test_a_game_is_played_on_the_device_of_its_tiles():
    """No GPU is needed to see that a tensor is on the wrong device: "meta" refuses others, too."""
    model = GrainModel(SETTINGS).to("meta")
    game, levels = AuditGame(SETTINGS, "meta"), torch.empty(2, 128, 8, device="meta")
    total_loss(game.judge(model, Pair(levels, levels, levels, torch.empty(2, device="meta")))).backward()
    assert all(weight.grad.device.type == "meta" for weight in model.parameters())
