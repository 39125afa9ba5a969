"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone, sine
from rendering import SETTINGS, expander_of, n_steps, rendered, solver_of

from neural_grain.audio import sound as audio_sound
from neural_grain.audio.sound import sound_from_array
from neural_grain.base import files as base_files
from neural_grain.dsp import flatness as dsp_flatness
from neural_grain.dsp import mel as dsp_mel
from neural_grain.dsp import resynthesis as dsp_resynthesis
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import Amounts, lerp_weights, normalise_energy, spectral_expander
from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.solver import AmountSolver


class TestWayBack:
    @pytest.mark.parametrize(
        ("sr", "length", "channels"),
        [(44_100, 44_100, 1), (48_000, 20_001, 2), (8_000, 5_000, 6), (192_000, 100_003, 2)],
    )
    def test_no_gain_gives_the_sound_back(self, sr, length, channels):
        y = np.random.default_rng(1).uniform(-1, 1, (length, channels)).astype(np.float32)
        z = rendered(y, sr, np.zeros((128, n_steps(y, sr)), np.float32))
        assert z.shape == y.shape
        assert np.abs(z - y).max() < 1e-6

    def test_the_same_gain_everywhere_is_no_gain(self):
        power = np.random.default_rng(0).exponential(size=(128, 30)).astype(np.float32)
        held = normalise_energy(
            np.full((128, 30), 12.0, np.float32), 10 * np.log10(power), band_fractions(SETTINGS), np.ones(30)
        )
        np.testing.assert_allclose(held, 0, atol=1e-4)

    def test_the_same_gain_at_all_times_is_that_gain_and_nothing_below_the_band(self):
        y = (sine(1000, level=0.2) + sine(25, level=0.2))[:, None]
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, np.full((128, n_steps(y, SR)), 6.0, np.float32))[:SR, 0]))
        assert 20 * np.log10(spectrum[1000] / spectrum[25]) == pytest.approx(6.0, abs=0.1)

    def test_one_raised_band_raises_its_sine_against_the_other(self):
        y = (sine(500, level=0.2) + sine(5000, level=0.2))[:, None]
        gain_db = np.zeros((128, n_steps(y, SR)), np.float32)
        gain_db[np.array(SETTINGS.band_edges_hz[1:-1]) > 2000] = 12.0
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, gain_db)[SR // 2 : SR // 2 + SR, 0]))
        assert 20 * np.log10(spectrum[5000] / spectrum[500]) == pytest.approx(12.0, abs=0.05)

    def test_energy_is_held_where_the_change_stays_alike(self):
        rng = np.random.default_rng(0)
        power = rng.exponential(size=(128, 1)).repeat(40, axis=1).astype(np.float32)
        gain_db = rng.normal(0, 20, (128, 1)).repeat(40, axis=1).astype(np.float32)
        shares = band_fractions(SETTINGS)
        gain = 10 ** (normalise_energy(gain_db, 10 * np.log10(power), shares, np.ones(40)) / 10)
        np.testing.assert_allclose(shares @ (power * gain), shares @ power, rtol=1e-4)
        np.testing.assert_allclose(10 * np.log10(gain[30] / gain[50]), gain_db[30] - gain_db[50], atol=1e-3)

    def test_a_step_in_which_a_sound_begins_does_not_change_the_level_around_it(self):
        power, gain_db = np.ones((128, 41), np.float32), np.zeros((128, 41), np.float32)
        gain_db[64:] = -20
        power[64:, 20] = 3.0
        weights = np.ones(41)
        weights[20] = 0.01
        held = normalise_energy(gain_db, 10 * np.log10(power), band_fractions(SETTINGS), weights)
        assert np.ptp(held[0]) < 0.05

    def test_stereo_image_is_kept(self):
        y = drone()[:, None] * np.array([[1.0, 0.25]])
        a = analyse(sound_from_array(y, SR), SETTINGS)
        z = rendered(y, SR, -0.5 * spectral_expander(a.step_db), onset=a.onset)
        np.testing.assert_allclose(z[:, 1], 0.25 * z[:, 0], atol=1e-6)

    def test_gains_go_from_step_to_step_in_a_line(self):
        before, after, share = lerp_weights((np.arange(16) + 0.5) / 4, 4)
        values = np.array([0.0, 4.0, 8.0, 4.0])
        got = values[before] * (1 - share) + values[after] * share
        np.testing.assert_allclose(got, np.interp((np.arange(16) + 0.5) / 4, [0.5, 1.5, 2.5, 3.5], values))

    def test_of_two_patterns_one_smooths_and_the_other_gives_texture(self):
        analysis = analyse(sound_from_array(drone(-40, 2.0), SR), SETTINGS)
        smooth, texture = (
            expander_of(analysis),
            expander_of(analysis) * np.linspace(0.2, 1, 128, dtype=np.float32)[:, None],
        )
        both = AmountSolver(analysis, np.stack((smooth, texture)))
        for octaves, pattern in ((1.0, smooth), (-1.0, texture)):
            alone, amounts = AmountSolver(analysis, pattern), both.about(octaves)
            assert amounts == alone.about(octaves)
            assert np.array_equal(both.gain_db(amounts), alone.gain_db(amounts))

    def test_gains_of_a_part_are_those_of_the_whole(self):
        solver = solver_of(drone(-40, 6.0))
        amounts = Amounts(-0.5, -0.1)
        whole = solver.gain_db(amounts)
        for start, stop in ((0, 10), (7, 8), (50, 200), (100, 10_000)):
            np.testing.assert_allclose(solver.gain_db(amounts, start, stop), whole[:, start:stop], atol=1e-4)

    @pytest.mark.parametrize("sr", [8_000, 44_100, 96_000])
    def test_a_part_is_that_of_the_whole(self, sr):
        y = np.stack([drone(-40, 2.0, sr), drone(-30, 2.0, sr, seed=1)], axis=1).astype(np.float32)
        y[sr : sr + 20] += 0.5
        solver = solver_of(y, sr)
        amounts = Amounts(0.7, 0.0)
        whole = np.concatenate(list(solver.render(amounts)))
        for start, stop in ((0, 100), (1, 4000), (sr - 700, sr + 5000), (len(y) - 50, len(y))):
            np.testing.assert_allclose(solver.render_part(y, amounts, start, stop), whole[start:stop], atol=2e-6)

    def test_a_long_sound_renders_in_blocks_as_in_one_piece(self, monkeypatch):
        solver = solver_of(drone(-40, 6.0))
        whole = np.concatenate(list(solver.render(Amounts(-0.5, 0.0))))
        monkeypatch.setattr(dsp_resynthesis, "PIECE_STEPS", 40)
        pieces = np.concatenate(list(solver.render(Amounts(-0.5, 0.0))))
        assert np.abs(pieces - whole).max() < 1e-5

    def test_a_picture_too_large_for_memory_lies_in_a_file(self, monkeypatch):
        y = drone()
        in_memory = analyse(sound_from_array(y, SR), SETTINGS)
        monkeypatch.setattr(base_files, "SCRATCH_BYTES", 1000)
        monkeypatch.setattr(dsp_mel, "PIECE_FRAMES", 50)
        in_file = analyse(sound_from_array(y, SR), SETTINGS)
        assert isinstance(in_file.x, np.memmap)
        np.testing.assert_allclose(in_file.x, in_memory.x, atol=1e-6)

    @pytest.mark.parametrize("size", [50, 64, 128])
    def test_a_long_sound_that_grows_louder_is_measured_as_a_short_one(self, monkeypatch, size):
        y = np.concatenate([drone(-90) * 10 ** (db / 20) for db in (-50, -30, -10, 0)])
        y = np.concatenate([y, 0.9 * sine(1000, 0.5)])  # the floor rises with the last second
        expected = measure_grain(sound_from_array(y, SR))
        monkeypatch.setattr(dsp_flatness, "KEEP_FRAMES", 100)
        monkeypatch.setattr(audio_sound, "BLOCK_FRAMES", size)
        assert measure_grain(sound_from_array(y, SR)) == pytest.approx(expected, rel=1e-6)
        analysis = analyse(sound_from_array(y, SR), SETTINGS)
        assert analysis.grain == pytest.approx(expected, rel=1e-6)

    def test_one_thread_and_three_render_the_same(self):
        y = drone()[:, None]
        a = analyse(sound_from_array(y, SR), SETTINGS)
        gain_db = spectral_expander(a.step_db)
        np.testing.assert_array_equal(
            rendered(y, SR, gain_db, onset=a.onset), rendered(y, SR, gain_db, onset=a.onset, threads=3)
        )
