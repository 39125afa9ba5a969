"""The look-ahead peak limiter: its ceiling, its independence of block sizes and its local effect."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, noise

from neural_grain.audio import limiter
from neural_grain.audio.limiter import limit_peaks
from neural_grain.audio.sound import sound_from_array


@pytest.mark.parametrize("size", [50, 700, 100_000])
def test_no_sample_exceeds_the_ceiling_and_the_output_does_not_depend_on_the_block_size(size):
    y = noise(0.5, level=0.4)[:, None].astype(np.float32) * np.array([[1.0, 0.5]], np.float32)
    sound = sound_from_array(y, SR)
    whole = np.concatenate(list(limit_peaks([y], 0.9, sound)))
    assert whole.shape == y.shape
    assert np.abs(whole).max() <= 0.9
    pieces = np.concatenate(list(limit_peaks([y[i : i + size] for i in range(0, len(y), size)], 0.9, sound)))
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


def test_samples_far_from_a_peak_are_unchanged_and_the_gain_has_no_steps():
    y = np.full((SR, 1), 0.1, np.float32)
    y[SR // 2] = 5.0
    z = np.concatenate(list(limit_peaks([y], 1.0, sound_from_array(y, SR))))
    far = np.abs(np.arange(SR) - SR // 2) > 2 * round(limiter.LOOK_AHEAD_S * SR)
    np.testing.assert_array_equal(z[far], y[far])
    assert z[SR // 2] == pytest.approx(1.0, abs=1e-5)
    assert np.abs(np.diff(z[:, 0] / y[:, 0])).max() < 0.05
