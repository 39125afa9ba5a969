"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learning import SETTINGS, randomised, tiles

from neural_grain.learn import model as learn_model
from neural_grain.learn.model import GrainModel, pattern_in_db


class TestModel:
    def test_control_zero_changes_nothing(self):
        assert torch.equal(randomised()(tiles(), torch.zeros(3)), torch.zeros(3, 128, 40))

    def test_the_gate_is_signed_and_grows_with_control(self):
        model = randomised()
        controls = torch.linspace(-3, 3, 61)
        effective = controls * model.gate(controls)
        assert torch.all(effective.diff() > 0)
        torch.testing.assert_close(effective, -effective.flip(0))

    def test_each_direction_has_its_pattern(self):
        x, model = tiles(2), randomised()
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

    def test_a_unit_of_control_is_an_octave(self):
        x, model = tiles(3, 1).expand(3, 128, 40) * 0.5 + 0.5, GrainModel(SETTINGS)
        model.temperature.fill_(1e3)
        for control in (-0.5, 0.5, 1.0, 2.0):
            controls = torch.full((3,), control)
            got = model.octaves(x, model(x, controls))
            torch.testing.assert_close(got, controls, atol=0.05, rtol=0.05)

    def test_asked_for_more_than_there_is_it_goes_to_the_top_and_not_over_it(self):
        model, x = GrainModel(SETTINGS), torch.zeros(1, 128, 64)
        x[:, 20:23] = 0.2
        model.temperature.fill_(1e3)
        for claim in (-1.0, -2.0, -2.8):  # flat is 0.59 octaves up
            assert model.octaves(x, model(x, torch.tensor([claim]))).item() < -0.55

    def test_a_long_picture_in_pieces_gives_the_same_pattern(self, monkeypatch):
        x, model = 0.5 + 0.05 * tiles(1, 1500)[0].numpy(), randomised()  # some of it noise
        whole = pattern_in_db(model, x, SETTINGS)
        monkeypatch.setattr(learn_model, "CHUNK_FRAMES", 256)
        np.testing.assert_allclose(pattern_in_db(model, x, SETTINGS), whole, atol=1e-3)
        assert whole.shape == (2, 128, 47)

    @pytest.mark.parametrize("frames", [1, 5, 17])
    def test_short_pictures_work(self, frames):
        assert pattern_in_db(randomised(), tiles(1, frames)[0].numpy(), SETTINGS).shape == (2, 128, 1)
        assert randomised().pattern(tiles(1, frames), torch.ones(1)).shape == (1, 128, frames)

    def test_frames_far_away_do_not_matter(self):
        x, model = tiles(1, 480), randomised()
        other = x.clone()
        other[:, :, 380:] = 0.5
        near, same = (model.detector(picture, torch.ones(1))[:, :, :200] for picture in (other, x))
        torch.testing.assert_close(near, same, atol=1e-6, rtol=1e-5)
