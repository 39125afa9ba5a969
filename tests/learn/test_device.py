"""The comparison of gradients that guards against a device that computes them wrongly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from learning import BANDS, SETTINGS, breathy_tiles

from neural_grain.base.errors import PipelineError
from neural_grain.learn import device
from neural_grain.learn.device import check_device, choose_device, gradients_on, wrong_gradients
from neural_grain.learn.model import GrainModel


def test_a_gradient_that_a_device_computes_wrongly_is_named_and_rounding_is_not():
    torch.manual_seed(0)
    tiles = breathy_tiles(4)
    tiles.texture[:, ::2] = BANDS.floor  # where the detector speaks
    good = gradients_on("cpu", GrainModel(SETTINGS), tiles)
    assert all(gradient.norm() > 0 for name, gradient in good.items() if name != "detector.mix.bias"), good
    rounded = {name: gradient * (1 + 1e-4 * torch.randn_like(gradient)) for name, gradient in good.items()}
    assert wrong_gradients(good, rounded) == []
    for name in ("detector.layers.0.weight", "detector.mix.weight", "detector.layers.2.bias"):
        for wrong in (torch.zeros_like(good[name]), -good[name], good[name] * math.nan):
            assert wrong_gradients(good, {**good, name: wrong}) == [name]


def test_training_on_mps_is_refused_if_its_gradients_are_wrong(monkeypatch):
    model, compute = GrainModel(SETTINGS), gradients_on
    on_cpu = breathy_tiles(4)
    on_mps = SimpleNamespace(tones=OnMps(on_cpu.tones), texture=OnMps(on_cpu.texture))
    monkeypatch.setattr(device, "gradients_on", lambda name, *args: compute("cpu", *args))
    check_device(model, on_mps)
    broken = {"cpu": 1.0, "mps": 0.0}
    monkeypatch.setattr(
        device, "gradients_on", lambda name, *args: {k: broken[name] * v for k, v in compute("cpu", *args).items()}
    )
    with pytest.raises(PipelineError, match="--device mps computes wrong gradients"):
        check_device(model, on_mps)
    check_device(model, on_cpu)


class OnMps:
    """Levels that say that they are on MPS; a part of them can be had on the CPU."""

    device = SimpleNamespace(type="mps")

    def __init__(self, levels: torch.Tensor):
        self._levels = levels

    def __getitem__(self, part: slice) -> torch.Tensor:
        return self._levels[part]


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(PipelineError, match=f"--device {name}: not available here"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
