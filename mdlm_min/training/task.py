"""What the training loop trains."""

from typing import Any, Protocol

from torch import Tensor, nn

from mdlm_min.model.flops import Work
from mdlm_min.run.run_folder import Row


class Task(Protocol):
    """What the loop trains. All its randomness is a function of the seed and the step."""

    model: nn.Module
    work: Work | None  # what a step does, for the progress line; None where that is not counted
    parts: int = 1  # into how many forward and backward passes this process cuts its share of a step

    def loss(self, step: int) -> Tensor:
        """Training loss at this step, a scalar with a gradient."""

    def part_loss(self, step: int, part: int) -> Tensor:
        """One of `parts` summands of the training loss; the summands of all processes add up to it."""
        return self.loss(step)

    def took(self, step: int) -> None:
        """Called after this step, unless the guard against spikes refused it: what a task learns of its own losses it learns
        here."""
        return

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of the weights after `step` steps, the same names every time. Counts gathered since the last call are reset."""

    def is_done(self, rows: list[Row]) -> bool:
        """Whether to stop before the last step, given all metrics so far."""
        return False

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights and step, as JSON: the position in the training data."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state. Raises ValueError for one that is not this task's."""
        if state:
            raise ValueError(f"state: {state} is not this task's")
