"""How a training step's time grows with windows and with the horizon, for `benchmarks.scale`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.blocks import CONFIG
from benchmarks.inputs import random_inputs
from tft.model import TFT
from tft.quantiles import quantile_loss

CONTEXT = 288
BATCHES, HORIZONS = (16, 32, 64, 128), (24, 48, 96, 192)  # each beside the middle of the other
BATCH, HORIZON = 32, 96
ROUNDS = 7
GROWTH_GOAL = 1.15  # times what doubling may cost at most, where linear growth costs 1


@dataclass(frozen=True)
class Size:
    """What a step is of."""

    batch: int
    horizon: int


def time_growth() -> list[dict[str, Any]]:
    """Time forward and backward pass at each size, one after the other, medians over rounds."""
    torch.manual_seed(0)
    network = TFT(CONFIG).train()
    sizes = dict.fromkeys(
        [*(Size(batch, HORIZON) for batch in BATCHES), *(Size(BATCH, h) for h in HORIZONS)]
    )
    steps = {size: make_step(network, size) for size in sizes}
    seconds: dict[Size, list[float]] = {size: [] for size in sizes}
    for step in steps.values():
        step()  # warm-up
    for _ in range(ROUNDS):
        for size, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[size].append(time.perf_counter() - started)
    return [
        {"batch": size.batch, "horizon": size.horizon, "step_ms": 1e3 * median(each)}
        for size, each in seconds.items()
    ]


def make_step(network: TFT, size: Size) -> Callable[[], None]:
    """Return a function that takes one forward and one backward pass of random windows."""
    config, B, H = network.config, size.batch, size.horizon
    inputs = random_inputs(config, B, CONTEXT, H)
    target, levels = torch.randn(B, H, config.num_targets), torch.tensor(config.quantiles)

    def step() -> None:
        loss = quantile_loss(network(inputs).quantiles, target, levels).mean()
        torch.autograd.backward(loss)
        network.zero_grad()

    return step


def judge_growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell whether doubling the largest but one batch, and horizon, at most doubles the time."""
    ms = {(row["batch"], row["horizon"]): row["step_ms"] for row in rows}
    measured = (
        ("windows of a step", (BATCHES[-1], HORIZON), (BATCHES[-2], HORIZON)),
        ("ticks of the horizon", (BATCH, HORIZONS[-1]), (BATCH, HORIZONS[-2])),
    )
    goals = []
    for what, large, small in measured:
        ratio = ms[large] / ms[small] / 2
        goals.append(
            {
                "goal": f"twice the {what}, in twice the time",
                "measured": ratio,
                "at_most": GROWTH_GOAL,
                "met": ratio <= GROWTH_GOAL,
            }
        )
    return goals
