"""LR range test (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017).

The learning rate grows exponentially from step to step of real training; the loss falls, flattens
and explodes. Suggested is the rate where the smoothed loss falls steepest before its minimum.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tft.batch import WindowBatch
from tft.bundle import write_atomically
from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import grad_scaler
from train.ranks import ALONE, Ranks
from train.step import TrainLoader, grouped, make_optimizer, train_step

SMOOTHING = 0.9  # of the running mean of losses
SETTLING = 10  # steps the running mean needs: what it shows before is noise
DIVERGED = 2.0  # stop where the smoothed loss is so many times its best


@dataclass(frozen=True)
class RangeTest:
    """The sweep, one entry a step."""

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float

    def write_csv(self, path: Path) -> None:
        """Write one line a step: learning_rate, loss, smoothed_loss."""
        lines = ["learning_rate,loss,smoothed_loss"]
        for row in zip(self.learning_rates, self.losses, self.smoothed, strict=True):
            lines.append(",".join(f"{value:.8g}" for value in row))
        write_atomically(path, ("\n".join(lines) + "\n").encode())

    def draw(self, path: Path) -> None:
        """Draw the sweep with the suggestion marked, as a PNG."""
        from report.plots import lr_curve  # slow to import, needed only here

        lr_curve(path, self.learning_rates, self.losses, self.smoothed, self.suggestion)


def lr_range_test(
    forecaster: Forecaster,
    loader: TrainLoader,
    config: TrainConfig,
    lowest: float = 1e-5,
    highest: float = 1.0,
    steps: int = 100,
    progress: Callable[[float], None] | None = None,
    ranks: Ranks = ALONE,
) -> RangeTest:
    """Sweep the learning rate over a copy of the forecaster; nothing given in is changed.

    Args:
        forecaster: as it would be trained.
        loader: shuffled batches; the first epoch's are used.
        config: precision, clipping and accumulation as in training.
        lowest: learning rate of the first step.
        highest: of the last, if the loss has not diverged before.
        steps: of the whole sweep.
        progress: called with the fraction done.
        ranks: the processes that test together.

    Raises:
        FloatingPointError: too few steps had a finite loss to suggest anything.
    """
    device = forecaster.quantiles.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trial = copy.deepcopy(forecaster).train()
        optimizer = make_optimizer(trial, replace(config, learning_rate=lowest))
        model, scaler = ranks.wrap(trial), grad_scaler(config.precision, device)
        groups = grouped(_endless(loader), config)
        rates, losses, smoothed = [], [], []
        running = 0.0
        for step, rate in enumerate(np.geomspace(lowest, highest, steps).tolist(), 1):
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            result = train_step(model, next(groups), optimizer, scaler, config, ranks)
            loss = result.loss
            if not math.isfinite(loss):
                break
            running = SMOOTHING * running + (1 - SMOOTHING) * loss
            rates.append(rate)
            losses.append(loss)
            smoothed.append(running / (1 - SMOOTHING**step))
            if smoothed[-1] > DIVERGED * min(smoothed):
                break
            if progress is not None:
                progress(step / steps)
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), suggest(rates, smoothed))


def suggest(rates: list[float], smoothed: list[float]) -> float:
    """Return the rate of the steepest descent, in log rate, before the smoothed loss's minimum.

    Raises:
        FloatingPointError: there is no descent once the mean has settled.
    """
    lowest = int(np.argmin(smoothed)) if smoothed else 0
    if lowest <= SETTLING:
        raise FloatingPointError(
            f"the loss diverged after {len(rates)} steps of the learning-rate sweep without "
            "falling first; check the data, or set learning_rate by hand"
        )
    slope = np.gradient(np.array(smoothed[: lowest + 1]), np.log(rates[: lowest + 1]))
    return rates[SETTLING + int(np.argmin(slope[SETTLING:]))]


def _endless(loader: TrainLoader) -> Iterator[WindowBatch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)
