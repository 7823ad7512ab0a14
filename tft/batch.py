"""A batch of windows in raw units, as loaders make it and the `Forecaster` takes it.

B batch, T context, H horizon, L = T + H, M metrics (targets first), K known, R static reals.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class WindowBatch(NamedTuple):
    """Windows of history and what came after; NaN is a missing value everywhere."""

    past: Tensor  # [B, T, M] float32; a short history is right-aligned, NaN on its left
    known: Tensor  # [B, L, K, 2] float32, calendar features as points on a circle
    static_reals: Tensor  # [B, R] float32
    static_codes: Tensor  # [B, 2] int64: server bucket, profile code
    history_length: Tensor  # [B] int64, always on the CPU: ticks since the series began, 1 to T
    future: Tensor  # [B, H, targets] float32; all NaN where nobody knows it yet
    earlier: Tensor  # [B, W, targets] the ticks before the first to forecast, newest last

    def to(self, device: torch.device, non_blocking: bool = False) -> "WindowBatch":
        """Copy to a device; `history_length` stays on the CPU, where it shapes the LSTM's input."""
        stays = self.history_length
        moved = (t if t is stays else t.to(device, non_blocking=non_blocking) for t in self)
        return WindowBatch(*moved)

    def to_dtype(self, dtype: torch.dtype) -> "WindowBatch":
        """Cast real numbers."""
        return WindowBatch(*(t.to(dtype) if t.is_floating_point() else t for t in self))
