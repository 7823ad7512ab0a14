"""Order along the last dimension, by numpy where that is the faster.

On a CPU numpy sorts many short rows with vector instructions, 4 to 20 times as fast as PyTorch;
a GPU, and a program that is exported, sorts by PyTorch.
"""

import numpy as np
import torch
from torch import Tensor


def ascending(values: Tensor) -> Tensor:
    """Return values [..., n] in ascending order, NaN last."""
    if _numpy_sorts(values):
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values


def ascending_places(values: Tensor) -> Tensor:
    """Return the places [..., n] that put values in ascending order, NaN last."""
    if _numpy_sorts(values):
        return torch.from_numpy(np.argsort(values.numpy(), axis=-1))
    return values.argsort(-1)


def _numpy_sorts(values: Tensor) -> bool:
    return values.is_cpu and not values.requires_grad and not torch.compiler.is_compiling()
