"""The overview of a sound equals the extremes of its parts, whatever the blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import noise

from neural_grain.dsp.overview import MAX_PARTS, Overview


@pytest.mark.parametrize("n_samples", [1, 100, MAX_PARTS, MAX_PARTS + 1, 3 * MAX_PARTS, 50_001])
@pytest.mark.parametrize("size", [1 << 16, 1_000, 7])
def test_it_is_that_of_the_parts(n_samples, size):
    y = noise(n_samples / 44_100).reshape(-1, 1) * [1.0, -2.0]
    y = y[:n_samples].astype(np.float32)
    overview = Overview(n_samples)
    for start in range(0, n_samples, size):
        overview.add(y[start : start + size])
    length = -(-n_samples // overview.extremes.shape[1])
    parts = [y[i : i + length] for i in range(0, n_samples, length)]
    assert overview.extremes.shape == (2, len(parts))
    assert len(parts) <= MAX_PARTS
    np.testing.assert_array_equal(overview.extremes[0], [part.min() for part in parts])
    np.testing.assert_array_equal(overview.extremes[1], [part.max() for part in parts])


def test_a_sound_without_samples_has_no_parts():
    overview = Overview(0)
    overview.add(np.zeros((0, 2), np.float32))
    assert overview.extremes.shape == (2, 0)
