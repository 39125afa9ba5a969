"""The CAK layer and its detector, with random weights: what must hold whatever the model learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import SETTINGS, random_levels, randomised

from neural_grain.dsp.generation import GeneratedTexture
from neural_grain.dsp.settings import NEPER_PER_DB
from neural_grain.learn import detector as detector_module
from neural_grain.learn.detector import DETECTOR, NumpyDetector, cell_levels, texture_in_chunks, weight_shapes
from neural_grain.learn.model import GrainModel, generated_texture, move_texture, one_torch_thread

ABSENT = torch.full((3, 128, 8), -100 * NEPER_PER_DB)


def test_torch_computes_on_one_thread_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


class TestPattern:
    def test_it_starts_as_the_typical_texture_of_the_library(self):
        spectrum_db = np.linspace(0, -30, 128, dtype=np.float32)
        model, tones = GrainModel(SETTINGS, GeneratedTexture(spectrum_db, 20.0)), random_levels()
        expected = -100 + spectrum_db[:, None] + tones.amax(1, keepdim=True).numpy() / NEPER_PER_DB
        np.testing.assert_allclose(model.pattern(tones, ABSENT).detach() / NEPER_PER_DB, expected, atol=1e-3)
        found = generated_texture(model, *np.full((2, 128, 16), -50, np.float32))
        assert found.crest_db == 20.0
        np.testing.assert_allclose(found.spectrum_db, np.tile(spectrum_db[:, None], 2), atol=1e-5)

    def test_where_a_band_has_texture_of_its_own_the_pattern_is_that_texture(self):
        tones, texture = random_levels(), ABSENT.clone()
        texture[:, 40:] = -60 * NEPER_PER_DB
        pattern = randomised().pattern(tones - 20, texture)
        torch.testing.assert_close(pattern[:, 40:], texture[:, 40:])
        assert (pattern[:, :40] - texture[:, :40]).abs().max() > 0.1

    def test_only_differences_between_bands_count(self):
        pattern = randomised().detector(random_levels(), ABSENT)
        assert pattern.mean(1).abs().max() < 1e-4
        assert 0.1 < pattern.abs().max() <= 2 * DETECTOR.range_db

    def test_cells_that_are_far_away_do_not_matter(self):
        tones, texture = random_levels(1, 40), random_levels(1, 40, seed=1, low_db=-100)
        changed, model = texture.clone(), randomised()
        changed[..., 30:] = -1.0
        before, after = (model.detector(tones, each)[..., : 30 - DETECTOR.context_cells] for each in (texture, changed))
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)

    def test_a_long_sound_in_chunks_has_the_same_pattern(self, monkeypatch):
        steps = np.random.default_rng(0).uniform(-100, 0, (2, 128, 371)).astype(np.float32)
        steps[1, :, 100:200] = -100
        model = randomised()
        whole = generated_texture(model, *steps).spectrum_db
        assert whole.any()
        monkeypatch.setattr(detector_module, "DETECTOR", replace(DETECTOR, chunk_cells=8))
        np.testing.assert_allclose(generated_texture(model, *steps).spectrum_db, whole, atol=1e-3)
        assert whole.shape == (128, 47)

    @pytest.mark.parametrize("cells", [1, 8, 600])
    def test_numpy_computes_the_same_as_torch(self, cells):
        """600 cells are more than one chunk and not a multiple of a block."""
        steps = np.random.default_rng(cells).uniform(-100, 0, (2, 128, 8 * cells - 3)).astype(np.float32)
        steps[1, 40:] = -100
        model = randomised(cells)
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        spectrum_db = weights["spectrum_db"] = np.linspace(0, -30, 128, dtype=np.float32)
        model.spectrum_db[:] = torch.tensor(spectrum_db)
        expected = generated_texture(model, *steps).spectrum_db
        found = texture_in_chunks(NumpyDetector(weights, SETTINGS), spectrum_db, 0.0, *steps).spectrum_db
        assert found.dtype == np.float32
        assert np.ptp(expected - spectrum_db[:, None]) > 1.0
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("channels", [1, 16])
    def test_the_weights_that_are_expected_of_a_file_are_those_of_the_model(self, channels):
        weights = GrainModel(SETTINGS, channels=channels).state_dict()
        assert weight_shapes(SETTINGS, channels) == {name: tuple(tensor.shape) for name, tensor in weights.items()}

    def test_a_cell_has_the_mean_power_of_its_steps(self):
        level_db = np.random.default_rng(0).uniform(-80, 0, (128, 19))
        expected = [np.log((10 ** (level_db[:, i : i + 8] / 10)).mean(axis=1)) for i in (0, 8, 16)]
        np.testing.assert_allclose(cell_levels(level_db), np.stack(expected, axis=1), rtol=1e-5, atol=1e-5)


class TestKernel:
    def test_a_control_of_0_changes_nothing(self):
        tones, texture = random_levels(), random_levels(seed=1)
        assert torch.equal(randomised()(tones, texture, torch.zeros(3)), texture)

    def test_the_gated_control_is_odd_and_increasing(self):
        controls = torch.linspace(-3, 3, 61)
        effective = controls * randomised().gate(controls)
        assert torch.all(effective.diff() > 0)
        torch.testing.assert_close(effective, -effective.flip(0))

    @pytest.mark.parametrize("amount_db", [-25.0, -3.0, 4.0, 29.0])
    def test_texture_that_is_there_gets_one_gain(self, amount_db):
        texture = random_levels(1)
        moved = move_texture(texture, texture, torch.tensor([amount_db]))
        torch.testing.assert_close(moved, texture + NEPER_PER_DB * amount_db, atol=1e-4, rtol=0)

    def test_what_is_added_is_the_pattern_times_the_control(self):
        """N' = N + V d in powers, with d = 10**(amount / 10) - 1."""
        texture, pattern, amount_db = random_levels(1), random_levels(1, seed=1), torch.tensor([6.0])
        moved = move_texture(texture, pattern, amount_db)
        torch.testing.assert_close(moved.exp(), texture.exp() + pattern.exp() * (10**0.6 - 1))

    def test_a_step_of_training_works_on_any_device(self):
        """No GPU is needed to see that a tensor is on the wrong device: "meta" refuses others, too."""
        model = GrainModel(SETTINGS).to("meta")
        levels = torch.empty(2, 128, 8, device="meta")
        model(levels, levels, torch.empty(2, device="meta")).square().mean().backward()
        assert all(weight.grad.device.type == "meta" for weight in model.parameters())
