"""TODO"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from neural_grain.base.errors import PipelineError
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import CONTROL_RANGE
from neural_grain.learn.team import ALONE, Team


def choose_device(wanted: str, team: Team = ALONE) -> str:
    """The device for "auto", "cpu", "cuda" or "mps"; of several processes each takes a GPU of its own.

    Raises
    ------
    PipelineError
        If the device asked for is not there.
    """
    available = {
        "cuda": torch.cuda.device_count() > team.local_rank,
        "mps": torch.backends.mps.is_available() and team.size == 1,
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(name for name in available if available[name])
    if not available[wanted]:
        among = "" if team.size == 1 else f" for each of {team.size} processes"
        raise PipelineError(f"--device {wanted}: not available here{among}; use --device auto")
    return f"cuda:{team.local_rank}" if wanted == "cuda" and team.size > 1 else wanted


def wrong_gradients(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> list[str]:
    """Names of the weights whose gradient is not the one wanted, but for rounding."""
    rounding = 1e-4 * max(float(gradient.norm()) for gradient in wanted.values())
    return [name for name, own in wanted.items() if not (got[name] - own).norm() <= 1e-2 * own.norm() + rounding]


def gradients_on(device: str, model: GrainModel, x: Tensor, fluctuation: Tensor) -> dict[str, Tensor]:
    """Gradients of all weights of a copy of the model on a device, for one loss of its patterns."""
    there = copy.deepcopy(model).to(device)
    nn.init.constant_(there.detector.mix.weight, 0.1)  # it begins at 0, and would hide the layers before it
    control = torch.linspace(-CONTROL_RANGE, CONTROL_RANGE, len(x))
    there.pattern(*(values.to(device) for values in (x, control, fluctuation))).square().mean().backward()
    return {name: weight.grad.cpu() for name, weight in there.named_parameters()}


def check_device(model: GrainModel, movers: Tiles) -> None:
    """Compare one gradient with the CPU's where MPS computes, which is known to train wrongly in silence.

    Raises
    ------
    PipelineError
        If they differ.
    """
    if movers.device != "mps":
        return

    x, fluctuation = (values.cpu() for values in movers.crops(16, np.random.default_rng(0)))

    if wrong := wrong_gradients(*(gradients_on(device, model, x, fluctuation) for device in ("cpu", movers.device))):
        raise PipelineError(
            f"--device mps computes wrong gradients ({wrong[0]}) with this version of torch; use --device cpu"
        )
