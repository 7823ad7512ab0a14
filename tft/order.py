"""Ascending order along the last dimension, by numpy where that is the faster.

On a CPU numpy sorts many short rows with vector instructions: several times as fast as PyTorch, see
benchmarks/NOTES.md. A GPU, and a program that is exported, sorts by PyTorch.
"""

import numpy as np
import torch
from torch import Tensor

PLACE_BITS = 16  # of a key, below the value: rows are shorter than 2^16


def ascending(values: Tensor) -> Tensor:
    """Return values [..., n] in ascending order, NaN last."""
    if _numpy_may(values):
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values


def places_in_order(values: Tensor) -> Tensor:
    """Return the places of values [..., n] in ascending order, those of equal ones as they come.

    Args:
        values: no NaN; n up to 65,536.
    """
    if not _numpy_may(values) or values.dtype != torch.float32:
        return values.sort(dim=-1, stable=True).indices
    assert values.shape[-1] <= 1 << PLACE_BITS
    # numpy's own argsort orders equal values by the processor's ways. So keys are sorted that hold
    # the place below the value, as a whole number in the value's order; + 0.0 turns -0.0 into 0.0.
    bits = (values + 0.0).view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64).mul_(1 << PLACE_BITS)
    keys.add_(torch.arange(values.shape[-1])).numpy().sort(axis=-1)
    return keys.bitwise_and_((1 << PLACE_BITS) - 1)


def count_below(ordered: Tensor, limits: Tensor) -> Tensor:
    """Count the values of ascending rows [..., n] that are below limits [..., q]: [..., q]."""
    if torch.compiler.is_compiling():  # ONNX has no binary search
        return (ordered.unsqueeze(-2) < limits.unsqueeze(-1)).sum(-1)
    return torch.searchsorted(ordered, limits)


def _numpy_may(values: Tensor) -> bool:
    return values.is_cpu and not values.requires_grad and not torch.compiler.is_compiling()
