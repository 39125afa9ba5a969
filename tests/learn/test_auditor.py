"""The auditor, against librosa on the bins, and what rendering does to a picture's energy."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from learning import FRACTIONS, RANGE_DB, random_pictures

from neural_grain.learn.auditor import audited_octaves, band_levels, renormalise


def test_the_auditor_agrees_with_librosa_on_the_bins():
    """If the bins of a band are equal and get the same gain, the band powers determine the flatness."""
    rng = np.random.default_rng(0)
    counts = np.full(128, 5)
    fractions = torch.tensor(counts / counts.sum(), dtype=torch.float32)[:, None]
    x, change = rng.uniform(0.3, 1, (128, 6)), rng.normal(0, 0.1, (128, 6))

    def grain(picture: np.ndarray) -> float:
        power = np.repeat(10 ** (RANGE_DB * (picture - 1) / 10), counts, axis=0)
        return float(librosa.feature.spectral_flatness(S=np.sqrt(power), amin=1e-30).mean())

    measured = audited_octaves(
        torch.tensor(x[None], dtype=torch.float32),
        torch.tensor(change[None], dtype=torch.float32),
        fractions,
        RANGE_DB,
        active_range_db=400.0,
    )
    assert measured.item() == pytest.approx(math.log2(grain(x) / grain(x + change)), abs=1e-3)


def test_silent_frames_do_not_count():
    x, change = random_pictures(1), 0.1 * random_pictures(1, seed=1)
    without = audited_octaves(x, change, FRACTIONS, RANGE_DB, 40.0)
    x, change = torch.cat((x, torch.zeros(1, 128, 10)), 2), torch.cat((change, random_pictures(1, 10, 5)), 2)
    torch.testing.assert_close(audited_octaves(x, change, FRACTIONS, RANGE_DB, 40.0), without)


def test_renormalising_keeps_the_energy_over_time_and_the_loudest_band():
    x = random_pictures()
    y = renormalise(x, 0.2 * random_pictures(seed=3), FRACTIONS.log(), RANGE_DB)
    before, after = (torch.logsumexp(band_levels(z, RANGE_DB) + FRACTIONS.log(), 1) for z in (x, y))
    shift = after - before  # (batch, frames): one shift for all frames of a picture is allowed
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(y.amax((1, 2)), x.amax((1, 2)))
