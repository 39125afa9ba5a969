"""The audit game: the pairs that it makes, and what the referees say of models whose work is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learning import BANDS, BREATH_BAND, SETTINGS, breathy_tiles, random_levels, randomised

from neural_grain.dsp.settings import NEPER_PER_DB
from neural_grain.learn.auditor import audited_octaves
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import GAME, AuditGame, Pair
from neural_grain.learn.model import GrainModel, move_texture
from neural_grain.learn.settings import CLAIM_OCTAVES


@pytest.fixture(scope="module")
def pair():
    return AuditGame(SETTINGS).draw_pairs(breathy_tiles(), 64, np.random.default_rng(0))


def test_the_tiles_of_a_pair_have_the_same_tones_and_different_grain(pair):
    octaves = -audited_octaves(pair.tones, pair.less, pair.more, BANDS)
    torch.testing.assert_close(octaves, pair.octaves)
    assert pair.octaves.min() > CLAIM_OCTAVES
    assert pair.octaves.max() < GAME.max_octaves
    assert torch.all(pair.less <= pair.more + 1e-4)


def test_some_pairs_hold_a_background_that_stays_and_all_others_differ_by_one_gain(pair):
    change = (pair.more - pair.less)[:, BREATH_BAND:].std((1, 2))
    assert 0.2 < (change > 0.05).float().mean() < 0.8
    assert (change < 1e-3).any()


def test_the_same_seed_draws_the_same_pairs():
    game, tiles = AuditGame(SETTINGS), breathy_tiles()
    first, again, other = (game.draw_pairs(tiles, 16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.more, again.more)
    assert first.more.shape != other.more.shape or not torch.equal(first.more, other.more)


def test_tiles_that_are_all_noise_make_a_pair_none_the_less():
    texture = torch.zeros(4, 128, 8)
    pair = AuditGame(SETTINGS).draw_pairs(Tiles(texture - 23, texture), 8, np.random.default_rng(0))
    assert len(pair.tones) >= 1


def test_the_solved_amount_moves_grain_by_the_claim():
    tones, texture = random_levels(4, low_db=-40.0), random_levels(4, seed=1, low_db=-20.0) - 8
    pattern_db = randomised().pattern_db(tones, texture, torch.ones(4))
    claim = torch.tensor([-0.5, 0.4, 1.0, 2.0])
    amount_db = AuditGame(SETTINGS).solve_amount(tones, texture, pattern_db, claim)
    moved = move_texture(texture, pattern_db, amount_db)
    torch.testing.assert_close(audited_octaves(tones, texture, moved, BANDS), claim, atol=0.05, rtol=0)


def test_one_gain_gives_back_exactly_what_one_gain_took_away():
    tiles, game = breathy_tiles(8), AuditGame(SETTINGS)
    less = tiles.texture - 6 * NEPER_PER_DB
    octaves = -audited_octaves(tiles.tones, less, tiles.texture, BANDS)
    for judgement in game.judge(GrainModel(SETTINGS), Pair(tiles.tones, less, tiles.texture, octaves)).values():
        assert judgement.distance.sqrt() < 0.1


def test_the_critic_does_not_hear_what_lies_too_deep(pair):
    game = AuditGame(SETTINGS)
    deep = torch.full_like(pair.less[:1], -200 * NEPER_PER_DB)
    tones = pair.tones[:1]
    assert game._distance(tones, deep, deep - 5) == 0
    assert game._distance(tones, tones, tones - 1) > 0


def test_both_judgements_have_gradients_for_the_model(pair):
    model = randomised()
    judgements = AuditGame(SETTINGS).judge(model, pair)
    assert set(judgements) == {"texture", "smooth"}
    sum(judgement.distance + judgement.violation for judgement in judgements.values()).backward()
    assert all(weight.grad.norm() > 0 for weight in model.parameters())


def test_a_game_is_played_on_the_device_of_its_tiles():
    """No GPU is needed to see that a tensor is on the wrong device: "meta" refuses others, too."""
    model = GrainModel(SETTINGS).to("meta")
    game, levels = AuditGame(SETTINGS, "meta"), torch.empty(2, 128, 8, device="meta")
    judgements = game.judge(model, Pair(levels, levels, levels, torch.empty(2, device="meta")))
    sum(judgement.distance + judgement.violation for judgement in judgements.values()).backward()
    assert all(weight.grad.device.type == "meta" for weight in model.parameters())
