"""LR range test (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017).

The learning rate grows exponentially from step to step of real training; the loss falls, flattens
and explodes. Batches differ more than the loss falls from step to step, so each step's loss is
divided by the untrained network's on the same windows. Suggested is the rate by which the smoothed
curve has done 95 % of its fall: its minimum lies on a valley's floor, anywhere on it, and too high;
its steepest descent is too low (benchmarks/NOTES.md).
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
from tft.files import write_atomically
from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import gather_weights, grad_scaler
from train.ranks import ALONE, Ranks
from train.step import TrainLoader, grouped, make_optimizer, train_step
from train.validate import validate

SMOOTHING = 0.35  # decades: standard deviation of the Gaussian that weighs neighbours
DIVERGED = 2.0  # stop where the mean of the last few relative losses is so many times its best
FEW = 5
DONE = 0.95  # of the curve's fall, at the suggested rate


@dataclass(frozen=True)
class RangeTest:
    """The sweep, one entry a step."""

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Quantile loss per observed target."""
    relative: tuple[float, ...]
    """The loss over the untrained network's on the same windows."""
    smoothed: tuple[float, ...]
    """Of the relative losses."""
    suggestion: float

    def write_csv(self, path: Path) -> None:
        """Write one line a step: learning_rate, loss, relative_loss, smoothed_relative_loss."""
        lines = ["learning_rate,loss,relative_loss,smoothed_relative_loss"]
        columns = self.learning_rates, self.losses, self.relative, self.smoothed
        for row in zip(*columns, strict=True):
            lines.append(",".join(f"{value:.8g}" for value in row))
        write_atomically(path, ("\n".join(lines) + "\n").encode())

    def draw(self, path: Path) -> None:
        """Draw the sweep with the suggestion marked, as a PNG."""
        from report.plots import lr_curve  # slow to import, needed only here

        lr_curve(path, self.learning_rates, self.relative, self.smoothed, self.suggestion)


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
        untrained, trial = copy.deepcopy(forecaster), copy.deepcopy(forecaster).train()
        gather_weights(untrained)
        gather_weights(trial)
        optimizer = make_optimizer(trial, replace(config, learning_rate=lowest))
        model, scaler = ranks.wrap(trial), grad_scaler(config.precision, device)
        groups = grouped(_endless(loader), config)
        rates, losses, relative = [], [], []
        for step, rate in enumerate(np.geomspace(lowest, highest, steps).tolist(), 1):
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            group = next(groups)
            result = train_step(model, group, optimizer, scaler, config, ranks)
            if not math.isfinite(result.loss):
                break
            rates.append(rate)
            losses.append(result.loss)
            relative.append(result.loss / validate(untrained, group, config, ranks).loss)
            if _diverged(relative):
                break
            if progress is not None:
                progress(step / steps)
    smoothed = smooth(rates, relative)
    suggestion = suggest(rates, smoothed)
    return RangeTest(tuple(rates), tuple(losses), tuple(relative), tuple(smoothed), suggestion)


def smooth(rates: list[float], losses: list[float]) -> list[float]:
    """Return every loss's mean with its neighbours, weighted by their distance in log rate."""
    position = np.log10(rates)
    weights = np.exp(-0.5 * ((position[:, None] - position) / SMOOTHING) ** 2)
    smoothed: list[float] = (weights @ np.array(losses) / weights.sum(1)).tolist()
    return smoothed


def suggest(rates: list[float], smoothed: list[float]) -> float:
    """Return the first rate at which `DONE` of the fall to the minimum is done.

    Raises:
        FloatingPointError: the loss never fell.
    """
    lowest = int(np.argmin(smoothed)) if smoothed else 0
    if lowest == 0:
        raise FloatingPointError(
            f"the loss diverged after {len(rates)} steps of the learning-rate sweep without "
            "falling first; check the data, or set learning_rate by hand"
        )
    floor = smoothed[0] - DONE * (smoothed[0] - smoothed[lowest])
    return next(rate for rate, loss in zip(rates, smoothed, strict=True) if loss <= floor)


def _diverged(relative: list[float]) -> bool:
    """Tell whether the last few losses are far above the best few."""
    if len(relative) < FEW:
        return False
    means = np.convolve(relative, np.ones(FEW) / FEW, mode="valid")
    return bool(means[-1] > DIVERGED * means.min())


def _endless(loader: TrainLoader) -> Iterator[WindowBatch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)
