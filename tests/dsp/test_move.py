"""TODO"""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import solver_of
from scipy.signal import lfilter

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import loudness as dsp_loudness
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.stft import edge_padding

LAW_SOUNDS = {
    "mono": (drone(-40), SR),
    "stereo": (np.stack([drone(-40), drone(-30, seed=2)], axis=1), SR),
    "opposite phase": (drone(-40)[:, None] * np.array([[1.0, -1.0]]), SR),
    "48 kHz": (drone(-40, sr=48_000), 48_000),
    "odd rate": (drone(-40, sr=37_800), 37_800),
    "8 kHz": (drone(-40, sr=8_000), 8_000),
    "one second": (drone(-40, 1.0), SR),
    "odd length": (drone(-40)[:-12_345], SR),
    "very quiet": (drone(-40) * 1e-3, SR),
    "mostly silence": (np.concatenate([np.zeros(2 * SR), drone(-40, 1.0), np.zeros(2 * SR)]), SR),
}


@pytest.mark.parametrize("name", LAW_SOUNDS)
def test_the_law_holds_on(name):
    y, sr = LAW_SOUNDS[name]
    y = y.astype(np.float32)
    solver = solver_of(y, sr)
    for octaves in (-2, -1, 0.5, 1):
        result = move_grain(solver, octaves)
        z = np.concatenate(list(result.sound.blocks()))
        assert z.shape == (len(y), 1 if y.ndim == 1 else y.shape[1])
        got = math.log2(measure_grain(sound_from_array(y, sr)) / measure_grain(sound_from_array(z, sr)))
        assert result.within_reach
        assert got == pytest.approx(octaves, abs=0.02)
        assert got == pytest.approx(result.got_octaves, abs=1e-6)
        loudness_db = 10 * np.log10(np.mean(np.square(z)) / np.mean(np.square(y)))
        assert loudness_db == pytest.approx(result.level_db, abs=0.01)
        assert abs(loudness_db) < 0.5
        assert np.abs(z).max() <= 1.0


def test_loudness_stays_where_level_alone_would_not_keep_it():
    """Against the filters of BS.1770 run over the samples; ungated, for the sound stands still."""

    def loudness_db(z):
        weighted = lfilter(*dsp_loudness.K_HIGH_PASS, lfilter(*dsp_loudness.K_SHELF, z[:, 0]))
        return 10 * np.log10(np.mean(np.square(weighted[4_800:])))

    y = lfilter([1], [1, -0.95], noise(3, 48_000, level=0.02))[:, None].astype(np.float32)
    result = move_grain(solver_of(y, 48_000), -1.5)
    louder_db = loudness_db(np.concatenate(list(result.sound.blocks()))) - loudness_db(y)
    assert abs(result.level_db) <= 0.5
    assert abs(louder_db) <= 1.0
    assert louder_db - result.level_db > 1.0  # what it would be at the input's level


def test_a_loop_cut_in_mid_wave_gets_no_click_at_its_ends():
    t = np.arange(2 * SR) / SR
    y = (0.3 * np.cos(2 * np.pi * 110 * t) + noise(2, level=3e-4)).astype(np.float32)[:, None]
    result = move_grain(solver_of(y), -2.0)
    z = np.concatenate(list(result.sound.blocks()))
    added = np.abs(z - y)
    inner = added[4_096:-4_096].max()
    assert added[:256].max() < 2 * inner
    assert added[-256:].max() < 2 * inner


def test_what_is_put_around_a_sound_is_its_image_where_it_is_cut_and_silence_where_it_is_not():
    cut, whole = np.array([[3.0], [2.0], [1.0], [-4.0]]), np.array([[0.0], [2.0], [1.0], [-4.0]])
    np.testing.assert_array_equal(edge_padding(cut, 2)[:, 0], [2, 1])
    np.testing.assert_array_equal(edge_padding(cut, 5)[:, 0], [2, 1, -4, 0, 0])
    np.testing.assert_array_equal(edge_padding(whole, 3)[:, 0], [0, 0, 0])


def test_a_sound_that_cannot_be_moved_is_left_as_it_is():
    solver = solver_of(sine(1_000).astype(np.float32))  # at the floor already: there is nothing to take away
    result = move_grain(solver, 2.0)
    assert not result.within_reach
    assert result.sound is solver.analysis.sound


def test_at_zero_the_sound_itself_comes_back():
    solver = solver_of(drone())
    result = move_grain(solver, 0.0)
    assert result.sound is solver.analysis.sound
    assert result.got_octaves == 0.0


def test_near_zero_the_output_converges_to_the_input():
    y = drone()[:, None].astype(np.float32)
    solver = solver_of(y)

    def difference_db(octaves):
        z = np.concatenate(list(move_grain(solver, octaves).sound.blocks()))
        return 20 * np.log10(np.sqrt(np.mean((z - y) ** 2)) / np.sqrt(np.mean(y**2)))

    assert difference_db(0.01) < -60
    assert difference_db(-0.01) < -60
    assert difference_db(0.001) < difference_db(0.01) - 15


def test_a_quieter_sound_gives_the_same_quieter():
    y = (drone(-40) + np.where(np.arange(3 * SR) % SR < 200, noise(3, level=0.3), 0)).astype(np.float32)
    for octaves in (-1.5, 1.5):
        loud, quiet = (
            np.concatenate(list(move_grain(solver_of(y * gain), octaves, ceiling=10.0).sound.blocks()))
            for gain in (1.0, 10 ** (-30 / 20))
        )
        error = np.sqrt(np.mean((quiet * 10 ** (30 / 20) - loud) ** 2) / np.mean(loud**2))
        assert 20 * np.log10(error) < -90
