"""The continuation of a sound beyond its edges."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone, noise, sine

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.layers import split_layers
from neural_grain.dsp.linear_prediction import continue_edge
from neural_grain.dsp.settings import GrainSettings

N, ORDER = 4096, 512


def continued_start(y: np.ndarray) -> np.ndarray:
    """What would come before the samples ``y``, in the order of time."""
    return continue_edge(y[:, None].astype(np.float32), N, ORDER)[::-1, 0]


def test_a_chord_continues_in_its_phase():
    y = sum(sine(hz, 1.0, level=0.2) for hz in (220.0, 277.2, 329.6)) + noise(1.0, level=1e-4)
    continued = continued_start(y[N:])
    assert np.abs(continued - y[:N])[-N // 2 :].max() < 0.01


def test_noise_continues_as_noise_of_the_same_level_and_colour():
    y = np.cumsum(noise(1.0)) - np.arange(SR) * noise(1.0).mean()
    y = y - np.convolve(y, np.ones(64) / 64, "same")
    before = continued_start(y)
    for x in (np.square, lambda y: np.square(np.diff(y))):
        assert 10 * np.log10(x(before).mean() / x(y[: 4 * N]).mean()) == pytest.approx(0, abs=2)


@pytest.mark.parametrize("y", [np.zeros(5_000), np.concatenate([np.zeros(600), noise(0.5)])])
def test_digital_silence_continues_as_silence(y):
    assert not continued_start(y).any()


@pytest.mark.parametrize("n", [40, 300, 2_048])
def test_a_very_short_sound_is_continued_without_growing(n):
    continued = continued_start(drone(-40)[100 : 100 + n])
    assert np.isfinite(continued).all()
    assert np.abs(continued).max() < 2 * np.abs(drone(-40)).max()


@pytest.mark.parametrize("cut", [0, 37, 100])  # the drone begins with 0, and in the middle of a wave
def test_the_texture_of_a_sound_that_is_cut_in_the_middle_of_a_wave_has_no_click_at_the_cuts(cut):
    y = (drone(-40)[cut : -cut - 1, None]).astype(np.float32)
    texture = split_layers(sound_from_array(y, SR), GrainSettings()).texture(0, len(y))
    at_edges = np.abs(np.concatenate([texture[:2_000], texture[-2_000:]])).max()
    assert at_edges < 1.5 * np.abs(texture[2_000:-2_000]).max()  # 13 to 17 times with a mirror image beyond the cuts
