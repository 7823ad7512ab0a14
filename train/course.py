"""How far a training is, and how long it may go on."""

import math
import time

from train.config import TrainConfig
from train.state import TrainState
from train.step import TrainLoader


class Course:
    """The way from the first step to the last, in steps and by the clock."""

    def __init__(
        self, config: TrainConfig, loader: TrainLoader, deadline: float = math.inf
    ) -> None:
        """Begin now; `deadline` is of `time.monotonic()`."""
        self.config, self.deadline = config, deadline
        self.began = time.monotonic()
        self.steps = -(-len(loader) // config.accumulate_grad_batches)  # in an epoch
        self.windows_per_epoch = loader.windows_per_epoch

    def done(self, state: TrainState) -> float:
        """Return the share done, 0 to 1: of the steps, or of the time where that runs out first."""
        of_steps = state.step / (self.steps * self.config.epochs) if self.config.epochs else 0.0
        if math.isinf(self.deadline):
            return of_steps
        before = state.seconds_before
        elapsed, allowed = time.monotonic() - self.began, self.deadline - self.began
        return max(of_steps, min((before + elapsed) / max(before + allowed, 1e-9), 1.0))

    def windows(self, step_in_epoch: int) -> int:
        """Return the windows that so many steps of an epoch train, on all ranks."""
        each = self.config.accumulate_grad_batches * self.config.batch_size
        return min(step_in_epoch * each, self.windows_per_epoch)
