"""The CAK layer and its detector, with random weights: what must hold whatever the model learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import SETTINGS, random_pictures, randomised

from neural_grain.learn import model as model_module
from neural_grain.learn.model import DETECTOR, GrainModel, pattern_in_db


class TestDetector:
    def test_each_direction_has_its_own_pattern(self):
        x, model = random_pictures(2), randomised()
        both = model.detector.cells(x)
        for i, direction in ((0, 0.5), (1, -2.0)):
            pattern = model.detector(x, torch.full((2,), direction))
            torch.testing.assert_close(pattern[:, :, :16].mean(2), both[:, i, :, 0], atol=1e-5, rtol=1e-4)
        assert (both[:, 0] - both[:, 1]).abs().max() > 0.1
        mixed = model.detector(x, torch.tensor([1.0, -1.0]))
        assert torch.equal(mixed[0], model.detector(x, torch.ones(2))[0])
        assert torch.equal(mixed[1], model.detector(x, -torch.ones(2))[1])

    def test_it_starts_as_the_spectral_expander(self):
        x = torch.rand(1, 128, 1).expand(1, 128, 40)
        for direction in (torch.ones(1), -torch.ones(1)):
            pattern = GrainModel(SETTINGS).detector(x, direction)
            torch.testing.assert_close(pattern, x - x.mean(1, keepdim=True), atol=1e-5, rtol=0)

    def test_frames_that_are_far_away_do_not_matter(self):
        x, model = random_pictures(1, 480), randomised()
        changed = x.clone()
        changed[:, :, 380:] = 0.5
        before, after = (model.detector(picture, torch.ones(1))[:, :, :200] for picture in (x, changed))
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize("frames", [1, 5, 17])
    def test_pictures_shorter_than_a_cell_work(self, frames):
        x, model = random_pictures(1, frames), randomised()
        assert pattern_in_db(model, x[0].numpy(), SETTINGS).shape == (2, 128, 1)
        assert model.pattern(x, torch.ones(1)).shape == (1, 128, frames)

    def test_a_long_picture_in_chunks_has_the_same_pattern(self, monkeypatch):
        x, model = 0.5 + 0.05 * random_pictures(1, 1500)[0].numpy(), randomised()  # partly noise
        whole = pattern_in_db(model, x, SETTINGS)
        monkeypatch.setattr(model_module, "DETECTOR", replace(DETECTOR, chunk_cells=8))
        np.testing.assert_allclose(pattern_in_db(model, x, SETTINGS), whole, atol=1e-3)
        assert whole.shape == (2, 128, 47)


class TestKernel:
    def test_a_control_of_0_changes_nothing(self):
        assert torch.equal(randomised()(random_pictures(), torch.zeros(3)), torch.zeros(3, 128, 40))

    def test_the_gated_control_is_odd_and_increasing(self):
        controls = torch.linspace(-3, 3, 61)
        effective = controls * randomised().gate(controls)
        assert torch.all(effective.diff() > 0)
        torch.testing.assert_close(effective, -effective.flip(0))

    @pytest.mark.parametrize("control", [-0.5, 0.5, 1.0, 2.0])
    def test_a_unit_of_control_is_an_octave(self, control):
        x, model = random_pictures(3, 1).expand(3, 128, 40) * 0.5 + 0.5, GrainModel(SETTINGS)
        model.temperature.fill_(1e3)
        controls = torch.full((3,), control)
        torch.testing.assert_close(model.octaves(x, model(x, controls)), controls, atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("control", [-1.0, -2.0, -2.8])
    def test_beyond_its_reach_it_goes_to_the_peak_of_grain_and_not_past_it(self, control):
        """A flat spectrum is 0.59 octaves above this picture."""
        x = torch.zeros(1, 128, 64)
        x[:, 20:23] = 0.2
        model = GrainModel(SETTINGS)
        model.temperature.fill_(1e3)
        assert model.octaves(x, model(x, torch.tensor([control]))).item() < -0.55
