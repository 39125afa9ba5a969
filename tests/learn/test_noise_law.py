"""The noise critic: what it learns about a library's noise, and how it combines the law with a measurement.

Training rounds differently on different processors, so its result differs too. Where a test depends on trained
weights, its comment states the values seen with several seeds, on two kinds of kernels (ATEN_CPU_CAPABILITY=default
and avx2), with one thread and with two; the bound is further from the worst of them than they are from each other.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import BAND_CENTRES_HZ, BREATH_HZ, RANGE_DB, SETTINGS, SR, TILE_SAMPLES, breathy, picture_of

from neural_grain.data.tiles import read_pairs
from neural_grain.learn import noise_law
from neural_grain.learn.dataset import Tiles, load_tiles, split_tiles
from neural_grain.learn.game import AuditGame
from neural_grain.learn.noise_law import NaturalNoise, NoiseLaw, train_noise_law

BREATH_BANDS = (BAND_CENTRES_HZ > BREATH_HZ + 500) & (BAND_CENTRES_HZ < 14_000)
OTHER_BANDS = BAND_CENTRES_HZ < BREATH_HZ - 500


def test_the_law_counts_from_the_energy_of_a_sound_whatever_its_chord():
    """The same hiss under one tone and under thirty tones of the same energy; their loudest bands are 15 dB apart."""
    t = np.arange(TILE_SAMPLES) / SR
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(TILE_SAMPLES)
    above_the_tones = BAND_CENTRES_HZ > 4500
    critic = NaturalNoise(SETTINGS)
    torch.nn.init.zeros_(critic.net[4].weight)  # the same law for all inputs
    levels_db = []
    for n_tones in (1, 30):
        chord = sum(np.sin(2 * np.pi * 110 * k * t + k * k) for k in range(1, n_tones + 1))
        tile = Tiles.of([picture_of(chord / np.sqrt(np.square(chord).mean()) + hiss)], SETTINGS)
        noise, law = critic.noise_level(tile.levels, tile.fluctuations), critic(tile.levels, tile.fluctuations)
        levels_db.append(RANGE_DB * (noise - law.base)[0, above_the_tones].mean().item())
    assert abs(levels_db[0] - levels_db[1]) < 0.5


def change_db(game: AuditGame, more: float) -> np.ndarray:
    """Predicted change of each band of a tile with breath at -30 dB, if the amount of noise changes by ``more``."""
    tile = Tiles.of([breathy(-30.0, np.random.default_rng(1))], SETTINGS)
    x, fluctuations = tile.crops(1, np.random.default_rng(0))
    return RANGE_DB * game.critic.level_change(x, fluctuations, torch.tensor([more]))[0].numpy()


def test_the_critic_learns_that_breath_rises_as_one_and_that_the_hiss_below_it_does_not(breath_game):
    """All is relative to the mean rise, because the unit of the amount is not identifiable: 2.3 to 6.2 dB were seen."""
    more_db, less_db = change_db(breath_game, 0.04), change_db(breath_game, -0.04)
    rise_db = more_db[BREATH_BANDS].mean()
    assert rise_db > 0
    assert more_db[BREATH_BANDS].std() < 0.15 * rise_db  # seen: 0.02 to 0.06
    assert less_db[BREATH_BANDS].mean() < -0.6 * rise_db  # seen: -0.97 to -0.79
    for change in (more_db, less_db):
        assert np.abs(change[OTHER_BANDS]).mean() < 0.1 * rise_db  # seen: up to 0.003


def test_removing_the_tones_leaves_the_noise(breath_game):
    """Breath at -30 dB and hiss, under tones up to 2.9 kHz, without tones in bands 20 to 119."""
    tile = Tiles.of([breathy(-30.0, np.random.default_rng(1))], SETTINGS)
    x, fluctuations = torch.from_numpy(tile.arrays[0])[None], tile.fluctuations
    bare = torch.zeros(1, 128, dtype=torch.bool)
    bare[:, 20:120] = True
    result = breath_game.critic.without_tones(x, fluctuations, bare)
    noise = breathy(-30.0, np.random.default_rng(1), tones=False)
    before_db, after_db = (RANGE_DB * (picture[0].mean(1).numpy() - noise.mean(1)) for picture in (x, result.x))
    assert np.ptp(before_db[20:120]) > 40
    after_db -= np.median(after_db[90:120])  # a picture counts from its own loudest band
    assert np.abs(after_db[20:120]).mean() < 3  # seen: 1.8 to 2.1
    assert torch.equal(result.x[~bare], x[~bare])
    assert torch.equal(result.fluctuation[~bare], fluctuations[~bare])
    assert torch.equal(result.fluctuation[bare], breath_game.critic.full_fluctuation[20:120])


@pytest.mark.parametrize(
    ("predicted_db", "spread_db", "measured_db", "lowest_db", "highest_db"),
    [
        pytest.param(0, 8, -4, -1.5, 0, id="the law says all noise: a lower measurement is chance"),
        pytest.param(-10, 8, -10, -10.5, -9.5, id="both agree"),
        pytest.param(-30, 8, -15, -17, -14, id="the law is vague: the measurement counts"),
        pytest.param(-30, 2, -15, -31, -29, id="the law is exact: something else fluctuates"),
        pytest.param(-10, 8, 0, -0.5, 0, id="it fluctuates as noise does: it is all noise"),
    ],
)
def test_the_share_of_noise_follows_from_law_and_measurement(
    predicted_db, spread_db, measured_db, lowest_db, highest_db
):
    critic, level = NaturalNoise(SETTINGS), torch.full((1, 128), 0.8)
    zero, share = torch.zeros(1, 1), 10 ** (measured_db / 10)
    law = NoiseLaw(zero, zero, zero, torch.full((1, 1), spread_db / RANGE_DB), torch.full((1, 1), -4.0))
    fluctuation = torch.full((1, 1), share * (2 - share))  # of Gaussian noise beside a steady tone
    found = critic.share(law, level + predicted_db / RANGE_DB, level, fluctuation)
    assert lowest_db <= 10 * math.log10(found[0, 0].item()) <= highest_db


def test_amounts_follow_the_grain_of_a_small_library_whose_noise_differs_by_60_db(project, monkeypatch):
    """Some starts take all noise for outliers; then all amounts are the same."""
    pairs = read_pairs(project.folder / "training_pairs.json")
    natural = load_tiles(split_tiles(pairs, 0).train, pairs.settings)
    monkeypatch.setattr(noise_law, "NOISE_LAW", replace(noise_law.NOISE_LAW, steps=200, trial_steps=50))
    torch.manual_seed(4)
    critic = train_noise_law(pairs.settings, natural.levels, natural.fluctuations, np.random.default_rng(4))
    law = critic(natural.levels, natural.fluctuations)
    amount = critic.amount(law, critic.noise_level(natural.levels, natural.fluctuations))
    assert np.corrcoef(amount[:, 0].numpy(), natural.log2_grain)[0, 1] > 0.9  # seen: 0.998
    rise_db = RANGE_DB * law.slope * amount
    assert np.median(np.ptp(rise_db.numpy(), axis=0)) > 30  # seen: 50 to 60


def test_the_likeliest_of_several_starts_is_trained_to_the_end(breath, monkeypatch):
    """Every start but the second is made to take all noise for outliers."""
    settings = replace(noise_law.NOISE_LAW, steps=60, trial_steps=30, starts=3)
    monkeypatch.setattr(noise_law, "NOISE_LAW", settings)
    train_steps, calls = noise_law.train_steps, []

    def spoil(critic, optimizer, levels, fluctuations, steps, rng):
        calls.append((critic, steps))
        train_steps(critic, optimizer, levels, fluctuations, steps, rng)
        if len(calls) in (1, 3):
            with torch.no_grad():
                critic.net[4].bias[NoiseLaw._fields.index("outlier_logit")] = 3.0

    monkeypatch.setattr(noise_law, "train_steps", spoil)
    torch.manual_seed(0)
    critic = train_noise_law(SETTINGS, breath.levels, breath.fluctuations, np.random.default_rng(0))
    assert [steps for _, steps in calls] == [range(30)] * 3 + [range(30, 60)]
    assert critic is calls[1][0] is calls[3][0]
    assert not critic.training
    assert not any(weight.requires_grad for weight in critic.parameters())
