"""Generated texture: where a sound has its own, what a library's is like, and noise that is sparse or not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR
from rendering import SETTINGS

from neural_grain.dsp.generation import (
    NOISE_BLOCK,
    density_for_crest,
    presence,
    sparse_noise,
    steady_level,
    typical_texture,
    white_noise,
)
from neural_grain.dsp.layers import crest_factor_db
from neural_grain.dsp.mel import band_fractions

SHARES = band_fractions(SETTINGS)


def test_what_leaks_from_tones_does_not_count_as_texture_of_their_band():
    tones_db, texture_db = np.full((128, 3), -100.0), np.full((128, 3), -96.0)
    tones_db[40] = 0
    share = presence(tones_db, texture_db)
    assert np.all(share[38:43] == 0)
    assert np.all(share[:38] > 0)
    assert np.all(presence(tones_db, np.full((128, 3), -100.0)) == 0)


def test_the_typical_texture_is_that_of_the_half_with_most_of_it():
    shape_db = np.linspace(0, -30, 128)
    levels_db = np.concatenate([shape_db - np.arange(4)[:, None], np.full((4, 128), -60.0)])
    found = typical_texture(levels_db, np.array([20, 21, 22, 90, 5, 5, 5, 5.0]), SHARES)
    np.testing.assert_allclose(found.spectrum_db - found.spectrum_db[0], shape_db, atol=1e-3)
    assert found.crest_db == 21.5


def test_a_hit_has_no_part_in_the_level_of_what_lasts_and_noise_that_begins_has_all():
    level_db = np.random.default_rng(0).normal(-70, 2, (128, 60)).astype(np.float32)
    level_db[:, 30:] += 30
    with_hit_db = level_db.copy()
    with_hit_db[:, 10:12] += 40
    np.testing.assert_allclose(steady_level(level_db), level_db, atol=1e-4)
    np.testing.assert_allclose(steady_level(with_hit_db)[:, 10:12], -70, atol=8)
    np.testing.assert_array_equal(steady_level(with_hit_db)[:, 20:], steady_level(level_db)[:, 20:])


@pytest.mark.parametrize(("start", "stop"), [(-1_536, 100), (NOISE_BLOCK - 1, NOISE_BLOCK + 1), (5, 3 * NOISE_BLOCK)])
def test_any_piece_of_white_noise_equals_the_whole(start, stop):
    whole = white_noise(-NOISE_BLOCK, 4 * NOISE_BLOCK, 2)
    piece = whole[:, start + NOISE_BLOCK : stop + NOISE_BLOCK]
    np.testing.assert_array_equal(white_noise(start, stop, 2), piece)
    assert whole.var() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("crest_db", [0.0, 13.0, 20.0, 30.0, 40.0])
def test_sparse_noise_has_power_1_and_after_a_filter_the_crest_factor_asked_for(crest_db):
    hz = np.fft.rfftfreq(3 * SR, 1 / SR)
    response = ((hz > 1_000) & (hz < 6_000)).astype(float)
    density = density_for_crest(crest_db, response, 3 * SR)
    noise = [sparse_noise(np.random.default_rng(seed), (3 * SR,), density) for seed in range(8)]
    filtered = [np.fft.irfft(response * np.fft.rfft(y)) for y in noise]
    assert np.var(noise) == pytest.approx(1, abs=0.15)
    assert np.mean([crest_factor_db(y) for y in filtered]) == pytest.approx(max(crest_db, 13), abs=2)
