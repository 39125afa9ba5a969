"""Resynthesis: gains on the STFT, overlap-add, edges, blocks and threads; and pictures of long sounds."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone, sine
from rendering import SETTINGS, n_steps, rendered

from neural_grain.audio import sound as audio_sound
from neural_grain.audio.sound import sound_from_array
from neural_grain.base import files
from neural_grain.dsp import flatness, mel, resynthesis
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import spectral_expander


class TestGainsOnAudio:
    @pytest.mark.parametrize(
        ("sr", "length", "channels"),
        [(44_100, 44_100, 1), (48_000, 20_001, 2), (8_000, 5_000, 6), (192_000, 100_003, 2)],
    )
    def test_gains_of_zero_return_the_input(self, sr, length, channels):
        y = np.random.default_rng(1).uniform(-1, 1, (length, channels)).astype(np.float32)
        z = rendered(y, sr, np.zeros((128, n_steps(y, sr)), np.float32))
        assert z.shape == y.shape
        assert np.abs(z - y).max() < 1e-6

    def test_a_constant_gain_is_exact_inside_the_band_and_absent_below_it(self):
        y = (sine(1000, level=0.2) + sine(25, level=0.2))[:, None]
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, np.full((128, n_steps(y, SR)), 6.0, np.float32))[:SR, 0]))
        assert 20 * np.log10(spectrum[1000] / spectrum[25]) == pytest.approx(6.0, abs=0.1)

    def test_raising_some_bands_raises_their_sine_by_that_gain(self):
        y = (sine(500, level=0.2) + sine(5000, level=0.2))[:, None]
        gain_db = np.zeros((128, n_steps(y, SR)), np.float32)
        gain_db[np.array(SETTINGS.band_edges_hz[1:-1]) > 2000] = 12.0
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, gain_db)[SR // 2 : SR // 2 + SR, 0]))
        assert 20 * np.log10(spectrum[5000] / spectrum[500]) == pytest.approx(12.0, abs=0.05)

    def test_the_stereo_image_stays(self):
        y = drone()[:, None] * np.array([[1.0, 0.25]])
        analysis = analyse(sound_from_array(y, SR), SETTINGS)
        z = rendered(y, SR, -0.5 * spectral_expander(analysis.step_db), onset=analysis.onset)
        np.testing.assert_allclose(z[:, 1], 0.25 * z[:, 0], atol=1e-6)

    def test_one_thread_and_three_give_the_same_samples(self):
        y = drone()[:, None]
        analysis = analyse(sound_from_array(y, SR), SETTINGS)
        gain_db = spectral_expander(analysis.step_db)
        one, three = (rendered(y, SR, gain_db, onset=analysis.onset, threads=threads) for threads in (1, 3))
        np.testing.assert_array_equal(one, three)

    def test_gains_computed_piece_by_piece_give_the_same_samples(self, monkeypatch):
        y = drone(-40, 6.0)[:, None]
        gain_db = spectral_expander(analyse(sound_from_array(y, SR), SETTINGS).step_db)
        whole = rendered(y, SR, gain_db)
        monkeypatch.setattr(resynthesis, "PIECE_STEPS", 40)
        assert np.abs(rendered(y, SR, gain_db) - whole).max() < 1e-5


class TestLongSounds:
    def test_a_picture_too_large_for_memory_is_kept_in_a_file(self, monkeypatch):
        y = drone()
        in_memory = analyse(sound_from_array(y, SR), SETTINGS)
        monkeypatch.setattr(files, "SCRATCH_BYTES", 1000)
        monkeypatch.setattr(mel, "PIECE_FRAMES", 50)
        in_file = analyse(sound_from_array(y, SR), SETTINGS)
        assert isinstance(in_file.x, np.memmap)
        np.testing.assert_allclose(in_file.x, in_memory.x, atol=1e-6)

    @pytest.mark.parametrize("block_frames", [50, 64, 128])
    def test_grain_does_not_depend_on_blocks_where_a_sound_grows_louder(self, monkeypatch, block_frames):
        y = np.concatenate([drone(-90) * 10 ** (db / 20) for db in (-50, -30, -10, 0)])
        y = np.concatenate([y, 0.9 * sine(1000, 0.5)])  # the last half second raises the floor of all frames before it
        expected = measure_grain(sound_from_array(y, SR))
        monkeypatch.setattr(flatness, "MAX_KEPT_FRAMES", 100)
        monkeypatch.setattr(audio_sound, "BLOCK_FRAMES", block_frames)
        assert measure_grain(sound_from_array(y, SR)) == pytest.approx(expected, rel=1e-6)
        assert analyse(sound_from_array(y, SR), SETTINGS).grain == pytest.approx(expected, rel=1e-6)
