"""Ascending order along the last dimension, by numpy where that is the faster."""

import numpy as np
import torch
from torch import Tensor


def ascending(values: Tensor) -> Tensor:
    """Return values [..., n] in ascending order, NaN last.

    On a CPU numpy sorts many short rows with vector instructions: 7 to 19 times as fast as PyTorch
    on one thread, see benchmarks/NOTES.md. A GPU, and a program that is exported, sorts by PyTorch.
    Places are not found this way: numpy orders those of equal values by the processor's ways.
    """
    if values.is_cpu and not values.requires_grad and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values
