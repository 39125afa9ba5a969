"""How well the share of noise in a band is measured, for sounds whose share is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from learning import BAND_CENTRES_HZ, RANGE_DB, SETTINGS, SR, TILE_SAMPLES, picture_of
from pictures_of_sounds import band_powers_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.learn.modulation import (
    band_fluctuation,
    full_fluctuation,
    noise_modulation,
    noise_share,
    relative_modulation,
)

BAND = int(np.argmin(np.abs(BAND_CENTRES_HZ - 3000)))
T = np.arange(TILE_SAMPLES) / SR


def fluctuation(y: np.ndarray) -> torch.Tensor:
    """Fluctuation of each band of a sound: (n_mels,)."""
    x = torch.from_numpy(picture_of(y))[None]
    return band_fluctuation(relative_modulation(x, noise_modulation(SETTINGS), RANGE_DB).mean(2))[0]


def share_error_db(tones: np.ndarray, noise: np.ndarray, full: torch.Tensor) -> float:
    """Error of the measured share of noise in the band at 3 kHz."""
    powers = [band_powers_of(sound_from_array(np.float32(y), SR), SETTINGS)[:, BAND].mean() for y in (tones, noise)]
    measured = noise_share(fluctuation(tones + noise), full)[BAND].item()
    return 10 * math.log10(measured / (powers[1] / sum(powers)))


def test_the_share_of_noise_is_measured_to_2_db_beside_tones_that_beat():
    """The two tones beat 13 times a second, within the modulation frequencies that are measured."""
    tones = np.sin(2 * np.pi * 3000 * T) + 0.7 * np.sin(2 * np.pi * 3013 * T)
    noise = np.random.default_rng(0).standard_normal(TILE_SAMPLES)
    full = torch.ones(128)
    assert 0.85 < fluctuation(noise).median() < 1.1
    assert fluctuation(noise).log().std() < 0.2
    assert noise_share(fluctuation(tones), full)[BAND] < 1e-3
    for level in (1.5, 4, 10, 30):  # shares from 1.6 to 87 %
        assert abs(share_error_db(tones, level * noise, full)) < 2


def test_the_share_of_crackle_is_measured_in_a_library_of_crackle():
    """Crackle fluctuates more than Gaussian noise; how much more is learned from the library."""
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 3000 * T)

    def crackle() -> np.ndarray:
        return 30 * rng.standard_normal(TILE_SAMPLES) * (rng.random(TILE_SAMPLES) < 80 / SR)

    levels = np.geomspace(0.1, 30, 24)
    full = full_fluctuation(torch.stack([fluctuation(tone + level * crackle()) for level in levels]))
    for level in (0.7, 2, 6):  # from 2 % to nearly all of the power
        clicks = crackle()
        assert abs(share_error_db(tone, level * clicks, full)) < 1.5
    # Taken for Gaussian noise, loud crackle over a tone would seem to be all of the power.
    assert share_error_db(tone, level * clicks, torch.ones(128)) > 3


def test_a_library_of_hiss_fluctuates_as_gaussian_noise():
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 3000 * T)
    hiss = [fluctuation(tone + level * rng.standard_normal(TILE_SAMPLES)) for level in np.geomspace(0.1, 30, 24)]
    assert full_fluctuation(torch.stack(hiss)).max() < 1.25
