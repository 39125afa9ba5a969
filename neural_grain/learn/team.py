"""TODO"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from neural_grain.base.errors import PipelineError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that torchrun started, on one machine or more; without it, this one alone.

    All draw the same tiles from the same seed, and each works on its share of them. What the
    referees need of all tiles is then put together, so every process has the same loss; the
    gradients of the shares add up to those of the batch. Only the first process is heard and
    writes files.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine: which of its GPUs to take

    @classmethod
    def of_torchrun(cls) -> Team:
        """Which of the processes this is, from what torchrun left in the environment."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @contextmanager
    def heard_once(self) -> Iterator[None]:
        """Let only the first process print."""
        if self.is_first:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connect the processes while the block runs: gloo on the CPU, nccl between GPUs.

        Raises
        ------
        PipelineError
            If one can't be reached, or ends before the others.
        """
        if self.size == 1:
            yield
            return
        with self._faults_named():
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as err:  # all that gloo and nccl raise
            raise PipelineError("lost one of the processes that train together; start them again") from err

    def share(self, n: int) -> slice:
        """Which of ``n`` tiles are this process's."""
        return slice(self.rank, n, self.size)

    def whole(self, part: Tensor, n: int) -> Tensor:
        """All ``n`` rows of a tensor of which each process has its `share`.

        Gradients reach a process's own rows only. That is exact: every process computes the same
        loss from the same rows, and `add_gradients` adds up what each makes of its own.
        """
        if self.size == 1:
            return part
        rows = part.new_zeros(n, *part.shape[1:])
        rows[self.share(n)] = part.detach()
        self._add(rows)
        rows[self.share(n)] = part
        return rows

    def add_gradients(self, model: nn.Module) -> None:
        """Give every process the sum of all gradients."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        self._add(together)
        for gradient, values in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))

    def any(self, wish: bool) -> bool:
        """Whether some process wishes it."""
        count = torch.tensor(float(wish))
        self._add(count)
        return bool(count)

    def _add(self, values: Tensor) -> None:
        if self.size > 1:
            with self._faults_named():
                torch.distributed.all_reduce(values)

    def copy_first(self, module: nn.Module) -> None:
        """Give every process the first one's weights: other processors round otherwise."""
        if self.size > 1:
            for values in module.state_dict().values():
                with self._faults_named():
                    torch.distributed.broadcast(values, 0)

    def agreed(self, work: Callable[[], T]) -> T:
        """What ``work`` returns here; a fault in one process is a fault in all.

        Raises
        ------
        PipelineError
            If it was raised in any of the processes.
        """
        if self.size == 1:
            return work()
        result, faults = None, [""] * self.size
        try:
            result, fault = work(), ""
        except PipelineError as err:
            fault = str(err)
        with self._faults_named():
            torch.distributed.all_gather_object(faults, fault)
        for fault in faults:
            if fault:
                raise PipelineError(fault)
        return result

    def of_first(self, value: T) -> T:
        """The first process's value."""
        values = [value]
        if self.size > 1:
            with self._faults_named():
                torch.distributed.broadcast_object_list(values, 0)
        return values[0]


ALONE = Team()
