"""Where the model computes, and a check that it computes gradients correctly there.

Apple's MPS is known to return wrong gradients for some operations without any error. Before training on
it, one gradient of a copy of the model is compared with the CPU's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neural_grain.base.errors import PipelineError
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import CONTROL_RANGE


@dataclass(frozen=True)
class GradientCheckSettings:
    """Which gradients are compared, and how far apart rounding may bring them."""

    n_tiles: int = 16  # half a batch: enough that every weight has a gradient
    relative_tolerance: float = 1e-2  # of the gradient of the same weight; real faults are larger than the gradient
    rounding: float = 1e-4  # of the largest gradient: the smallest gradients are mostly rounding


GRADIENT_CHECK = GradientCheckSettings()


def choose_device(requested: str) -> str:
    """The device for "auto", "cpu", "cuda" or "mps".

    On CUDA, convolutions are computed in float32 from now on. TensorFloat-32, which is torch's default, keeps 10 bits:
    gradients then differ from the CPU's by 6e-4, not by 1e-6, and our small convolutions get no faster by it.

    Raises
    ------
    PipelineError
        If the requested device is not available.
    """
    torch.backends.cudnn.allow_tf32 = False
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if requested == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if not available[requested]:
        raise PipelineError(f"--device {requested}: not available here; use --device auto")
    return requested


def wrong_gradients(expected: dict[str, Tensor], computed: dict[str, Tensor]) -> list[str]:
    """Names of the weights whose computed gradient differs from the expected one by more than rounding."""
    rounding = GRADIENT_CHECK.rounding * max(float(gradient.norm()) for gradient in expected.values())
    return [
        name
        for name, gradient in expected.items()
        # "not <=" instead of ">", so that NaN counts as wrong
        if not (computed[name] - gradient).norm() <= GRADIENT_CHECK.relative_tolerance * gradient.norm() + rounding
    ]


def gradients_on(device: str, model: GrainModel, tiles: Tiles) -> dict[str, Tensor]:
    """Gradients of all weights of a copy of the model, computed on a device for one loss of its patterns."""
    on_device = copy.deepcopy(model).to(device)
    # The last layer starts at 0, which would make the gradients of all layers before it 0.
    nn.init.constant_(on_device.detector.mix.weight, 0.1)
    control = torch.linspace(-CONTROL_RANGE, CONTROL_RANGE, len(tiles.tones), device=device)
    moved = on_device(tiles.tones.to(device), tiles.texture.to(device), control)
    moved.square().mean().backward()
    return {name: weight.grad.cpu() for name, weight in on_device.named_parameters()}


def check_device(model: GrainModel, tiles: Tiles) -> None:
    """Compare gradients with the CPU's if the tiles are on MPS.

    Raises
    ------
    PipelineError
        If they differ.
    """
    if tiles.tones.device.type != "mps":
        return
    few = Tiles(*(levels[: GRADIENT_CHECK.n_tiles].cpu() for levels in (tiles.tones, tiles.texture)))
    wrong = wrong_gradients(*(gradients_on(device, model, few) for device in ("cpu", "mps")))
    if wrong:
        raise PipelineError(
            f"--device mps computes wrong gradients ({wrong[0]}) with this version of torch; use --device cpu"
        )
