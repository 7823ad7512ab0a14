"""What a person sees while a model trains: one line an epoch, on stderr."""

import math
import sys
import time
from typing import Any

from tqdm import tqdm

from train.config import TrainConfig
from train.record import EpochRecord
from train.state import TrainState
from train.step import TrainLoader

PLAIN_SECONDS = 20.0  # between lines where stderr is not a terminal


class Progress:
    """A bar per epoch on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        config: TrainConfig,
        loader: TrainLoader,
        deadline: float = math.inf,
        shown: bool = True,
    ) -> None:
        """Begin; where not `shown`, on other ranks than the first, nothing is printed."""
        self.shown = shown
        self.epochs, self.deadline = config.epochs, deadline
        self.steps = -(-len(loader) // config.accumulate_grad_batches)  # in an epoch
        self.started = self.last_line = time.monotonic()
        self.best: float | None = None
        self.bar: Any = None
        self.epoch = 1
        self.first: float | None = None  # position at which this process began, in epochs
        self.began = self.started  # with the first of these epochs
        self.windows = loader.windows_per_epoch
        self.sampled = " sampled" if loader.sampled else ""

    def start_epoch(self, state: TrainState) -> None:
        """Open the epoch's line."""
        self.epoch = state.epoch
        self.best = state.best_loss if math.isfinite(state.best_loss) else None
        if self.first is None:
            self.first, self.began = self._position(state.step_in_epoch), time.monotonic()
        if self.shown and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.steps, initial=state.step_in_epoch, desc=self._label(), leave=False
            )

    def step(self, step: int) -> None:
        """Show that a step is done."""
        if self.bar is not None:
            self.bar.set_postfix_str(self._postfix(step), refresh=False)
            self.bar.update()
        elif time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.say(f"{self._label()}: step {step}/{self.steps}, {self._postfix(step)}")

    def end_epoch(self, record: EpochRecord, improved: bool) -> None:
        """Replace the epoch's line by its result."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        self.best = record.best_val_loss
        self.say(
            f"{self._label()}: train loss {record.train_loss:.4f}, "
            f"validation {record.val_loss:.4f}{' (best)' if improved else ''}, "
            f"learning rate {record.learning_rate:.2g}, "
            f"{record.windows_per_second:.0f} windows/s, {self._postfix(self.steps)}"
        )

    def say(self, line: str) -> None:
        """Print a line above any bar."""
        self.last_line = time.monotonic()
        if self.bar is not None:
            self.bar.clear()
        if self.shown:
            print(line, file=sys.stderr, flush=True)

    def _label(self) -> str:
        of = "" if self.epochs is None else f"/{self.epochs}"
        return f"epoch {self.epoch}{of} of {self.windows:,}{self.sampled} windows"

    def _position(self, step: int) -> float:
        return self.epoch - 1 + step / self.steps

    def _postfix(self, step: int) -> str:
        elapsed = time.monotonic() - self.started
        remaining = self.deadline - time.monotonic()
        if self.epochs is not None:
            assert self.first is not None
            done = self._position(step) - self.first
            left = self.epochs - self._position(step)
            if done > 0:
                remaining = min(remaining, (time.monotonic() - self.began) * left / done)
        if math.isinf(remaining):  # a process that has only validated yet
            return f"elapsed {clock(elapsed)}"
        remaining = max(remaining, 0.0)
        best = "" if self.best is None else f"best {self.best:.4f}, "
        return (
            f"{elapsed / (elapsed + remaining):.0%} of all, {best}elapsed {clock(elapsed)}, "
            f"at most {clock(remaining)} left"
        )


def clock(seconds: float) -> str:
    """Write a duration as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
