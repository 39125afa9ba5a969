"""Tiles: how a picture is divided, and what a tile shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import SR, sine
from pictures_of_sounds import log_mel_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.data.tiles import fill_tile, tile_starts
from neural_grain.dsp.mel import log_mel
from neural_grain.dsp.settings import GrainSettings, default_settings

SETTINGS = default_settings(GrainSettings())


class TestTiles:
    def test_the_log_mel_picture_of_a_sine_is_loudest_in_its_band(self):
        x = log_mel_of(sound_from_array(sine(1000), SR), SETTINGS)
        assert x.shape == (128, (2 * SR - 2048) // 512 + 1)
        band = int(x[:, 50].argmax())
        assert SETTINGS.band_edges_hz[band] < 1000 < SETTINGS.band_edges_hz[band + 2]
        assert x.max() == 1.0
        assert x.min() == 0.0

    def test_log_mel_is_linear_in_db(self):
        powers = 10.0 ** (-np.array([[0.0, 2.0, 4.0, 9.0]]))
        np.testing.assert_allclose(log_mel(powers, 80.0)[:, 0], [1, 0.75, 0.5, 0], atol=1e-6)

    @pytest.mark.parametrize("frames", [1, 255, 256, 257, 512, 513, 5000])
    def test_the_fewest_possible_tiles_cover_every_frame(self, frames):
        starts = tile_starts(frames, 256)
        covered = np.zeros(max(frames, 256), bool)
        for start in starts:
            assert start >= 0
            assert start + 256 <= max(frames, 256)
            covered[start : start + 256] = True
        assert covered[:frames].all()
        assert len(starts) == math.ceil(frames / 256)

    @pytest.mark.parametrize("frames", [1, 3, 100, 256])
    def test_a_short_picture_is_extended_with_its_own_frames(self, frames):
        x = np.random.default_rng(0).random((128, frames)).astype(np.float32)
        tile = fill_tile(x, 256)
        assert tile.shape == (128, 256)
        np.testing.assert_array_equal(tile[:, :frames], x)
        assert set(map(tuple, tile.T)) == set(map(tuple, x.T))
