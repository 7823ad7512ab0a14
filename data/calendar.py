"""Calendar features: what is known of every tick for as far ahead as one likes.

They repeat weekly, so they are one small table [ticks of a week, K, 2], indexed by tick. Month and
year are left out: a feature that has not been seen to repeat in training is only a server's age.
"""

import math

import torch
from torch import Tensor

from tft.schema import DAY_SECONDS

WEEK_SECONDS = 7 * DAY_SECONDS


def weekly_table(step_seconds: int) -> Tensor:
    """Return [ticks of a week, K, 2] float32; tick t has row t % len(table).

    Each feature is a point (sin, cos) on its circle, UTC.

    Raises:
        ValueError: a week is not a whole number of steps.
    """
    if WEEK_SECONDS % step_seconds:
        raise ValueError(f"step_seconds {step_seconds} must divide a week, {WEEK_SECONDS} s")
    seconds = torch.arange(0, WEEK_SECONDS, step_seconds, dtype=torch.float64)
    hour = seconds % DAY_SECONDS / DAY_SECONDS
    weekday = seconds / WEEK_SECONDS
    turns = torch.stack([hour, weekday], dim=-1) * 2 * math.pi
    return torch.stack([turns.sin(), turns.cos()], dim=-1).float()
