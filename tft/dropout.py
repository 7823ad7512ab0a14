"""Dropout whose random numbers cost less than the layers around it.

On a CPU PyTorch draws 32 random bits or more for each element, one after the other; here one draw
of 64 bits serves four elements. On a GPU, and while a graph is compiled, it is PyTorch's dropout.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tft.fast_path import runs_fast

LEVELS = 1 << 16  # of the rate: an element is dropped where its 16 bits lie below rate * LEVELS


def keep_mask(like: Tensor, rate: float, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a mask of `shape` (that of `like`): 0 with probability `rate`, else 1 / (1 - rate).

    The rate, above 0 and below 1, is rounded to 1 / 65,536, and the scale belongs to the rounded
    one: but for the dtype's rounding the mean is 1.
    """
    shape = tuple(like.shape) if shape is None else shape
    dropped = min(max(round(rate * LEVELS), 1), LEVELS - 1)
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device)
    bits = draws.random_(-(2**63), None).view(torch.int16)[:count].view(shape)
    kept = bits >= dropped - LEVELS // 2
    return kept.to(like.dtype).mul_(LEVELS / (LEVELS - dropped))


def dropout(x: Tensor, rate: float, training: bool, fast: bool = True) -> Tensor:
    """Drop elements of x [...] at a rate below 1, and scale the rest so that the mean stays.

    With `fast` it is done by `keep_mask` where that pays.
    """
    if not training or rate == 0.0:
        return x
    return x * keep_mask(x, rate) if fast and runs_fast(x) else F.dropout(x, rate)


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate {rate} must be at least 0 and below 1")
        self.rate = rate
        self.fast_path = True

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of [...] in training mode."""
        return dropout(x, self.rate, self.training, self.fast_path)

    def extra_repr(self) -> str:
        """Return what is printed."""
        return f"rate={self.rate}"
