"""Generated texture: where a sound has its own, what a library's is like, and noise that is sparse or not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone
from rendering import SETTINGS, analysis_of

from neural_grain.dsp import generation
from neural_grain.dsp.generation import (
    NOISE_BLOCK,
    density_for_crest,
    generated_base,
    presence,
    sparse_noise,
    steady_level,
    typical_texture,
    white_noise,
)
from neural_grain.dsp.layers import crest_factor_db
from neural_grain.dsp.mel import band_fractions

SHARES = band_fractions(SETTINGS)


def slow_opening(level_db: np.ndarray, n: int) -> np.ndarray:
    """The largest of the smallest values of ``n`` steps around each step; the ends are continued."""
    half, steps = n // 2, range(level_db.shape[1])

    def around(values: np.ndarray, step: int) -> np.ndarray:
        return values[:, np.clip(np.arange(step - half, step + half + 1), 0, len(steps) - 1)]

    lowest = np.stack([around(level_db, step).min(axis=1) for step in steps], axis=1)
    return np.stack([around(lowest, step).max(axis=1) for step in steps], axis=1)


def slow_presence(tones_db: np.ndarray, texture_db: np.ndarray) -> np.ndarray:
    """`presence` cell by cell: 10 dB above the floor, and above what leaks from tones in the five bands around."""
    lasting_db, share = slow_opening(texture_db, 21), np.zeros(texture_db.shape)
    for band, step in np.ndindex(*share.shape):
        near_db = tones_db[max(0, band - 2) : band + 3, step].max()
        above_floor = np.clip((texture_db[band, step] + 100) / 10, 0, 1)
        lasts = np.clip((lasting_db[band, step] - (near_db - 95)) / 10, 0, 1)
        is_strong = np.clip((texture_db[band, step] - (near_db - 65)) / 10, 0, 1)
        share[band, step] = above_floor * max(lasts, is_strong)
    return share


def slow_steady_level(level_db: np.ndarray) -> np.ndarray:
    """`steady_level` step by step: a step whose bands rise by 6 to 12 dB on average over 5 steps is a hit."""
    steady_db = slow_opening(level_db, 5)
    for step in range(level_db.shape[1]):
        excess_db = level_db[:, step] - steady_db[:, step]
        steady_db[:, step] += excess_db * min(1, max(0, (12 - excess_db.mean()) / 6))
    return steady_db


def uneven_levels(n_steps: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tones that come and go, and texture that lies between what leaks from them and what does not, with hits."""
    rng = np.random.default_rng(seed)
    tones_db = np.repeat(rng.uniform(-100, 0, (128, -(-n_steps // 15))), 15, axis=1)[:, :n_steps]
    texture_db = rng.uniform(-100, -85, (128, n_steps)) + np.linspace(0, 60, 128)[:, None]
    for start, rise_db in ((10, 5), (25, 8), (40, 10), (60, 14)):
        texture_db[:, start : start + 3] += rise_db
    return tones_db.astype(np.float32), texture_db.clip(-100, 0).astype(np.float32)


def test_presence_and_steady_level_equal_a_calculation_cell_by_cell():
    tones_db, texture_db = uneven_levels()
    expected = slow_presence(tones_db, texture_db)
    assert ((expected > 0) & (expected < 1)).mean() > 0.1
    np.testing.assert_allclose(presence(tones_db, texture_db), expected, atol=1e-5)
    expected_db = slow_steady_level(texture_db)
    assert np.abs(expected_db - texture_db).max() > 5
    np.testing.assert_allclose(steady_level(texture_db), expected_db, atol=1e-4)


def test_the_level_of_generated_noise_is_that_of_the_texture_or_where_there_is_none_of_the_library(monkeypatch):
    """The library's spectrum has a mean power of 1 and lies 100 dB below the loudest band of its time."""
    analysis = analysis_of(np.concatenate([drone(-60, 1.5), drone(-35, 1.5)]))
    spectrum_db = np.random.default_rng(0).uniform(-12, 6, (128, -(-analysis.x.shape[1] // 32))).astype(np.float32)
    whole = generated_base(analysis, spectrum_db)
    share = slow_presence(analysis.tones_db, analysis.texture_db)
    np.testing.assert_allclose(whole.present, share, atol=1e-5)
    loudest_db = slow_steady_level(np.maximum(analysis.tones_db, analysis.texture_db).max(axis=0, keepdims=True))
    level_db = spectrum_db - 10 * np.log10(SHARES @ 10 ** (spectrum_db / 10)) - 100
    cells = (np.arange(share.shape[1]) + 0.5) * 4 / 32 - 0.5
    library_db = np.array([np.interp(cells, np.arange(level_db.shape[1]), band) for band in level_db])
    expected_db = share * slow_steady_level(analysis.texture_db) + (1 - share) * (library_db + loudest_db)
    np.testing.assert_allclose(whole.base_db, expected_db, atol=1e-2)
    monkeypatch.setattr(generation, "BASE_STEPS", 16)
    in_pieces = generated_base(analysis, spectrum_db)
    np.testing.assert_allclose(in_pieces.present, whole.present, atol=1e-5)
    np.testing.assert_allclose(in_pieces.base_db, whole.base_db, atol=1e-3)


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
    whole = white_noise(-NOISE_BLOCK, 4 * NOISE_BLOCK, 2, 1.0)
    piece = whole[:, start + NOISE_BLOCK : stop + NOISE_BLOCK]
    np.testing.assert_array_equal(white_noise(start, stop, 2, 1.0), piece)
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
