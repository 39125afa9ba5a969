"""The auditor: the change of grain that it computes from band powers is the one that stage 1 measures on samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import SR, noise, sine
from learning import BANDS, SETTINGS, random_levels

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.learn.auditor import bands_of, log2_grain, log_flatness
from neural_grain.learn.detector import cell_levels


def grain_change(tones: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Octaves by which grain falls, from levels."""
    return log2_grain(tones.exp(), before.exp(), BANDS) - log2_grain(tones.exp(), after.exp(), BANDS)


def test_white_texture_without_tones_is_flat():
    tones, texture = torch.full((1, 128, 3), -23.0), torch.full((1, 128, 3), -3.0)
    assert log_flatness(tones.exp(), texture.exp(), BANDS).abs().max() < 1e-3


def test_grain_is_the_mean_flatness_of_the_cells_within_40_db_of_the_loudest():
    tones, texture = (random_levels(3, seed=seed, low_db=-30.0) for seed in (0, 1))
    texture[1, :, 2:5] -= 12.0  # neper of power: 52 dB, so that these cells do not count
    tones[1, :, 2:5] -= 12.0
    flatness, power = log_flatness(tones.exp(), texture.exp(), BANDS).exp(), (tones.exp() + texture.exp()).numpy()
    weighted = (power * BANDS.fractions.numpy()).sum(axis=1)
    for i, found in enumerate(log2_grain(tones.exp(), texture.exp(), BANDS)):
        active = weighted[i] >= weighted[i].max() * 1e-4
        assert active.sum() == (5 if i == 1 else 8)
        assert float(found) == pytest.approx(math.log2(flatness[i][torch.from_numpy(active)].mean()), abs=1e-4)


def test_a_gain_of_the_texture_of_a_sound_that_is_all_texture_changes_nothing():
    texture = random_levels(2)
    assert grain_change(torch.full_like(texture, -60.0), texture, texture - 1.0).abs().max() < 1e-4


def test_more_texture_between_tones_is_more_grain():
    tones, texture = random_levels(4, low_db=-20.0), random_levels(4, seed=1, low_db=-20.0) - 10
    octaves = [grain_change(tones, texture, texture + gain) for gain in (-2.0, -1.0, 1.0, 2.0)]
    assert torch.all(torch.stack(octaves).diff(dim=0) < 0)


@pytest.mark.parametrize("texture_db", [-12.0, 12.0])
def test_it_agrees_with_the_measure_on_samples(texture_db):
    """The auditor knows band powers only, so it is off by a third of the octaves where little texture is left."""
    y = sum(sine(hz, 3.0, level=0.1) for hz in (440, 1100, 2750, 6900)) + noise(3.0, level=0.001)
    analysis = analyse(sound_from_array(y, SR), SETTINGS)
    rendered = np.concatenate(list(GainField(analysis).render(Amounts(texture_db, 0.0))))
    measured = math.log2(analysis.grain / measure_grain(sound_from_array(rendered, SR)))
    tones, texture = (torch.from_numpy(cell_levels(db))[None] for db in (analysis.tones_db, analysis.texture_db))
    after = texture + texture_db * math.log(10) / 10
    assert grain_change(tones, texture, after).item() == pytest.approx(measured, rel=0.4)


def test_its_tensors_are_made_on_the_device_of_the_tiles():
    """No GPU is needed to see that a tensor is on the wrong device: "meta" refuses others, too."""
    bands = bands_of(SETTINGS, "meta")
    levels = torch.empty(2, 128, 8, device="meta")
    assert log2_grain(levels, levels, bands).device.type == "meta"
