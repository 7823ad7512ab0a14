"""Ascending order along the last dimension, by numpy where that is the faster."""

import numpy as np
import torch
from torch import Tensor


def ascending(values: Tensor) -> Tensor:
    """Return values [..., n] in ascending order, NaN last.

    On a CPU numpy sorts many short rows with vector instructions, 7 to 20 times as fast as PyTorch;
    a GPU, and a program that is exported, sorts by PyTorch. Places are not sorted this way: numpy
    leaves those of equal values in an order that depends on the processor.
    """
    if values.is_cpu and not values.requires_grad and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values
