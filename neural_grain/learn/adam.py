"""Adam, the optimizer of the training.

`torch.optim.Adam` has the same results. It imports torch's compiler, which is not needed here and would take more than
two seconds at each start of a training, so this calls the function in which its arithmetic is.

In: the weights of a model and their gradients. Out: weights after a step; what an interrupted run saves.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from neural_grain.learn.model_file import is_array

EPSILON = 1e-8  # added to the root of the second moment


class Adam:
    """Adam (Kingma and Ba, 2015) on the weights of a model.

    Parameters
    ----------
    weights : of the model, in the order in which a checkpoint has them
    learning_rate : float > 0; the training sets the attribute before each step
    betas : how much of the mean of the gradients, and of their squares, is kept in a step; torch's 0.999 for the squares
        remembers 1,000 steps, most of a short run
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)
    ):
        self.learning_rate, self._betas = learning_rate, betas
        self._weights = list(weights)
        self._means = [torch.zeros_like(weight) for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]
        self._n_steps = [torch.tensor(0.0) for _ in self._weights]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights after their gradients; each of them must have one."""
        adam(
            self._weights,
            [weight.grad for weight in self._weights],
            self._means,
            self._squares,
            [],
            self._n_steps,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    def state(self) -> dict[int, dict[str, Tensor]]:
        """What the next step depends on, for each weight under the names that torch has for it."""
        moments = zip(self._n_steps, self._means, self._squares, strict=True)
        return {
            i: {"step": step, "exp_avg": mean, "exp_avg_sq": square} for i, (step, mean, square) in enumerate(moments)
        }

    def load(self, saved: dict[int, dict[str, np.ndarray]]) -> None:
        """Continue from a `state`, or from the start if it is empty.

        Raises
        ------
        ValueError, KeyError
            If it does not fit the weights, or is not finite.
        """
        for i, own in self.state().items() if saved else ():
            for name, tensor in own.items():
                values = saved[i][name]
                if not is_array(values, tuple(tensor.shape)) or not np.isfinite(values).all():
                    raise ValueError(f"optimizer: {name} of weight {i}")
                tensor.copy_(torch.tensor(values))  # a copy, because the array of a file can't be written to
