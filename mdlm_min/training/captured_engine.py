"""Steps on a GPU as one CUDA graph.

A small network's step is a few hundred kernels of some microseconds each, which take longer to launch one by one from Python than
to run. Captured once and replayed, they follow each other without gaps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_min.training.engine import TorchEngine
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig, limit_gradient
from mdlm_min.training.task import Task


@dataclass(frozen=True)
class CapturedStep:
    """A task's step, cut into what is drawn outside of the graph and what is computed from it.

    draw: what `loss` is given at a step, on the GPU; the same shapes at every step. loss: the training loss, a scalar with a
    gradient; no shape may depend on values, and nothing may be random."""

    draw: Callable[[int], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]


class CapturedEngine(TorchEngine):
    """One process on a GPU, and a learning rate that does not change.

    The first step is taken kernel by kernel, which makes the optimiser's state; the second is captured.
    """

    def __init__(self, task: Task, config: TrainConfig, captured: CapturedStep) -> None:
        super().__init__(task, config)
        self.captured = captured
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._loss: Tensor | None = None

    def step(self, step: int, rate: float, guard: SpikeGuard | None) -> tuple[Tensor, bool]:
        """One step: the loss, and that it was taken. Raises ValueError for a guard, which a graph cannot ask."""
        if guard or rate != self.config.learning_rate:
            raise ValueError("a captured step has no guard and a constant learning rate")
        drawn = self.captured.draw(step)
        if not self._inputs:
            self._inputs = tuple(one.clone() for one in drawn)
            aside = torch.cuda.Stream()  # where a graph is captured later: its gradients must not be tied to another stream
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                loss = self._taken()
            torch.cuda.current_stream().wait_stream(aside)
            return loss, True
        for place, one in zip(self._inputs, drawn, strict=True):
            place.copy_(one)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = self._taken()
        self._graph.replay()  # capturing takes no step
        assert self._loss is not None
        return self._loss, True

    def _taken(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.captured.loss(*self._inputs)
        loss.backward()
        limit_gradient(self.task.model, self.config)
        self.optimizer.step()
        return loss.detach()
