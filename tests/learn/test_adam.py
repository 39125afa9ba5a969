"""Adam: the results of torch's optimizer, without the import of torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from neural_grain.learn.adam import Adam

LEARNING_RATES = (1e-2, 3e-2, 1e-3, 1e-2)


def some_weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (5,), ())]


def set_gradients(weights: list[nn.Parameter], step: int) -> None:
    torch.manual_seed(1 + step)
    for weight in weights:
        weight.grad = 10 ** torch.randn(()) * torch.randn(weight.shape)


def torch_steps(weights: list[nn.Parameter]) -> torch.optim.Adam:
    """The same steps by torch."""
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.99))
    for step, learning_rate in enumerate(LEARNING_RATES):
        optimizer.param_groups[0]["lr"] = learning_rate
        set_gradients(weights, step)
        optimizer.step()
    return optimizer


def own_steps(optimizer: Adam, weights: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        optimizer.learning_rate = LEARNING_RATES[step]
        set_gradients(weights, step)
        optimizer.step()


def assert_same(weights: list[nn.Parameter], others: list[nn.Parameter]) -> None:
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=0)


def saved(optimizer: Adam) -> dict[int, dict[str, np.ndarray]]:
    """The state as it is read from a checkpoint: arrays that can't be written to."""
    arrays = {i: {name: tensor.numpy().copy() for name, tensor in of.items()} for i, of in optimizer.state().items()}
    for of in arrays.values():
        for array in of.values():
            array.flags.writeable = False
    return arrays


def test_steps_are_those_of_torch():
    weights, others = some_weights(), some_weights()
    own_steps(Adam(weights), weights, range(4))
    torch_steps(others)
    assert_same(weights, others)


def test_it_continues_from_what_it_saved_and_from_what_torch_saves():
    weights, others = some_weights(), some_weights()
    optimizer = Adam(weights)
    own_steps(optimizer, weights, range(2))
    continued = Adam(weights)
    continued.load(saved(optimizer))
    own_steps(continued, weights, range(2, 4))
    by_torch = torch_steps(others)
    assert_same(weights, others)
    from_torch = Adam(others)
    from_torch.load(
        {
            i: {name: value.detach().numpy() for name, value in of.items()}
            for i, of in by_torch.state_dict()["state"].items()
        }
    )
    for own, other in zip(continued.state().values(), from_torch.state().values(), strict=True):
        assert own.keys() == other.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name in own:
            torch.testing.assert_close(own[name], other[name], rtol=1e-6, atol=0)


def test_gradients_are_forgotten():
    weights = some_weights()
    set_gradients(weights, 0)
    Adam(weights).zero_grad()
    assert all(weight.grad is None for weight in weights)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop(1),
        lambda state: state[1].pop("step"),
        lambda state: state[0].update(exp_avg=np.zeros((2, 3), np.float32)),
        lambda state: state[2].update(exp_avg_sq=np.array(np.nan, np.float32)),
        lambda state: state[1].update(exp_avg=np.array([0, 0, np.inf, 0, 0], np.float32)),
    ],
)
def test_a_state_that_does_not_fit_is_refused(damage):
    state = saved(Adam(some_weights()))
    damage(state)
    with pytest.raises((ValueError, KeyError)):
        Adam(some_weights()).load(state)


def test_a_step_does_not_import_the_compiler_of_torch():
    lines = [
        "import sys, torch",
        "from neural_grain.learn.adam import Adam",
        "weight = torch.nn.Parameter(torch.ones(3))",
        "weight.grad = torch.ones(3)",
        "Adam([weight]).step()",
        "assert 'torch._dynamo' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, check=True)
