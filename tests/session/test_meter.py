"""The level meter: its fall in time whatever the blocks are, its clip light, and what it measures of a sound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import SR, drone

from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.sound import sound_from_array
from neural_grain.session.meter import FALL_DB_PER_S, OutputMeter, to_outputs
from neural_grain.session.mixer import Mixer
from neural_grain.session.playback import Playback
from neural_grain.session.player import Player


@pytest.mark.parametrize("size", [1, 64, 2_205])
def test_the_peak_falls_at_the_same_rate_for_every_size_of_block(size):
    meter = OutputMeter(SR)
    meter.add(np.float32([[0.5, -1.0]]))
    assert meter.peak == 1.0
    for _ in range(SR // 4 // size):
        meter.add(np.zeros((size, 2), np.float32))
    assert 20 * math.log10(meter.peak) == pytest.approx(-FALL_DB_PER_S / 4, abs=0.3)


def test_the_clip_light_stays_until_it_is_reset():
    meter = OutputMeter(SR)
    meter.add(np.float32([[1.0], [-1.0]]))
    assert not meter.is_clipped
    meter.add(np.float32([[0.0], [-1.001]]))
    meter.add(np.float32([[0.0]]))
    assert meter.is_clipped
    meter.reset_clip()
    assert not meter.is_clipped


def test_more_than_two_channels_are_measured_as_they_are_played():
    y = np.float32([[1.5, 0.2, 0.3, 0.4, 0.3]])
    np.testing.assert_allclose(to_outputs(y), [[0.7, 0.3]], rtol=1e-6)
    stereo = y[:, :2]
    assert to_outputs(stereo) is stereo


def test_a_sound_beyond_full_scale_lights_it_and_the_volume_counts():
    y = np.float32(3 * drone(-45, 1.0))
    solver = GrainProcessor().solver(sound_from_array(y, SR))
    playback = Playback(Player(), lambda ms, call: "", lambda name: None, lambda: None)
    assert playback.peak_db == -math.inf
    assert not playback.is_clipped
    playback.reset_clip()
    playback.open(y[:, None], SR, solver, volume=0.1)
    mixer: Mixer = playback.mixer
    mixer.play()
    out = np.zeros((2_000, 1), np.float32)
    mixer.fill(out)
    assert playback.peak_db == pytest.approx(20 * math.log10(np.abs(out).max()), abs=0.1)
    assert not playback.is_clipped
    mixer.volume = 1.0
    mixer.fill(out)
    mixer.fill(out)
    assert playback.is_clipped
    playback.reset_clip()
    assert not playback.is_clipped
